//! Our server, as other clients see it.

use std::process::Command;
use std::time::Duration;

use portcullis_core::answer::TicketAnswer;
use portcullis_core::ticket_store::TicketRefusal;
use portcullis_proto::sta::{
    DataAnswer, RequestData, ResponseTicket, TicketAnswer as Issue, parse_response_data,
    parse_response_ticket,
};
use portcullis_proto::ticket::TicketSecret;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::world::{OURS, PATIENCE, Server, data, id, key, post, raw, request, server_config};

/// What StoreFront sends (PROTOCOL §3).
const REQUEST_TICKET: &str = r#"<?xml version="1.0"?>
<!DOCTYPE CtxSTAProtocol SYSTEM "CtxSTA.dtd">
<CtxSTAProtocol version="4.0">
  <RequestTicket>
    <AllowedTicketType>STA-v4</AllowedTicketType>
    <AllowedAuthorityIDType>STA-v1</AllowedAuthorityIDType>
    <TicketData>
      <Value name="ICAAddress">10.0.0.9:1494</Value>
      <Value name="XData">&lt;?xml version="1.0"?&gt;&lt;CtxConnInfo version="1.0"&gt;&lt;ServerAddress&gt;10.0.0.9:1494&lt;/ServerAddress&gt;&lt;UserName&gt;alice&lt;/UserName&gt;&lt;UserDomain&gt;FARM&lt;/UserDomain&gt;&lt;ApplicationName&gt;Notepad&lt;/ApplicationName&gt;&lt;Protocol&gt;ICA&lt;/Protocol&gt;&lt;/CtxConnInfo&gt;</Value>
    </TicketData>
    <Control><Refreshable>true</Refreshable></Control>
  </RequestTicket>
</CtxSTAProtocol>"#;

fn issued(body: &str) -> ResponseTicket {
    match parse_response_ticket(body.as_bytes()).unwrap() {
        Issue::Issued(issued) => issued,
        Issue::Refused { text } => panic!("refused: {text}"),
    }
}

fn redeem_message(secret: &TicketSecret) -> String {
    RequestData { ticket: secret.clone(), ticket_type: "STA-v4".to_owned() }.encode()
}

fn refused(body: &str) -> String {
    match parse_response_data(body.as_bytes()).unwrap() {
        DataAnswer::Refused { text } => text,
        DataAnswer::Data(data) => panic!("granted: {data:?}"),
    }
}

#[tokio::test]
async fn storefront_gets_a_ticket_that_carries_user_and_application() {
    let server = Server::start();
    let answer = post(server.address, REQUEST_TICKET).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.head.contains("content-type: text/xml"), "{answer:?}");
    assert!(answer.head.contains("cache-control: no-store"), "{answer:?}");
    let ticket = issued(&answer.body);
    assert_eq!(ticket.authority, id(OURS));
    assert_eq!(ticket.version, 40);

    let TicketAnswer::Granted(data) = server.authority.redeem(&ticket.ticket) else { panic!("not granted") };
    assert_eq!(data.ica.unwrap().to_string(), "10.0.0.9:1494");
    assert_eq!(data.user.as_deref(), Some("alice"));
    assert_eq!(data.domain.as_deref(), Some("FARM"));
    assert_eq!(data.application.as_deref(), Some("Notepad"));
    // It asked for a refreshable one.
    assert!(matches!(server.authority.redeem(&ticket.ticket), TicketAnswer::Granted(_)));
}

#[tokio::test]
async fn a_ticket_is_redeemed_over_http_once() {
    let server = Server::start();
    let ticket = server.issue();
    let message = redeem_message(&ticket.secret);
    let first = post(server.address, &message).await;
    let DataAnswer::Data(got) = parse_response_data(first.body.as_bytes()).unwrap() else {
        panic!("{first:?}")
    };
    assert_eq!((got.ica_address, got.cgp_address), (data().ica, data().cgp));
    assert_eq!(got.connection.unwrap().user_name, data().user);
    let second = post(server.address, &message).await;
    assert_eq!(second.status, 200);
    assert_eq!(refused(&second.body), TicketRefusal::Unknown.to_string());
}

#[tokio::test]
async fn an_expired_ticket_is_refused_as_expired() {
    let server = Server::start();
    let ticket = server.authority.issue(data(), true, Some(Duration::ZERO)).unwrap();
    let answer = post(server.address, &redeem_message(&ticket.first().secret)).await;
    assert_eq!(refused(&answer.body), TicketRefusal::Expired.to_string());
}

#[tokio::test]
async fn the_path_is_compared_without_case_and_nothing_else_is_served() {
    let server = Server::start();
    let lower = request(server.address, "POST /SCRIPTS/CTXSTA.DLL?x=1", "", REQUEST_TICKET).await;
    assert_eq!(lower.status, 200);
    for path in ["/", "/scripts/", "/scripts/ctxsta.dll/", "/scripts/ctxsta.dll2"] {
        let answer = request(server.address, &format!("POST {path}"), "", REQUEST_TICKET).await;
        assert_eq!(answer.status, 404, "{path}");
    }
}

#[tokio::test]
async fn only_post_is_served() {
    let server = Server::start();
    for method in ["GET", "PUT", "DELETE", "OPTIONS"] {
        let answer = request(server.address, &format!("{method} /scripts/ctxsta.dll"), "", "").await;
        assert_eq!(answer.status, 405, "{method}");
        assert!(answer.head.contains("allow: post"), "{answer:?}");
    }
}

#[tokio::test]
async fn malformed_messages_get_400_with_an_error_document() {
    let server = Server::start();
    let deep = format!("<CtxSTAProtocol>{}", "<a>".repeat(5000));
    for body in [
        "",
        "hello",
        "<CtxSTAProtocol/>",
        "<html/>",
        "<CtxSTAProtocol><RequestData><Ticket>zz</Ticket></RequestData></CtxSTAProtocol>",
        "<CtxSTAProtocol><RequestTicket><TicketData/></RequestTicket></CtxSTAProtocol>",
        r#"<?xml version="1.0" encoding="UTF-16"?><CtxSTAProtocol/>"#,
        r#"<!DOCTYPE a [<!ENTITY b "c">]><CtxSTAProtocol>&b;</CtxSTAProtocol>"#,
        &deep,
    ] {
        let answer = post(server.address, body).await;
        assert_eq!(answer.status, 400, "{body}");
        assert!(!refused(&answer.body).is_empty());
    }
    assert_eq!(server.authority.live(), 0);
}

#[tokio::test]
async fn requests_past_64_kib_get_413_however_their_length_is_told() {
    let server = Server::start();
    let limit = 64 * 1024;
    let path = "POST /scripts/ctxsta.dll";
    let at_limit = format!("{}<!--{}-->", REQUEST_TICKET, " ".repeat(limit - REQUEST_TICKET.len() - 7));
    assert_eq!(at_limit.len(), limit);
    assert_eq!(post(server.address, &at_limit).await.status, 200);

    let announced = format!("{path} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", limit + 1);
    assert!(raw(server.address, announced.as_bytes()).await.starts_with("HTTP/1.1 413"));

    let chunk = format!("{:x}\r\n{}\r\n", limit / 2, "a".repeat(limit / 2)).repeat(3);
    let chunked = format!("{path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}0\r\n\r\n");
    assert!(raw(server.address, chunked.as_bytes()).await.starts_with("HTTP/1.1 413"));
}

#[tokio::test]
async fn either_security_key_opens_and_nothing_else_does() {
    let config =
        portcullis::config::StaServerConfig { security_key: key(&["old", "new"]), ..server_config() };
    let server = Server::start_with(config, None);
    let with =
        |headers: &'static str| request(server.address, "POST /scripts/ctxsta.dll", headers, REQUEST_TICKET);
    assert_eq!(with("X-Test-Key: old\r\n").await.status, 200);
    assert_eq!(with("x-test-key: new\r\n").await.status, 200);
    for headers in [
        "",
        "X-Test-Key: ol\r\n",
        "X-Test-Key: older\r\n",
        "X-Test-Key:\r\n",
        "X-Test-Key: old\r\nX-Test-Key: new\r\n",
    ] {
        assert_eq!(with(headers).await.status, 403, "{headers}");
    }
    // Without the key not even the path can be found out.
    assert_eq!(request(server.address, "POST /", "", "").await.status, 403);
}

#[tokio::test]
async fn a_caller_from_elsewhere_is_cut_off_before_a_byte_is_read() {
    let config = portcullis::config::StaServerConfig {
        allow_from: vec!["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()],
        ..server_config()
    };
    let server = Server::start_with(config, None);
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    assert_eq!(exchange(&mut stream).await, None);
    assert_eq!(server.authority.live(), 0);
}

#[tokio::test]
async fn connections_of_one_source_are_bounded_and_given_back() {
    let server = Server::start();
    let mut held = Vec::new();
    for _ in 0..64 {
        held.push(keep_alive(server.address).await);
    }
    let mut refused = TcpStream::connect(server.address).await.unwrap();
    assert_eq!(exchange(&mut refused).await, None);
    drop(held);
    let again = async {
        loop {
            let mut stream = TcpStream::connect(server.address).await.unwrap();
            if exchange(&mut stream).await.is_some() {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, again).await.expect("places are given back");
}

/// A connection that has been used once and is still open.
async fn keep_alive(address: std::net::SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    exchange(&mut stream).await.expect("an answer");
    stream
}

async fn exchange(stream: &mut TcpStream) -> Option<()> {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.ok()?;
    let mut answer = [0; 1024];
    let read = stream.read(&mut answer).await.ok()?;
    answer.get(..read)?.starts_with(b"HTTP/1.1 404").then_some(())
}

#[tokio::test]
async fn at_shutdown_kept_connections_close_and_the_server_ends() {
    let server = Server::start();
    let mut kept = keep_alive(server.address).await;
    server.stop.send(true).unwrap();
    let mut byte = [0];
    let read = tokio::time::timeout(PATIENCE, kept.read(&mut byte)).await.unwrap();
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    tokio::time::timeout(PATIENCE, server.ended).await.unwrap().unwrap().unwrap();
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn a_security_key_that_is_none_stops_the_start() {
    for bad in [key(&[]), key(&[""])] {
        let config = portcullis::config::StaServerConfig { security_key: bad, ..server_config() };
        let server = Server::start_with(config, None);
        let ended = tokio::time::timeout(PATIENCE, server.ended).await.unwrap().unwrap();
        assert!(ended.unwrap_err().to_string().contains("X-Test-Key"));
    }
}

#[tokio::test]
async fn a_full_store_answers_503_with_an_error_document() {
    let config = portcullis::config::StaServerConfig { max_tickets: 1, ..server_config() };
    let server = Server::start_with(config, None);
    assert_eq!(post(server.address, REQUEST_TICKET).await.status, 200);
    let full = post(server.address, REQUEST_TICKET).await;
    assert_eq!(full.status, 503);
    assert!(full.body.contains("too many live tickets"));
}

#[tokio::test]
async fn curl_gets_and_redeems_a_ticket() {
    if Command::new("curl").arg("--version").output().is_err() {
        println!("skipped: no curl");
        return;
    }
    let server = Server::start();
    let url = format!("http://{}/scripts/ctxsta.dll", server.address);
    let curl = |body: String| {
        let url = url.clone();
        let run = move || {
            let arguments = ["--silent", "--show-error", "--fail", "--max-time", "30", "--noproxy", "*"];
            let headers = ["--header", "Content-Type: text/xml", "--header", "Expect: 100-continue"];
            let output = Command::new("curl")
                .args(arguments)
                .args(headers)
                .args(["--data-binary", &body, &url])
                .output();
            let output = output.unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        };
        async { tokio::task::spawn_blocking(run).await.unwrap() }
    };
    let ticket = issued(&curl(REQUEST_TICKET.to_owned()).await);
    let answer = curl(redeem_message(&ticket.ticket)).await;
    let DataAnswer::Data(data) = parse_response_data(answer.as_bytes()).unwrap() else { panic!("{answer}") };
    assert_eq!(data.ica_address.unwrap().to_string(), "10.0.0.9:1494");
}

#[tokio::test]
async fn whoever_is_slow_at_any_stage_is_cut_off() {
    let server = Server::start();
    let head = b"POST /scripts/ctxsta.dll HTTP/1.1\r\nHost: a\r\nContent-Length: 500\r\n".as_slice();
    let body = [head, b"\r\n<CtxSTAProtocol>"].concat();
    let idle = [b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".as_slice()].concat();
    let (nothing, half_head, half_body, idle) = tokio::join!(
        raw(server.address, b""),
        raw(server.address, head),
        raw(server.address, &body),
        raw(server.address, &idle)
    );
    // `raw` returns when the server closes, and fails when it does not.
    assert_eq!((nothing.as_str(), half_head.as_str()), ("", ""));
    assert!(half_body.starts_with("HTTP/1.1 408"), "{half_body}");
    assert!(idle.starts_with("HTTP/1.1 404"), "{idle}");
}
