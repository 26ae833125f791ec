//! HTTP that opens no session: the status page of the control plane.

use std::process::Command;

use portcullis_tests::client::Client;
use portcullis_tests::process;
use portcullis_tests::speak::Speak as _;
use portcullis_tests::wait::PATIENCE;

use super::fixture::{ANYTHING_LOCAL, Edge, without_programs};

fn get(client: &mut Client, path: &str, headers: &str) -> (portcullis_tests::speak::Answer, String) {
    client.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n").as_bytes()).unwrap();
    let answer = client.http_answer().unwrap();
    let length = answer.header("Content-Length").unwrap_or("0").parse().unwrap();
    let body = String::from_utf8(client.read(length).unwrap()).unwrap();
    (answer, body)
}

#[test]
fn curl_gets_the_status_page() {
    if without_programs(&["curl"]) {
        return;
    }
    let edge = Edge::start();
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--fail", "--max-time", "20", "--cacert"]).arg(edge.ca());
    curl.args(["--write-out", "\n%{http_code} %{content_type}"]);
    curl.arg(format!("https://{}/", edge.at));
    let output = process::run(&mut curl, PATIENCE).unwrap().ok().unwrap();
    assert!(output.stdout.contains("\n200 text/html"), "{}", output.stdout);
    assert!(output.stdout.starts_with("<!DOCTYPE html>"), "{}", output.stdout);
}

#[test]
fn the_status_page_names_no_server_and_allows_no_framing_or_scripts() {
    let edge = Edge::start();
    let (answer, body) = get(&mut edge.client(), "/", "");
    assert_eq!(answer.status, 200);
    assert!(answer.header("Content-Security-Policy").is_some(), "{}", answer.head);
    assert_eq!(answer.header("X-Content-Type-Options"), Some("nosniff"));
    assert!(!body.contains("127.0.0.1") && !body.contains("STA"), "{body}");
}

#[test]
fn several_requests_share_one_connection() {
    let edge = Edge::start();
    let mut client = edge.client();
    for _ in 0..3 {
        assert_eq!(get(&mut client, "/", "").0.status, 200);
    }
}

#[test]
fn pipelined_requests_are_all_answered() {
    let edge = Edge::start();
    let mut client = edge.client();
    let request = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    client.send(format!("{request}{request}").as_bytes()).unwrap();
    for _ in 0..2 {
        let answer = client.http_answer().unwrap();
        assert_eq!(answer.status, 200);
        client.read(answer.header("Content-Length").unwrap().parse().unwrap()).unwrap();
    }
}

#[test]
fn the_health_page_answers() {
    let edge = Edge::start();
    assert_eq!(get(&mut edge.client(), "/healthz", "").0.status, 200);
}

#[test]
fn an_unknown_page_is_not_found() {
    let edge = Edge::start();
    assert_eq!(get(&mut edge.client(), "/no/such/page", "").0.status, 404);
}

#[test]
fn a_connection_that_asked_for_a_page_can_open_no_session() {
    let edge = Edge::start();
    let mut client = edge.client();
    assert_eq!(get(&mut client, "/", "").0.status, 200);
    let answer = client.connect(";40;STA999999999;0123456789ABCDEF0123456789ABCDEF", "").unwrap();
    assert!((400..500).contains(&answer.status), "{}", answer.head);
}

#[test]
fn a_listener_for_tickets_only_serves_no_page() {
    let edge = Edge::of_kind("hdx-only", ANYTHING_LOCAL, "");
    let mut client = edge.client();
    client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let (bytes, _) = client.read_to_end().unwrap();
    assert!(!bytes.starts_with(b"HTTP/1.1 2"), "{}", String::from_utf8_lossy(&bytes));
    assert!(edge.gateway.metrics().unwrap().sum("portcullis_refusals_total", &[]) >= Some(1.0));
}

#[test]
fn a_head_past_its_limit_is_told_so() {
    let edge = Edge::start();
    let mut client = edge.client();
    let head = format!("GET / HTTP/1.1\r\nHost: localhost\r\nX-Long: {}\r\n", "x".repeat(20_000));
    client.send(head.as_bytes()).unwrap();
    assert_eq!(client.http_answer().unwrap().status, 431);
    edge.wait_for_refusals("request_too_long", 1.0);
}
