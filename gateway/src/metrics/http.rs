//! The metrics listener: `/metrics`, `/healthz` and `/readyz` over HTTP/1.1, for the inside network only.
//!
//! It tells more than strangers should know and asks nobody who they are: bind it where only monitoring reaches.

use std::convert::Infallible;
use std::io;
use std::net::TcpListener as StdListener;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

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

/// Serves until the future is dropped. `page` makes the text.
///
/// # Errors
/// When the listener cannot be used at all.
pub async fn serve<F>(listener: StdListener, page: F) -> io::Result<()>
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
                let page = page.clone();
                tokio::spawn(async move {
                    connection(stream, page).await;
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

async fn connection<F>(stream: TcpStream, page: F)
where
    F: Fn(Page) -> Result<String, String> + Send + Sync + 'static,
{
    let service = service_fn(|request: Request<Incoming>| {
        let answer = answer(request.method(), request.uri().path(), &page);
        async move { Ok::<_, Infallible>(answer) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(CONNECTION_TIME)
        .max_buf_size(HEAD_MAX_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    // Whether a scraper went away early concerns only the scraper.
    if let Ok(Err(error)) = tokio::time::timeout(CONNECTION_TIME, connection).await {
        tracing::debug!(%error, "a metrics connection broke");
    }
}

fn answer<F>(method: &Method, path: &str, page: &F) -> Response<Full<Bytes>>
where
    F: Fn(Page) -> Result<String, String>,
{
    let asked = match path {
        "/metrics" => Page::Metrics,
        "/healthz" => Page::Health,
        "/readyz" => Page::Ready,
        _ => return plain(StatusCode::NOT_FOUND, "ask for /metrics, /healthz or /readyz\n".into()),
    };
    if method != Method::GET && method != Method::HEAD {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "use GET\n".into());
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match page(asked) {
        Ok(text) => plain(StatusCode::OK, text),
        Err(why) => plain(StatusCode::SERVICE_UNAVAILABLE, why),
    }
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
            assert_eq!(answer(&method, path, &page).status().as_u16(), status, "{method} {path}");
        }
    }
}
