//! A changed configuration: what applies at once, what needs a restart, and what is refused.

use nix::sys::signal::Signal;
use portcullis_tests::backend;
use portcullis_tests::process::Output;
use portcullis_tests::wait::{self, PATIENCE};

use super::fixture::Edge;

/// Writes the configuration with more in it and asks for a reload by the command line.
fn reload_with(edge: &mut Edge, more: &str) -> Output {
    edge.gateway.setup().merge(more).unwrap();
    edge.gateway.setup().write().unwrap();
    edge.gateway.cli(["reload"]).unwrap()
}

fn limit(edge: &Edge, name: &str) -> Option<f64> {
    edge.gateway.metrics().unwrap().sum("portcullis_limit_max", &[&format!("limit=\"{name}\"")])
}

#[test]
fn a_good_change_applies_at_once_and_a_live_session_goes_on() {
    let (mut edge, server) = (Edge::start(), backend::echo().unwrap());
    let mut live = edge.session(server.address());
    reload_with(&mut edge, "[limits]\nsessions = 1234").ok().unwrap();
    assert_eq!(limit(&edge, "sessions"), Some(1234.0));
    live.echo(b"still here").unwrap();
}

#[test]
fn sighup_reloads() {
    let mut edge = Edge::start();
    edge.gateway.setup().merge("[limits]\nsessions = 1234").unwrap();
    edge.gateway.setup().write().unwrap();
    edge.gateway.signal(Signal::SIGHUP).unwrap();
    wait::until(PATIENCE, "the new limit", || limit(&edge, "sessions") == Some(1234.0)).unwrap();
}

#[test]
fn a_bad_configuration_is_refused_with_its_line_and_the_old_one_stays() {
    let (edge, server) = (Edge::start(), backend::echo().unwrap());
    let mut live = edge.session(server.address());
    let before = limit(&edge, "sessions");
    let good = std::fs::read_to_string(edge.gateway.config_file()).unwrap();
    let bad = good.replace("[limits]", "") + "\n[limits]\nsesions = 5\n";
    std::fs::write(edge.gateway.config_file(), bad).unwrap();
    let output = edge.gateway.cli(["reload"]).unwrap();
    assert!(!output.success());
    let said = output.stdout + &output.stderr;
    assert!(said.contains("portcullis.toml:") && said.contains("sessions"), "{said}");
    assert_eq!(limit(&edge, "sessions"), before);
    assert_eq!(edge.gateway.metrics().unwrap().sum("portcullis_config_last_reload_success", &[]), Some(0.0));
    live.echo(b"still here").unwrap();
    edge.session(server.address()).echo(b"and new ones too").unwrap();
}

#[test]
fn a_good_reload_after_a_bad_one_is_a_success_again() {
    let mut edge = Edge::start();
    let success =
        |edge: &Edge| edge.gateway.metrics().unwrap().sum("portcullis_config_last_reload_success", &[]);
    std::fs::write(edge.gateway.config_file(), "[server").unwrap();
    assert!(!edge.gateway.cli(["reload"]).unwrap().success());
    assert_eq!(success(&edge), Some(0.0));
    reload_with(&mut edge, "").ok().unwrap();
    assert_eq!(success(&edge), Some(1.0));
}

#[test]
fn a_change_that_needs_a_restart_is_named() {
    let mut edge = Edge::start();
    let output = reload_with(&mut edge, "[server]\nworkers = 3").ok().unwrap();
    assert!(output.stdout.contains("workers") && output.stdout.contains("restart"), "{}", output.stdout);
}

#[test]
fn a_new_policy_applies_to_new_sessions() {
    let (mut edge, server) = (Edge::start(), backend::echo().unwrap());
    let mut live = edge.session(server.address());
    let path = edge.gateway.setup().write().unwrap();
    let text = std::fs::read_to_string(&path).unwrap().replace("127.0.0.0/8", "127.0.0.99/32");
    std::fs::write(&path, text).unwrap();
    edge.gateway.cli(["reload"]).unwrap().ok().unwrap();
    assert_eq!(edge.socks_code(&edge.ticket(server.address())), 2);
    live.echo(b"admitted before").unwrap();
}

#[test]
fn a_user_file_that_is_broken_keeps_the_old_users() {
    let edge = Edge::start();
    std::fs::write(edge.gateway.dir().join("users"), "ann: no hash\n").unwrap();
    let mut text = std::fs::read_to_string(edge.gateway.config_file()).unwrap();
    text.push_str("\n[[users]]\nname = \"some\"\nfile = \"users\"\n");
    std::fs::write(edge.gateway.config_file(), text).unwrap();
    let output = edge.gateway.cli(["reload"]).unwrap();
    assert!(!output.success(), "{}", output.stdout);
    let said = output.stdout + &output.stderr;
    assert!(said.contains("users"), "{said}");
}

#[test]
fn sighup_with_a_bad_configuration_is_logged_and_changes_nothing() {
    let (edge, server) = (Edge::start(), backend::echo().unwrap());
    std::fs::write(edge.gateway.config_file(), "[sever]\n").unwrap();
    edge.gateway.signal(Signal::SIGHUP).unwrap();
    let complains =
        || edge.gateway.log().lines().any(|line| line.contains("sever") && line.contains("error"));
    wait::until(PATIENCE, "a complaint in the log", complains).unwrap();
    edge.session(server.address()).echo(b"as before").unwrap();
}

#[test]
fn a_session_goes_on_through_many_reloads() {
    let (edge, server) = (Edge::start(), backend::echo().unwrap());
    let mut live = edge.session(server.address());
    for _ in 0..10 {
        edge.gateway.cli(["reload"]).unwrap().ok().unwrap();
        live.echo(b"still here").unwrap();
    }
    assert_eq!(edge.gateway.control().sessions().unwrap().len(), 1);
}
