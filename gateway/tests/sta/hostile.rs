//! Authorities that answer nonsense, half, slowly, too much, or not at all.

use std::fmt::Write as _;
use std::time::Duration;

use portcullis::config::StaConfig;
use portcullis_core::answer::{TicketAnswer, Unavailable};
use tokio::net::TcpStream;

use crate::double::{Double, grant, ok, ok_bytes, status};
use crate::world::{OTHER, PATIENCE, id, names, pool, sta, stray_ticket};

async fn redeem_at(double: &Double, timeout: Duration) -> TicketAnswer {
    let pool = pool([StaConfig { authority_id: Some(id(OTHER)), timeout, ..sta("a", double.address) }]);
    tokio::time::timeout(PATIENCE, pool.redeem(&names(&["a"]), &stray_ticket(OTHER))).await.unwrap()
}

async fn answered(bytes: impl Into<Vec<u8>>) -> TicketAnswer {
    redeem_at(&Double::answering(bytes).await, PATIENCE).await
}

const GARBAGE: TicketAnswer = TicketAnswer::Unavailable(Unavailable::Garbage);
const DOWN: TicketAnswer = TicketAnswer::Unavailable(Unavailable::Down);
const TIMEOUT: TicketAnswer = TicketAnswer::Unavailable(Unavailable::Timeout);

fn billion_laughs() -> String {
    let mut text = String::from("<?xml version=\"1.0\"?><!DOCTYPE lolz [<!ENTITY a0 \"lol\">");
    for n in 1..10 {
        let before = format!("&a{};", n - 1).repeat(10);
        write!(text, "<!ENTITY a{n} \"{before}\">").unwrap();
    }
    text + "]><CtxSTAProtocol>&a9;</CtxSTAProtocol>"
}

#[tokio::test]
async fn what_is_no_http_or_no_sta_message_is_garbage() {
    let granted = grant(OTHER, "");
    let utf16: Vec<u8> = granted.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let latin1 = granted.replace("version=\"1.0\"?", "version=\"1.0\" encoding=\"ISO-8859-1\"?");
    let external = granted
        .replace("10.9.9.9:1494", "&x;")
        .replace("\"CtxSTA.dtd\">", "\"CtxSTA.dtd\" [<!ENTITY x SYSTEM \"file:///etc/hostname\">]>");
    let gzip = [b"\x1F\x8B\x08\x00".as_slice(), &[0; 40]].concat();
    let deep = format!("<CtxSTAProtocol>{}{}</CtxSTAProtocol>", "<a>".repeat(9000), "</a>".repeat(9000));
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("no HTTP", b"\x00\x01\x02\x03 what?\r\n\r\n".to_vec()),
        ("another protocol", b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()),
        ("TLS", b"\x15\x03\x01\x00\x02\x02\x50".to_vec()),
        ("an empty body", ok("")),
        ("a web page", ok("<html><body>Welcome</body></html>")),
        ("JSON", ok("{\"ticket\":1}")),
        ("half a document", ok(&granted.replace("</CtxSTAProtocol>", ""))),
        ("UTF-16", ok_bytes(&utf16)),
        ("another encoding", ok(&latin1)),
        ("illegal UTF-8", ok_bytes(b"<CtxSTAProtocol>\xFF\xFE</CtxSTAProtocol>")),
        ("an external entity", ok(&external)),
        ("billion laughs", ok(&billion_laughs())),
        ("deep nesting", ok(&deep)),
        ("gzip in disguise", ok_bytes(&gzip)),
        (
            "gzip",
            [b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 44\r\n\r\n".as_slice(), &gzip]
                .concat(),
        ),
        (
            "a coding that is a lie",
            String::from_utf8(ok(&granted))
                .unwrap()
                .replace("Content-Type: text/xml", "Content-Encoding: gzip")
                .into_bytes(),
        ),
        ("two lengths", b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n<>".to_vec()),
    ];
    for (what, bytes) in cases {
        assert_eq!(answered(bytes).await, GARBAGE, "{what}");
    }
}

#[tokio::test]
async fn answers_past_64_kib_are_garbage_and_are_not_read_to_the_end() {
    let announced = b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n".to_vec();
    // Nothing follows: were the body waited for, this would time out.
    let double = Double::start(move |mut peer| {
        let announced = announced.clone();
        async move {
            peer.request().await;
            peer.send(&announced).await;
            flood(&mut peer.stream, &[b'a'; 8192]).await;
        }
    })
    .await;
    assert_eq!(redeem_at(&double, PATIENCE).await, GARBAGE);

    let endless_chunks = Double::start(|mut peer| async move {
        peer.request().await;
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        let chunk = [b"1000\r\n".as_slice(), &[b'a'; 4096], b"\r\n"].concat();
        flood(&mut peer.stream, &chunk).await;
    })
    .await;
    assert_eq!(redeem_at(&endless_chunks, PATIENCE).await, GARBAGE);

    let endless_head = Double::start(|mut peer| async move {
        peer.request().await;
        peer.send(b"HTTP/1.1 200 OK\r\n").await;
        flood(&mut peer.stream, &[b"X: ".as_slice(), &[b'a'; 4096], b"\r\n"].concat()).await;
    })
    .await;
    assert_eq!(redeem_at(&endless_head, PATIENCE).await, GARBAGE);
}

/// Sends until the client has had enough.
async fn flood(stream: &mut TcpStream, bytes: &[u8]) {
    use tokio::io::AsyncWriteExt as _;
    while stream.write_all(bytes).await.is_ok() {}
}

#[tokio::test]
async fn an_answer_of_exactly_64_kib_is_read() {
    let granted = grant(OTHER, "");
    let padded = format!("{granted}<!--{}-->", " ".repeat(64 * 1024 - granted.len() - 7));
    assert_eq!(padded.len(), 64 * 1024);
    assert!(matches!(answered(ok(&padded)).await, TicketAnswer::Granted(_)));
    let one_more = padded.replace("-->", " -->");
    assert_eq!(answered(ok(&one_more)).await, GARBAGE);
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_down() {
    for (what, bytes) in [
        ("no byte", Vec::new()),
        ("half a head", b"HTTP/1.1 200 OK\r\nContent-Le".to_vec()),
        ("half a body", b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n<CtxSTAProtocol>".to_vec()),
        ("half a chunk", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n<Ctx".to_vec()),
    ] {
        assert_eq!(answered(bytes).await, DOWN, "{what}");
    }
}

#[tokio::test]
async fn an_http_error_is_down_whatever_its_body_says() {
    let granted = grant(OTHER, "");
    for line in
        ["302 Found", "400 Bad Request", "401 Unauthorized", "404 Not Found", "500 Oops", "204 No Content"]
    {
        assert_eq!(answered(status(line)).await, DOWN, "{line}");
        if !line.starts_with("204") {
            let lying = String::from_utf8(ok(&granted)).unwrap().replace("200 OK", line);
            assert_eq!(answered(lying).await, DOWN, "{line}");
        }
    }
}

#[tokio::test]
async fn silence_and_a_trickle_end_with_the_time_of_the_request() {
    let hanging = Double::hanging().await;
    assert_eq!(redeem_at(&hanging, Duration::from_millis(100)).await, TIMEOUT);

    // Each byte comes soon after the last, but the whole never does.
    let trickle = Double::start(|mut peer| async move {
        peer.request().await;
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n").await;
        loop {
            peer.send(b" ").await;
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(redeem_at(&trickle, Duration::from_millis(200)).await, TIMEOUT);
}

#[tokio::test]
async fn a_grant_without_a_usable_address_is_a_refusal() {
    let granted = grant(OTHER, "");
    for address in ["", "10.9.9.9:0", "127.1:1494", "a b:1494", ":1494"] {
        let answer = answered(ok(&granted.replace("10.9.9.9:1494", address))).await;
        assert!(matches!(answer, TicketAnswer::Refused(_)), "{address}: {answer:?}");
    }
}

#[tokio::test]
async fn bytes_after_an_answer_spoil_the_connection_and_not_the_next_redemption() {
    let double = Double::start(|mut peer| async move {
        while let Some(request) = peer.request().await {
            let smuggled = ok("<CtxSTAProtocol/>");
            peer.send(&[ok(&grant(OTHER, &request)), smuggled].concat()).await;
        }
    })
    .await;
    let pool = pool([StaConfig { authority_id: Some(id(OTHER)), ..sta("a", double.address) }]);
    for _ in 0..5 {
        let answer = pool.redeem(&names(&["a"]), &stray_ticket(OTHER)).await;
        assert!(matches!(answer, TicketAnswer::Granted(_)), "{answer:?}");
    }
}
