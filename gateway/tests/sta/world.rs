//! What the tests share: our server on loopback, configurations, pools, tickets, a raw HTTP client.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use portcullis::config::{Dns, SecurityKey, StaConfig, StaServerConfig, StaTls, StaUrl};
use portcullis::dns::Resolver;
use portcullis::sta::authority::Authority;
use portcullis::sta::pool::Pool;
use portcullis::sta::server::{ServeError, serve};
use portcullis_core::ticket_store::TicketData;
use portcullis_proto::host_port::HostPort;
use portcullis_proto::ticket::{AuthorityId, Ticket, TicketSecret};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub(crate) const OURS: &str = "STA0123456789AB";
pub(crate) const OTHER: &str = "STA490101972";
/// Longer than anything here takes on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Our server, running.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) authority: Arc<Authority>,
    pub(crate) stop: watch::Sender<bool>,
    pub(crate) ended: JoinHandle<Result<(), ServeError>>,
}

pub(crate) fn server_config() -> StaServerConfig {
    StaServerConfig {
        listen: Vec::new(),
        certificate: None,
        authority_id: Some(id(OURS)),
        allow_from: vec!["127.0.0.0/8".parse().unwrap()],
        security_key: None,
        ticket_life: Duration::from_secs(100),
        max_tickets: 1000,
    }
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::start_with(server_config(), None)
    }

    pub(crate) fn start_with(
        config: StaServerConfig,
        tls: Option<Arc<ArcSwap<rustls::ServerConfig>>>,
    ) -> Self {
        let authority =
            Authority::new(config.authority_id.clone().unwrap(), config.ticket_life, config.max_tickets);
        let authority = Arc::new(authority);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = watch::channel(false);
        let ended = tokio::spawn(serve(config, tls, Arc::clone(&authority), vec![listener], stopped));
        Self { address, authority, stop, ended }
    }

    pub(crate) fn issue(&self) -> Ticket {
        self.authority.issue(data(), false, None).unwrap().first().clone()
    }
}

pub(crate) fn id(text: &str) -> AuthorityId {
    AuthorityId::parse(text).unwrap()
}

pub(crate) fn data() -> TicketData {
    TicketData {
        ica: Some(HostPort::parse("vda1.farm.example.com:1494").unwrap()),
        cgp: Some(HostPort::parse("10.1.2.3:2598").unwrap()),
        user: Some("Zoë <&> O'Hara".to_owned()),
        domain: Some("FARM".to_owned()),
        application: Some("Notepad".to_owned()),
    }
}

/// A well-formed ticket that no authority has issued.
pub(crate) fn stray_ticket(authority: &str) -> Ticket {
    Ticket { authority: id(authority), secret: TicketSecret::from_random([0xAB; 16]) }
}

pub(crate) fn sta(name: &str, address: SocketAddr) -> StaConfig {
    StaConfig {
        name: name.to_owned(),
        url: StaUrl {
            https: false,
            server: HostPort::parse(&address.to_string()).unwrap(),
            path: "/Scripts/CtxSta.dll".to_owned(),
        },
        authority_id: None,
        tls: StaTls::PublicRoots,
        timeout: PATIENCE,
        health_interval: PATIENCE,
        connections: 8,
        security_key: None,
    }
}

pub(crate) fn key(values: &[&str]) -> Option<SecurityKey> {
    let values = values.iter().map(|value| (*value).to_owned().into()).collect();
    Some(SecurityKey { header: "X-Test-Key".to_owned(), values })
}

pub(crate) fn pool(configs: impl IntoIterator<Item = StaConfig>) -> Arc<Pool> {
    let configs: Vec<_> = configs.into_iter().map(Arc::new).collect();
    Arc::new(Pool::new(&configs, None, resolver()).unwrap())
}

pub(crate) fn resolver() -> Arc<Resolver> {
    let nobody: SocketAddr = "127.0.0.1:9".parse().unwrap();
    Arc::new(Resolver::new(&Dns { servers: vec![nobody], timeout: Duration::from_secs(1) }).unwrap())
}

pub(crate) fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// Waits until the condition holds.
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(waited.await.is_ok(), "in vain: {what}");
}

/// An HTTP answer, as read by a client that knows nothing of ours.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

/// Sends bytes as they are and reads until the server closes.
pub(crate) async fn raw(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The server may answer and close before it has read everything.
    let sent = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap();
    assert!(read.is_ok() || !answer.is_empty() || sent.is_err(), "{read:?}");
    String::from_utf8_lossy(&answer).into_owned()
}

pub(crate) async fn request(address: SocketAddr, line: &str, headers: &str, body: &str) -> Answer {
    let request = format!(
        "{line} HTTP/1.1\r\nHost: sta\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n{body}",
        body.len()
    );
    let text = raw(address, request.as_bytes()).await;
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {text}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
}

pub(crate) async fn post(address: SocketAddr, body: &str) -> Answer {
    request(address, "POST /scripts/ctxsta.dll", "", body).await
}
