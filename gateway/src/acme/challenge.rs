//! How a name is proven to be this gateway's: a page at port 80 (`http-01`, RFC 8555 §8.3), or a handshake for the
//! protocol `acme-tls/1` at the listeners (`tls-alpn-01`, RFC 8737). Both are answered only while an order waits for it:
//! otherwise nothing listens at port 80, and handshakes are not looked at.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::ServerConfig;
use rustls::server::Acceptor;
use rustls_pki_types::PrivateKeyDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use crate::config::{AcmeChallenge, AcmeConfig};
use crate::sockets;
use crate::tls::certs;

/// RFC 8737 §3.
const PROTOCOL: &[u8] = b"acme-tls/1";
/// RFC 8555 §8.3.
const PATH: &str = "/.well-known/acme-challenge/";
/// Connections to the page at once, and how long one may take.
const CONNECTIONS_MAX: usize = 32;
const CONNECTION_MAX: Duration = Duration::from_secs(10);
/// A hello that does not fit is no issuer's.
const HELLO_MAX_BYTES: usize = 16 * 1024;
/// How long the rest of a hello is waited for before the connection is served as any other.
const HELLO_MAX: Duration = Duration::from_secs(2);
/// The rest of a hello that has begun comes soon; looking costs no byte of the stream.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// What has to be shown for one name.
#[derive(Debug)]
pub(super) struct Proof {
    pub(super) name: String,
    pub(super) token: String,
    pub(super) answer: String,
    /// Of the answer.
    pub(super) digest: Vec<u8>,
}

/// What is shown just now.
#[derive(Debug, Default)]
pub struct Challenges {
    tls: Arc<ArcSwapOption<ServerConfig>>,
}

/// Shows something while it lives.
pub(super) struct Answering {
    tls: Arc<ArcSwapOption<ServerConfig>>,
    tasks: Vec<AbortHandle>,
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.tls.store(None);
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Challenges {
    /// Shows the proofs until the answer is dropped.
    pub(super) fn answer(&self, acme: &AcmeConfig, proofs: &[Proof]) -> Result<Answering, String> {
        let mut answering = Answering { tls: Arc::clone(&self.tls), tasks: Vec::new() };
        if proofs.is_empty() {
            return Ok(answering);
        }
        match acme.challenge {
            AcmeChallenge::TlsAlpn01 => self.tls.store(Some(handshakes(proofs)?)),
            AcmeChallenge::Http01 => {
                let pages = proofs.iter().map(|proof| (proof.token.clone(), proof.answer.clone()));
                let pages: Arc<HashMap<String, String>> = Arc::new(pages.collect());
                for at in &acme.http_listen {
                    let listener = sockets::bind_alone(*at, false).and_then(|listener| {
                        listener.set_nonblocking(true)?;
                        TcpListener::from_std(listener)
                    });
                    let listener =
                        listener.map_err(|error| format!("cannot listen on {at} for http-01: {error}"))?;
                    let serving = tokio::spawn(serve(listener, Arc::clone(&pages)));
                    answering.tasks.push(serving.abort_handle());
                }
            }
        }
        Ok(answering)
    }

    /// What to shake hands with, if this connection asks for a proof. Nothing is taken from the stream.
    pub(crate) async fn wanted(&self, socket: &TcpStream) -> Option<Arc<ServerConfig>> {
        let config = self.tls.load_full()?;
        let asks = timeout(HELLO_MAX, asks_for_proof(socket)).await;
        asks.unwrap_or(false).then_some(config)
    }
}

/// Certificates with the digests in them, one for each name.
fn handshakes(proofs: &[Proof]) -> Result<Arc<ServerConfig>, String> {
    let told = |error: &dyn std::fmt::Display| format!("no certificate for tls-alpn-01 can be made: {error}");
    let mut keys = Vec::new();
    for proof in proofs {
        let key = KeyPair::generate().map_err(|error| told(&error))?;
        let mut params = CertificateParams::new([proof.name.clone()]).map_err(|error| told(&error))?;
        params.custom_extensions = vec![CustomExtension::new_acme_identifier(&proof.digest)];
        let certificate = params.self_signed(&key).map_err(|error| told(&error))?;
        let private = PrivateKeyDer::try_from(key.serialize_der()).map_err(|error| told(&error))?;
        keys.push((certificate.der().clone(), private, proof.name.clone()));
    }
    certs::proving_server_config(keys, PROTOCOL).map_err(|error| told(&error))
}

/// Whether the hello at the beginning of the stream offers the protocol of proofs, and nothing else (RFC 8737 §3).
async fn asks_for_proof(socket: &TcpStream) -> bool {
    let mut buffer = vec![0; HELLO_MAX_BYTES];
    let mut seen = 0;
    loop {
        let Ok(length) = socket.peek(&mut buffer).await else { return false };
        if length == 0 || (length == seen && length == buffer.len()) {
            return false;
        }
        if length == seen {
            sleep(LOOK_AGAIN).await;
            continue;
        }
        seen = length;
        let mut acceptor = Acceptor::default();
        let mut bytes = buffer.get(..length).unwrap_or_default();
        while !bytes.is_empty() {
            if !matches!(acceptor.read_tls(&mut bytes), Ok(read) if read > 0) {
                return false;
            }
        }
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                let hello = accepted.client_hello();
                return hello
                    .alpn()
                    .is_some_and(|mut offered| offered.next() == Some(PROTOCOL) && offered.next().is_none());
            }
            Ok(None) => {}
            Err(_) => return false,
        }
    }
}

async fn serve(listener: TcpListener, pages: Arc<HashMap<String, String>>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok((stream, client)) = listener.accept().await else {
            sleep(LOOK_AGAIN).await;
            continue;
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let pages = Arc::clone(&pages);
        tokio::spawn(async move {
            let _place = place;
            let answer = service_fn(|request| {
                let answer = page(&request, &pages);
                async { Ok::<_, Infallible>(answer) }
            });
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(CONNECTION_MAX).keep_alive(false);
            let connection = builder.serve_connection(TokioIo::new(stream), answer);
            if !matches!(timeout(CONNECTION_MAX, connection).await, Ok(Ok(()))) {
                tracing::debug!(%client, "a connection to the page of http-01 broke");
            }
        });
    }
}

fn page(request: &Request<Incoming>, pages: &HashMap<String, String>) -> Response<Full<Bytes>> {
    let token = request.uri().path().strip_prefix(PATH).filter(|_| request.method() == Method::GET);
    let found = token.and_then(|token| pages.get(token));
    let mut response = Response::new(Full::new(found.cloned().unwrap_or_default().into()));
    if found.is_none() {
        *response.status_mut() = StatusCode::NOT_FOUND;
    }
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}
