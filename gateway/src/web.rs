//! The web server of the control plane: HTTP that a `gateway` listener hands over, TLS already taken off.
//!
//! For now it serves one status page; the login pages will live here. What is known of the client comes from the
//! front as [`WebMeta`], never from a header: those that a proxy would set are removed first.

mod status;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONNECTION, HeaderMap, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::UnixStream;

/// Longest head, as everywhere.
const HEAD_MAX_BYTES: usize = 16 * 1024;
const HEADERS_MAX: usize = 100;
/// How long a head may take, and how long a connection may idle between requests.
const HEAD_WAIT: Duration = Duration::from_secs(15);
/// Requests on one connection; then the client opens another, and meets the connection limits again.
const REQUESTS_MAX: usize = 100;
/// How long a connection may last, whatever it does.
const CONNECTION_TIME: Duration = Duration::from_secs(15 * 60);

/// Headers that only a proxy in front may set, and that gateways and StoreFront believe (PROTOCOL §6).
const UNTRUSTED_PREFIXES: [&str; 2] = ["x-citrix-", "x-forwarded-"];
const UNTRUSTED: [&str; 3] = ["forwarded", "x-real-ip", "via"];

/// On every answer. Nothing here needs scripts, frames, or to be kept.
const SECURITY_HEADERS: [(&str, &str); 8] = [
    (
        "content-security-policy",
        "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("strict-transport-security", "max-age=31536000"),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cache-control", "no-store"),
];

/// What the front knows of the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebMeta {
    pub client: SocketAddr,
    pub listener: String,
    pub sni: Option<String>,
}

/// Serves one connection to its end. `ready` says whether the gateway takes new clients.
pub async fn serve_connection(stream: UnixStream, meta: WebMeta, ready: impl Fn() -> bool) {
    let served = AtomicUsize::new(0);
    let service = service_fn(|mut request: Request<Incoming>| {
        strip_untrusted(request.headers_mut());
        let mut response = status::answer(request.method(), request.uri().path(), &ready);
        harden(&mut response);
        if served.fetch_add(1, Ordering::Relaxed) + 1 >= REQUESTS_MAX {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WAIT)
        .max_buf_size(HEAD_MAX_BYTES)
        .max_headers(HEADERS_MAX)
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(CONNECTION_TIME, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::debug!(%error, client = %meta.client, listener = meta.listener, "a web connection broke");
        }
        Err(_) => {
            tracing::debug!(client = %meta.client, listener = meta.listener, "a web connection was too long")
        }
    }
}

/// Removes what a client may not claim.
fn strip_untrusted(headers: &mut HeaderMap) {
    let claims = |name: &HeaderName| {
        let name = name.as_str();
        UNTRUSTED.contains(&name) || UNTRUSTED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
    };
    let claimed: Vec<HeaderName> = headers.keys().filter(|name| claims(name)).cloned().collect();
    for name in claimed {
        headers.remove(name);
    }
}

fn harden(response: &mut Response<Full<Bytes>>) {
    for (name, value) in SECURITY_HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// Sends bytes and returns everything that comes back until the server closes.
    fn exchange(sent: &[u8]) -> String {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (mut client, server) = UnixStream::pair().unwrap();
            let meta =
                WebMeta { client: "192.0.2.1:1".parse().unwrap(), listener: "gateway".into(), sni: None };
            let server = tokio::spawn(serve_connection(server, meta, || true));
            let (mut reader, mut writer) = client.split();
            let mut received = Vec::new();
            let send = async {
                // A server that refuses may close before it has read everything.
                drop(writer.write_all(sent).await);
                drop(writer.shutdown().await);
            };
            let (_, read) = tokio::join!(send, reader.read_to_end(&mut received));
            drop(read);
            server.await.unwrap();
            String::from_utf8(received).unwrap()
        })
    }

    #[test]
    fn the_page_tells_nothing_of_the_inside_and_carries_every_security_header() {
        let answer = exchange(b"GET / HTTP/1.1\r\nHost: gw\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        for (name, value) in SECURITY_HEADERS {
            assert!(answer.contains(&format!("{name}: {value}\r\n")), "{name} in {answer}");
        }
        for secret in ["portcullis", "Portcullis", env!("CARGO_PKG_VERSION"), "server:", "192.0.2"] {
            assert!(!answer.contains(secret), "{secret} in {answer}");
        }
    }

    #[test]
    fn methods_and_paths_have_their_answers() {
        for (request, status) in [
            ("HEAD / HTTP/1.1", "200"),
            ("GET /healthz HTTP/1.1", "200"),
            ("GET /healthz?x=1 HTTP/1.1", "200"),
            ("GET /vpns/../etc/passwd HTTP/1.1", "404"),
            ("POST / HTTP/1.1", "405"),
            ("OPTIONS * HTTP/1.1", "404"),
        ] {
            let answer = exchange(format!("{request}\r\nHost: gw\r\nConnection: close\r\n\r\n").as_bytes());
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {answer}");
            assert!(answer.contains("content-security-policy"), "{request}: {answer}");
        }
    }

    #[test]
    fn head_has_no_body() {
        let answer = exchange(b"HEAD / HTTP/1.1\r\nHost: gw\r\n\r\n");
        assert!(answer.ends_with("\r\n\r\n") && !answer.contains("<html"), "{answer}");
    }

    #[test]
    fn a_connection_ends_after_its_hundredth_request() {
        let answer =
            exchange("GET /healthz HTTP/1.1\r\nHost: gw\r\n\r\n".repeat(REQUESTS_MAX + 20).as_bytes());
        assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), REQUESTS_MAX);
        assert_eq!(answer.matches("connection: close").count(), 1);
    }

    #[test]
    fn a_head_past_the_bound_is_refused() {
        let long = format!("GET / HTTP/1.1\r\nHost: gw\r\nX: {}\r\n\r\n", "a".repeat(HEAD_MAX_BYTES));
        let answer = exchange(long.as_bytes());
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
        let many = format!("GET / HTTP/1.1\r\nHost: gw\r\n{}\r\n", "X: a\r\n".repeat(HEADERS_MAX + 1));
        assert!(exchange(many.as_bytes()).starts_with("HTTP/1.1 431 "));
    }

    #[test]
    fn headers_that_only_proxies_may_set_are_removed() {
        let mut headers = HeaderMap::new();
        for name in
            ["x-citrix-via", "X-Citrix-Gateway", "x-forwarded-for", "forwarded", "via", "host", "accept"]
        {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.append(&name, HeaderValue::from_static("a"));
            headers.append(name, HeaderValue::from_static("b"));
        }
        strip_untrusted(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["accept", "host"]);
    }
}
