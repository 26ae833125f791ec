//! RFC 6455 §1.3 and §4, the opening handshake.

use portcullis_proto::http_head::{RequestHead, ResponseHead};
use portcullis_proto::websocket::{
    Upgrade, UpgradeError, accept_key, client_upgrade, switching_protocols, upgrade, verify_accept,
};

const GOOD: &str = "GET /chat HTTP/1.1\r\nHost: server.example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: http://example.com\r\n\
    Sec-WebSocket-Protocol: chat, superchat\r\nSec-WebSocket-Version: 13\r\n\r\n";

fn read(from: &str, to: &str) -> Result<Option<Upgrade>, UpgradeError> {
    upgrade(&RequestHead::parse(GOOD.replace(from, to).as_bytes())?)
}

fn good() -> Upgrade {
    read("/chat", "/").ok().flatten().expect("the example of the document is a handshake")
}

// RFC 6455 §1.3: "if as in the example above, the |Sec-WebSocket-Key| header field had the value
// "dGhlIHNhbXBsZSBub25jZQ==", [...] This value is then base64-encoded [...], to give the value
// "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="."
#[test]
fn the_accept_key_is_that_of_the_example() {
    assert_eq!(accept_key("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
}

// RFC 6455 §4.1: "The method of the request MUST be GET, and the HTTP version MUST be at least 1.1."
#[test]
fn the_method_is_get_and_the_version_1_1() {
    assert!(matches!(read("GET", "POST"), Err(UpgradeError::Malformed(_))));
    assert!(matches!(read("HTTP/1.1", "HTTP/1.0"), Err(UpgradeError::Malformed(_))));
}

// RFC 6455 §4.1: "The request MUST contain a |Host| header field".
#[test]
fn a_host_is_needed() {
    assert!(read("Host: server.example.com\r\n", "").is_err());
}

// RFC 6455 §4.2.1: "An |Upgrade| header field containing the value "websocket", treated as an ASCII case-insensitive
// value."
#[test]
fn upgrade_compares_without_case() {
    assert!(read("Upgrade: websocket", "Upgrade: WebSocket").unwrap().is_some());
    assert_eq!(read("Upgrade: websocket\r\n", ""), Ok(None));
}

// RFC 6455 §4.2.1: "A |Connection| header field that includes the token "Upgrade", treated as an ASCII case-insensitive
// value."
#[test]
fn connection_holds_upgrade_among_other_tokens() {
    assert!(read("Connection: Upgrade", "Connection: keep-alive, uPGRADE").unwrap().is_some());
    assert!(read("Connection: Upgrade", "Connection: keep-alive").is_err());
}

// RFC 6455 §4.2.1: "A |Sec-WebSocket-Key| header field with a base64-encoded (see Section 4 of [RFC4648]) value that,
// when decoded, is 16 bytes in length."
#[test]
fn the_key_is_16_bytes() {
    for key in ["dGhlIHNhbXBsZSBub25j", "dGhlIHNhbXBsZSBub25jZSE=", "!!!", ""] {
        assert!(read("dGhlIHNhbXBsZSBub25jZQ==", key).is_err(), "{key:?}");
    }
}

// RFC 6455 §11.3.1: "The |Sec-WebSocket-Key| header field MUST NOT appear more than once in an HTTP request."
#[test]
fn the_key_stands_once() {
    let twice = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
    assert!(read("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", twice).is_err());
}

// RFC 6455 §4.2.2: "If this version does not match a version understood by the server, the server MUST abort the
// WebSocket handshake described in this section and instead send an appropriate HTTP error code (such as 426 Upgrade
// Required) and a |Sec-WebSocket-Version| header field indicating the version(s) the server is capable of understanding."
#[test]
fn another_version_is_told_apart() {
    assert_eq!(read("Version: 13", "Version: 8"), Err(UpgradeError::UnsupportedVersion));
}

// RFC 6455 §4.2.2: the lines of the server's answer.
#[test]
fn the_answer_is_that_of_the_example() {
    let text = String::from_utf8(switching_protocols(&good(), Some("chat"))).unwrap();
    assert_eq!(
        text,
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: chat\r\n\r\n"
    );
}

// RFC 6455 §4.1: "If the response includes a |Sec-WebSocket-Extensions| header field and this header field indicates the
// use of an extension that was not present in the client's handshake [...], the client MUST _Fail the WebSocket
// Connection_."
#[test]
fn a_client_refuses_an_extension_that_it_did_not_ask_for() {
    let key = *b"the sample nonce";
    let answer = String::from_utf8(switching_protocols(&good(), None)).unwrap();
    let with = |line: &str| ResponseHead::parse(answer.replace("\r\n\r\n", line).as_bytes()).unwrap();
    assert_eq!(verify_accept(&with("\r\n\r\n"), &key), Ok(()));
    assert!(verify_accept(&with("\r\nSec-WebSocket-Extensions: x\r\n\r\n"), &key).is_err());
    assert!(verify_accept(&with("\r\nSec-WebSocket-Protocol: chat\r\n\r\n"), &key).is_err());
}

// RFC 6455 §4.1: the client's handshake.
#[test]
fn our_client_sends_a_handshake_that_a_server_must_take() {
    let head = RequestHead::parse(&client_upgrade("server.example.com", "/", b"the sample nonce")).unwrap();
    let found = upgrade(&head).unwrap().unwrap();
    assert_eq!(found.key, "dGhlIHNhbXBsZSBub25jZQ==");
    assert_eq!((head.count("origin"), head.count("sec-websocket-extensions")), (0, 0));
}
