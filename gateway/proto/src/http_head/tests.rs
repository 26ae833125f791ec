use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;

fn request(text: &str) -> Result<RequestHead, Malformed> {
    RequestHead::parse(text.as_bytes())
}

fn illegal<T>(what: &'static str) -> Result<T, Malformed> {
    Err(Malformed::Illegal { what })
}

#[test]
fn a_request_head_is_read() {
    let head = request(
        "GET /a?b HTTP/1.1\r\nHost: gw\r\nX-List: one, Two\r\nx-list:three \r\nEmpty:\r\nLatin: \u{E9}\r\n\r\n",
    )
    .unwrap();
    assert_eq!((head.method.as_str(), head.target.as_str(), head.minor_version), ("GET", "/a?b", 1));
    assert_eq!(head.header("HOST"), Some("gw"));
    assert_eq!(head.headers("X-List").collect::<Vec<_>>(), ["one, Two", "three"]);
    assert_eq!((head.count("x-LIST"), head.count("none")), (2, 0));
    assert!(head.has_token("x-list", "two") && !head.has_token("x-list", "tw"));
    assert_eq!(head.header("empty"), Some(""));
    assert_eq!((head.header("latin"), head.count("latin")), (None, 1));
    assert_eq!(head.header("absent"), None);
}

#[test]
fn a_response_head_is_read() {
    let head =
        ResponseHead::parse(b"HTTP/1.1 407 Proxy Authentication Required\r\nA: b\r\nA: c\r\n\r\n").unwrap();
    assert_eq!((head.status, head.minor_version), (407, 1));
    assert_eq!(head.reason, "Proxy Authentication Required");
    assert_eq!((head.header("a"), head.count("a")), (Some("b"), 2));
    assert_eq!(head.headers("a").collect::<Vec<_>>(), ["b", "c"]);
    assert_eq!(ResponseHead::parse(b"HTTP/1.0 200\r\n\r\n").unwrap().reason, "");
}

#[test]
fn the_length_ends_with_the_empty_line() {
    let head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    for end in 0..head.len() {
        assert_eq!(head_len(&head[..end]), Ok(None));
    }
    assert_eq!(head_len(head), Ok(Some(head.len())));
    // What follows is a body or a tunnel and may hold anything.
    assert_eq!(head_len(&[head, &b"\x00\n\r\xFF"[..]].concat()), Ok(Some(head.len())));
}

#[test]
fn line_ends_other_than_crlf_are_refused() {
    for text in ["GET / HTTP/1.1\nHost: a\r\n\r\n", "GET / HTTP/1.1\rHost", "GET / HTTP/1.1\r\r\n", "A\n"] {
        assert_eq!(head_len(text.as_bytes()), illegal("HTTP head"), "{text:?}");
    }
}

#[test]
fn control_characters_are_refused_at_once() {
    for byte in (0..=31_u8).chain([127]).filter(|b| !b"\t\r\n".contains(b)) {
        assert_eq!(head_len(&[b'G', byte]), illegal("HTTP head"), "{byte:#x}");
    }
}

#[test]
fn a_head_has_at_most_16384_bytes() {
    let sized = |length: usize| {
        let mut text = String::from("GET / HTTP/1.1\r\nHost: a\r\nX: ");
        while text.len() < length - 4 {
            text.push('x');
        }
        text + "\r\n\r\n"
    };
    let longest = sized(HEAD_MAX_BYTES);
    assert_eq!(head_len(longest.as_bytes()), Ok(Some(HEAD_MAX_BYTES)));
    assert!(request(&longest).is_ok());
    let too_long = Err(Malformed::TooLong { what: "HTTP head", limit: HEAD_MAX_BYTES });
    assert_eq!(head_len(sized(HEAD_MAX_BYTES + 1).as_bytes()), too_long);
    assert_eq!(head_len(&[b'A'; HEAD_MAX_BYTES - 1]), Ok(None));
    assert_eq!(head_len(&[b'A'; HEAD_MAX_BYTES]), too_long);
}

#[test]
fn a_head_has_at_most_100_fields() {
    let with = |fields: usize| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "A: b\r\n".repeat(fields - 1));
    assert_eq!(request(&with(HEADERS_MAX)).unwrap().count("a"), HEADERS_MAX - 1);
    let too_long = Err(Malformed::TooLong { what: "HTTP header list", limit: HEADERS_MAX });
    assert_eq!(request(&with(HEADERS_MAX + 1)), too_long);
    let answer = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(HEADERS_MAX + 1));
    assert!(matches!(ResponseHead::parse(answer.as_bytes()), Err(Malformed::TooLong { .. })));
}

#[test]
fn malformed_requests_are_refused() {
    let with = |line: &str| request(&format!("{line}\r\nHost: a\r\n\r\n"));
    assert_eq!(with("GET / HTTP/2.0"), illegal("HTTP version"));
    assert_eq!(with("GET / HTTP/1.2"), illegal("HTTP version"));
    assert!(with("GET  / HTTP/1.1").is_err());
    assert!(with("G(T / HTTP/1.1").is_err());
    assert!(with("GET /").is_err());
    assert!(with("GET / HTTP/1.1 ").is_err());
    for field in ["A B: c", "A : b", ": b", "no colon", " folded", "A: b\r\n folded", "\u{E9}: b"] {
        assert!(with(&format!("GET / HTTP/1.1\r\n{field}")).is_err(), "{field:?}");
    }
    assert_eq!(request("GET / HTTP/1.1\r\nHost: a\r\n"), Err(Malformed::Truncated { what: "HTTP head" }));
    assert_eq!(request("GET / HTTP/1.1\r\nHost: a\r\n\r\nx"), Err(Malformed::Trailing { what: "HTTP head" }));
    assert!(request("\r\n\r\n").is_err());
}

#[test]
fn a_request_has_exactly_one_host_but_in_http_1_0() {
    assert_eq!(request("GET / HTTP/1.1\r\n\r\n"), Err(Malformed::Missing { what: "Host header" }));
    assert_eq!(request("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"), illegal("Host header"));
    assert_eq!(request("GET / HTTP/1.0\r\nHost: a\r\nhost: a\r\n\r\n"), illegal("Host header"));
    assert!(request("GET / HTTP/1.0\r\n\r\n").is_ok());
}

#[test]
fn malformed_responses_are_refused() {
    for text in [
        "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/1.1 099 OK\r\n\r\n",
        "HTTP/1.1 600 OK\r\n\r\n",
        "HTTP/3.0 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "HTTP/1.1 200 OK\r\n\r\nx",
        "HTTP/1.1 200 OK\r\n",
    ] {
        assert!(ResponseHead::parse(text.as_bytes()).is_err(), "{text:?}");
    }
}

#[test]
fn neither_target_nor_headers_are_printed() {
    let head =
        request("GET /secret HTTP/1.1\r\nHost: a\r\nProxy-Authorization: Basic secret\r\n\r\n").unwrap();
    assert!(!format!("{head:?}").contains("secret"));
    let head = ResponseHead::parse(b"HTTP/1.1 200 OK\r\nSet-Cookie: secret\r\n\r\n").unwrap();
    assert!(!format!("{head:?}").contains("secret"));
}

#[test]
fn our_own_response_says_its_length_and_closes() {
    let text = response(403, "Forbidden", &[("X-A", "b")], "no\n");
    let expected = "HTTP/1.1 403 Forbidden\r\nX-A: b\r\nContent-Length: 3\r\nConnection: close\r\n\r\nno\n";
    assert_eq!(String::from_utf8(text).unwrap(), expected);
}

#[test]
fn a_value_cannot_add_a_line() {
    let text = response(400, "Bad\r\nSet-Cookie: a=b", &[("X-A", "b\r\nX-B: c\0")], "");
    let head = ResponseHead::parse(&text).unwrap();
    assert_eq!((head.count("set-cookie"), head.count("x-b")), (0, 0));
    assert_eq!(head.header("x-a"), Some("b  X-B: c"));
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes: Vec<u8>, text in "[A-Z]{1,4} [!-~]{1,20} HTTP/1.[01]\r\n([!-~]{0,8}:[ -~]{0,8}\r\n){0,3}\r\n") {
        for bytes in [bytes.as_slice(), text.as_bytes()] {
            drop(RequestHead::parse(bytes));
            drop(ResponseHead::parse(bytes));
        }
    }

    #[test]
    fn a_prefix_of_a_good_head_waits(value in "[ -~]{0,64}", after: Vec<u8>) {
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\nX-A: {value}\r\n\r\n").into_bytes();
        for end in 0..head.len() {
            prop_assert_eq!(head_len(&head[..end]), Ok(None));
        }
        let mut longer = head.clone();
        longer.extend(after);
        prop_assert_eq!(head_len(&longer), Ok(Some(head.len())));
        let parsed = RequestHead::parse(&head).unwrap();
        prop_assert_eq!(parsed.header("x-a"), Some(value.trim()));
    }
}
