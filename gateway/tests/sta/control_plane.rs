//! The loop that answers the front threads.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use portcullis::authn::local::UserDb;
use portcullis::config::{Dns, StaConfig, StaTls, StaUrl};
use portcullis::control_plane::{Ask, Services, WebAsk, run};
use portcullis::dns::Resolver;
use portcullis::sta::authority::Authority;
use portcullis::sta::pool::Pool;
use portcullis_core::answer::TicketAnswer;
use portcullis_core::ticket_store::TicketData;
use portcullis_proto::host_port::{HostName, HostPort};
use portcullis_proto::ticket::{AuthorityId, Ticket, TicketSecret};
use tokio::net::TcpListener;
use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

const PATIENCE: Duration = Duration::from_secs(60);

struct Plane {
    asks: mpsc::Sender<Ask>,
    web: mpsc::Receiver<WebAsk>,
    authority: Arc<Authority>,
    users: Arc<ArcSwap<HashMap<String, UserDb>>>,
    running: JoinHandle<()>,
}

fn id(text: &str) -> AuthorityId {
    AuthorityId::parse(text).unwrap()
}

fn start(stas: &[Arc<StaConfig>]) -> Plane {
    let authority = Arc::new(Authority::new(id("STA0123456789AB"), PATIENCE, 100));
    let servers = vec!["127.0.0.1:9".parse().unwrap()];
    let resolver = Arc::new(Resolver::new(&Dns { servers, timeout: Duration::from_millis(200) }).unwrap());
    let pool = Pool::new(stas, Some(Arc::clone(&authority)), Arc::clone(&resolver)).unwrap();
    let users = Arc::new(ArcSwap::from_pointee(HashMap::new()));
    let (web_sender, web) = mpsc::channel(1);
    let (asks, queue) = mpsc::channel(1000);
    let services = Services { pool: Arc::new(pool), resolver, users: Arc::clone(&users), web: web_sender };
    let running = tokio::spawn(run(services, queue));
    Plane { asks, web, authority, users, running }
}

impl Plane {
    async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.asks.send(ask(reply)).await.unwrap();
        tokio::time::timeout(PATIENCE, answer).await.unwrap().ok()
    }

    async fn redeem(&self, stas: &[&str], ticket: Ticket) -> Option<TicketAnswer> {
        let stas = stas.iter().map(|name| (*name).to_owned()).collect();
        self.ask(|reply| Ask::Redeem { stas, ticket, reply }).await
    }

    async fn verify(&self, users: &str, user: &str, password: &[u8]) -> Option<bool> {
        let (users, user) = (users.to_owned(), user.to_owned());
        let password = password.to_vec().into();
        self.ask(|reply| Ask::Verify { users, user, password, reply }).await
    }
}

fn data() -> TicketData {
    TicketData { ica: Some(HostPort::parse("10.0.0.9:1494").unwrap()), ..TicketData::default() }
}

#[tokio::test]
async fn a_ticket_of_our_own_authority_is_redeemed() {
    let plane = start(&[]);
    let ticket = plane.authority.issue(data(), false, None).unwrap().first().clone();
    assert_eq!(plane.redeem(&["local"], ticket).await, Some(TicketAnswer::Granted(data())));
}

#[tokio::test]
async fn names_are_resolved() {
    let plane = start(&[]);
    let name = HostName::parse("localhost").unwrap();
    let found = plane.ask(|reply| Ask::Resolve { name, reply }).await.unwrap().unwrap();
    assert!(found.iter().all(std::net::IpAddr::is_loopback));
    let name = HostName::parse("vda1.example.com").unwrap();
    assert!(plane.ask(|reply| Ask::Resolve { name, reply }).await.unwrap().is_err());
}

#[tokio::test]
async fn an_authority_that_hangs_holds_up_no_other_ask() {
    let hanging = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = HostPort::parse(&hanging.local_addr().unwrap().to_string()).unwrap();
    let sta = Arc::new(StaConfig {
        name: "hanging".to_owned(),
        url: StaUrl { https: false, server, path: "/".to_owned() },
        authority_id: Some(id("STA490101972")),
        tls: StaTls::PublicRoots,
        timeout: PATIENCE,
        health_interval: PATIENCE,
        connections: 4,
        security_key: None,
    });
    let plane = start(&[sta]);
    let stray = Ticket { authority: id("STA490101972"), secret: TicketSecret::from_random([1; 16]) };
    let mut waiting = Vec::new();
    for _ in 0..200 {
        let (reply, answer) = oneshot::channel();
        let stas = vec!["hanging".to_owned()].into();
        plane.asks.send(Ask::Redeem { stas, ticket: stray.clone(), reply }).await.unwrap();
        waiting.push(answer);
    }
    for _ in 0..20 {
        let ticket = plane.authority.issue(data(), false, None).unwrap().first().clone();
        assert_eq!(plane.redeem(&["hanging", "local"], ticket).await, Some(TicketAnswer::Granted(data())));
    }
    let still = waiting.into_iter().filter_map(|mut answer| answer.try_recv().err());
    let still = still.filter(|error| *error == TryRecvError::Empty).count();
    // Four in flight and eight waiting for each; the others were turned away at once.
    assert_eq!(still, 36);
}

fn user_db(password: &str) -> UserDb {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("users");
    let hash = UserDb::hash(password.as_bytes()).unwrap();
    std::fs::write(&path, format!("alice:{hash}\n")).unwrap();
    UserDb::load(&path).unwrap()
}

#[tokio::test]
async fn passwords_are_checked_against_the_file_that_is_named() {
    let plane = start(&[]);
    let databases = HashMap::from([("proxy".to_owned(), user_db("secret"))]);
    plane.users.store(Arc::new(databases));
    assert_eq!(plane.verify("proxy", "alice", b"secret").await, Some(true));
    assert_eq!(plane.verify("proxy", "alice", b"Secret").await, Some(false));
    assert_eq!(plane.verify("proxy", "bob", b"secret").await, Some(false));
    assert_eq!(plane.verify("other", "alice", b"secret").await, Some(false));
}

#[tokio::test]
async fn past_the_queue_passwords_are_turned_away_without_a_verdict() {
    let plane = start(&[]);
    plane.users.store(Arc::new(HashMap::from([("proxy".to_owned(), user_db("secret"))])));
    let mut answers = Vec::new();
    for _ in 0..400 {
        let (reply, answer) = oneshot::channel();
        let ask = Ask::Verify {
            users: "proxy".to_owned(),
            user: "alice".to_owned(),
            password: b"wrong".to_vec().into(),
            reply,
        };
        plane.asks.try_send(ask).unwrap();
        answers.push(answer);
    }
    let mut turned_away = 0;
    // Whoever came first has a place, and is given up here by dropping the other end.
    for answer in answers.iter_mut().skip(200) {
        let answer = tokio::time::timeout(PATIENCE, answer).await.unwrap();
        turned_away += usize::from(answer.is_err());
    }
    assert_eq!(turned_away, 200);
}

#[tokio::test]
async fn web_connections_are_handed_on_and_closed_when_too_many_wait() {
    let mut plane = start(&[]);
    let client: SocketAddr = "192.0.2.7:4711".parse().unwrap();
    let mut ends = Vec::new();
    for _ in 0..2 {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let ask = Ask::Web { stream: theirs, client, listener: "gateway".to_owned(), sni: None };
        plane.asks.send(ask).await.unwrap();
        ends.push(ours);
    }
    // The loop works in order, so this answer says that both were handled.
    let ticket = plane.authority.issue(data(), false, None).unwrap().first().clone();
    plane.redeem(&["local"], ticket).await.unwrap();
    let handed_on = plane.web.try_recv().unwrap();
    assert_eq!((handed_on.client, handed_on.listener.as_str()), (client, "gateway"));
    assert!(plane.web.try_recv().is_err());
    let mut byte = [0];
    assert_eq!(std::io::Read::read(&mut ends[1], &mut byte).unwrap(), 0);
}

#[tokio::test]
async fn the_loop_ends_with_its_last_asker() {
    let Plane { asks, running, .. } = start(&[]);
    drop(asks);
    tokio::time::timeout(PATIENCE, running).await.unwrap().unwrap();
}

#[test]
fn debug_output_holds_no_password() {
    let (reply, _answer) = oneshot::channel();
    let password = b"hunter2".to_vec().into();
    let ask = Ask::Verify { users: "u".to_owned(), user: "alice".to_owned(), password, reply };
    assert_eq!(format!("{ask:?}"), "Verify");
}
