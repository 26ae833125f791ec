//! The end of the daemon: sessions may finish, new ones are refused, and the exit code says that all went well.

use std::net::TcpStream;

use nix::sys::signal::Signal;
use portcullis_tests::backend::{self, Stage};
use portcullis_tests::speak::socks_request;
use portcullis_tests::sta_double::{Mood, StaDouble};
use portcullis_tests::wait::{self, PATIENCE};

use super::fixture::{ANYTHING_LOCAL, Edge, setup, text};
use super::relay::write_until_stuck;

#[test]
fn at_sigterm_sessions_finish_and_nobody_new_is_served() {
    let (mut edge, server) = (Edge::with("[server]\ndrain_timeout = \"60s\""), backend::echo().unwrap());
    let mut live = edge.session(server.address());
    edge.gateway.signal(Signal::SIGTERM).unwrap();
    wait::until(PATIENCE, "new connections to be refused", || TcpStream::connect(edge.at).is_err()).unwrap();
    live.echo(b"still served").unwrap();
    live.sender.finish().unwrap();
    live.read_to_end().unwrap();
    let status = edge.gateway.child().wait(PATIENCE).unwrap();
    assert_eq!(status.code(), Some(0));
    assert_eq!(text(&edge.record(), "reason"), "client_closed");
}

#[test]
fn sessions_that_outlast_the_drain_are_cut() {
    let (mut edge, server) = (Edge::with("[server]\ndrain_timeout = \"300ms\""), backend::echo().unwrap());
    let mut live = edge.session(server.address());
    edge.gateway.signal(Signal::SIGTERM).unwrap();
    live.read_to_end().unwrap();
    assert_eq!(edge.gateway.child().wait(PATIENCE).unwrap().code(), Some(0));
    assert_eq!(text(&edge.record(), "reason"), "drained");
}

#[test]
fn a_second_sigterm_ends_the_drain() {
    let (mut edge, server) = (Edge::with("[server]\ndrain_timeout = \"10m\""), backend::echo().unwrap());
    let live = edge.session(server.address());
    edge.gateway.signal(Signal::SIGTERM).unwrap();
    wait::until(PATIENCE, "new connections to be refused", || TcpStream::connect(edge.at).is_err()).unwrap();
    edge.gateway.signal(Signal::SIGTERM).unwrap();
    edge.gateway.child().wait(PATIENCE).unwrap();
    drop(live);
}

#[test]
fn without_sessions_the_daemon_ends_at_once() {
    let mut edge = Edge::with("[server]\ndrain_timeout = \"10m\"");
    edge.gateway.signal(Signal::SIGTERM).unwrap();
    assert_eq!(edge.gateway.child().wait(PATIENCE).unwrap().code(), Some(0));
}

#[test]
fn a_client_that_waits_before_its_first_byte_does_not_hold_up_the_end() {
    let mut edge = Edge::with("[limits]\nfirst_bytes_timeout = \"5m\"\n[server]\ndrain_timeout = \"500ms\"");
    let waiting = edge.client();
    edge.gateway.signal(Signal::SIGTERM).unwrap();
    assert_eq!(edge.gateway.child().wait(PATIENCE).unwrap().code(), Some(0));
    drop(waiting);
}

#[test]
fn the_control_socket_goes_with_the_daemon() {
    let mut edge = Edge::start();
    let socket = edge.gateway.control().socket.clone();
    edge.gateway.signal(Signal::SIGTERM).unwrap();
    edge.gateway.child().wait(PATIENCE).unwrap();
    assert!(!socket.exists(), "{} is still there", socket.display());
}

#[test]
fn a_session_that_is_stuck_does_not_hold_up_the_end() {
    let mut edge = Edge::with("[server]\ndrain_timeout = \"500ms\"");
    let stage = Stage::open().unwrap();
    let client = edge.session(stage.address().unwrap());
    let mut server = stage.accept().unwrap();
    write_until_stuck(&mut server, 64 * 1024 * 1024);
    edge.gateway.signal(Signal::SIGTERM).unwrap();
    assert_eq!(edge.gateway.child().wait(PATIENCE).unwrap().code(), Some(0));
    assert_eq!(edge.end_reason(), "drained");
    drop(client);
}

#[test]
fn a_ticket_that_is_being_asked_for_does_not_hold_up_the_end() {
    let double = StaDouble::start("STA000000777").unwrap();
    let mut setup = setup();
    setup.merge(&double.section("double", "authority_id = \"STA000000777\"\ntimeout = \"60s\"")).unwrap();
    setup.merge("[limits]\nredeem_timeout = \"60s\"\n[server]\ndrain_timeout = \"500ms\"").unwrap();
    let mut edge = Edge::of_setup(setup, "gateway", &ANYTHING_LOCAL.replace("\"local\"", "\"double\""));
    let ticket = double.issue("127.0.0.77:1");
    double.set_mood(Mood::WhenTold);
    let mut client = edge.client();
    client.send(&socks_request(&ticket, 1494)).unwrap();
    wait::until(PATIENCE, "the authority to be asked", || double.redeemed() > 0).unwrap();
    edge.gateway.signal(Signal::SIGTERM).unwrap();
    assert_eq!(edge.gateway.child().wait(PATIENCE).unwrap().code(), Some(0));
}

#[test]
fn an_operator_lets_nothing_new_in_while_sessions_live_on_and_then_again() {
    let (edge, server) = (Edge::start(), backend::echo().unwrap());
    let mut live = edge.session(server.address());
    let drained = edge.gateway.cli_json(["shell", "-c", "drain gateway --json"]).unwrap();
    assert_eq!((text(&drained, "state"), drained["sessions"].as_u64()), ("drained".to_owned(), Some(1)));
    live.echo(b"still served").unwrap();
    drop(TcpStream::connect(edge.at).unwrap());
    let refused = || edge.refusals("draining") >= 1.0;
    wait::until(PATIENCE, "a new connection to be refused", refused).unwrap();
    let health = edge.gateway.cli(["health"]).unwrap();
    assert!(!health.success() && health.stdout.contains("undrain gateway"), "{health:?}");
    edge.gateway.cli(["undrain"]).unwrap().ok().unwrap();
    edge.session(server.address()).echo(b"served again").unwrap();
    live.echo(b"all the time").unwrap();
    edge.gateway.cli(["health"]).unwrap().ok().unwrap();
}
