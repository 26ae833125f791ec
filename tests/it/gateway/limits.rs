//! Limits: one past each is refused early, said in the protocol's words, and counted; room comes back.

use portcullis_tests::backend;
use portcullis_tests::client::Client;
use portcullis_tests::speak::Speak as _;
use portcullis_tests::wait::{self, PATIENCE};
use serde_json::json;

use super::fixture::{Edge, tls_config};

#[test]
fn connections_past_the_limit_are_closed_and_counted() {
    let edge = Edge::with("[limits]\nconnections = 3");
    let held: Vec<_> = (0..3).map(|_| edge.client()).collect();
    let config = tls_config(&edge.ca());
    assert!(Client::tls_with(edge.at, &config, "localhost").is_err());
    edge.wait_for_refusals("too_many_connections", 1.0);
    drop(held);
    let again = || Client::tls_with(edge.at, &config, "localhost").ok();
    wait::value(PATIENCE, "room for another connection", again).unwrap();
}

#[test]
fn connections_of_one_source_past_the_limit_are_closed_and_counted() {
    let edge = Edge::with("[limits]\nconnections_per_source = 2");
    let held: Vec<_> = (0..2).map(|_| edge.client()).collect();
    let config = tls_config(&edge.ca());
    assert!(Client::tls_with(edge.at, &config, "localhost").is_err());
    edge.wait_for_refusals("too_many_connections_from_source", 1.0);
    // Another source is not concerned.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.2:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    socket.connect(&edge.at.into()).unwrap();
    let stream: std::net::TcpStream = socket.into();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(Client::handshake(stream, &config, "localhost").is_ok());
    drop(held);
}

#[test]
fn sessions_past_the_limit_get_a_general_failure_and_room_comes_back() {
    let (edge, server) = (Edge::with("[limits]\nsessions = 2"), backend::echo().unwrap());
    let held: Vec<_> = (0..2).map(|_| edge.session(server.address())).collect();
    // RFC 1928 §6: "X'01' general SOCKS server failure".
    assert_eq!(edge.socks_code(&edge.ticket(server.address())), 1);
    edge.wait_for_refusals("too_many_sessions", 1.0);
    drop(held);
    edge.wait_for_sessions(0);
    assert_eq!(edge.socks_code(&edge.ticket(server.address())), 0);
}

#[test]
fn sessions_of_one_source_past_the_limit_are_refused_over_connect_as_unavailable() {
    let (edge, server) = (Edge::with("[limits]\nsessions_per_source = 1"), backend::echo().unwrap());
    let held = edge.session(server.address());
    // RFC 9110 §15.6.4: the server is currently unable to handle the request.
    assert_eq!(edge.client().connect(&edge.ticket(server.address()), "").unwrap().status, 503);
    edge.wait_for_refusals("too_many_sessions_from_source", 1.0);
    drop(held);
}

#[test]
fn sessions_of_one_user_past_the_limit_are_refused_and_other_users_are_not() {
    let (edge, server) = (Edge::with("[limits]\nsessions_per_user = 1"), backend::echo().unwrap());
    let ticket = |user: &str| edge.ticket_with(server.address(), &json!({"user": user}));
    let mut held = edge.client();
    assert_eq!(held.socks(&ticket("ann"), 1494).unwrap(), 0);
    assert_eq!(edge.socks_code(&ticket("Ann")), 1);
    edge.wait_for_refusals("too_many_sessions_of_user", 1.0);
    let mut other = edge.client();
    assert_eq!(other.socks(&ticket("bob"), 1494).unwrap(), 0);
    held.echo(b"unharmed").unwrap();
}

#[test]
fn use_and_limits_are_in_the_metrics() {
    let (edge, server) = (Edge::with("[limits]\nsessions = 77"), backend::echo().unwrap());
    let _held = edge.session(server.address());
    let metrics = edge.gateway.metrics().unwrap();
    let label = ["limit=\"sessions\""];
    assert_eq!(metrics.sum("portcullis_limit_max", &label), Some(77.0));
    assert_eq!(metrics.sum("portcullis_limit_current", &label), Some(1.0));
}

#[test]
fn a_hundred_header_lines_too_many_are_refused() {
    let edge = Edge::start();
    let mut client = edge.client();
    let head = format!("CONNECT x HTTP/1.1\r\nHost: x\r\n{}\r\n", "A: b\r\n".repeat(200));
    client.send(head.as_bytes()).unwrap();
    let status = client.http_answer().unwrap().status;
    assert!(status == 431 || status == 400, "{status}");
}

#[test]
fn our_own_authority_holds_so_many_tickets_and_no_more() {
    let edge = Edge::with("[sta_server]\nmax_tickets = 3");
    let target: std::net::SocketAddr = "127.0.0.77:1494".parse().unwrap();
    for _ in 0..3 {
        edge.ticket(target);
    }
    assert!(edge.gateway.issue(&target.to_string()).is_err());
}
