//! How configurations go from one appliance to the other: TLS 1.3, each end known by the fingerprint of its certificate,
//! and one line of JSON each way, as on the control socket. Who is not the peer gets no further than the handshake.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::ServerName;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::identity::{Identity, IdentityError};
use crate::answer::{Answer, ErrorCode, Failure};
use crate::config::{FILE_MAX_BYTES, Sync};

/// The version that is spoken here.
pub const VERSION: u64 = 1;
/// A configuration as JSON, with every character escaped, and some words.
const LINE_MAX_BYTES: u64 = 8 * FILE_MAX_BYTES;
/// The peer, and whoever wants to be it.
const CONNECTIONS_MAX: usize = 4;
/// For the connection and the handshake, and for a line.
const STEP_TIME: Duration = Duration::from_secs(10);
/// For the answer: the peer assembles its configuration anew.
const ANSWER_TIME: Duration = Duration::from_secs(30);
/// How long to wait after a failed accept: descriptors are short and come back when connections end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What one appliance asks of the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// [`Taken`]
    Push(Box<Push>),
    /// What was pushed as that commit stays in force: the way back to it is still open.
    Confirm { number: u64 },
}

/// A configuration for the other one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Push {
    /// The whole text; what is each one's own is left out there.
    pub text: String,
    /// The paths that are the sender's own: the receiver leaves them out too.
    #[serde(default)]
    pub keep: Vec<String>,
    /// Who asked for it, on which machine, and from where.
    pub who: String,
    pub host: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claimed_from: Option<String>,
    #[serde(default)]
    pub comment: String,
    /// Only say what would change.
    #[serde(default)]
    pub dry_run: bool,
    /// Replace what was changed there since the last time.
    #[serde(default)]
    pub force: bool,
}

/// What has become of it there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// The other one's name.
    pub host: String,
    /// Of its commit; 0 for none.
    pub number: u64,
    /// What it changes there, as `diff -u` shows it.
    pub diff: String,
    #[serde(default)]
    pub live: Vec<String>,
    #[serde(default)]
    pub restart: Vec<String>,
    /// It is taken back there unless it is confirmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm_within_seconds: Option<u64>,
    /// Changed there since the last time; only of a dry run, all else refuses.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub diverged: bool,
}

#[derive(Serialize, Deserialize)]
struct Versioned {
    v: u64,
    #[serde(flatten)]
    request: Request,
}

/// Asks the peer for something.
///
/// # Errors
/// What it says, or why it cannot be asked.
pub async fn ask<T: DeserializeOwned>(
    identity: &Identity,
    sync: &Sync,
    request: Request,
) -> Result<T, Failure> {
    let unreachable = |what: &str| {
        Failure::new(ErrorCode::Unavailable, format!("the peer {} cannot be asked: {what}", sync.peer))
    };
    let config = identity.client(sync.pin).map_err(|error| unreachable(&error.to_string()))?;
    let slow = |_| unreachable("it takes too long");
    let connected = timeout(STEP_TIME, TcpStream::connect(sync.peer)).await.map_err(slow)?;
    let stream = connected.map_err(|error| unreachable(&error.to_string()))?;
    let name = ServerName::IpAddress(sync.peer.ip().into());
    let handshake = TlsConnector::from(config).connect(name, stream);
    let mut stream = timeout(STEP_TIME, handshake).await.map_err(slow)?.map_err(|error| {
        unreachable(&format!(
            "{error}; compare `peer_sha256` of both appliances with what `show high-availability` says on the other"
        ))
    })?;
    let broken = |error: io::Error| {
        unreachable(&format!("{error}; does it know our fingerprint, {}?", identity.fingerprint()))
    };
    let mut line = serde_json::to_vec(&Versioned { v: VERSION, request })
        .map_err(|error| Failure::new(ErrorCode::Internal, error.to_string()))?;
    line.push(b'\n');
    timeout(STEP_TIME, stream.write_all(&line)).await.map_err(slow)?.map_err(broken)?;
    let answer = timeout(ANSWER_TIME, read_line(&mut stream)).await.map_err(slow)?.map_err(broken)?;
    let answer: Answer = serde_json::from_slice(&answer).map_err(|error| {
        unreachable(&format!("its answer is none: {error}; do both run the same version?"))
    })?;
    answer.into_result()
}

/// Answers the peer until the future is dropped.
///
/// # Errors
/// When the address cannot be listened on, or the identity cannot be used.
pub async fn serve<F, A>(identity: &Identity, sync: &Sync, answer: F) -> io::Result<()>
where
    F: Fn(SocketAddr, Request) -> A + Clone + Send + 'static,
    A: Future<Output = Answer> + Send,
{
    let tls =
        identity.server(sync.pin).map_err(|error: IdentityError| io::Error::other(error.to_string()))?;
    let acceptor = TlsAcceptor::from(tls);
    let listener = TcpListener::bind(sync.listen).await?;
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return Ok(()) };
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "the peer cannot be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (acceptor, answer) = (acceptor.clone(), answer.clone());
        tokio::spawn(async move {
            if let Err(error) = connection(&acceptor, stream, from, answer).await {
                tracing::warn!(%error, %from, "somebody at the door for the peer was not served");
            }
            drop(permit);
        });
    }
}

async fn connection<F, A>(
    acceptor: &TlsAcceptor,
    stream: TcpStream,
    from: SocketAddr,
    answer: F,
) -> io::Result<()>
where
    F: Fn(SocketAddr, Request) -> A,
    A: Future<Output = Answer>,
{
    let mut stream = timeout(STEP_TIME, acceptor.accept(stream)).await??;
    let line = timeout(STEP_TIME, read_line(&mut stream)).await??;
    let answered = match serde_json::from_slice::<Versioned>(&line) {
        Ok(Versioned { v: VERSION, request }) => answer(from, request).await,
        Ok(Versioned { v, .. }) => Err(Failure::bad_request(format!(
            "version {v} of the peers' protocol is not spoken here: update both appliances"
        )))
        .into(),
        Err(error) => Err(Failure::bad_request(format!("not a request: {error}"))).into(),
    };
    drop(line);
    timeout(STEP_TIME, stream.write_all(&answered.to_line())).await??;
    timeout(STEP_TIME, stream.shutdown()).await?
}

/// Up to the newline, which is left out; whoever ends before it has said nothing.
async fn read_line(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    let mut stream = stream.take(LINE_MAX_BYTES);
    loop {
        if line.last() == Some(&b'\n') {
            line.pop();
            return Ok(line);
        }
        if stream.read_buf(&mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}
