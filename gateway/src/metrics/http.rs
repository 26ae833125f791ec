//! The metrics listener: `/metrics`, `/healthz` and `/readyz` over HTTP/1.1, for the inside network only.
//!
//! It tells more than strangers should know: bind it where only monitoring reaches. As [`Access`] says, it speaks TLS,
//! demands a certificate of every caller, and a token of those who ask for `/metrics`; health and readiness are one word,
//! for balancers that know no token.

use std::convert::Infallible;
use std::io;
use std::net::TcpListener as StdListener;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::config::Token;

/// Scrapers that may be connected.
const CONNECTIONS_MAX: usize = 16;
/// How long one connection may last.
const CONNECTION_TIME: Duration = Duration::from_secs(10);
const HEAD_MAX_BYTES: usize = 16 * 1024;
/// How long to wait after a failed accept: descriptors are short and come back when connections end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    Metrics,
    /// Whether the process lives.
    Health,
    /// Whether it should get new clients; `Err` says why not.
    Ready,
}

/// Who may ask; by default everybody who can connect.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Plain HTTP where absent.
    pub tls: Option<Arc<ServerConfig>>,
    pub token: Option<Token>,
}

/// Serves until the future is dropped. `page` makes the text; `access` may change under way.
///
/// # Errors
/// When the listener cannot be used at all.
pub async fn serve<F>(listener: StdListener, access: Arc<ArcSwap<Access>>, page: F) -> io::Result<()>
where
    F: Fn(Page) -> Result<String, String> + Clone + Send + Sync + 'static,
{
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return Ok(()) };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (page, access) = (page.clone(), access.load_full());
                tokio::spawn(async move {
                    connection(stream, &access, page).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the metrics listener cannot accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection<F>(stream: TcpStream, access: &Access, page: F)
where
    F: Fn(Page) -> Result<String, String> + Send + Sync + 'static,
{
    let Some(tls) = &access.tls else { return talk(stream, access, page).await };
    let acceptor = TlsAcceptor::from(Arc::clone(tls));
    match timeout(CONNECTION_TIME, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => talk(stream, access, page).await,
        Ok(Err(error)) => tracing::debug!(%error, "no TLS with a caller of the metrics listener"),
        Err(_elapsed) => tracing::debug!("the TLS handshake of a caller of the metrics listener is too slow"),
    }
}

async fn talk<S, F>(stream: S, access: &Access, page: F)
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: Fn(Page) -> Result<String, String> + Send + Sync + 'static,
{
    let service = service_fn(|request: Request<Incoming>| {
        let answer = answer(&request, access, &page);
        async move { Ok::<_, Infallible>(answer) }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(CONNECTION_TIME)
            .max_buf_size(HEAD_MAX_BYTES)
            .serve_connection(TokioIo::new(stream), service)
    );
    let mut ended = timeout(CONNECTION_TIME, connection.as_mut()).await;
    if ended.is_err() {
        // An answer under way is finished.
        connection.as_mut().graceful_shutdown();
        ended = timeout(CONNECTION_TIME, connection).await;
    }
    // Whether a scraper went away early concerns only the scraper.
    if let Ok(Err(error)) = ended {
        tracing::debug!(%error, "a metrics connection broke");
    }
}

fn answer<B, F>(request: &Request<B>, access: &Access, page: &F) -> Response<Full<Bytes>>
where
    F: Fn(Page) -> Result<String, String>,
{
    let asked = match request.uri().path() {
        "/metrics" => Page::Metrics,
        "/healthz" => Page::Health,
        "/readyz" => Page::Ready,
        _ => return plain(StatusCode::NOT_FOUND, "ask for /metrics, /healthz or /readyz\n".into()),
    };
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "use GET\n".into());
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    if asked == Page::Metrics && !is_known(request, access) {
        let mut response =
            plain(StatusCode::UNAUTHORIZED, "show the token, `Authorization: Bearer`\n".into());
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        return response;
    }
    match page(asked) {
        Ok(text) => plain(StatusCode::OK, text),
        Err(why) => plain(StatusCode::SERVICE_UNAVAILABLE, why),
    }
}

/// Whether the caller shows the token, if there is one. The header must stand there once.
fn is_known<B>(request: &Request<B>, access: &Access) -> bool {
    let Some(token) = &access.token else { return true };
    let mut shown = request.headers().get_all(AUTHORIZATION).iter();
    matches!((shown.next(), shown.next()), (Some(shown), None) if token.is_shown_by(shown.as_bytes()))
}

fn plain(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(TEXT_FORMAT));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(page: Page) -> Result<String, String> {
        match page {
            Page::Metrics => Ok("portcullis_up 1\n".into()),
            Page::Health => Ok("ok\n".into()),
            Page::Ready => Err("draining\n".into()),
        }
    }

    #[test]
    fn each_path_has_its_status() {
        for (method, path, status) in [
            (Method::GET, "/metrics", 200),
            (Method::HEAD, "/metrics", 200),
            (Method::GET, "/healthz", 200),
            (Method::GET, "/readyz", 503),
            (Method::POST, "/metrics", 405),
            (Method::GET, "/", 404),
            (Method::GET, "/metrics/../etc", 404),
        ] {
            let request = Request::builder().method(&method).uri(path).body(()).unwrap();
            let answer = answer(&request, &Access::default(), &page);
            assert_eq!(answer.status().as_u16(), status, "{method} {path}");
        }
    }
}
