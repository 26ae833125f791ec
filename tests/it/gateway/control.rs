//! The command line and the control socket against a live daemon.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::Command;

use portcullis_tests::backend;
use portcullis_tests::process;
use portcullis_tests::speak::Speak as _;
use portcullis_tests::wait::PATIENCE;
use serde_json::{Value, json};

use super::fixture::{Edge, setup, text};

#[test]
fn a_live_session_is_listed_with_who_what_and_how_much() {
    let (edge, server) = (Edge::start(), backend::echo().unwrap());
    let who = json!({"user": "ann", "application": "Notepad"});
    let mut client = edge.client();
    assert_eq!(client.socks(&edge.ticket_with(server.address(), &who), 1494).unwrap(), 0);
    client.echo(&[1; 1000]).unwrap();
    let listed = edge.gateway.cli(["sessions", "list"]).unwrap().ok().unwrap().stdout;
    assert!(listed.contains("ann") && listed.contains("Notepad"), "{listed}");
    let session = &edge.gateway.control().sessions().unwrap()[0];
    assert_eq!(text(session, "listener"), "edge");
    assert_eq!((&session["bytes_up"], &session["bytes_down"]), (&json!(1000), &json!(1000)), "{session}");
    let shown = edge.gateway.cli_json(["sessions", "show", &text(session, "id")]).unwrap();
    assert!(shown.to_string().contains(&server.address().to_string()), "{shown}");
}

#[test]
fn a_ticket_from_the_command_line_opens_a_session() {
    let (edge, server) = (Edge::start(), backend::echo().unwrap());
    let target = server.address().to_string();
    let issued = edge.gateway.cli(["ticket", "issue", "--target", &target]).unwrap().ok().unwrap();
    assert_eq!(edge.socks_code(issued.stdout.trim()), 0);
}

#[test]
fn a_redeemed_ticket_is_used_up() {
    let (edge, server) = (Edge::start(), backend::echo().unwrap());
    let ticket = edge.ticket(server.address());
    let mut redeem = edge.gateway.cli_command().unwrap();
    redeem.args(["ticket", "redeem", "-"]);
    let output = process::run_with_input(&mut redeem, ticket.as_bytes(), PATIENCE).unwrap().ok().unwrap();
    assert!(output.stdout.contains(&server.address().to_string()), "{}", output.stdout);
    assert_eq!(edge.socks_code(&ticket), 2);
}

#[test]
fn the_control_socket_is_for_its_owner_only() {
    let edge = Edge::start();
    let mode = std::fs::metadata(&edge.gateway.control().socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn several_requests_share_a_control_connection_and_bad_ones_are_told_so() {
    let edge = Edge::start();
    let mut stream = UnixStream::connect(&edge.gateway.control().socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let mut ask = |request: &str| -> Value {
        stream.write_all(format!("{request}\n").as_bytes()).unwrap();
        serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap()
    };
    assert_eq!(ask("{\"v\":1,\"cmd\":\"status\"}")["ok"], true);
    for bad in [
        "no json",
        "{\"v\":1,\"cmd\":\"no-such\"}",
        "{\"cmd\":\"status\"}",
        "{\"v\":2,\"cmd\":\"status\"}",
        "[]",
    ] {
        let answer = ask(bad);
        assert_eq!(
            (&answer["ok"], &answer["error"]["code"]),
            (&json!(false), &json!("bad-request")),
            "{bad}"
        );
    }
    assert_eq!(ask("{\"v\":1,\"cmd\":\"status\"}")["ok"], true);
}

#[test]
fn a_session_that_is_not_there_is_not_found() {
    let edge = Edge::start();
    let output = edge.gateway.cli(["sessions", "show", "0123456789abcdef"]).unwrap();
    assert!(!output.success() && output.stderr.contains("0123456789abcdef"), "{output:?}");
}

#[test]
fn without_a_daemon_the_command_line_says_so_with_its_exit_code() {
    let dir = tempfile::tempdir().unwrap();
    let mut status = Command::new(process::binary("portcullis").unwrap());
    status.arg("--socket").arg(dir.path().join("none.sock")).arg("status");
    let output = process::run(&mut status, PATIENCE).unwrap();
    assert_eq!(output.code, Some(69), "{output:?}");
    assert!(output.stderr.contains("none.sock"), "{}", output.stderr);
}

#[test]
fn the_effective_configuration_holds_no_secret() {
    let edge = Edge::start();
    let shown = edge.gateway.cli_json(["config", "show"]).unwrap().to_string();
    assert!(shown.contains("\"edge\"") && !shown.contains("PRIVATE KEY"), "{shown}");
}

#[test]
fn the_level_of_the_log_changes_while_the_daemon_runs() {
    let edge = Edge::with("[log]\nlevel = \"error\"");
    let server = backend::echo().unwrap();
    assert!(edge.gateway.cli(["logs", "level"]).unwrap().ok().unwrap().stdout.contains("error"));
    edge.gateway.cli(["logs", "level", "info"]).unwrap().ok().unwrap();
    let mut client = edge.session(server.address());
    client.sender.finish().unwrap();
    client.read_to_end().unwrap();
    edge.wait_for_records(1);
}

#[test]
fn a_daemon_whose_configuration_is_bad_ends_with_the_code_for_that() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("portcullis.toml");
    std::fs::write(&config, "[sever]\nworkers = 1\n").unwrap();
    let mut daemon = Command::new(process::binary("portcullisd").unwrap());
    let output = process::run(daemon.arg("--config").arg(&config), PATIENCE).unwrap();
    assert_eq!(output.code, Some(78), "{output:?}");
    assert!(
        output.stderr.contains("portcullis.toml:1") && output.stderr.contains("server"),
        "{}",
        output.stderr
    );
}

#[test]
fn a_port_that_is_taken_ends_the_start_with_words_about_it() {
    let first = Edge::start();
    let mut second = setup();
    second.listener_at("edge", "gateway", &[first.at], super::fixture::ANYTHING_LOCAL).unwrap();
    let error = second.start().unwrap_err();
    assert!(format!("{error:#}").contains(&first.at.to_string()), "{error:#}");
}

#[test]
fn a_service_manager_with_a_watchdog_is_told_again_and_again_that_the_control_plane_lives() {
    let setup = setup();
    let place = setup.dir().join("notify");
    let told = UnixDatagram::bind(&place).unwrap();
    told.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut command = Command::new(process::binary("portcullisd").unwrap());
    command.arg("--config").arg(setup.dir().join("portcullis.toml")).current_dir(setup.dir());
    command.env("NOTIFY_SOCKET", &place).env("WATCHDOG_USEC", "300000");
    let gateway = setup.start_command(&mut command).unwrap();
    let mut buffer = [0; 256];
    let mut signs = 0;
    while signs < 3 {
        let length = told.recv(&mut buffer).unwrap();
        signs += usize::from(String::from_utf8_lossy(&buffer[..length]).contains("WATCHDOG=1"));
    }
    drop(gateway);
}

#[test]
fn what_is_wrong_is_json_where_json_is_wanted_in_the_shell_too() {
    let edge = Edge::start();
    for (words, code) in [
        (&["--json", "sessions", "show", "0000000000000001"][..], "negative"),
        (&["--json", "sessions", "shew"], "usage"),
        (&["shell", "-c", "show session 0000000000000001 --json"], "negative"),
        (&["shell", "-c", "show session --json"], "usage"),
        (&["shell", "-c", "no-such-command --json"], "usage"),
    ] {
        let output = edge.gateway.cli(words).unwrap();
        let said: Value = serde_json::from_str(output.stderr.trim()).unwrap_or_else(|_| panic!("{output:?}"));
        assert_eq!(said["error"]["code"], code, "{output:?}");
    }
    let version = edge.gateway.cli_json(["shell", "-c", "show version --json"]).unwrap();
    assert_eq!(version["daemon"]["version"], version["version"], "{version}");
}
