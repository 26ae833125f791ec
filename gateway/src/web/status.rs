//! The page of a gateway that has no login pages: it says what this place is, and nothing of what is behind it,
//! not even which program answers.

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Response, StatusCode};

const HTML: &str = "text/html; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";
const PAGE: &str = "<!DOCTYPE html>
<html lang=\"en\">
<head><meta charset=\"utf-8\"><title>Gateway</title><meta name=\"robots\" content=\"noindex\"></head>
<body>
<h1>This is a gateway</h1>
<p>It carries sessions of those who hold a ticket. There is nothing to see without one.</p>
<p>Start your desktop or application where your organisation offers it.</p>
</body>
</html>
";

pub(super) fn answer(method: &Method, path: &str, ready: impl Fn() -> bool) -> Response<Full<Bytes>> {
    let (status, kind, text) = match path {
        "/" => (StatusCode::OK, HTML, PAGE),
        "/healthz" if ready() => (StatusCode::OK, TEXT, "ok\n"),
        "/healthz" => (StatusCode::SERVICE_UNAVAILABLE, TEXT, "not ready\n"),
        _ => (StatusCode::NOT_FOUND, TEXT, "not found\n"),
    };
    let wrong_method = status != StatusCode::NOT_FOUND && method != Method::GET && method != Method::HEAD;
    let (status, kind, text) =
        if wrong_method { (StatusCode::METHOD_NOT_ALLOWED, TEXT, "use GET\n") } else { (status, kind, text) };
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    if wrong_method {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    response
}
