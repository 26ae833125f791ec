//! One check of one server: a connection, a TLS handshake, or an answer by HTTP, within a time.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::connect;
use crate::config::{Check, CheckTls, CheckTrust, HealthConfig};
use crate::gate::is_exhausted;
use crate::tls::{certs, verify};

/// Most bytes of an answer's head; its body is not read.
const HEAD_MAX_BYTES: usize = 16 * 1024;
const HEADERS_MAX: usize = 100;
/// What servers see in their logs.
const AGENT: &str = concat!("portcullis-check/", env!("CARGO_PKG_VERSION"));

/// Why a server is not good.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    #[error("cannot be reached: {0}")]
    Connect(#[source] io::Error),
    /// Nothing is known of the server: this machine has no descriptor, port or memory left.
    #[error("could not be checked: {0}")]
    Exhausted(#[source] io::Error),
    #[error("did not answer within {}", crate::config::format_duration(*.0))]
    Timeout(Duration),
    #[error("the TLS handshake failed: {0}")]
    Tls(#[source] io::Error),
    #[error("no answer that is HTTP: {0}")]
    Http(#[source] hyper::Error),
    #[error("answered with status {status}, and {} to {} are expected", .expected.start(), .expected.end())]
    Status { status: u16, expected: RangeInclusive<u16> },
    #[error("the request cannot be made: {0}")]
    Request(#[from] hyper::http::Error),
}

impl CheckError {
    /// The reason in metrics.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Connect(_) => "connect",
            Self::Exhausted(_) => "exhausted",
            Self::Timeout(_) => "timeout",
            Self::Tls(_) => "tls",
            Self::Http(_) | Self::Request(_) => "http",
            Self::Status { .. } => "status",
        }
    }
}

/// Makes the checks of one listener's servers.
#[derive(Debug)]
pub struct Checker {
    check: Check,
    timeout: Duration,
    tls: Option<Arc<ClientConfig>>,
}

impl Checker {
    /// # Errors
    /// What is wrong with the CA file, in words.
    pub fn new(health: &HealthConfig) -> Result<Self, String> {
        let tls = health.check.tls().map(|tls| client_config(&tls.trust)).transpose()?.map(Arc::new);
        Ok(Self { check: health.check.clone(), timeout: health.timeout, tls })
    }

    /// # Errors
    /// Why the server is not good.
    pub async fn run(&self, server: SocketAddr, source: Option<IpAddr>) -> Result<(), CheckError> {
        let checked = tokio::time::timeout(self.timeout, self.check(server, source)).await;
        checked.unwrap_or(Err(CheckError::Timeout(self.timeout)))
    }

    async fn check(&self, server: SocketAddr, source: Option<IpAddr>) -> Result<(), CheckError> {
        let stream = connect(server, source, |_| ()).await.map_err(|error| {
            // An address that is not ours has the same code as a lack of ports, and will not go away.
            let is_ours = source.is_none() || error.kind() != io::ErrorKind::AddrNotAvailable;
            if is_ours && is_exhausted(&error) {
                CheckError::Exhausted(error)
            } else {
                CheckError::Connect(error)
            }
        })?;
        match &self.check {
            Check::Tcp => Ok(()),
            Check::Tls(tls) => self.shake_hands(server, tls, stream).await.map(drop),
            Check::Http { path, expect, host, tls } => {
                let host = host.clone().unwrap_or_else(|| server.to_string());
                let status = match tls {
                    Some(tls) => {
                        let stream = self.shake_hands(server, tls, stream).await?;
                        get(stream, path, &host).await?
                    }
                    None => get(stream, path, &host).await?,
                };
                if expect.contains(&status) {
                    Ok(())
                } else {
                    Err(CheckError::Status { status, expected: expect.clone() })
                }
            }
        }
    }

    async fn shake_hands(
        &self,
        server: SocketAddr,
        tls: &CheckTls,
        stream: TcpStream,
    ) -> Result<TlsStream<TcpStream>, CheckError> {
        let named = tls.server_name.clone().and_then(|name| ServerName::try_from(name).ok());
        let name = named.unwrap_or_else(|| ServerName::from(server.ip()));
        let config = self.tls.as_ref().ok_or_else(|| CheckError::Tls(io::ErrorKind::Unsupported.into()))?;
        TlsConnector::from(Arc::clone(config)).connect(name, stream).await.map_err(CheckError::Tls)
    }
}

/// Asks for one page and gives the status of the answer.
async fn get<S>(stream: S, path: &str, host: &str) -> Result<u16, CheckError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let uri: Uri = path.parse().map_err(hyper::http::Error::from)?;
    let request = Request::get(uri)
        .header(HOST, host)
        .header(USER_AGENT, AGENT)
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HEAD_MAX_BYTES).max_headers(HEADERS_MAX);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(CheckError::Http)?;
    let answer = drive(connection, sender.send_request(request)).await;
    Ok(answer.map_err(CheckError::Http)?.status().as_u16())
}

/// Runs the connection only as long as the answer is awaited.
async fn drive<T>(connection: impl Future, answer: impl Future<Output = T>) -> T {
    let mut answer = std::pin::pin!(answer);
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        // The connection is over; what it had to say is in the answer.
        _ = connection => answer.await,
    }
}

fn client_config(trust: &CheckTrust) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let own = |pin| Arc::new(verify::KeyHolder::new(pin, provider));
    let config = match trust {
        CheckTrust::Any => {
            builder.dangerous().with_custom_certificate_verifier(own(None)).with_no_client_auth()
        }
        CheckTrust::Pin(pin) => {
            builder.dangerous().with_custom_certificate_verifier(own(Some(*pin))).with_no_client_auth()
        }
        CheckTrust::Ca(path) => {
            let roots = certs::roots(path).map_err(|error| error.to_string())?;
            builder.with_root_certificates(roots).with_no_client_auth()
        }
    };
    Ok(config)
}
