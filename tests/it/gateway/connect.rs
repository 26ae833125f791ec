//! HTTP CONNECT with a ticket as host (PROTOCOL §4, RFC 9110 §9.3.6).

use std::process::Command;

use portcullis_tests::backend::{self, Hole, Service, Stage};
use portcullis_tests::filtered;
use portcullis_tests::process;
use portcullis_tests::speak::Speak as _;
use portcullis_tests::wait::PATIENCE;

use super::fixture::{Edge, assert_hidden, text, without_programs};

const UNKNOWN: &str = ";40;STA999999999;0123456789ABCDEF0123456789ABCDEF";

/// An HTTP server that answers any request with `farm page`.
pub(crate) fn page() -> Service {
    use std::io::{Read as _, Write as _};
    Service::start(filtered::farm(), |mut stream| {
        let mut request = [0; 4096];
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\nfarm page";
        if stream.read(&mut request).is_ok() {
            drop(stream.write_all(answer));
        }
    })
    .unwrap()
}

// RFC 9110 §9.3.6: "Any 2xx (Successful) response indicates that the sender (and all inbound proxies) will switch to
// tunnel mode immediately after the response header section".
#[test]
fn a_ticket_as_host_opens_a_tunnel() {
    let (edge, server) = (Edge::start(), backend::echo().unwrap());
    let mut client = edge.client();
    let answer = client.connect(&edge.ticket(server.address()), "").unwrap();
    assert_eq!(answer.status, 200);
    client.echo(b"through the tunnel").unwrap();
    client.sender.finish().unwrap();
    client.read_to_end().unwrap();
    assert_eq!(text(&edge.record(), "protocol"), "connect");
}

#[test]
fn a_port_behind_the_ticket_changes_nothing() {
    let (edge, server) = (Edge::start(), backend::echo().unwrap());
    let mut client = edge.client();
    let answer = client.connect(&format!("{}:1494", edge.ticket(server.address())), "").unwrap();
    assert_eq!(answer.status, 200);
    client.echo(b"through the tunnel").unwrap();
}

// RFC 9110 §9.3.6: a 2xx answer to CONNECT has neither Transfer-Encoding nor Content-Length.
#[test]
fn the_tunnel_begins_right_after_the_head() {
    let (edge, server) = (Edge::start(), backend::echo().unwrap());
    let mut client = edge.client();
    let ticket = edge.ticket(server.address());
    let request = portcullis_tests::speak::connect(&ticket, "");
    client.send(&[&request, &b"early"[..]].concat()).unwrap();
    let answer = client.http_answer().unwrap();
    assert_eq!((answer.header("Content-Length"), answer.header("Transfer-Encoding")), (None, None));
    assert_eq!(client.read(5).unwrap(), b"early");
}

#[test]
fn a_head_may_arrive_byte_by_byte() {
    let (edge, server) = (Edge::start(), backend::echo().unwrap());
    let mut client = edge.client();
    for byte in portcullis_tests::speak::connect(&edge.ticket(server.address()), "User-Agent: slow\r\n") {
        client.send(&[byte]).unwrap();
    }
    assert_eq!(client.http_answer().unwrap().status, 200);
    client.echo(b"at last").unwrap();
}

#[test]
fn a_refused_ticket_is_forbidden() {
    let edge = Edge::start();
    let mut client = edge.client();
    assert_eq!(client.connect(UNKNOWN, "").unwrap().status, 403);
    client.read_to_end().unwrap();
}

#[test]
fn a_server_instead_of_a_ticket_is_forbidden() {
    let (edge, server) = (Edge::start(), backend::echo().unwrap());
    let mut client = edge.client();
    assert_eq!(client.connect(&server.address().to_string(), "").unwrap().status, 403);
    edge.wait_for_refusals("ticket_required", 1.0);
    assert_eq!(server.accepted(), 0);
}

#[test]
fn a_server_that_refuses_is_a_bad_gateway_without_its_address() {
    let (edge, stage) = (Edge::start(), Stage::open().unwrap());
    let target = stage.address().unwrap();
    drop(stage);
    let mut client = edge.client();
    assert_eq!(client.connect(&edge.ticket(target), "").unwrap().status, 502);
    client.read_to_end().unwrap();
    assert_hidden(client.received(), target);
}

#[test]
fn a_server_that_does_not_answer_is_a_gateway_timeout_without_its_address() {
    let (edge, hole) = (Edge::with("[limits]\ndial_timeout = \"300ms\""), Hole::dig().unwrap());
    let mut client = edge.client();
    assert_eq!(client.connect(&edge.ticket(hole.address()), "").unwrap().status, 504);
    client.read_to_end().unwrap();
    assert_hidden(client.received(), hole.address());
}

#[test]
fn a_broken_head_is_a_bad_request() {
    let edge = Edge::start();
    let mut client = edge.client();
    client.send(b"CONNECT  HTTP/1.1\r\n\x00\r\n\r\n").unwrap();
    assert_eq!(client.http_answer().unwrap().status, 400);
}

#[test]
fn curl_reaches_a_page_with_a_ticket() {
    if without_programs(&["curl"]) {
        return;
    }
    let (edge, server) = (Edge::start(), page());
    let ticket = edge.ticket(server.address());
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--max-time", "20", "--proxytunnel", "--proxy-cacert"])
        .arg(edge.ca());
    curl.args(["--proxy", &format!("https://{}", edge.at)]);
    // The name in the URL goes into the inner request, the ticket into CONNECT.
    curl.args(["--connect-to", &format!("::{ticket}:1494"), "http://farm.example/"]);
    let output = process::run(&mut curl, PATIENCE).unwrap().ok().unwrap();
    assert_eq!(output.stdout, "farm page");
}

#[test]
fn curl_is_told_of_a_refused_ticket() {
    if without_programs(&["curl"]) {
        return;
    }
    let edge = Edge::start();
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--max-time", "20", "--proxytunnel", "--proxy-cacert"])
        .arg(edge.ca());
    curl.args(["--proxy", &format!("https://{}", edge.at)]);
    curl.args(["--connect-to", &format!("::{UNKNOWN}:1494"), "http://farm.example/"]);
    let output = process::run(&mut curl, PATIENCE).unwrap();
    assert!(!output.success() && output.stderr.contains("403"), "{output:?}");
}
