//! Our ticket authority over HTTP or HTTPS: accepting, bounding and ending connections.
//!
//! HTTP/1.1 (RFC 9112) by hyper. A caller from outside the allowed prefixes is cut off before a byte is read, TLS
//! included. What is answered stands in `answer`.

mod answer;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use ipnet::IpNet;
use portcullis_core::deny::Deny;
use portcullis_proto::sta::MESSAGE_MAX_BYTES;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use self::answer::Service;
use super::StaError;
use super::authority::Authority;
use crate::config::StaServerConfig;
use crate::sync::lock;

/// Connections at once, all callers: StoreFront servers and gateways are few, and keep theirs alive.
const CONNECTIONS_MAX: usize = 256;
/// Connections at once of one source address.
const CONNECTIONS_PER_SOURCE_MAX: usize = 64;
/// From accept to the end of the TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// From the end of one answer, or the handshake, to the end of the next head: also how long one may be idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection ends at this age, however busy it is: so none stays that only seems alive.
const CONNECTION_LIFE: Duration = Duration::from_mins(10);
/// How long the last answer of a connection may take to leave.
const GOODBYE: Duration = Duration::from_secs(5);
/// Pause after an accept that failed: mostly for want of descriptors, which takes a moment to pass.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const HEADERS_MAX: usize = 64;

/// What every connection of the server shares.
#[derive(Debug)]
struct Host {
    allow_from: Vec<IpNet>,
    guests: Mutex<HashMap<IpAddr, usize>>,
    service: Service,
    /// Swapped when the certificate is renewed.
    tls: Option<Arc<ArcSwap<rustls::ServerConfig>>>,
}

/// Serves `listeners` until `shutdown` is true or its sender is gone; then answers under way are finished.
///
/// # Errors
/// When the security key cannot be used, or a listener cannot be taken over by the runtime.
pub async fn serve(
    config: StaServerConfig,
    tls: Option<Arc<ArcSwap<rustls::ServerConfig>>>,
    authority: Arc<Authority>,
    listeners: Vec<std::net::TcpListener>,
    shutdown: watch::Receiver<bool>,
) -> Result<(), ServeError> {
    let service = Service::new(authority, config.security_key.as_ref())?;
    let guests = Mutex::new(HashMap::new());
    let host = Arc::new(Host { allow_from: config.allow_from, guests, service, tls });
    let mut accepting = JoinSet::new();
    for listener in listeners {
        listener.set_nonblocking(true)?;
        accepting.spawn(accept(TcpListener::from_std(listener)?, Arc::clone(&host), shutdown.clone()));
    }
    while accepting.join_next().await.is_some() {}
    Ok(())
}

/// Why the server does not run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    Sta(#[from] StaError),
    #[error("the listener of the ticket authority cannot be used: {0}")]
    Listener(#[from] io::Error),
}

async fn accept(listener: TcpListener, host: Arc<Host>, mut shutdown: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    let mut failing = false;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            // Reaping keeps the set as small as the number of live connections.
            Some(_ended) = connections.join_next() => continue,
            () = ordered(&mut shutdown) => break,
        };
        match accepted {
            Ok((stream, source)) => {
                failing = false;
                if let Some(guest) = Guest::admit(&host, source) {
                    connections.spawn(serve_guest(stream, guest, shutdown.clone()));
                }
            }
            Err(error) => {
                if !failing {
                    tracing::warn!(%error, "the ticket authority cannot accept connections");
                }
                failing = true;
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    let drained = timeout(GOODBYE, async { while connections.join_next().await.is_some() {} });
    if drained.await.is_err() {
        connections.shutdown().await;
    }
}

/// Returns when the end is ordered, or when nobody is left to order it.
async fn ordered(shutdown: &mut watch::Receiver<bool>) {
    shutdown.wait_for(|ordered| *ordered).await.ok();
}

/// A connection's place among the others, given back on drop.
struct Guest {
    host: Arc<Host>,
    source: IpAddr,
}

impl Guest {
    fn admit(host: &Arc<Host>, source: SocketAddr) -> Option<Self> {
        // An IPv4 caller of an IPv6 listener is judged as what it is.
        let source = source.ip().to_canonical();
        if !host.allow_from.iter().any(|prefix| prefix.contains(&source)) {
            tracing::debug!(%source, "caller of the ticket authority refused: not in allow_from");
            count_refusal(Deny::SourceForbidden);
            return None;
        }
        let mut guests = lock(&host.guests);
        let all: usize = guests.values().sum();
        let of_source = guests.get(&source).copied().unwrap_or(0);
        if all >= CONNECTIONS_MAX || of_source >= CONNECTIONS_PER_SOURCE_MAX {
            tracing::debug!(%source, all, of_source, "caller of the ticket authority refused: too many connections");
            let all_full = all >= CONNECTIONS_MAX;
            count_refusal(if all_full {
                Deny::TooManyConnections
            } else {
                Deny::TooManyConnectionsFromSource
            });
            return None;
        }
        guests.insert(source, of_source + 1);
        Some(Self { host: Arc::clone(host), source })
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut guests = lock(&self.host.guests);
        if let Some(count) = guests.get_mut(&self.source) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                guests.remove(&self.source);
            }
        }
    }
}

/// Refusals of this server stand beside those of the listeners, under its own name.
fn count_refusal(deny: Deny) {
    crate::metrics::refused("sta_server", deny);
}

async fn serve_guest(stream: TcpStream, guest: Guest, shutdown: watch::Receiver<bool>) {
    // Answers are one small write each: waiting for more would only cost time.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY");
    }
    let Some(tls) = &guest.host.tls else {
        return serve_http(stream, &guest, shutdown).await;
    };
    let acceptor = TlsAcceptor::from(tls.load_full());
    match timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => serve_http(stream, &guest, shutdown).await,
        Ok(Err(error)) => {
            tracing::debug!(source = %guest.source, %error, "no TLS with a caller of the ticket authority");
        }
        Err(_elapsed) => tracing::debug!(source = %guest.source, "TLS handshake too slow"),
    }
}

async fn serve_http<S>(stream: S, guest: &Guest, mut shutdown: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let answer = service_fn(|request| guest.host.service.answer(guest.source, request));
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_headers(HEADERS_MAX)
        .max_buf_size(MESSAGE_MAX_BYTES);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), answer));
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        () = sleep(CONNECTION_LIFE) => None,
        () = ordered(&mut shutdown) => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            timeout(GOODBYE, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(source = %guest.source, %error, "connection to the ticket authority broken off");
    }
}
