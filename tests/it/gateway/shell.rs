//! The operator's command line, driven for real through a pseudo-terminal.

use std::process::Command;

use portcullis_tests::backend;
use portcullis_tests::process;
use portcullis_tests::terminal::{Terminal, plain};
use portcullis_tests::wait::{self, PATIENCE};

use super::fixture::{Edge, text};

fn shell(edge: &Edge) -> Command {
    let mut command = edge.gateway.cli_command().unwrap();
    command.arg("shell");
    for name in ["NO_COLOR", "COLUMNS", "LINES"] {
        command.env_remove(name);
    }
    command
}

fn open(edge: &Edge) -> Terminal {
    let mut terminal = Terminal::start(&shell(edge), 100, 24).unwrap();
    terminal.expect("# ").unwrap();
    terminal
}

/// One line, as sshd runs it.
fn once(edge: &Edge, line: &str) -> process::Output {
    let mut command = shell(edge);
    command.args(["-c", line]);
    process::run(&mut command, PATIENCE).unwrap()
}

#[test]
fn a_line_over_ssh_does_what_the_program_does() {
    let (edge, server) = (Edge::start(), backend::echo().unwrap());
    let mut live = edge.session(server.address());
    let listed = once(&edge, "show sessions --json").ok().unwrap();
    let rows: serde_json::Value = serde_json::from_str(&listed.stdout).unwrap();
    let id = text(&rows[0], "id");
    assert_eq!(once(&edge, "show sessions | match established | count").ok().unwrap().stdout, "1 lines\n");
    once(&edge, &format!("kill session {id}")).ok().unwrap();
    edge.wait_for_sessions(0);
    drop(live.echo(b"gone"));
}

#[test]
fn under_its_name_as_a_login_shell_the_program_is_nothing_else() {
    let edge = Edge::start();
    let name = edge.gateway.dir().join("portcullis-shell");
    std::os::unix::fs::symlink(process::binary("portcullis").unwrap(), &name).unwrap();
    let run = |line: &str| {
        let mut command = Command::new(&name);
        command.args(["-c", line]).env("PORTCULLIS_SOCKET", &edge.gateway.control().socket);
        process::run(&mut command, PATIENCE).unwrap()
    };
    assert!(run("show status").ok().unwrap().stdout.contains("ready"));
    for line in [
        "id",
        "sh -c id",
        "show status; id",
        "show status && id",
        "$(id)",
        "/bin/sh",
        "internal-sftp",
        "scp -t x",
    ] {
        let output = run(line);
        assert!(!output.success() && !output.stdout.contains("uid="), "{line}: {output:?}");
    }
}

#[test]
fn as_a_forced_command_it_runs_what_the_client_asked_for() {
    let edge = Edge::start();
    let mut command = shell(&edge);
    command.env("SSH_ORIGINAL_COMMAND", "show system --json");
    let output = process::run(&mut command, PATIENCE).unwrap().ok().unwrap();
    let system: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    assert!(system["memory_total_mib"].as_u64().unwrap() > 0);
    let mut command = shell(&edge);
    let output = process::run(command.env("SSH_ORIGINAL_COMMAND", "sh -c id"), PATIENCE).unwrap();
    assert!(!output.success() && !output.stdout.contains("uid="), "{output:?}");
}

#[test]
fn commands_keys_and_live_values_are_completed() {
    let (edge, server) = (Edge::start(), backend::echo().unwrap());
    let mut live = edge.session(server.address());
    let id = text(&edge.gateway.control().sessions().unwrap()[0], "id");
    let mut terminal = open(&edge);
    terminal.send("kil\tsession \t").unwrap();
    terminal.expect(&format!("kill session {id}")).unwrap();
    terminal.send("\r").unwrap();
    terminal.expect("is told to end").unwrap();
    edge.wait_for_sessions(0);
    drop(live.echo(b"gone"));
    terminal.send("configure\r").unwrap();
    terminal.expect("[configure]# ").unwrap();
    terminal.send("set lim\t").unwrap();
    terminal.expect("set limits.").unwrap();
    terminal.send("handshake_\t 7s\r").unwrap();
    terminal.send("set listener.e\tpermit_l\tf\t\r").unwrap();
    terminal.expect("permit_loopback false").unwrap();
    terminal.send("show | compare\r").unwrap();
    terminal.expect("+permit_loopback = false").unwrap();
    terminal.expect("+handshake_timeout = \"7s\"").unwrap();
}

#[test]
fn a_question_mark_helps_and_keeps_the_line() {
    let edge = Edge::start();
    let mut terminal = open(&edge);
    terminal.send("show se?").unwrap();
    let help = terminal.expect("sessions, oldest first").unwrap();
    assert!(help.contains("one session") && !help.contains("metrics"), "{help}");
    terminal.expect("# show se").unwrap();
    // What follows is behind it, and the line is done.
    terminal.send("ssions\r").unwrap();
    terminal.expect("PROTOCOL").unwrap();
    terminal.expect("# ").unwrap();
    // Up brings it back.
    terminal.send("\x1b[A\r").unwrap();
    terminal.expect("PROTOCOL").unwrap();
}

#[test]
fn configure_mode_goes_from_a_place_to_a_commit() {
    let edge = Edge::start();
    let mut terminal = open(&edge);
    let mut say = |line: &str, then: &str| {
        terminal.send(&format!("{line}\r")).unwrap();
        terminal.expect(then).unwrap()
    };
    say("configure", "[configure]# ");
    say("edit listener.edge", "[configure listener.edge]# ");
    say("set allow_from 127.0.0.0/8,::1/128", "[configure listener.edge]# ");
    let shown = say("show", "[configure listener.edge]# ");
    assert!(shown.contains("127.0.0.0/8"), "{shown}");
    say("up", "[configure]# ");
    say("set limits.sesions 5", "did you mean `sessions`");
    say("set limits.sessions 600", "[configure]# ");
    say("commit confirm 10 -m \"tighter, at last\"", "unless it is confirmed");
    say("confirm", "stays in force");
    say("run show history", "tighter, at last");
    let text = std::fs::read_to_string(edge.gateway.config_file()).unwrap();
    assert!(text.contains("::1/128") && text.contains("600"), "{text}");
    terminal.expect("[configure]# ").unwrap();
    // The end of input leaves one mode after the other.
    terminal.send("\x04").unwrap();
    terminal.expect("# ").unwrap();
    terminal.send("show version\r").unwrap();
    terminal.expect("portcullis 0.").unwrap();
    terminal.expect("# ").unwrap();
    terminal.send("\x04").unwrap();
    assert!(terminal.end().unwrap().success());
}

#[test]
fn long_texts_come_in_pages_and_tables_fit_the_terminal() {
    let edge = Edge::start();
    let mut terminal = Terminal::start(&shell(&edge), 70, 12).unwrap();
    terminal.expect("# ").unwrap();
    terminal.send("show metrics\r").unwrap();
    terminal.expect("-- more").unwrap();
    terminal.send(" ").unwrap();
    terminal.expect("-- more").unwrap();
    terminal.send("q").unwrap();
    terminal.expect("# ").unwrap();
    terminal.send("terminal pager off\rshow status\r").unwrap();
    let status = terminal.expect("LISTENER").unwrap();
    assert!(status.lines().all(|line| line.chars().count() <= 90), "{status}");
    terminal.expect("# ").unwrap();
    terminal.send("exit\r").unwrap();
    assert!(terminal.end().unwrap().success());
}

#[test]
fn colours_can_be_switched_off() {
    let edge = Edge::start();
    let mut terminal = open(&edge);
    terminal.send("show status | no-more\r").unwrap();
    terminal.expect("log level").unwrap();
    terminal.send("terminal colour off\rshow status\r").unwrap();
    terminal.expect("terminal colour off").unwrap();
    wait::until(PATIENCE, "the status", || plain(terminal.raw().as_bytes()).contains("log level")).unwrap();
    assert!(!terminal.raw().contains("\u{1b}[32m"), "{:?}", terminal.raw());
}

#[test]
fn keys_that_stop_programs_do_not_leave_the_shell() {
    let edge = Edge::start();
    let mut terminal = open(&edge);
    terminal.send("monitor sessions\r").unwrap();
    terminal.expect("established").unwrap();
    terminal.send("\x03").unwrap();
    terminal.expect("# ").unwrap();
    terminal.send("\x1ashow version\r").unwrap();
    terminal.expect("portcullis 0.").unwrap();
    for keys in ["half a line\x03", "\x1c"] {
        terminal.expect("# ").unwrap();
        terminal.send(keys).unwrap();
    }
    terminal.expect("# ").unwrap();
    terminal.send("!sh\r").unwrap();
    terminal.expect("unknown command").unwrap();
    terminal.send("exit\r").unwrap();
    assert!(terminal.end().unwrap().success());
}

#[test]
fn lines_from_a_pipe_stop_at_the_first_that_fails() {
    let edge = Edge::start();
    let mut command = shell(&edge);
    let lines = "configure\nset limits.sessions 321\nset nonsense 1\ncommit\n";
    let output = process::run_with_input(&mut command, lines.as_bytes(), PATIENCE).unwrap();
    assert!(!output.success());
    assert!(!std::fs::read_to_string(edge.gateway.config_file()).unwrap().contains("321"));
    let lines = "configure\ndiscard\nset limits.sessions 321\ncommit\n";
    process::run_with_input(&mut shell(&edge), lines.as_bytes(), PATIENCE).unwrap().ok().unwrap();
    assert!(std::fs::read_to_string(edge.gateway.config_file()).unwrap().contains("321"));
}
