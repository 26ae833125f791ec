//! RFC 9110 §9.3.6, CONNECT, with RFC 9112 §3.2.3 and RFC 7617.

use portcullis_proto::http_connect::{
    ConnectTarget, basic_credentials, connect_request, established, parse_target,
};
use portcullis_proto::http_head::{RequestHead, ResponseHead};
use portcullis_proto::socks5::Credentials;

fn connect(target: &str) -> Result<ConnectTarget, portcullis_proto::Malformed> {
    parse_target(&RequestHead::parse(
        format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n").as_bytes(),
    )?)
}

// RFC 9110 §9.3.6: "CONNECT uses a special form of request target, unique to this method, consisting of only the host
// and port number of the tunnel destination, separated by a colon."
#[test]
fn a_target_is_only_a_host_and_a_port() {
    for target in ["server.example.com:80", "192.0.2.1:443", "[2001:db8::1]:443"] {
        assert!(matches!(connect(target), Ok(ConnectTarget::Server(_))), "{target}");
    }
    for target in
        ["http://server.example.com:80", "server.example.com:80/", "user@server.example.com:80", "/", "*"]
    {
        assert!(connect(target).is_err(), "{target}");
    }
}

// RFC 9110 §9.3.6: "There is no default port; a client MUST send the port number even if the CONNECT request is based
// on a URI reference that contains an authority component with an elided port".
#[test]
fn a_target_without_a_port_is_refused() {
    assert!(connect("server.example.com").is_err());
    assert!(connect("[2001:db8::1]").is_err());
}

// RFC 9110 §9.3.6: "A server MUST reject a CONNECT request that targets an empty or invalid port number, typically by
// responding with a 400 (Bad Request) status code."
#[test]
fn an_empty_or_invalid_port_is_refused() {
    for port in ["", "0", "65536", "99999999999", "+80", "-1", "8o", "80:80", "%38%30"] {
        assert!(connect(&format!("server.example.com:{port}")).is_err(), "{port:?}");
        let ticket = format!(";40;STA490101972;{}:{port}", "0".repeat(30));
        assert_eq!(connect(&ticket).is_err(), port != "%38%30", "{port:?}");
    }
}

// RFC 9110 §9.3.6: "A server MUST NOT send any Transfer-Encoding or Content-Length header fields in a 2xx (Successful)
// response to CONNECT."
#[test]
fn the_success_answer_has_no_length() {
    let head = ResponseHead::parse(established()).unwrap();
    assert_eq!(head.status, 200);
    assert_eq!((head.count("transfer-encoding"), head.count("content-length")), (0, 0));
}

// RFC 9112 §3.2.3: "authority-form = uri-host ":" port"; RFC 9112 §3.2: "A client MUST send a Host header field in all
// HTTP/1.1 request messages."
#[test]
fn our_client_sends_authority_form_and_host() {
    let head = RequestHead::parse(&connect_request("server.example.com:80", None)).unwrap();
    assert_eq!((head.method.as_str(), head.target.as_str()), ("CONNECT", "server.example.com:80"));
    assert_eq!(head.header("host"), Some("server.example.com:80"));
}

// RFC 7617 §2: "If the user agent wishes to send the user-id "Aladdin" and password "open sesame", it would use the
// following header field".
#[test]
fn basic_credentials_are_those_of_the_example() {
    let head = "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nProxy-Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n\r\n";
    let expected =
        Credentials { user: b"Aladdin".to_vec(), password: zeroize::Zeroizing::new(b"open sesame".to_vec()) };
    let found = basic_credentials(&RequestHead::parse(head.as_bytes()).unwrap()).unwrap();
    assert_eq!(found.as_ref(), Some(&expected));
    let ours = String::from_utf8(connect_request("a:1", Some(&expected))).unwrap();
    assert!(ours.contains("\r\nProxy-Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n"));
}

// RFC 7617 §2: "The user-id and password MUST NOT contain any control characters".
#[test]
fn control_characters_in_credentials_are_refused() {
    // "a:b\n" and "a\0:b" in base64.
    for encoded in ["YTpiCg==", "YQA6Yg=="] {
        let head =
            format!("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nProxy-Authorization: Basic {encoded}\r\n\r\n");
        assert!(basic_credentials(&RequestHead::parse(head.as_bytes()).unwrap()).is_err());
    }
}

// RFC 9110 §11.1: "It uses a case-insensitive token to identify the authentication scheme".
#[test]
fn the_scheme_compares_without_case() {
    for scheme in ["basic", "BASIC", "bAsIc"] {
        let head = format!("CONNECT a:1 HTTP/1.1\r\nHost: a\r\nProxy-Authorization: {scheme} YTpi\r\n\r\n");
        assert!(basic_credentials(&RequestHead::parse(head.as_bytes()).unwrap()).unwrap().is_some());
    }
}
