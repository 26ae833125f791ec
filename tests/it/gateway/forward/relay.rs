//! What happens to the bytes of a forwarded flow, and what is known of it afterwards.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::process::Command;

use portcullis_tests::backend::{Checker, Pattern, Stage};
use portcullis_tests::client::{Client, trusting};
use portcullis_tests::filtered;
use portcullis_tests::process::{self, Child};
use portcullis_tests::wait::PATIENCE;
use serde_json::json;

use super::farm::{Server, UNCHECKED, edge, flow};
use crate::gateway::fixture::{Edge, kill, number, setup, text, without_programs};

/// A listener before a server that the test plays itself.
fn staged(stage: &Stage, more: &str) -> Edge {
    let address = stage.address().unwrap();
    let keys =
        format!("permit_loopback = true\nserver = [{{ address = \"{address}\" }}]\n{UNCHECKED}\n{more}");
    Edge::of_setup(setup(), "forward", &keys)
}

#[test]
fn every_byte_arrives_in_both_directions_and_the_record_counts_them() {
    const WORDS: usize = 512 * 1024;
    let server = Server::start('a');
    let edge = edge(&[(&server, 1)], UNCHECKED);
    let Client { mut sender, mut receiver } = flow(edge.at).1;
    let sending = std::thread::spawn(move || {
        let mut pattern = Pattern::new(5);
        for _ in 0..64 {
            sender.send(&pattern.bytes(WORDS / 64)).unwrap();
        }
        sender.finish().unwrap();
    });
    let mut checker = Checker::new(5);
    loop {
        let bytes = receiver.read_some().unwrap();
        if bytes.is_empty() {
            break;
        }
        checker.check(&bytes).unwrap();
    }
    sending.join().unwrap();
    let total = u64::try_from(WORDS * 8).unwrap();
    assert_eq!(checker.seen, total);
    let record = edge.record();
    assert_eq!((number(&record, "bytes_up"), number(&record, "bytes_down")), (total, total + 1));
    assert_eq!((text(&record, "protocol"), text(&record, "listener")), ("forward".into(), "edge".into()));
    assert_eq!(text(&record, "target"), server.address().to_string());
}

#[test]
fn one_side_may_finish_long_before_the_other() {
    let stage = Stage::open().unwrap();
    let edge = staged(&stage, "");
    let mut client = Client::plain(edge.at).unwrap();
    client.send(b"all that the client says").unwrap();
    client.sender.finish().unwrap();
    let mut server = stage.accept().unwrap();
    let mut heard = Vec::new();
    server.read_to_end(&mut heard).unwrap();
    assert_eq!(heard, b"all that the client says");
    server.write_all(b"and an answer after the end").unwrap();
    server.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.read_to_end().unwrap().0, b"and an answer after the end");
}

#[test]
fn the_server_hears_the_client_before_any_byte_and_from_the_configured_address() {
    let stage = Stage::open().unwrap();
    let edge = staged(&stage, "source = [\"127.0.0.9\"]");
    let mut client = Client::plain(edge.at).unwrap();
    let mut server = stage.accept().unwrap();
    assert_eq!(server.peer_addr().unwrap().ip().to_string(), "127.0.0.9");
    server.write_all(b"\x7f\x7fICA\x00").unwrap();
    assert_eq!(client.read(6).unwrap(), b"\x7f\x7fICA\x00");
}

#[test]
fn tls_ends_at_the_server_whose_certificate_the_client_sees() {
    if without_programs(&["openssl"]) {
        return;
    }
    let setup = setup();
    let (crt, key) = (setup.dir().join("main.crt"), setup.dir().join("main.key"));
    let at = std::net::SocketAddr::new(filtered::farm(), process::free_port().unwrap());
    let mut command = Command::new("openssl");
    command.args(["s_server", "-www", "-quiet", "-accept", &at.to_string()]);
    command.arg("-cert").arg(&crt).arg("-key").arg(&key);
    let mut openssl = Child::spawn("s_server", &mut command, setup.dir()).unwrap();
    openssl.wait_for_port(at, PATIENCE).unwrap();
    let keys = format!(
        "permit_loopback = true\nserver = [{{ address = \"{at}\" }}]\n\
         health = {{ kind = \"tls\", interval = \"100ms\", server_name = \"localhost\", ca = \"ca.pem\" }}"
    );
    let edge = Edge::of_setup(setup, "forward", &keys);
    let config = std::sync::Arc::new(trusting(&edge.ca()).unwrap());
    let mut client = Client::tls_with(edge.at, &config, "localhost").unwrap();
    client.send(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let (page, _) = client.read_to_end().unwrap();
    assert!(String::from_utf8_lossy(&page).contains("s_server"), "{}", String::from_utf8_lossy(&page));
    assert!(client.shown_certificate().is_some());
    let handshakes = edge.gateway.metrics().unwrap().sum("portcullis_tls_handshakes_total", &[]);
    assert_eq!(handshakes, Some(0.0), "the gateway itself shook no hands");
}

#[test]
fn a_flow_can_be_killed_and_ends_when_it_is_idle() {
    let server = Server::start('a');
    let edge = edge(&[(&server, 1)], &format!("{UNCHECKED}\nidle_timeout = \"1s\""));
    let (_, mut idle) = flow(edge.at);
    idle.read_to_end().unwrap();
    assert_eq!(edge.end_reason(), "idle");
    let (_, mut killed) = flow(edge.at);
    edge.wait_for_sessions(1);
    kill(&edge, &json!({ "all": true }));
    killed.read_to_end().unwrap();
    assert_eq!(text(&edge.wait_for_records(2)[1], "reason"), "killed");
}

#[test]
fn clients_that_the_listener_does_not_list_reach_no_server() {
    let server = Server::start('a');
    let edge = edge(&[(&server, 1)], &format!("{UNCHECKED}\nallow_from = [\"192.0.2.0/24\"]"));
    let (answer, _) = Client::plain(edge.at).unwrap().read_to_end().unwrap();
    assert!(answer.is_empty(), "{answer:?}");
    edge.wait_for_refusals("source_forbidden", 1.0);
    assert_eq!(server.accepted(), 0);
}
