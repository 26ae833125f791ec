//! Sessions whose bytes are encrypted on both sides.

use std::thread;

use portcullis_tests::backend::{Checker, Pattern};
use portcullis_tests::client::Client;
use portcullis_tests::speak::Speak as _;

use super::super::fixture::{Edge, OPENSSL_SUITES, PROXY_LOCAL, number, without_programs};
use super::farm::{BY_CA, OpenSsl, WAYS, edge, farm};

const MIB: usize = 1024 * 1024;
const VERSIONS: [&str; 2] = ["-tls1_2", "-tls1_3"];

/// Sends so many bytes to a server that echoes and compares what comes back.
fn transfer(client: Client, total: usize) -> Client {
    let Client { mut sender, mut receiver } = client;
    let sending = thread::spawn(move || {
        let (mut pattern, mut left) = (Pattern::new(5), total);
        for size in [8, 1000, 16_384, 40_000, 131_072].into_iter().cycle() {
            let size = size.min(left);
            if size == 0 {
                return sender;
            }
            sender.send(&pattern.bytes(size / 8)).unwrap();
            left -= size;
        }
        sender
    });
    let mut checker = Checker::new(5);
    while checker.seen < u64::try_from(total).unwrap() {
        let bytes = receiver.read_some().unwrap();
        assert!(!bytes.is_empty(), "the stream ended after {}", checker.seen);
        checker.check(&bytes).unwrap();
    }
    Client { sender: sending.join().unwrap(), receiver }
}

#[test]
fn bytes_reach_openssl_and_come_back_unchanged() {
    if without_programs(&["openssl"]) {
        return;
    }
    for way in WAYS {
        for version in VERSIONS {
            let (setup, files) = farm();
            let server = OpenSsl::echo(&files, setup.dir(), &[version]);
            let edge = edge(setup, way, BY_CA);
            let mut client = transfer(edge.session(server.address), 2 * MIB);
            client.sender.finish().unwrap();
            let record = edge.record();
            let moved = (number(&record, "bytes_up"), number(&record, "bytes_down"));
            let total = u64::try_from(2 * MIB).unwrap();
            assert_eq!(moved, (total, total), "{way:?} {version}");
        }
    }
}

#[test]
fn a_client_without_tls_reaches_a_server_that_speaks_it() {
    if without_programs(&["openssl"]) {
        return;
    }
    for engine in ["auto", "epoll"] {
        let (mut setup, files) = farm();
        let server = OpenSsl::echo(&files, setup.dir(), &[]);
        setup.merge(&format!("[server]\nrelay_engine = \"{engine}\"")).unwrap();
        let edge = Edge::of_setup(setup, "socks", &format!("{PROXY_LOCAL}\nserver_tls = {{ {BY_CA} }}"));
        let mut client = Client::plain(edge.at).unwrap();
        assert_eq!(client.socks("127.0.0.77", server.address.port()).unwrap(), 0);
        // Far more than what goes by before plain sessions are spliced.
        drop(transfer(client, 2 * MIB));
        edge.wait_for_records(1);
    }
}

#[test]
fn an_ssl_relay_encrypts_anew() {
    if without_programs(&["openssl"]) {
        return;
    }
    let (setup, files) = farm();
    let server = OpenSsl::echo(&files, setup.dir(), &[]);
    let target = format!("target = \"{}\"\npermit_loopback = true", server.address);
    let edge = Edge::of_setup(setup, "ssl-relay", &format!("{target}\nserver_tls = {{ {BY_CA} }}"));
    edge.client().echo(b"through two encryptions").unwrap();
    let status = edge.gateway.cli_json(["status"]).unwrap();
    assert_eq!(status["listeners"][0]["server_tls"], "ca");
}

#[test]
fn openssl_talks_in_every_suite() {
    if without_programs(&["openssl"]) {
        return;
    }
    for layer in ["own", "rustls"] {
        for flags in OPENSSL_SUITES {
            let (setup, files) = farm();
            let server = OpenSsl::echo(&files, setup.dir(), &flags);
            let edge = edge(setup, ("auto", layer), BY_CA);
            let mut client = edge.session(server.address);
            for size in [1, 600, 20_000] {
                client.echo(&vec![b'x'; size]).unwrap();
            }
        }
    }
}

#[test]
fn openssl_updates_keys_with_and_without_request() {
    if without_programs(&["openssl"]) {
        return;
    }
    for way in WAYS {
        let (setup, files) = farm();
        let mut server = OpenSsl::start(&files, setup.dir(), &["-tls1_3"]);
        let edge = edge(setup, way, BY_CA);
        let mut client = edge.session(server.address);
        for (order, up, down) in [
            ("", "up 1", "down 1"),
            ("K", "up 2", "down 2"),
            ("k", "up 3", "down 3"),
            ("K", "up 4", "down 4"),
        ] {
            if !order.is_empty() {
                server.say(order);
            }
            client.send(format!("{up}\n").as_bytes()).unwrap();
            let done: &[&str] = if order.is_empty() { &[up] } else { &[up, "SSL_do_handshake -> 1"] };
            server.hear_all(done);
            server.say(down);
            assert_eq!(client.read(down.len() + 1).unwrap(), format!("{down}\n").into_bytes(), "{way:?}");
        }
    }
}

#[test]
fn openssl_may_ask_for_renegotiation_and_is_declined() {
    if without_programs(&["openssl"]) {
        return;
    }
    for layer in ["own", "rustls"] {
        let (setup, files) = farm();
        let mut server = OpenSsl::start(&files, setup.dir(), &["-tls1_2"]);
        let edge = edge(setup, ("auto", layer), BY_CA);
        let mut client = edge.session(server.address);
        client.send(b"before\n").unwrap();
        server.hear("before");
        server.say("r");
        // What OpenSSL makes of the warning `no_renegotiation`.
        server.hear("no renegotiation");
    }
}

#[test]
fn a_session_of_tls_1_2_is_resumed_and_counted() {
    if without_programs(&["openssl"]) {
        return;
    }
    for layer in ["own", "rustls"] {
        let (setup, files) = farm();
        let server = OpenSsl::echo(&files, setup.dir(), &["-tls1_2"]);
        let edge = edge(setup, ("auto", layer), &format!("{BY_CA}, certificate = \"main\""));
        for count in 1..=3 {
            let mut client = edge.session(server.address);
            client.echo(b"again").unwrap();
            client.sender.finish().unwrap();
            edge.wait_for_records(count);
        }
        let metrics = edge.gateway.metrics().unwrap();
        let sum = |labels: &[&str]| metrics.sum("portcullis_server_tls_handshakes_total", labels);
        assert_eq!(sum(&["version=\"1.2\"", "resumed=\"false\""]), Some(1.0), "{layer}");
        assert_eq!(sum(&["version=\"1.2\"", "resumed=\"true\""]), Some(2.0), "{layer}");
    }
}

#[test]
fn a_server_that_asks_for_a_certificate_gets_the_configured_one() {
    if without_programs(&["openssl"]) {
        return;
    }
    let wants = ["-Verify", "1", "-CAfile", "ca.pem", "-verify_return_error", "-purpose", "any"];
    for (keys, is_let_in) in [("certificate = \"main\"", true), ("min_tls = \"1.2\"", false)] {
        for version in VERSIONS {
            let (setup, files) = farm();
            let flags = [&[version][..], &wants].concat();
            let server = OpenSsl::echo(&files, setup.dir(), &flags);
            let edge = edge(setup, WAYS[0], &format!("{BY_CA}, {keys}"));
            let mut client = edge.client();
            let code = client.socks(&edge.ticket(server.address), 1494).unwrap();
            let echoed = code == 0 && client.echo(b"who are you").is_ok();
            assert_eq!(echoed, is_let_in, "{keys} {version}: {code}");
        }
    }
}
