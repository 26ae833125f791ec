//! One connection to an authority: how it is made, and whether it can still be used.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use portcullis_proto::host_port::{Host, HostPort};
use portcullis_proto::sta::MESSAGE_MAX_BYTES;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use super::{Failure, Stage};
use crate::config::StaConfig;
use crate::dns::Resolver;
use crate::sta::StaError;
use crate::sta::tls;

/// Most headers of one answer; hyper's own default, written down.
const HEADERS_MAX: usize = 100;

/// An HTTP connection. Dropping it closes the socket at once, whatever the peer does.
pub(super) struct Connection {
    pub(super) sender: SendRequest<Full<Bytes>>,
    driver: AbortHandle,
    rested: Instant,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Connection {
    /// Closed by the peer as far as is known, or left alone for too long.
    pub(super) fn is_stale(&self, idle_max: Duration) -> bool {
        self.sender.is_closed() || self.rested.elapsed() > idle_max
    }

    /// Marks the end of a use.
    pub(super) fn rest(&mut self) {
        self.rested = Instant::now();
    }

    /// Whether a request can be sent. This lets the driver see first whether the peer has closed.
    pub(super) async fn is_usable(&mut self, deadline: Instant) -> bool {
        tokio::task::yield_now().await;
        matches!(timeout_at(deadline, self.sender.ready()).await, Ok(Ok(()))) && !self.sender.is_closed()
    }
}

/// Makes connections.
pub(super) struct Dialer {
    server: HostPort,
    resolver: Arc<Resolver>,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl Dialer {
    pub(super) fn new(config: &StaConfig, resolver: Arc<Resolver>) -> Result<Self, StaError> {
        let server = config.url.server.clone();
        let tls = if config.url.https {
            let connector = TlsConnector::from(Arc::new(tls::client_config(&config.name, &config.tls)?));
            let name = match server.host() {
                Host::Ip(address) => ServerName::from(*address),
                Host::Name(name) => ServerName::try_from(name.as_str().to_owned())
                    .map_err(|error| StaError::Url { sta: config.name.clone(), reason: error.to_string() })?,
            };
            Some((connector, name))
        } else {
            None
        };
        Ok(Self { server, resolver, tls })
    }

    pub(super) async fn connect(&self, deadline: Instant) -> Result<Connection, Failure> {
        match timeout_at(deadline, self.connect_by(deadline)).await {
            Ok(connected) => connected,
            Err(_elapsed) => Err(Failure::Timeout(Stage::Connecting)),
        }
    }

    async fn connect_by(&self, deadline: Instant) -> Result<Connection, Failure> {
        let tcp = self.dial(deadline).await?;
        // A message is one small write: waiting for more of it would only cost time.
        if let Err(error) = tcp.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY");
        }
        match &self.tls {
            None => Self::handshake(tcp).await,
            Some((connector, name)) => {
                let tls = connector.connect(name.clone(), tcp).await.map_err(Failure::Tls)?;
                Self::handshake(tls).await
            }
        }
    }

    /// Tries each address in turn, each with its share of the time that is left.
    async fn dial(&self, deadline: Instant) -> Result<TcpStream, Failure> {
        let addresses = match self.server.host() {
            Host::Ip(address) => vec![*address],
            Host::Name(name) => self.resolver.lookup(name).await.map_err(Failure::Resolve)?,
        };
        let mut failure = Failure::Connect(io::ErrorKind::AddrNotAvailable.into());
        let mut left = u32::try_from(addresses.len()).unwrap_or(u32::MAX);
        for address in addresses {
            let now = Instant::now();
            let share = deadline.saturating_duration_since(now) / left.max(1);
            left = left.saturating_sub(1);
            let connect = TcpStream::connect(SocketAddr::new(address, self.server.port()));
            match timeout_at(now + share, connect).await {
                Ok(Ok(tcp)) => return Ok(tcp),
                Ok(Err(error)) => failure = Failure::Connect(error),
                Err(_elapsed) => failure = Failure::Timeout(Stage::Connecting),
            }
        }
        Err(failure)
    }

    async fn handshake<S>(stream: S) -> Result<Connection, Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut builder = http1::Builder::new();
        builder.max_buf_size(MESSAGE_MAX_BYTES).max_headers(HEADERS_MAX);
        let (sender, connection) =
            builder.handshake(TokioIo::new(stream)).await.map_err(|_error| Failure::Closed)?;
        // Its errors reach whoever waits for an answer on the connection.
        let driver = tokio::spawn(async move { connection.await.is_ok() }).abort_handle();
        Ok(Connection { sender, driver, rested: Instant::now() })
    }
}
