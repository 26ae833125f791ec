//! Name resolution against a name server on loopback that says what each test wants.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hickory_resolver::proto::op::{Message, Query, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA};
use hickory_resolver::proto::rr::{RData, Record, RecordType};
use portcullis::config::Dns;
use portcullis::dns::{ADDRESSES_MAX, ResolveError, Resolver};
use portcullis_proto::host_port::HostName;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;

/// Longer than anything here takes on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the server does with one question.
enum Say {
    Addresses(Vec<IpAddr>),
    Code(ResponseCode),
    Garbage,
    Nothing,
}

struct NameServer {
    address: SocketAddr,
    questions: Arc<AtomicUsize>,
    _serving: JoinSet<()>,
}

impl NameServer {
    async fn start(say: impl Fn(&Query) -> Say + Send + 'static) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let questions = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&questions);
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut bytes = [0; 1500];
            loop {
                let (length, from) = socket.recv_from(&mut bytes).await.unwrap();
                let question = Message::from_vec(&bytes[..length]).unwrap();
                counted.fetch_add(1, Ordering::SeqCst);
                let said = say(&question.queries[0]);
                if let Some(answer) = answer(&question, said) {
                    socket.send_to(&answer, from).await.unwrap();
                }
            }
        });
        Self { address, questions, _serving: serving }
    }

    fn resolver(&self, timeout: Duration) -> Resolver {
        Resolver::new(&Dns { servers: vec![self.address], timeout }).unwrap()
    }
}

fn answer(question: &Message, said: Say) -> Option<Vec<u8>> {
    let query = question.queries[0].clone();
    let mut message = Message::response(question.metadata.id, question.metadata.op_code);
    match said {
        Say::Nothing => return None,
        Say::Garbage => return Some(vec![0xFF; 40]),
        Say::Code(code) => message.metadata.response_code = code,
        Say::Addresses(addresses) => {
            let data = addresses.into_iter().map(|address| match address {
                IpAddr::V4(address) => RData::A(A(address)),
                IpAddr::V6(address) => RData::AAAA(AAAA(address)),
            });
            for data in data.filter(|data| data.record_type() == query.query_type()) {
                message.add_answer(Record::from_rdata(query.name().clone(), 300, data));
            }
        }
    }
    message.metadata.recursion_available = true;
    message.add_query(query);
    Some(message.to_vec().unwrap())
}

fn name(text: &str) -> HostName {
    HostName::parse(text).unwrap()
}

fn v4(last: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, last).into()
}

fn v6(last: u16) -> IpAddr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last).into()
}

#[tokio::test]
async fn a_name_has_the_addresses_of_both_families() {
    let server = NameServer::start(|_| Say::Addresses(vec![v6(1), v4(1)])).await;
    let found = server.resolver(PATIENCE).lookup(&name("vda1.farm.example.com")).await;
    assert_eq!(found, Ok(vec![v4(1), v6(1)]));
}

#[tokio::test]
async fn of_many_addresses_a_few_are_given_out() {
    let server = NameServer::start(|_| Say::Addresses((1..=20).map(v4).collect())).await;
    let found = server.resolver(PATIENCE).lookup(&name("big.example.com")).await.unwrap();
    assert_eq!(found.len(), ADDRESSES_MAX);
}

#[tokio::test]
async fn an_answer_is_remembered() {
    let server = NameServer::start(|_| Say::Addresses(vec![v4(1), v6(1)])).await;
    let resolver = server.resolver(PATIENCE);
    resolver.lookup(&name("vda1.example.com")).await.unwrap();
    let asked = server.questions.load(Ordering::SeqCst);
    for _ in 0..5 {
        resolver.lookup(&name("VDA1.example.com.")).await.unwrap();
    }
    assert_eq!(server.questions.load(Ordering::SeqCst), asked);
}

#[tokio::test]
async fn a_name_that_does_not_exist_or_has_no_address_is_not_found() {
    let absent = NameServer::start(|_| Say::Code(ResponseCode::NXDomain)).await;
    let found = absent.resolver(PATIENCE).lookup(&name("no.example.com")).await;
    assert_eq!(found, Err(ResolveError::NotFound));
    let empty = NameServer::start(|_| Say::Addresses(Vec::new())).await;
    let found = empty.resolver(PATIENCE).lookup(&name("empty.example.com")).await;
    assert_eq!(found, Err(ResolveError::NotFound));
}

#[tokio::test]
async fn a_server_that_fails_is_told_from_a_name_that_does_not_exist() {
    for code in [ResponseCode::ServFail, ResponseCode::Refused] {
        let server = NameServer::start(move |_| Say::Code(code)).await;
        let found = server.resolver(PATIENCE).lookup(&name("vda1.example.com")).await;
        assert_eq!(found, Err(ResolveError::Failed), "{code}");
    }
}

#[tokio::test]
async fn silence_and_nonsense_end_at_the_deadline() {
    for say in [|| Say::Nothing, || Say::Garbage] {
        let server = NameServer::start(move |_| say()).await;
        let resolver = server.resolver(Duration::from_millis(200));
        let found = tokio::time::timeout(PATIENCE, resolver.lookup(&name("slow.example.com"))).await.unwrap();
        assert!(matches!(found, Err(ResolveError::Timeout | ResolveError::Failed)), "{found:?}");
    }
}

#[tokio::test]
async fn a_server_that_answers_for_one_family_only_still_serves() {
    let server = NameServer::start(|query| match query.query_type() {
        RecordType::A => Say::Addresses(vec![v4(7)]),
        _ => Say::Nothing,
    })
    .await;
    let found = server.resolver(Duration::from_secs(3)).lookup(&name("half.example.com")).await;
    assert_eq!(found, Ok(vec![v4(7)]));
}

#[tokio::test]
async fn the_hosts_file_is_read() {
    let server = NameServer::start(|_| Say::Nothing).await;
    let found = server.resolver(PATIENCE).lookup(&name("localhost")).await.unwrap();
    assert!(found.iter().all(IpAddr::is_loopback), "{found:?}");
}

#[test]
fn without_servers_the_systems_own_are_taken() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _inside = runtime.enter();
    Resolver::new(&Dns { servers: Vec::new(), timeout: PATIENCE }).unwrap();
}
