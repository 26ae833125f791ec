//! From nothing to a stream that carries the program's own bytes: TCP, TLS, and the gateway's consent.

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use portcullis_proto::host_port::{Host, HostPort};
use portcullis_proto::http_head::{HEAD_MAX_BYTES, ResponseHead, head_len};
use portcullis_proto::socks5::{
    self, Address, Command, Credentials, Greeting, METHOD_NONE, METHOD_USERNAME_PASSWORD, Name, Request,
};
use portcullis_proto::ticket::TicketString;
use portcullis_proto::{Malformed, cgp, http_connect};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{Plan, TICKET_PORT, websocket};
use crate::cli::args::Via;
use crate::cli::output::Failure;
use crate::exit::Exit;

/// Most bytes of a refusal's page that are looked at.
const REFUSAL_MAX_BYTES: usize = 4096;
/// Longest part of it that is shown.
const REFUSAL_SHOWN_CHARS: usize = 200;
const KEEPALIVE: Duration = Duration::from_secs(60);

/// A stream of any kind.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Where a connection is to lead.
pub(super) enum Destination {
    Ticket(TicketString),
    Server(HostPort),
}

/// A connection that the gateway has consented to, as far as its protocol says so.
pub(super) struct Opened {
    pub(super) stream: Box<dyn Stream>,
    closed: ClosedWith,
}

/// The code with which a gateway closed a WebSocket.
pub(super) type ClosedWith = Arc<OnceLock<u16>>;

impl Opened {
    /// What a WebSocket's close code says, when it says more than goodbye.
    pub(super) fn refusal(&self) -> Option<Failure> {
        closed_with(&self.closed)
    }
}

fn closed_with(closed: &ClosedWith) -> Option<Failure> {
    let code = *closed.get()?;
    let meaning = match code {
        1000 | 1001 | 1005 => return None,
        websocket::ABNORMAL_CLOSURE => {
            let message = "the gateway ended the WebSocket without a close frame; bytes may be missing";
            return Some(Failure::new(Exit::Unavailable, message));
        }
        1002 => "protocol error",
        1008 => "not allowed",
        1009 => "too long",
        1013 => "try again later",
        _ => "see RFC 6455",
    };
    Some(refused(format!("it closed the WebSocket with code {code}, {meaning}")))
}

fn refused(what: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Refused, format!("the gateway refused: {what}"))
}

fn malformed(error: Malformed) -> Failure {
    Failure::new(Exit::Refused, format!("the gateway's answer is malformed: {error}"))
}

/// An error while the gateway's answer is awaited.
fn unanswered(error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => refused("it closed the connection without an answer"),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => refused("it cut the connection"),
        _ => Failure::new(Exit::Unavailable, format!("the connection to the gateway broke: {error}")),
    }
}

pub(super) async fn open(plan: &Plan, destination: &Destination) -> Result<Opened, Failure> {
    let tcp = dial(&plan.gateway).await?;
    let mut stream: Box<dyn Stream> = match &plan.tls {
        Some(tls) => Box::new(tls.begin(tcp).await?),
        None => Box::new(tcp),
    };
    let closed = ClosedWith::default();
    if matches!(plan.via, Via::Websocket | Via::WebsocketCgp) {
        let host = host_header(&plan.gateway, plan.tls.is_some());
        stream = Box::new(websocket::open(stream, &host, Arc::clone(&closed)).await?);
    }
    let spoken = match plan.via {
        Via::Socks5 | Via::Websocket => socks(&mut stream, destination, plan.credentials.as_ref()).await,
        Via::Cgp | Via::WebsocketCgp => hello(&mut stream, destination).await,
        Via::Connect => connect(&mut stream, destination, plan.credentials.as_ref()).await,
    };
    match spoken {
        Ok(()) => Ok(Opened { stream, closed }),
        Err(failure) if closed.get() == Some(&websocket::ABNORMAL_CLOSURE) => Err(failure),
        Err(failure) => Err(closed_with(&closed).unwrap_or(failure)),
    }
}

async fn dial(gateway: &HostPort) -> Result<TcpStream, Failure> {
    let connected = match gateway.host() {
        Host::Ip(address) => TcpStream::connect((*address, gateway.port())).await,
        Host::Name(name) => TcpStream::connect((name.as_str(), gateway.port())).await,
    };
    let stream = connected.map_err(|error| {
        Failure::new(Exit::Unavailable, format!("cannot reach the gateway {gateway}: {error}"))
    })?;
    tune(&stream);
    Ok(stream)
}

/// Small writes at once, and dead peers noticed. A connection works without either.
pub(super) fn tune(stream: &TcpStream) {
    let socket = socket2::SockRef::from(stream);
    drop(socket.set_tcp_nodelay(true));
    drop(socket.set_tcp_keepalive(&socket2::TcpKeepalive::new().with_time(KEEPALIVE)));
}

fn host_header(gateway: &HostPort, tls: bool) -> String {
    let usual = if tls { 443 } else { 80 };
    if gateway.port() == usual { gateway.host().to_string() } else { gateway.to_string() }
}

async fn send(stream: &mut Box<dyn Stream>, bytes: &[u8]) -> Result<(), Failure> {
    stream.write_all(bytes).await.map_err(|error| unanswered(&error))?;
    stream.flush().await.map_err(|error| unanswered(&error))
}

async fn receive<const N: usize>(stream: &mut Box<dyn Stream>) -> Result<[u8; N], Failure> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).await.map_err(|error| unanswered(&error))?;
    Ok(bytes)
}

/// RFC 1928. Without credentials to show, the request follows the greeting at once: one round trip less, and the
/// gateway need not wait to tell a greeting from a bare request.
async fn socks(
    stream: &mut Box<dyn Stream>,
    destination: &Destination,
    credentials: Option<&Credentials>,
) -> Result<(), Failure> {
    let request = socks_request(destination).map_err(|error| Failure::new(Exit::Data, error.to_string()))?;
    let mut methods = vec![METHOD_NONE];
    methods.extend(credentials.map(|_| METHOD_USERNAME_PASSWORD));
    let mut first = Greeting { methods }.encode().map_err(malformed)?;
    if credentials.is_none() {
        first.extend_from_slice(&request);
    }
    send(stream, &first).await?;
    let method = socks5::parse_method_selection(&receive::<2>(stream).await?).map_err(malformed)?;
    match (method, credentials) {
        (METHOD_NONE, None) => {}
        (METHOD_NONE, Some(_)) => send(stream, &request).await?,
        (METHOD_USERNAME_PASSWORD, Some(credentials)) => {
            let shown = credentials.encode().map_err(|error| Failure::new(Exit::Data, error.to_string()))?;
            send(stream, &shown).await?;
            if !socks5::parse_credentials_status(&receive::<2>(stream).await?).map_err(malformed)? {
                return Err(refused("user name or password is wrong"));
            }
            send(stream, &request).await?;
        }
        _ => return Err(refused("it wants credentials; use --proxy-user and --proxy-password-file")),
    }
    let mut reply = receive::<5>(stream).await?.to_vec();
    let length = loop {
        if let Some(length) = socks5::reply_len(&reply).map_err(malformed)? {
            break length;
        }
        reply.extend(receive::<1>(stream).await?);
    };
    reply.truncate(length);
    let words = match socks5::parse_reply(&reply).map_err(malformed)? {
        0 => return Ok(()),
        1 => "general failure: it is overloaded, or cannot reach its ticket authority",
        2 => "not allowed: the ticket is not valid (any more), or the policy forbids the server",
        3 => "the server's network is unreachable",
        4 => "the server is unreachable, or its name unknown",
        5 => "the server refused the connection",
        6 => "the server did not answer in time",
        7 => "it does not know the command",
        8 => "it does not know this type of address",
        code => return Err(refused(format!("SOCKS reply {code}"))),
    };
    Err(refused(words))
}

fn socks_request(destination: &Destination) -> Result<Vec<u8>, Malformed> {
    let (address, port) = match destination {
        Destination::Ticket(ticket) => (Address::Name(Name::parse(ticket.expose().as_bytes())?), TICKET_PORT),
        Destination::Server(server) => match server.host() {
            Host::Ip(address) => (Address::Ip(*address), server.port()),
            Host::Name(name) => (Address::Name(Name::parse(name.as_str().as_bytes())?), server.port()),
        },
    };
    Ok(Request { command: Command::Connect, address, port }.encode())
}

/// CGP has no answer of the gateway's: what comes back is the server's, or the end.
async fn hello(stream: &mut Box<dyn Stream>, destination: &Destination) -> Result<(), Failure> {
    match destination {
        Destination::Ticket(ticket) => send(stream, &cgp::client_hello(ticket)).await,
        Destination::Server(_) => Err(Failure::new(Exit::Usage, "CGP needs a ticket")),
    }
}

/// RFC 9110 §9.3.6.
async fn connect(
    stream: &mut Box<dyn Stream>,
    destination: &Destination,
    credentials: Option<&Credentials>,
) -> Result<(), Failure> {
    let target = match destination {
        Destination::Ticket(ticket) => format!("{}:{TICKET_PORT}", ticket.expose()),
        Destination::Server(server) => server.to_string(),
    };
    send(stream, &http_connect::connect_request(&target, credentials)).await?;
    let head = response_head(stream).await?;
    if (200..300).contains(&head.status) { Ok(()) } else { Err(http_refusal(stream, &head).await) }
}

/// Reads exactly one head: what follows it may be the server's first bytes.
pub(super) async fn response_head(stream: &mut Box<dyn Stream>) -> Result<ResponseHead, Failure> {
    let mut bytes = Vec::new();
    loop {
        bytes.extend(receive::<1>(stream).await?);
        let line_ended = bytes.last() == Some(&b'\n');
        if (line_ended || bytes.len() >= HEAD_MAX_BYTES)
            && let Some(length) = head_len(&bytes).map_err(malformed)?
        {
            return ResponseHead::parse(bytes.get(..length).unwrap_or(&bytes)).map_err(malformed);
        }
    }
}

/// The status line, and what the page says if it is short and plain.
pub(super) async fn http_refusal(stream: &mut Box<dyn Stream>, head: &ResponseHead) -> Failure {
    let mut words = format!("{} {}", head.status, head.reason);
    let length =
        head.header("content-length").and_then(|text| text.trim().parse::<usize>().ok()).unwrap_or(0);
    let plain = head.header("content-type").is_none_or(|kind| kind.trim_start().starts_with("text/plain"));
    if plain && (1..=REFUSAL_MAX_BYTES).contains(&length) {
        let mut page = vec![0; length];
        if stream.read_exact(&mut page).await.is_ok() {
            let page = String::from_utf8_lossy(&page);
            words.push_str(": ");
            words.extend(page.trim().chars().take(REFUSAL_SHOWN_CHARS));
        }
    }
    if head.status == 407 {
        words.push_str("; use --proxy-user and --proxy-password-file");
    }
    // These are the gateway's words, and they go to a terminal.
    let words: String = words.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    refused(words)
}
