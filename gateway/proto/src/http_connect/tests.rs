use alloc::format;
use alloc::string::ToString as _;

use proptest::prelude::*;

use super::*;
use crate::http_head::head_len;

const HEX: &str = "0123456789ABCDEF0123456789ABCD";

fn connect(target: &str) -> Result<ConnectTarget, Malformed> {
    parse_target(&head(&format!("CONNECT {target} HTTP/1.1\r\nHost: a\r\n\r\n")))
}

fn head(text: &str) -> RequestHead {
    RequestHead::parse(text.as_bytes()).unwrap()
}

fn basic(header: &str) -> Result<Option<Credentials>, Malformed> {
    basic_credentials(&head(&format!("CONNECT a:1 HTTP/1.1\r\nHost: a\r\n{header}\r\n\r\n")))
}

fn encoded(pair: &[u8]) -> Result<Option<Credentials>, Malformed> {
    basic(&format!("Proxy-Authorization: Basic {}", STANDARD.encode(pair)))
}

const ILLEGAL: Malformed = Malformed::Illegal { what: "Basic credentials" };

#[test]
fn a_server_stands_in_authority_form() {
    for target in ["vda1.example.com:1494", "10.0.0.1:22", "[2001:db8::1]:2598"] {
        let Ok(ConnectTarget::Server(server)) = connect(target) else { panic!("{target}") };
        assert_eq!(server.to_string(), target);
    }
}

#[test]
fn a_ticket_stands_in_place_of_a_server() {
    let ticket = format!(";42;STA490101972;{HEX};STA0123456789AB;{HEX}01");
    let escaped = ticket.replace(';', "%3b");
    let half = ticket.replacen(";4", "%3B4", 1);
    for target in [
        ticket.clone(),
        format!("{ticket}:443"),
        escaped.clone(),
        format!("{escaped}:1"),
        format!("{escaped}%3A65535"),
        half,
    ] {
        let Ok(ConnectTarget::Ticket(found)) = connect(&target) else { panic!("{target}") };
        assert_eq!(found.expose(), ticket);
    }
}

#[test]
fn malformed_targets_are_refused() {
    for target in [
        "vda1".to_string(),
        "vda1:".to_string(),
        "vda1:0".to_string(),
        "vda1:65536".to_string(),
        ":443".to_string(),
        "/".to_string(),
        "*".to_string(),
        "http://vda1:80/".to_string(),
        "user@vda1:80".to_string(),
        "vda1:80/".to_string(),
        "vd%611:80".to_string(),
        "2001:db8::1:80".to_string(),
        format!(";40;STA490101972;{HEX}:"),
        format!(";40;STA490101972;{HEX}:0"),
        format!(";40;STA490101972;{HEX}:65536"),
        format!(";40;STA490101972;{HEX}:a"),
        format!(";40;STA490101972;{HEX}%"),
        format!(";40;STA490101972;{HEX}%3"),
        format!(";40;STA490101972;{HEX}%3x"),
        format!("%3b40;STA490101972;{HEX}%00"),
        format!("%3b40;STA490101972;{HEX}%0d%0a"),
        format!("%3b40;STA490101972;{HEX}%c3%a9"),
        format!("%253b40;STA490101972;{HEX}"),
        ";40".to_string(),
        format!(";{}", "%41".repeat(300)),
        format!(";{}", "A".repeat(5_000)),
    ] {
        assert!(connect(&target).is_err(), "{target}");
    }
}

#[test]
fn other_methods_have_no_target() {
    let other = head("GET a:1 HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(parse_target(&other), Err(Malformed::Illegal { what: "HTTP method" }));
}

#[test]
fn basic_credentials_are_split_at_the_first_colon() {
    // RFC 7617 §2: the example of the document.
    let credentials = basic("Proxy-Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==").unwrap().unwrap();
    assert_eq!(
        (credentials.user.as_slice(), credentials.password.as_slice()),
        (&b"Aladdin"[..], &b"open sesame"[..])
    );
    let credentials = encoded(b"a:b:c").unwrap().unwrap();
    assert_eq!((credentials.user.as_slice(), credentials.password.as_slice()), (&b"a"[..], &b"b:c"[..]));
    assert!(basic("proxy-authorization: bASIC   QTpi").unwrap().is_some());
    assert!(basic("Proxy-Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ").unwrap().is_some());
    assert_eq!(encoded(b":").unwrap().unwrap().user, b"");
}

#[test]
fn other_schemes_and_headers_carry_none() {
    assert_eq!(basic("X: y"), Ok(None));
    assert_eq!(basic("Authorization: Basic QTpi"), Ok(None));
    assert_eq!(basic("Proxy-Authorization: Negotiate abc"), Ok(None));
}

#[test]
fn malformed_credentials_are_refused() {
    for header in [
        "Proxy-Authorization: Basic",
        "Proxy-Authorization:",
        "Proxy-Authorization: Basic !!!",
        "Proxy-Authorization: Basic QTpi QTpi",
        "Proxy-Authorization: Basic \u{E9}",
        "Proxy-Authorization: Basic QTpi\r\nProxy-Authorization: Basic QTpi",
    ] {
        assert_eq!(basic(header), Err(ILLEGAL), "{header}");
    }
    assert_eq!(encoded(b"no colon"), Err(ILLEGAL));
    assert_eq!(encoded(b"a:b\n"), Err(ILLEGAL));
    assert_eq!(encoded(b"a\0:b"), Err(ILLEGAL));
}

#[test]
fn credentials_have_at_most_255_bytes_each() {
    let pair = |user: usize, password: usize| format!("{}:{}", "u".repeat(user), "p".repeat(password));
    assert!(encoded(pair(255, 255).as_bytes()).unwrap().is_some());
    let too_long = Err(Malformed::TooLong { what: "Basic credentials", limit: 255 });
    assert_eq!(encoded(pair(256, 1).as_bytes()), too_long);
    assert_eq!(encoded(pair(1, 256).as_bytes()), too_long);
}

#[test]
fn our_own_request_is_read_back() {
    let credentials = Credentials { user: b"a".to_vec(), password: Zeroizing::new(b"p:q".to_vec()) };
    let bytes = connect_request("vda1:1494", Some(&credentials));
    assert_eq!(head_len(&bytes), Ok(Some(bytes.len())));
    let parsed = RequestHead::parse(&bytes).unwrap();
    assert_eq!(parsed.header("host"), Some("vda1:1494"));
    assert_eq!(basic_credentials(&parsed), Ok(Some(credentials)));
    assert_eq!(parse_target(&parsed), Ok(ConnectTarget::Server(HostPort::parse("vda1:1494").unwrap())));
    let plain = RequestHead::parse(&connect_request("vda1:1494", None)).unwrap();
    assert_eq!(basic_credentials(&plain), Ok(None));
}

#[test]
fn a_target_cannot_add_a_line_to_our_request() {
    let bytes = connect_request("a:1\r\nX: y", None);
    assert!(RequestHead::parse(&bytes).is_err());
    assert!(!bytes.windows(4).any(|w| w == b"\nX: "));
}

#[test]
fn the_success_answer_has_no_body_headers() {
    let head = crate::http_head::ResponseHead::parse(established()).unwrap();
    assert_eq!((head.status, head.count("content-length"), head.count("transfer-encoding")), (200, 0, 0));
}

proptest! {
    #[test]
    fn arbitrary_targets_never_panic(target in "[!-~]{1,300}", ticket in "(;|%3b)[%;:0-9A-FST]{0,120}") {
        for target in [target, ticket] {
            if let Ok(head) = RequestHead::parse(&connect_request(&target, None)) {
                drop(parse_target(&head));
            }
        }
    }

    #[test]
    fn any_credentials_round_trip(user in "[ -9;-~é]{0,80}", password in "[ -~é]{0,80}") {
        let credentials = Credentials { user: user.into_bytes(), password: Zeroizing::new(password.into_bytes()) };
        let head = RequestHead::parse(&connect_request("a:1", Some(&credentials))).unwrap();
        prop_assert_eq!(basic_credentials(&head), Ok(Some(credentials)));
    }
}
