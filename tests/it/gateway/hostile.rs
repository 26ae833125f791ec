//! Clients that mean harm: floods, drips, refusals to read. Memory, descriptors and other sessions stay as they are.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use portcullis_tests::backend;
use portcullis_tests::client::Client;
use portcullis_tests::speak::{SOCKS_SUCCESS, connect, socks_request};
use portcullis_tests::wait::{self, PATIENCE};
use portcullis_tests::websocket::{BINARY, CONTINUATION, FIN, PING, WebSocket as _, masked};

use super::fixture::{Edge, resident_kib, tls_config};

/// What one connection may cost at most, in KiB; allocators keep some of what they once had.
const MODEST: u64 = 6 * 1024;

#[test]
fn a_flood_of_pings_whose_answers_nobody_reads_costs_no_memory() {
    let (edge, server) = (Edge::start(), backend::echo().unwrap());
    let mut client = edge.client();
    client.upgrade("").unwrap();
    client.send_binary(&socks_request(&edge.ticket(server.address()), 1494)).unwrap();
    assert_eq!(client.read_binary(10).unwrap(), SOCKS_SUCCESS);
    let before = resident_kib(edge.gateway.pid());
    let pings = masked(FIN | PING, &[0x41; 125]).repeat(1_000);
    client.tcp().set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    // Until the gateway takes no more, or a good amount has passed through.
    for _ in 0..200 {
        if client.send(&pings).is_err() {
            break;
        }
    }
    let grown = resident_kib(edge.gateway.pid()).saturating_sub(before);
    assert!(grown < MODEST, "{grown} KiB more");
    edge.session(server.address()).echo(b"unharmed").unwrap();
}

#[test]
fn a_flood_of_pings_before_any_request_costs_no_memory() {
    let edge = Edge::start();
    let mut client = edge.client();
    client.upgrade("").unwrap();
    let before = resident_kib(edge.gateway.pid());
    let pings = masked(FIN | PING, &[0x41; 125]).repeat(1_000);
    client.tcp().set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    for _ in 0..200 {
        if client.send(&pings).is_err() {
            break;
        }
    }
    let grown = resident_kib(edge.gateway.pid()).saturating_sub(before);
    assert!(grown < MODEST, "{grown} KiB more");
}

#[test]
fn a_message_of_empty_fragments_without_end_is_cut_at_the_deadline() {
    let edge = Edge::with("[limits]\nfirst_bytes_timeout = \"500ms\"");
    let mut client = edge.client();
    client.upgrade("").unwrap();
    client.send(&masked(BINARY, b"")).unwrap();
    let empty = masked(CONTINUATION, b"");
    wait::until(PATIENCE, "the end of the connection", || client.send(&empty).is_err()).unwrap();
    edge.wait_for_refusals("slow_request", 1.0);
}

#[test]
fn a_request_that_drips_is_cut_at_its_deadline_however_steadily_it_drips() {
    let edge = Edge::with("[limits]\nfirst_bytes_timeout = \"500ms\"");
    let mut client = edge.client();
    let start = Instant::now();
    client.send(b"GET / HTTP/1.1\r\n").unwrap();
    wait::until(PATIENCE, "the end of the connection", || client.send(b"A: b\r\n").is_err()).unwrap();
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[test]
fn clients_that_do_not_read_their_refusal_are_let_go() {
    let edge = Edge::start();
    drop(edge.client());
    let before = edge.descriptors();
    let refused = ";40;STA999999999;0123456789ABCDEF0123456789ABCDEF";
    let held: Vec<Client> = (0..10)
        .map(|_| {
            let mut client = edge.client();
            client.send(&connect(refused, "")).unwrap();
            client
        })
        .collect();
    edge.wait_for_refusals("authority_unknown", 10.0);
    edge.wait_for_descriptors(before);
    drop(held);
}

#[test]
fn many_bad_connections_leave_neither_memory_nor_descriptors_behind() {
    let edge = Edge::start();
    let config = tls_config(&edge.ca());
    let bad = |round: usize| match round % 4 {
        0 => drop(TcpStream::connect(edge.at).unwrap()),
        1 => drop(TcpStream::connect(edge.at).unwrap().write_all(&[0xff; 100])),
        2 => drop(Client::tls_with(edge.at, &config, "localhost").unwrap()),
        _ => drop(Client::tls_with(edge.at, &config, "localhost").unwrap().send(b"\xff\xff garbage")),
    };
    (0..200).for_each(bad);
    edge.wait_for_sessions(0);
    let before = edge.descriptors();
    let memory = resident_kib(edge.gateway.pid());
    (0..600).for_each(bad);
    edge.wait_for_descriptors(before);
    let grown = resident_kib(edge.gateway.pid()).saturating_sub(memory);
    assert!(grown < MODEST, "{grown} KiB more");
}

#[test]
fn a_client_that_renews_its_keys_again_and_again_keeps_its_session() {
    let (edge, server) = (Edge::start(), backend::echo().unwrap());
    let mut client = edge.session(server.address());
    for _ in 0..5 {
        client.renew_keys().unwrap();
        client.echo(b"under new keys").unwrap();
    }
}

#[test]
fn data_before_the_end_of_the_handshake_are_not_lost_and_not_taken_early() {
    let (edge, server) = (Edge::start(), backend::echo().unwrap());
    // The second connection resumes, so the client could send early data if it were allowed to.
    let mut config = portcullis_tests::client::trusting(&edge.ca()).unwrap();
    config.enable_early_data = true;
    let config = std::sync::Arc::new(config);
    for _ in 0..2 {
        let mut client = Client::tls_with(edge.at, &config, "localhost").unwrap();
        client.send(&socks_request(&edge.ticket(server.address()), 1494)).unwrap();
        assert_eq!(client.read(10).unwrap(), SOCKS_SUCCESS);
        assert!(!client.early_data_accepted());
        client.echo(b"in time").unwrap();
    }
}

#[test]
fn a_handshake_message_without_end_is_refused_long_before_the_deadline() {
    let edge = Edge::with("[limits]\nhandshake_timeout = \"60s\"");
    let before = resident_kib(edge.gateway.pid());
    let mut stream = TcpStream::connect(edge.at).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    // RFC 8446 §4: a ClientHello of 16 MiB is announced, in records of 16 KiB.
    let mut sent = vec![0x16, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff];
    sent.resize(5 + 0x4000, 0);
    let more = [&[0x16, 3, 1, 0x40, 0][..], &[0; 0x4000]].concat();
    let start = Instant::now();
    wait::until(PATIENCE, "the end of the connection", || {
        let refused = stream.write_all(&sent).is_err();
        sent.clone_from(&more);
        refused
    })
    .unwrap();
    assert!(start.elapsed() < Duration::from_secs(20));
    let grown = resident_kib(edge.gateway.pid()).saturating_sub(before);
    assert!(grown < MODEST, "{grown} KiB more");
}
