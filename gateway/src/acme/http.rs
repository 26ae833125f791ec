//! HTTPS to the issuer's server: one connection for each request, names by our resolver, answers of bounded length.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderValue};
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use portcullis_proto::host_port::{Host, HostPort};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::config::AcmeConfig;
use crate::dns::Resolver;
use crate::tls::certs;

/// One request with its answer.
const REQUEST_MAX: Duration = Duration::from_secs(30);
/// Chains have some kilobytes.
const ANSWER_MAX_BYTES: usize = 256 * 1024;
const HTTPS_PORT: u16 = 443;

/// The client that `instant-acme` speaks through.
#[derive(Clone)]
pub(super) struct Http {
    connector: TlsConnector,
    resolver: Arc<Resolver>,
}

impl Http {
    pub(super) fn new(acme: &AcmeConfig, resolver: Arc<Resolver>) -> Result<Self, String> {
        let config: ClientConfig =
            certs::client_config(acme.ca.as_deref()).map_err(|error| error.to_string())?;
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), resolver })
    }

    async fn exchange(&self, request: Request<BodyWrapper<Bytes>>) -> Result<Response<Full<Bytes>>, String> {
        let server = server(request.uri())?;
        let tls = self.connect(&server).await.map_err(|error| format!("{server}: {error}"))?;
        let failed = |error: hyper::Error| format!("{server}: {error}");
        let (mut sender, connection) = http1::handshake(TokioIo::new(tls)).await.map_err(failed)?;
        let driver = tokio::spawn(connection);
        let request = in_origin_form(request, &server)?;
        let answered = async {
            let (head, body) = sender.send_request(request).await.map_err(failed)?.into_parts();
            let body = Limited::new(body, ANSWER_MAX_BYTES).collect().await;
            let body = body.map_err(|error| format!("{server}: the answer cannot be read: {error}"))?;
            Ok(Response::from_parts(head, Full::new(body.to_bytes())))
        };
        let answer = answered.await;
        driver.abort();
        answer
    }

    async fn connect(&self, server: &HostPort) -> Result<tokio_rustls::client::TlsStream<TcpStream>, String> {
        let (addresses, name) = match server.host() {
            Host::Ip(address) => (vec![*address], ServerName::from(*address)),
            Host::Name(name) => {
                let found = self.resolver.lookup(name).await.map_err(|error| error.to_string())?;
                (found, ServerName::try_from(name.as_str().to_owned()).map_err(|error| error.to_string())?)
            }
        };
        let mut failure = "it has no address".to_owned();
        for address in addresses {
            match TcpStream::connect(SocketAddr::new(address, server.port())).await {
                Ok(tcp) => {
                    let connected = self.connector.connect(name.clone(), tcp).await;
                    return connected.map_err(|error| format!("no TLS connection: {error}"));
                }
                Err(error) => failure = format!("no connection to {address}: {error}"),
            }
        }
        Err(failure)
    }
}

impl HttpClient for Http {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let http = self.clone();
        Box::pin(async move {
            let answer = timeout(REQUEST_MAX, http.exchange(request)).await;
            let answer =
                answer.unwrap_or_else(|_| Err("the issuer's server did not answer in time".to_owned()));
            answer.map(BytesResponse::from).map_err(|error| Error::Other(error.into()))
        })
    }
}

/// Whom a URL names. The directory may name others, and all of them by https.
fn server(uri: &Uri) -> Result<HostPort, String> {
    let authority = uri.authority().filter(|_| uri.scheme_str() == Some("https"));
    let server = authority.and_then(|at| HostPort::parse_or_port(at.as_str(), Some(HTTPS_PORT)).ok());
    server.ok_or_else(|| "the issuer's server names something that is no https URL".to_owned())
}

/// RFC 9112 §3.2.1: the path, and the server in a field of its own.
fn in_origin_form(
    mut request: Request<BodyWrapper<Bytes>>,
    server: &HostPort,
) -> Result<Request<BodyWrapper<Bytes>>, String> {
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let uri: Uri = path.parse().map_err(|_| "a URL of the issuer's server has no path".to_owned())?;
    let host = if server.port() == HTTPS_PORT { server.host().to_string() } else { server.to_string() };
    let host = HeaderValue::try_from(host).map_err(|error| error.to_string())?;
    *request.uri_mut() = uri;
    request.headers_mut().insert(HOST, host);
    Ok(request)
}
