//! `portcullis connect` in every way it can speak, against the daemon, with ordinary programs' habits.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::process::Command;

use portcullis_tests::backend::{self, Stage};
use portcullis_tests::process::{self, Child, Output};
use portcullis_tests::speak::CGP_PREFIX;
use portcullis_tests::wait::PATIENCE;
use serde_json::json;

use super::fixture::{ANYTHING_LOCAL, Edge, PROXY_LOCAL, setup, text};

/// `portcullis connect` to this gateway, with the ticket where `ps` does not show it.
fn connect(edge: &Edge, ticket: Option<String>) -> Command {
    let mut command = Command::new(process::binary("portcullis").unwrap());
    command.args(["connect", "--gateway", &edge.at.to_string(), "--ca"]).arg(edge.ca());
    command.envs(ticket.map(|ticket| ("PORTCULLIS_TICKET", ticket)));
    command
}

fn echoed(command: &mut Command) -> Output {
    process::run_with_input(command, b"from standard input", PATIENCE).unwrap()
}

/// Standard input goes to the echoing server and comes back; its end ends the session in order.
fn echoes_via(via: &str, protocol: &str) {
    let (edge, server) = (Edge::start(), backend::echo().unwrap());
    let mut command = connect(&edge, Some(edge.ticket(server.address())));
    let output = echoed(command.args(["--via", via])).ok().unwrap();
    assert_eq!(output.stdout, "from standard input");
    assert_eq!(text(&edge.record(), "protocol"), protocol);
}

#[test]
fn standard_input_comes_back_over_socks() {
    echoes_via("socks5", "socks5");
}

#[test]
fn standard_input_comes_back_over_connect() {
    echoes_via("connect", "connect");
}

#[test]
fn standard_input_comes_back_over_websocket() {
    echoes_via("websocket", "websocket-socks5");
}

fn shows_the_first_packet_via(via: &str, protocol: &str) {
    let (edge, stage) = (Edge::start(), Stage::open().unwrap());
    let ticket = edge.ticket(stage.address().unwrap());
    let mut command = connect(&edge, Some(ticket.clone()));
    command.args(["--via", via]);
    let server = std::thread::spawn(move || {
        let (mut server, mut bytes, mut byte) = (stage.accept().unwrap(), Vec::new(), [0]);
        while !bytes.ends_with(b"from standard input") {
            server.read_exact(&mut byte).unwrap();
            bytes.extend(byte);
        }
        server.write_all(b"heard").unwrap();
        bytes
    });
    assert_eq!(echoed(&mut command).ok().unwrap().stdout, "heard");
    let bytes = server.join().unwrap();
    assert!(bytes.starts_with(CGP_PREFIX), "{bytes:?}");
    assert!(bytes.windows(ticket.len()).any(|window| window == ticket.as_bytes()));
    assert_eq!(text(&edge.record(), "protocol"), protocol);
}

#[test]
fn cgp_shows_the_server_its_first_packet_too() {
    shows_the_first_packet_via("cgp", "cgp");
}

#[test]
fn cgp_inside_a_websocket_shows_the_server_its_first_packet_too() {
    shows_the_first_packet_via("websocket-cgp", "websocket-cgp");
}

#[test]
fn a_whole_ica_file_is_enough_to_connect() {
    let (edge, server) = (Edge::start(), backend::echo().unwrap());
    let file = edge.gateway.dir().join("session.ica");
    let mut ica = edge.gateway.cli_command().unwrap();
    ica.args(["ica", "--ticket", "-", "--no-cgp", "--gateway", &edge.at.to_string(), "--out"]);
    let ticket = edge.ticket(server.address());
    process::run_with_input(ica.arg(&file), ticket.as_bytes(), PATIENCE).unwrap().ok().unwrap();
    let written = fs::read_to_string(&file).unwrap();
    assert!(written.contains("SSLEnable=On") && written.contains(&ticket), "{written}");
    let mut command = Command::new(process::binary("portcullis").unwrap());
    command.args(["connect", "--ica"]).arg(&file).arg("--ca").arg(edge.ca());
    assert_eq!(echoed(&mut command).ok().unwrap().stdout, "from standard input");
}

#[test]
fn a_server_by_name_is_reached_through_relay_mode() {
    let (edge, server) = (Edge::of_kind("relay", PROXY_LOCAL, ""), backend::echo().unwrap());
    for via in ["socks5", "connect"] {
        let mut command = connect(&edge, None);
        command.args(["--via", via, &server.address().to_string()]);
        assert_eq!(echoed(&mut command).ok().unwrap().stdout, "from standard input");
    }
}

#[test]
fn a_server_that_refuses_is_a_refusal_of_the_gateway() {
    let (edge, stage) = (Edge::start(), Stage::open().unwrap());
    let target = stage.address().unwrap();
    drop(stage);
    for via in ["socks5", "connect", "websocket"] {
        let mut command = connect(&edge, Some(edge.ticket(target)));
        let output = echoed(command.args(["--via", via]));
        assert_eq!(output.code, Some(76), "{via}: {output:?}");
        assert!(!output.stderr.contains(&target.port().to_string()), "{}", output.stderr);
    }
}

#[test]
fn a_local_port_serves_many_connections_with_one_refreshable_ticket() {
    let (edge, server) = (Edge::start(), backend::echo().unwrap());
    let ticket = edge.ticket_with(server.address(), &json!({"refreshable": true}));
    let local = SocketAddr::new("127.0.0.1".parse().unwrap(), process::free_port().unwrap());
    let mut command = connect(&edge, Some(ticket));
    let mut child =
        Child::spawn("connect", command.args(["--listen", &local.to_string()]), edge.gateway.dir()).unwrap();
    child.wait_for_listen(local.port(), PATIENCE).unwrap();
    for _ in 0..5 {
        let mut client = portcullis_tests::client::Client::plain(local).unwrap();
        client.echo(b"through the local port").unwrap();
    }
    edge.wait_for_records(5);
}

#[test]
fn two_gateways_in_a_row_one_being_the_authority_of_the_other() {
    let mut inner = setup();
    let sta = inner.own_authority("127.0.0.1".parse().unwrap()).unwrap();
    inner.merge("[sta_server]\ncertificate = \"main\"").unwrap();
    let inner = Edge::of_setup(inner, "gateway", ANYTHING_LOCAL);
    let mut outer = portcullis_tests::gateway::Setup::new().unwrap();
    outer.merge("[log]\nformat = \"json\"").unwrap();
    let section =
        format!("[[sta]]\nname = \"inner\"\nurl = \"https://localhost:{}\"\nca = \"inner.pem\"", sta.port());
    outer.merge(&section).unwrap();
    fs::copy(inner.ca(), outer.dir().join("inner.pem")).unwrap();
    let outer = Edge::of_setup(outer, "gateway", &ANYTHING_LOCAL.replace("\"local\"", "\"inner\""));
    let server = backend::echo().unwrap();
    // The ticket is issued by one daemon and shown to the other.
    assert_eq!(outer.socks_code(&inner.ticket(server.address())), 0);
    let used = inner.ticket(server.address());
    assert_eq!((outer.socks_code(&used), outer.socks_code(&used)), (0, 2));
}

#[test]
fn an_authority_whose_certificate_is_not_the_pinned_one_gets_no_ticket() {
    let mut inner = setup();
    let sta = inner.own_authority("127.0.0.1".parse().unwrap()).unwrap();
    inner.merge("[sta_server]\ncertificate = \"main\"").unwrap();
    let inner = Edge::of_setup(inner, "gateway", ANYTHING_LOCAL);
    let mut outer = setup();
    let pin = "00".repeat(32);
    let section = format!(
        "[[sta]]\nname = \"inner\"\nurl = \"https://localhost:{}\"\npin_sha256 = \"{pin}\"",
        sta.port()
    );
    outer.merge(&section).unwrap();
    let outer = Edge::of_setup(outer, "gateway", &ANYTHING_LOCAL.replace("\"local\"", "\"inner\""));
    let server = backend::echo().unwrap();
    let ticket = inner.ticket(server.address());
    assert_ne!(outer.socks_code(&ticket), 0);
    // It was never shown, so it is still good.
    assert_eq!(inner.socks_code(&ticket), 0);
}

#[test]
fn the_lab_works_as_it_says_without_any_configuration() {
    let dir = tempfile::Builder::new().prefix("pc-lab-").tempdir().unwrap();
    let port = process::free_port().unwrap();
    let mut daemon = Command::new(process::binary("portcullisd").unwrap());
    daemon.args(["--lab", "--port", &port.to_string(), "--lab-dir"]).arg(dir.path().join("lab"));
    let mut daemon = Child::spawn("portcullisd", &mut daemon, dir.path()).unwrap();
    daemon.wait_for_log("ticket issue", PATIENCE).unwrap();
    let server = backend::echo().unwrap();
    let portcullis = || Command::new(process::binary("portcullis").unwrap());
    let mut issue = portcullis();
    issue.arg("--socket").arg(dir.path().join("lab/control.sock"));
    issue.args(["ticket", "issue", "--target", &server.address().to_string()]);
    let ticket = process::run(&mut issue, PATIENCE).unwrap().ok().unwrap().stdout;
    let mut connect = portcullis();
    connect
        .args(["connect", "--gateway", &format!("localhost:{port}"), "--ca"])
        .arg(dir.path().join("lab/ca.pem"));
    connect.env("PORTCULLIS_TICKET", ticket.trim());
    assert_eq!(echoed(&mut connect).ok().unwrap().stdout, "from standard input");
}
