//! Servers and clients that fail: they refuse, hang, reset or vanish. Others go on, and nothing is left behind.

use std::io::{Read as _, Write as _};
use std::thread;
use std::time::Instant;

use portcullis_tests::backend::{self, Hole, Stage};
use portcullis_tests::client::{Client, End};
use portcullis_tests::netns::Namespace;
use portcullis_tests::speak::Speak as _;
use portcullis_tests::topology::Lab;
use portcullis_tests::wait::{self, PATIENCE};
use serde_json::json;

use super::fixture::{Edge, kill, resident_kib, setup, text, without_namespaces};

#[test]
fn a_server_that_refuses_is_recorded_as_a_session_that_was_not_established() {
    let (edge, stage) = (Edge::start(), Stage::open().unwrap());
    let target = stage.address().unwrap();
    drop(stage);
    assert_eq!(edge.socks_code(&edge.ticket(target)), 5);
    assert_eq!(edge.end_reason(), "not_established");
    edge.wait_for_refusals("server_refused", 1.0);
    edge.wait_for_sessions(0);
}

// RFC 1928 §6 has no word for a deadline; X'06' "TTL expired" is the nearest, X'04' "Host unreachable" the usual.
#[test]
fn a_server_that_hangs_is_given_up_at_the_deadline_while_others_are_served() {
    let (edge, hole) = (Edge::with("[limits]\ndial_timeout = \"1s\""), Hole::dig().unwrap());
    let echo = backend::echo().unwrap();
    let ticket = edge.ticket(hole.address());
    let stuck = {
        let mut client = edge.client();
        client.send(&portcullis_tests::speak::socks_request(&ticket, 1494)).unwrap();
        client
    };
    edge.wait_for_sessions(1);
    edge.session(echo.address()).echo(b"not held up").unwrap();
    let mut stuck = stuck;
    let code = stuck.socks_reply().unwrap();
    assert!(code == 6 || code == 4, "{code}");
    edge.wait_for_refusals("server_timeout", 1.0);
    let record = edge.wait_for_records(2);
    assert!(record.iter().any(|record| text(record, "reason") == "not_established"), "{record:?}");
}

#[test]
fn a_client_that_leaves_while_its_server_is_dialed_frees_everything_at_the_deadline() {
    let (edge, hole) = (Edge::with("[limits]\ndial_timeout = \"1s\""), Hole::dig().unwrap());
    drop(edge.session(backend::echo().unwrap().address()));
    edge.wait_for_sessions(0);
    let before = edge.descriptors();
    for _ in 0..5 {
        let mut client = edge.client();
        client.send(&portcullis_tests::speak::socks_request(&edge.ticket(hole.address()), 1494)).unwrap();
        client.reset().unwrap();
    }
    edge.wait_for_sessions(0);
    edge.wait_for_descriptors(before);
}

#[test]
fn a_server_that_resets_ends_the_session_with_that_reason() {
    let (edge, stage) = (Edge::start(), Stage::open().unwrap());
    let mut client = edge.session(stage.address().unwrap());
    let mut server = stage.accept().unwrap();
    server.write_all(b"part").unwrap();
    assert_eq!(client.read(4).unwrap(), b"part");
    backend::reset(server).unwrap();
    let (_, end) = client.read_to_end().unwrap();
    assert_ne!(end, End::Clean, "a client must be able to tell a reset from an orderly end");
    assert_eq!(edge.end_reason(), "server_reset");
}

#[test]
fn a_client_that_resets_ends_the_session_with_that_reason() {
    let (edge, stage) = (Edge::start(), Stage::open().unwrap());
    let client = edge.session(stage.address().unwrap());
    let mut server = stage.accept().unwrap();
    client.reset().unwrap();
    drop(server.read_to_end(&mut Vec::new()));
    assert_eq!(edge.end_reason(), "client_reset");
}

#[test]
fn a_client_that_breaks_a_tls_record_ends_only_its_own_session() {
    let (edge, echo) = (Edge::start(), backend::echo().unwrap());
    let (mut broken, mut sound) = (edge.session(echo.address()), edge.session(echo.address()));
    broken.tcp().write_all(&[0x17, 3, 3, 0, 32]).unwrap();
    broken.tcp().write_all(&[0x55; 32]).unwrap();
    // An alert may be told before the end; the client library calls that an error.
    drop(broken.read_to_end());
    assert_eq!(edge.end_reason(), "client_violation");
    sound.echo(b"unharmed").unwrap();
}

#[test]
fn clients_that_vanish_half_way_leave_no_descriptors_and_no_sessions() {
    let (edge, echo) = (Edge::start(), backend::echo().unwrap());
    edge.session(echo.address()).echo(b"warm").unwrap();
    edge.wait_for_sessions(0);
    let before = edge.descriptors();
    for round in 0..20 {
        let mut client = edge.session(echo.address());
        client.send(b"unfinished").unwrap();
        if round % 2 == 0 {
            client.reset().unwrap();
        }
    }
    edge.wait_for_sessions(0);
    edge.wait_for_descriptors(before);
}

#[test]
fn memory_of_many_ended_sessions_is_used_again() {
    let (edge, echo) = (Edge::start(), backend::echo().unwrap());
    let round = |count: usize| {
        let ticket = edge.ticket_with(echo.address(), &json!({"refreshable": true}));
        let connect = || {
            let mut client = edge.client();
            assert_eq!(client.socks(&ticket, 1494).unwrap(), 0);
            client.echo(&[1; 20_000]).unwrap();
            client
        };
        let all: Vec<Client> = (0..count).map(|_| connect()).collect();
        drop(all);
        edge.wait_for_sessions(0);
        resident_kib(edge.gateway.pid())
    };
    round(60);
    let first = round(60);
    let mut last = 0;
    for _ in 0..3 {
        last = round(60);
    }
    assert!(last < first + 4 * 1024, "{first} KiB grew to {last} KiB");
}

#[test]
fn a_network_that_cannot_be_reached_is_told_as_such() {
    if without_namespaces() {
        return;
    }
    let lab = Lab::in_namespaces().unwrap();
    let gateway_net: &Namespace = lab.gateway.namespace().unwrap();
    gateway_net.ip(&["route", "add", "unreachable", "10.99.0.0/16"]).unwrap();
    let mut setup = setup();
    let at = (lab.gateway.address(0), 443).into();
    let keys = "stas = [\"local\"]";
    setup.listener_at("edge", "gateway", &[at], keys).unwrap();
    let gateway = setup.start_in(&lab.gateway).unwrap();
    let ticket = gateway.issue("10.99.0.1:1494").unwrap();
    let ca = gateway.ca_file();
    let client = lab.outside.enter(|| Client::tls(at, &ca)).unwrap();
    let edge = Edge { gateway, at };
    let mut client = client;
    assert_eq!(client.socks(&ticket, 1494).unwrap(), 4);
    edge.wait_for_refusals("server_unreachable", 1.0);
}

#[test]
fn a_server_whose_packets_are_dropped_is_given_up_at_the_deadline() {
    if without_namespaces() {
        return;
    }
    let lab = Lab::in_namespaces().unwrap();
    lab.gateway.namespace().unwrap().ip(&["route", "add", "10.99.0.0/16", "via", "10.77.0.10"]).unwrap();
    // The farm takes the packets and forwards them nowhere.
    lab.farm.namespace().unwrap().ip(&["route", "add", "blackhole", "10.99.0.0/16"]).unwrap();
    let mut setup = setup();
    let at = (lab.gateway.address(0), 443).into();
    setup.listener_at("edge", "gateway", &[at], "stas = [\"local\"]").unwrap();
    setup.merge("[limits]\ndial_timeout = \"1s\"").unwrap();
    let gateway = setup.start_in(&lab.gateway).unwrap();
    let ticket = gateway.issue("10.99.0.1:1494").unwrap();
    let ca = gateway.ca_file();
    let mut client = lab.outside.enter(|| Client::tls(at, &ca)).unwrap();
    let start = Instant::now();
    let code = client.socks(&ticket, 1494).unwrap();
    assert!(code == 6 || code == 4, "{code}");
    assert!(start.elapsed().as_secs() < 10);
}

#[test]
fn a_server_that_stops_reading_does_not_stop_its_session_from_being_killed() {
    let (edge, stage) = (Edge::start(), Stage::open().unwrap());
    let client = edge.session(stage.address().unwrap());
    let server = stage.accept().unwrap();
    let Client { mut sender, receiver } = client;
    let writer = thread::spawn(move || while sender.send(&[0; 65_536]).is_ok() {});
    let moved = || edge.gateway.control().sessions().unwrap()[0]["bytes_up"].as_u64();
    let mut last = (moved(), Instant::now());
    wait::until(PATIENCE, "the session to be stuck", || {
        let now = moved();
        if now != last.0 {
            last = (now, Instant::now());
        }
        last.0 > Some(0) && last.1.elapsed().as_millis() > 500
    })
    .unwrap();
    kill(&edge, &json!({"all": true}));
    edge.wait_for_sessions(0);
    writer.join().unwrap();
    drop((receiver, server));
}

#[test]
fn the_gateways_own_addresses_are_not_to_be_reached_through_it() {
    if without_namespaces() {
        return;
    }
    let lab = Lab::in_namespaces().unwrap();
    let mut setup = setup();
    let at = (lab.gateway.address(0), 443).into();
    setup.listener_at("edge", "gateway", &[at], "stas = [\"local\"]").unwrap();
    let gateway = setup.start_in(&lab.gateway).unwrap();
    let (ca, inner) = (gateway.ca_file(), lab.gateway.address(1));
    let tickets = [inner, lab.gateway.address(0)].map(|own| gateway.issue(&format!("{own}:1494")).unwrap());
    let edge = Edge { gateway, at };
    for ticket in tickets {
        let mut client = lab.outside.enter(|| Client::tls(at, &ca)).unwrap();
        assert_eq!(client.socks(&ticket, 1494).unwrap(), 2);
    }
    edge.wait_for_refusals("forbidden", 2.0);
}
