//! HTTP to one ticket authority: POST of an XML message, an answer of bounded length, connections kept alive.
//!
//! RFC 9112, HTTP/1.1 only, without redirects, cookies, proxies or content codings. What the messages mean is not
//! known here.
//!
//! A redemption may use a ticket up, so a request whose bytes may have reached the authority is repeated in one
//! case only: a kept connection was closed before any answer came, which is what an authority does whose idle
//! time-out ran out at that moment (RFC 9112 §9.3.1). The caller learns of it by [`Answered::repeated`], since a
//! refusal then proves nothing.

mod connection;

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Uri};
use portcullis_core::answer::Unavailable;
use portcullis_proto::host_port::HostPort;
use portcullis_proto::sta::{CONTENT_TYPE, MESSAGE_MAX_BYTES};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};

use self::connection::{Connection, Dialer};
use super::StaError;
use crate::config::{SecurityKey, StaConfig};
use crate::dns::{ResolveError, Resolver};
use crate::sync::lock;

/// A kept connection that is older than this since its last use is not used again: shorter than the 120 s of the
/// servers that authorities run on, so that we are the ones who close.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// Requests that may wait for a connection, for each connection there is. Past that an authority is overloaded:
/// a longer queue could not be served before its callers give up.
const WAITING_PER_CONNECTION: usize = 8;

/// Why a request brought no answer. Sorted by who is to blame: us, the network, the authority.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("too many requests wait for this authority")]
    Overloaded,
    #[error("its name cannot be resolved: {0}")]
    Resolve(ResolveError),
    #[error("no connection: {0}")]
    Connect(io::Error),
    #[error("no TLS connection, is it https there, and is the certificate the expected one? {0}")]
    Tls(io::Error),
    #[error("timed out {0}")]
    Timeout(Stage),
    #[error("the connection was closed before the answer was complete")]
    Closed,
    #[error("it refused our security key (HTTP {0})")]
    KeyRefused(StatusCode),
    #[error("it answered HTTP {0}, is there an authority at this path?")]
    Status(StatusCode),
    #[error("its answer is longer than {MESSAGE_MAX_BYTES} bytes")]
    TooLong,
    #[error("its answer uses a content coding that we did not ask for")]
    Encoded,
    #[error("its answer is no HTTP/1.1: {0}")]
    NotHttp(hyper::Error),
}

/// What a request was doing when its time ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Connecting,
    Answer,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connecting => "while connecting",
            Self::Answer => "while waiting for the answer",
        })
    }
}

impl Failure {
    /// What the gateway makes of it.
    pub(super) fn unavailable(&self) -> Unavailable {
        match self {
            Self::Overloaded => Unavailable::Overloaded,
            Self::Timeout(_) | Self::Resolve(ResolveError::Timeout) => Unavailable::Timeout,
            Self::Resolve(_)
            | Self::Connect(_)
            | Self::Tls(_)
            | Self::Closed
            | Self::KeyRefused(_)
            | Self::Status(_) => Unavailable::Down,
            Self::TooLong | Self::Encoded | Self::NotHttp(_) => Unavailable::Garbage,
        }
    }
}

/// An answer, still unread.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) body: Bytes,
    /// The request was sent twice, and the authority may have acted on both.
    pub(super) repeated: bool,
}

/// How sending over one connection failed.
enum Lost {
    /// No byte of the request was written.
    Unsent,
    /// The request may have been acted upon, but no answer came.
    Unanswered,
    Other(Failure),
}

/// The HTTP client of one authority.
pub(super) struct Client {
    dialer: Dialer,
    host: HeaderValue,
    path: Uri,
    key: Option<Key>,
    /// Connections that wait for a request, the most recently used last. INVARIANT: with those in use they are at
    /// most one more (for a health check) than `in_flight` had permits, as each use takes one from here first.
    idle: Mutex<Vec<Connection>>,
    in_flight: Semaphore,
    waiting: AtomicUsize,
    waiting_max: usize,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("host", &self.host).field("path", &self.path).finish_non_exhaustive()
    }
}

/// The security key header and its values.
struct Key {
    header: HeaderName,
    values: Vec<HeaderValue>,
    /// Index of the value that was accepted last.
    preferred: AtomicUsize,
}

impl Client {
    /// # Errors
    /// When the CA file, the URL or the security key cannot be used.
    pub(super) fn new(config: &StaConfig, resolver: Arc<Resolver>) -> Result<Self, StaError> {
        let failed = |reason: String| StaError::Url { sta: config.name.clone(), reason };
        let path = config.url.path.parse().map_err(|error| failed(format!("{error}")))?;
        let default_port = if config.url.https { 443 } else { 80 };
        let host = host_header(&config.url.server, default_port);
        let connections = config.connections.clamp(1, Semaphore::MAX_PERMITS);
        Ok(Self {
            dialer: Dialer::new(config, resolver)?,
            host: host.parse().map_err(|error| failed(format!("{error}")))?,
            path,
            key: config.security_key.as_ref().map(Key::new).transpose()?,
            idle: Mutex::new(Vec::new()),
            in_flight: Semaphore::new(connections),
            waiting: AtomicUsize::new(0),
            waiting_max: connections.saturating_mul(WAITING_PER_CONNECTION),
        })
    }

    /// Sends one message and reads the answer, all before `deadline`, and waits for a free connection at most so
    /// long.
    pub(super) async fn post(&self, body: Bytes, deadline: Instant) -> Result<Answered, Failure> {
        let _permit = self.permit(deadline).await?;
        self.post_at_once(body, deadline).await
    }

    /// As [`Self::post`] without waiting for others: for health checks, of which there is one at a time, so that an
    /// authority whose connections all hang is still found out.
    pub(super) async fn post_at_once(&self, body: Bytes, deadline: Instant) -> Result<Answered, Failure> {
        let Some(key) = &self.key else { return self.exchange(body, None, deadline).await };
        let first = key.preferred.load(Ordering::Relaxed);
        let refused = match self.exchange(body.clone(), key.header_at(first), deadline).await {
            Err(Failure::KeyRefused(status)) => Failure::KeyRefused(status),
            other => return other,
        };
        let other = (first + 1) % key.values.len().max(1);
        if other == first {
            return Err(refused);
        }
        // A request that was refused for its key was not acted upon.
        let answered = self.exchange(body, key.header_at(other), deadline).await;
        if !matches!(answered, Err(Failure::KeyRefused(_))) {
            key.preferred.store(other, Ordering::Relaxed);
        }
        answered
    }

    /// Waits for a free connection, unless too many wait already.
    async fn permit(&self, deadline: Instant) -> Result<SemaphorePermit<'_>, Failure> {
        if let Ok(permit) = self.in_flight.try_acquire() {
            return Ok(permit);
        }
        let _waiting = Waiting::enter(&self.waiting, self.waiting_max).ok_or(Failure::Overloaded)?;
        match timeout_at(deadline, self.in_flight.acquire()).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => Err(Failure::Overloaded),
        }
    }

    async fn exchange(
        &self,
        body: Bytes,
        key: Option<(&HeaderName, &HeaderValue)>,
        deadline: Instant,
    ) -> Result<Answered, Failure> {
        let mut repeated = false;
        while let Some(mut connection) = self.take_idle() {
            if !connection.is_usable(deadline).await {
                continue;
            }
            match self.send(connection, self.request(body.clone(), key), deadline).await {
                Ok(body) => return Ok(Answered { body, repeated }),
                Err(Lost::Unsent) => {}
                Err(Lost::Unanswered) => {
                    repeated = true;
                    break;
                }
                Err(Lost::Other(failure)) => return Err(failure),
            }
        }
        let connection = self.dialer.connect(deadline).await?;
        match self.send(connection, self.request(body, key), deadline).await {
            Ok(body) => Ok(Answered { body, repeated }),
            Err(Lost::Unsent | Lost::Unanswered) => Err(Failure::Closed),
            Err(Lost::Other(failure)) => Err(failure),
        }
    }

    fn request(&self, body: Bytes, key: Option<(&HeaderName, &HeaderValue)>) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.path.clone();
        let headers = request.headers_mut();
        headers.insert(header::HOST, self.host.clone());
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
        headers.insert(header::ACCEPT, HeaderValue::from_static(CONTENT_TYPE));
        if let Some((name, value)) = key {
            headers.insert(name.clone(), value.clone());
        }
        request
    }

    async fn send(
        &self,
        mut connection: Connection,
        request: Request<Full<Bytes>>,
        deadline: Instant,
    ) -> Result<Bytes, Lost> {
        let timed_out = |_elapsed| Lost::Other(Failure::Timeout(Stage::Answer));
        let sent = timeout_at(deadline, connection.sender.try_send_request(request));
        let response = sent.await.map_err(timed_out)?.map_err(|mut error| {
            let unsent = error.take_message().is_some();
            if unsent { Lost::Unsent } else { lost(error.into_error()) }
        })?;
        let status = response.status();
        let body = timeout_at(deadline, read_body(response)).await.map_err(timed_out)?;
        if body.is_ok() {
            self.keep(connection);
        }
        match status {
            StatusCode::OK => body.map_err(Lost::Other),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if self.key.is_some() => {
                Err(Lost::Other(Failure::KeyRefused(status)))
            }
            _ => Err(Lost::Other(Failure::Status(status))),
        }
    }

    fn take_idle(&self) -> Option<Connection> {
        let mut idle = lock(&self.idle);
        idle.retain(|connection| !connection.is_stale(IDLE_MAX));
        idle.pop()
    }

    fn keep(&self, mut connection: Connection) {
        connection.rest();
        let mut idle = lock(&self.idle);
        idle.retain(|connection| !connection.is_stale(IDLE_MAX));
        idle.push(connection);
    }
}

async fn read_body(response: Response<Incoming>) -> Result<Bytes, Failure> {
    let coding = response.headers().get(header::CONTENT_ENCODING);
    if coding.is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Err(Failure::Encoded);
    }
    let collected = Limited::new(response.into_body(), MESSAGE_MAX_BYTES).collect().await;
    let collected = collected.map_err(|error| match error.downcast::<hyper::Error>() {
        Ok(error) => classify(*error),
        Err(error) if error.is::<LengthLimitError>() => Failure::TooLong,
        Err(_) => Failure::Closed,
    })?;
    Ok(collected.to_bytes())
}

/// The request was written, whole or in part, and this came instead of an answer.
fn lost(error: hyper::Error) -> Lost {
    match classify(error) {
        Failure::Closed => Lost::Unanswered,
        failure => Lost::Other(failure),
    }
}

fn classify(error: hyper::Error) -> Failure {
    if error.is_parse_too_large() {
        Failure::TooLong
    } else if error.is_parse() {
        Failure::NotHttp(error)
    } else {
        Failure::Closed
    }
}

/// RFC 9110 §7.2: the port is left out where it is the scheme's own.
fn host_header(server: &HostPort, default_port: u16) -> String {
    if server.port() == default_port { server.host().to_string() } else { server.to_string() }
}

impl Key {
    fn new(key: &SecurityKey) -> Result<Self, StaError> {
        let failed = |reason| StaError::SecurityKey { header: key.header.clone(), reason };
        let header = key.header.parse().map_err(|_| failed("this is no HTTP header name"))?;
        let value = |text: &str| {
            let mut value = HeaderValue::from_str(text)
                .map_err(|_| failed("the key holds characters that no HTTP header can carry"))?;
            value.set_sensitive(true);
            Ok(value)
        };
        let values = key.values.iter().map(|text| value(text.as_str())).collect::<Result<Vec<_>, _>>()?;
        if values.is_empty() {
            return Err(failed("there is no key"));
        }
        Ok(Self { header, values, preferred: AtomicUsize::new(0) })
    }

    fn header_at(&self, index: usize) -> Option<(&HeaderName, &HeaderValue)> {
        self.values.get(index).map(|value| (&self.header, value))
    }
}

/// A place in a bounded queue, left on drop.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn enter(count: &'a AtomicUsize, most: usize) -> Option<Self> {
        let free = |waiting: usize| (waiting < most).then(|| waiting + 1);
        count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, free).ok().map(|_before| Self(count))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
