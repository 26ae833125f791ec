//! Every command explains itself, and a wrong command line has its own exit code.

use clap::CommandFactory as _;
use portcullis::cli::args::Cli;
use portcullis::exit::Exit;

use crate::program::{command, finish, run};

fn paths(command: &clap::Command, path: &[String], all: &mut Vec<Vec<String>>) {
    all.push(path.to_vec());
    for below in command.get_subcommands() {
        let path = [path, &[below.get_name().to_owned()]].concat();
        paths(below, &path, all);
    }
}

#[test]
fn every_command_has_help_that_says_what_it_is_for() {
    let mut all = Vec::new();
    paths(&Cli::command(), &[], &mut all);
    assert!(all.len() > 20, "{all:?}");
    for path in all {
        let output = run(path.iter().map(String::as_str).chain(["--help"]));
        assert_eq!((output.code, output.stderr.as_str()), (0, ""), "{path:?}");
        assert!(output.stdout.contains("Usage: portcullis"), "{path:?}: {}", output.stdout);
        let about = output.stdout.lines().next().unwrap();
        assert!(about.len() > 10 && !about.starts_with("Usage"), "{path:?} says nothing of itself");
        assert!(output.stdout.contains("--json"), "{path:?}");
    }
}

#[test]
fn help_lists_every_exit_code() {
    let help = run(["--help"]).stdout;
    for exit in Exit::ALL {
        let start = format!("  {:<4}", exit.code());
        assert!(help.lines().any(|line| line.starts_with(&start)), "{exit:?} in {help}");
    }
}

#[test]
fn a_wrong_command_line_is_told_apart_from_other_failures() {
    for arguments in [
        &["statsu"][..],
        &[],
        &["sessions"],
        &["sessions", "kill"],
        &["sessions", "kill", "1", "--all"],
        &["sessions", "watch", "--interval", "2"],
        &["ticket", "issue"],
        &["ticket", "issue", "--target", "no-port"],
        &["ticket", "redeem"],
        &["connect"],
        &["connect", "--gateway", "gw"],
        &["connect", "--gateway", "gw", "--ticket", "-"],
        &["connect", "--gateway", "gw", "--ticket", "x", "a:1"],
        &["connect", "--gateway", "gw", "--via", "cgp", "a:1"],
        &["connect", "--gateway", "gw", "--plain", "--insecure", "a:1"],
        &["connect", "--gateway", "gw", "--proxy-user", "u", "a:1"],
        &["logs", "level", "loud"],
        &["forward"],
        &["forward", "drain"],
        &["xdp"],
        &["ports", "test", "edge", "192.0.2.1", "tcp"],
        &["ports", "test", "wan", "192.0.2.1", "tcp", "1"],
        &["completions", "tcl"],
    ] {
        let output = run(arguments);
        assert_eq!(output.code, 64, "{arguments:?}: {output:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{arguments:?}: {output:?}");
    }
}

#[test]
fn the_version_is_an_answer() {
    let output = run(["--version"]);
    assert_eq!(output.code, 0);
    assert!(output.stdout.contains(env!("CARGO_PKG_VERSION")), "{output:?}");
}

#[test]
fn completions_and_manual_pages_are_made() {
    for shell in ["bash", "zsh", "fish"] {
        let output = run(["completions", shell]);
        assert!(output.code == 0 && output.stdout.contains("portcullis"), "{shell}");
    }
    assert!(run(["man"]).stdout.contains(".TH portcullis 1"));
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("man1");
    assert_eq!(run(["man", "--out", out.to_str().unwrap()]).code, 0);
    let page = std::fs::read_to_string(out.join("portcullis-sessions-watch.1")).unwrap();
    assert!(page.contains("interval"), "{page}");
}

#[test]
fn a_reader_that_has_gone_away_is_no_error() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut child = command(["completions", "bash"]);
    let output = {
        child.stdout(writer).stderr(std::process::Stdio::piped());
        crate::program::collect(child.spawn().unwrap())
    };
    assert_eq!((output.code, output.stderr.as_str()), (0, ""));
}

#[test]
fn an_output_that_is_full_is_an_error() {
    let mut child = command(["completions", "bash"]);
    child.stdout(std::fs::File::options().write(true).open("/dev/full").unwrap());
    child.stderr(std::process::Stdio::piped());
    let output = crate::program::collect(child.spawn().unwrap());
    assert_eq!(output.code, 70, "{output:?}");
    assert!(output.stderr.contains("standard output"), "{output:?}");
}

#[test]
fn without_a_daemon_every_command_that_needs_one_says_so_and_how_to_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("none.sock");
    for arguments in [
        &["status"][..],
        &["sessions", "list"],
        &["sessions", "watch", "--count", "1"],
        &["sta", "list"],
        &["ticket", "issue", "--target", "a:1"],
        &["config", "show"],
        &["reload"],
        &["metrics"],
        &["xdp", "status"],
        &["xdp", "bans", "list"],
        &["logs", "level"],
    ] {
        let socket = ["--socket", socket.to_str().unwrap()];
        let output = run(socket.iter().chain(arguments));
        assert_eq!(output.code, 69, "{arguments:?}: {output:?}");
        for word in ["none.sock", "no such file", "portcullisd", "--socket"] {
            assert!(output.stderr.contains(word), "{word}: {output:?}");
        }
        let output = run(socket.iter().chain(&["--json"]).chain(arguments));
        let error: serde_json::Value = serde_json::from_str(output.stderr.trim_end()).unwrap();
        assert_eq!(error["error"]["code"], "unavailable", "{arguments:?}");
    }
}

#[test]
fn a_ticket_from_standard_input_is_never_shown() {
    let mut redeem = command(["--socket", "/nonexistent/sock", "ticket", "redeem", "-"]);
    redeem.env("RUST_BACKTRACE", "1");
    let output = finish(redeem, b";40;STA123456789;not-a-ticket-but-secret\n");
    assert_eq!(output.code, 65, "{output:?}");
    assert!(!output.stderr.contains("secret"), "{output:?}");
}
