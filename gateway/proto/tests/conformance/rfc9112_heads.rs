//! RFC 9112, HTTP/1.1: heads of messages.

use portcullis_proto::http_head::{RequestHead, ResponseHead, head_len, response};

fn request(text: &str) -> Result<RequestHead, portcullis_proto::Malformed> {
    RequestHead::parse(text.as_bytes())
}

// RFC 9112 §3.2: "A server MUST respond with a 400 (Bad Request) status code to any HTTP/1.1 request message that lacks
// a Host header field and to any request message that contains more than one Host header field line or a Host header
// field with an invalid field value."
#[test]
fn a_request_without_or_with_two_hosts_is_refused() {
    assert!(request("GET / HTTP/1.1\r\nHost: a\r\n\r\n").is_ok());
    assert!(request("GET / HTTP/1.1\r\n\r\n").is_err());
    assert!(request("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n").is_err());
    assert!(request("GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n").is_err());
    for value in ["a b", "http://a/", "user@a", "a/b", "a?b", "a#b", "\u{E9}"] {
        assert!(request(&format!("GET / HTTP/1.1\r\nHost: {value}\r\n\r\n")).is_err(), "{value}");
    }
    for value in ["", "a", "a:80", "[::1]:443", "192.0.2.1", "xn--bcher-kva.example", "a_b%20;c"] {
        assert!(request(&format!("GET / HTTP/1.1\r\nHost: {value}\r\n\r\n")).is_ok(), "{value}");
    }
}

// RFC 9112 §5.1: "No whitespace is allowed between the field name and colon." "A server MUST reject, with a response
// status code of 400 (Bad Request), any received request message that contains whitespace between a header field name
// and colon."
#[test]
fn white_space_before_a_colon_is_refused() {
    assert!(request("GET / HTTP/1.1\r\nHost : a\r\n\r\n").is_err());
    assert!(request("GET / HTTP/1.1\r\nHost\t: a\r\n\r\n").is_err());
    assert!(ResponseHead::parse(b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n").is_err());
}

// RFC 9112 §5.2: "A server that receives an obs-fold in a request message that is not within a "message/http" container
// MUST either reject the message by sending a 400 (Bad Request) [...] or replace each received obs-fold".
#[test]
fn folded_lines_are_refused() {
    assert!(request("GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n").is_err());
}

// RFC 9112 §2.2: "A recipient of such a bare CR MUST consider that element to be invalid or replace each bare CR with SP
// before processing the element or forwarding the message."
#[test]
fn a_bare_cr_is_refused() {
    assert!(head_len(b"GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n").is_err());
}

// RFC 9112 §2.2: "a recipient MAY recognize a single LF as a line terminator and ignore any preceding CR." We do not.
#[test]
fn a_bare_lf_is_refused() {
    assert!(head_len(b"GET / HTTP/1.1\nHost: a\n\n").is_err());
}

// RFC 9110 §5.5: "Field values containing CR, LF, or NUL characters are invalid and dangerous".
#[test]
fn nul_is_refused() {
    assert!(request("GET / HTTP/1.1\r\nHost: a\r\nX: b\0c\r\n\r\n").is_err());
}

// RFC 9110 §5.1: "Field names are case-insensitive".
#[test]
fn field_names_compare_without_case() {
    assert_eq!(request("GET / HTTP/1.1\r\nhOsT: a\r\n\r\n").unwrap().header("HOST"), Some("a"));
}

// RFC 9112 §5.1: "The field line value does not include that leading or trailing whitespace".
#[test]
fn white_space_around_a_value_is_dropped() {
    assert_eq!(request("GET / HTTP/1.1\r\nHost:\t a \r\n\r\n").unwrap().header("host"), Some("a"));
}

// RFC 9112 §9.3: "A server that does not support persistent connections MUST send the "close" connection option in
// every response message that does not have a 1xx (Informational) status code."
#[test]
fn our_answers_close_the_connection() {
    let bytes = response(400, "Bad Request", &[], "no\n");
    let length = head_len(&bytes).unwrap().unwrap();
    let head = ResponseHead::parse(&bytes[..length]).unwrap();
    assert_eq!((head.header("connection"), head.header("content-length")), (Some("close"), Some("3")));
}
