//! Commands that ask a daemon, against one that gives prepared answers: what is asked, what is printed, exit codes.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use nix::sys::signal::Signal;
use portcullis::ctl::protocol::{
    Answer, Command, ConfigStatus, ErrorCode, Failure, Issued, Killed, ListenerStatus, LogLevel, MetricsText,
    Redeemed, ReloadStatus, Reloaded, SessionRow, StaRow, StaSummary, Status, TicketText, Use,
};
use portcullis::ctl::server::{Bounds, bind, serve};
use portcullis::role::Caller;
use serde_json::{Value, json};

use crate::program::{Output, TICKET, command, finish, run, signal, wait};

struct Daemon {
    _directory: tempfile::TempDir,
    socket: PathBuf,
    asked: Arc<Mutex<Vec<Command>>>,
}

impl Daemon {
    fn answering(answer: impl Fn(&Command) -> Result<Value, Failure> + Send + Sync + 'static) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("sock");
        let listener = bind(&socket).unwrap();
        let asked: Arc<Mutex<Vec<Command>>> = Arc::default();
        let (answer, log) = (Arc::new(answer), Arc::clone(&asked));
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let answer = move |_: Caller, command: Command| {
                let answered = Answer::from(answer(&command));
                log.lock().unwrap().push(command);
                std::future::ready(answered)
            };
            runtime.block_on(serve(listener, Bounds::default(), answer)).unwrap();
        });
        Self { _directory: directory, socket, asked }
    }

    fn command(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = command(arguments);
        command.env("PORTCULLIS_SOCKET", &self.socket);
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        finish(self.command(arguments), b"")
    }

    fn asked(&self) -> Command {
        self.asked.lock().unwrap().last().cloned().unwrap()
    }
}

fn value(data: impl serde::Serialize) -> Result<Value, Failure> {
    Ok(serde_json::to_value(data).unwrap())
}

fn status() -> Status {
    Status {
        high_availability: None,
        version: "1.2.3".into(),
        state: "ready".into(),
        pid: 42,
        uptime_seconds: 90_000,
        started: "2026-08-03T07:05:09.250Z".into(),
        workers: 4,
        listeners: vec![ListenerStatus {
            name: "edge".into(),
            kind: "gateway".into(),
            listen: vec!["0.0.0.0:443".into()],
            tls: true,
            server_tls: None,
            path: None,
            connections: 3,
            sessions: 2,
        }],
        sessions: Use { current: 2, limit: 9000 },
        connections: Use { current: 3, limit: 16_000 },
        handshakes: Use { current: 0, limit: 2000 },
        stas: StaSummary { total: 2, up: 1 },
        authority: None,
        config: ConfigStatus {
            path: "/etc/portcullis/portcullis.toml".into(),
            last_reload: Some(ReloadStatus {
                at: "2026-08-03T08:00:00.000Z".into(),
                ok: true,
                error: String::new(),
                restart: vec!["server.workers".into()],
            }),
        },
        ebpf: "attached (driver)".into(),
        relay_engine: "io_uring".into(),
        log_level: "info".into(),
        log_lines_lost: 7,
    }
}

fn row(n: u64) -> SessionRow {
    SessionRow {
        id: format!("{n:016x}"),
        state: "established".into(),
        listener: "edge".into(),
        protocol: "cgp".into(),
        source: "192.0.2.1:50000".into(),
        user: Some("ann".into()),
        application: Some("A very long name of an application \u{1b}[2J that goes on".into()),
        target: "10.0.0.9:2598".into(),
        started: "2026-08-03T07:05:09.250Z".into(),
        duration_ms: 61_000,
        bytes_up: 1500,
        bytes_down: 2_500_000,
        reason: None,
    }
}

fn sta(state: &str) -> StaRow {
    StaRow {
        name: "sta1".into(),
        url: "http://ddc1/scripts/ctxsta.dll".into(),
        state: state.into(),
        authority_id: Some("STA123456789".into()),
        last_error: None,
        last_check_age_ms: Some(1000),
        latency_ms: Some(2.5),
        requests: 3,
        failures: 0,
    }
}

#[test]
fn status_is_for_people_and_with_json_for_programs() {
    let daemon = Daemon::answering(|_| value(status()));
    let output = daemon.run(&["status"]);
    assert_eq!((output.code, output.stderr.as_str()), (0, ""));
    for fact in [
        "ready",
        "1.2.3",
        "1d 1h",
        "2 of 9000",
        "1 of 2 up",
        "edge",
        "server.workers",
        "7 lines lost",
        "attached (driver)",
    ] {
        assert!(output.stdout.contains(fact), "{fact} in {}", output.stdout);
    }
    let json = daemon.run(&["--json", "status"]).json();
    assert_eq!(json, serde_json::to_value(status()).unwrap());
    assert_eq!(daemon.run(&["status", "--json"]).json(), json);
}

#[test]
fn a_table_fits_the_width_that_it_is_given_and_has_no_colours_in_a_pipe() {
    let daemon = Daemon::answering(|_| value([row(1), row(2)]));
    let mut list = daemon.command(&["sessions", "list"]);
    list.env("COLUMNS", "110");
    let output = finish(list, b"");
    assert_eq!(output.stdout.lines().count(), 3);
    assert!(output.stdout.lines().all(|line| line.chars().count() <= 110), "{}", output.stdout);
    assert!(!output.stdout.contains('\u{1b}'), "{:?}", output.stdout);
    assert!(
        output.stdout.contains("0000000000000001") && output.stdout.contains("1.5 kB"),
        "{}",
        output.stdout
    );
    assert!(daemon.run(&["sessions", "list"]).stdout.contains("that goes on"));
}

#[test]
fn filters_reach_the_daemon_and_json_is_a_list() {
    let daemon = Daemon::answering(|_| value([row(1)]));
    let list = ["sessions", "list", "--user", "ann", "--source", "192.0.2.0/24", "--ended", "--json"];
    assert_eq!(daemon.run(&list).json()[0]["bytes_down"], 2_500_000);
    let asked = serde_json::to_value(daemon.asked()).unwrap();
    let expected = json!({"cmd": "sessions-list", "user": "ann", "source": "192.0.2.0/24", "ended": true});
    assert_eq!(asked, expected);
}

#[test]
fn long_lists_are_fetched_page_by_page() {
    let daemon = Daemon::answering(|command| match command {
        Command::SessionsList(filter) if filter.after.is_none() => {
            value((0..10_000).map(row).collect::<Vec<_>>())
        }
        Command::SessionsList(filter) => {
            assert_eq!(filter.after.as_deref(), Some("000000000000270f"));
            value([row(10_000)])
        }
        other => panic!("{other:?}"),
    });
    assert_eq!(daemon.run(&["sessions", "list", "--json"]).json().as_array().unwrap().len(), 10_001);
}

#[test]
fn what_the_daemon_does_not_find_is_a_negative_answer() {
    let missing = || Failure::new(ErrorCode::NotFound, "there is no session 000000000000000a");
    let daemon = Daemon::answering(move |_| Err(missing()));
    for arguments in [&["sessions", "show", "a"][..], &["sessions", "kill", "a"], &["sta", "test", "x"]] {
        let output = daemon.run(arguments);
        assert_eq!(output.code, 1, "{output:?}");
        assert!(output.stdout.is_empty() && output.stderr.contains("there is no session"), "{output:?}");
    }
}

#[test]
fn each_failure_of_the_daemon_has_its_exit_code() {
    for (code, exit) in [
        (ErrorCode::NotFound, 1),
        (ErrorCode::Refused, 1),
        (ErrorCode::BadRequest, 65),
        (ErrorCode::Unavailable, 69),
        (ErrorCode::Internal, 70),
    ] {
        let daemon = Daemon::answering(move |_| Err(Failure::new(code, "the words")));
        let output = daemon.run(&["reload"]);
        assert_eq!(output.code, exit, "{output:?}");
        assert_eq!(output.stderr, "portcullis: the words\n");
    }
}

#[test]
fn sessions_are_killed_one_by_one_by_user_or_all_together() {
    let daemon = Daemon::answering(|_| value(Killed { killed: 3, revoked: None }));
    for (arguments, expected) in [
        (&["sessions", "kill", "0a"][..], json!({"cmd": "session-kill", "id": "0a"})),
        (&["sessions", "kill", "--user", "ann"], json!({"cmd": "session-kill", "user": "ann"})),
        (&["sessions", "kill", "--all"], json!({"cmd": "session-kill", "all": true})),
    ] {
        assert_eq!(daemon.run(arguments).stdout, "3 sessions are told to end\n");
        assert_eq!(serde_json::to_value(daemon.asked()).unwrap(), expected);
    }
}

#[test]
fn an_authority_that_is_down_fails_its_test() {
    for (state, exit) in [("up", 0), ("down", 1), ("unknown", 1)] {
        let daemon = Daemon::answering(move |_| value(sta(state)));
        assert_eq!(daemon.run(&["sta", "test", "sta1"]).code, exit);
    }
    let daemon = Daemon::answering(|_| value([sta("up")]));
    assert!(daemon.run(&["sta", "list"]).stdout.contains("STA123456789"));
    assert_eq!(daemon.run(&["sta", "list", "--json"]).json()[0]["state"], "up");
}

#[test]
fn a_ticket_is_printed_alone_or_with_its_facts() {
    let daemon = Daemon::answering(|_| {
        value(Issued {
            ticket: TicketText::new(TICKET.into()),
            authority_id: "STA123456789".into(),
            refreshable: false,
            life_seconds: 90,
        })
    });
    let arguments = ["ticket", "issue", "--target", "VDA1:22", "--user", "ann", "--life", "90s"];
    assert_eq!(daemon.run(&arguments).stdout, format!("{TICKET}\n"));
    let asked = serde_json::to_value(daemon.asked()).unwrap();
    let expected = json!({"cmd": "ticket-issue", "target": "vda1:22", "user": "ann", "refreshable": false, "life_seconds": 90});
    assert_eq!(asked, expected);
    let json = daemon.run(&[&arguments[..], &["--format", "json"]].concat()).json();
    assert_eq!((&json["ticket"], &json["life_seconds"]), (&json!(TICKET), &json!(90)));
}

#[test]
fn a_ticket_is_taken_from_the_argument_the_variable_or_standard_input() {
    let daemon = Daemon::answering(|_| value(Redeemed { target: Some("10.0.0.9:22".into()), ..redeemed() }));
    let expected = Command::TicketRedeem { ticket: TicketText::new(TICKET.into()) };
    assert!(daemon.run(&["ticket", "redeem", TICKET]).stdout.contains("10.0.0.9:22"));
    assert_eq!(daemon.asked(), expected);
    let mut redeem = daemon.command(&["ticket", "redeem", "--json"]);
    redeem.env("PORTCULLIS_TICKET", TICKET);
    assert_eq!(finish(redeem, b"").json()["target"], "10.0.0.9:22");
    assert_eq!(daemon.asked(), expected);
    let redeem = daemon.command(&["ticket", "redeem", "-"]);
    assert_eq!(finish(redeem, format!("{TICKET}\n").as_bytes()).code, 0);
    assert_eq!(daemon.asked(), expected);
}

fn redeemed() -> Redeemed {
    Redeemed { target: None, cgp: None, user: None, domain: None, application: None }
}

#[test]
fn reload_metrics_and_levels_are_passed_on() {
    let daemon = Daemon::answering(|command| match command {
        Command::Reload {} => value(Reloaded {
            live: vec!["limits".into()],
            restart: vec!["dns".into()],
            confirm_within_seconds: None,
        }),
        Command::Metrics {} => value(MetricsText { text: "a 1\n".into() }),
        Command::LogLevel { level } => {
            value(LogLevel { level: level.clone().unwrap_or_else(|| "info".into()) })
        }
        Command::ConfigShow {} => value(json!({"server": {"workers": 2}})),
        other => panic!("{other:?}"),
    });
    let reload = daemon.run(&["reload"]).stdout;
    assert!(
        reload.contains("in force now:\n  limits") && reload.contains("restart of portcullisd:\n  dns"),
        "{reload}"
    );
    assert_eq!(daemon.run(&["metrics"]).stdout, "a 1\n");
    assert_eq!(daemon.run(&["logs", "level", "debug"]).stdout, "debug\n");
    assert_eq!(daemon.run(&["logs", "level", "--json"]).json(), json!({"level": "info"}));
    assert_eq!(daemon.run(&["config", "show", "--json"]).json(), json!({"server": {"workers": 2}}));
}

#[test]
fn watch_prints_a_line_per_look_outside_a_terminal() {
    let daemon = Daemon::answering(|_| value([row(1), row(2)]));
    let watch = ["sessions", "watch", "--interval", "100ms", "--count", "2"];
    let output = daemon.run(&watch);
    assert_eq!(output.stdout.lines().count(), 2, "{output:?}");
    assert!(
        output.stdout.contains("2 sessions, 2 established, 3.0 kB up") && !output.stdout.contains('\u{1b}')
    );
    let lines = daemon.run(&[&watch[..], &["--json"]].concat()).stdout;
    for line in lines.lines() {
        let look: Value = serde_json::from_str(line).unwrap();
        assert_eq!(look["sessions"][1]["id"], "0000000000000002");
    }
}

#[test]
fn watch_ends_well_on_control_c() {
    use std::io::{BufRead as _, BufReader};
    for interrupt in [Signal::SIGINT, Signal::SIGTERM] {
        let daemon = Daemon::answering(|_| value(json!([])));
        let mut watch = daemon.command(&["sessions", "watch", "--interval", "1h"]);
        let mut child = watch.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.next().unwrap().unwrap().contains("0 sessions"));
        signal(&child, interrupt);
        assert_eq!(wait(&mut child), 0);
    }
}

#[test]
fn the_socket_of_the_configuration_is_found() {
    let daemon = Daemon::answering(|_| value(LogLevel { level: "info".into() }));
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("portcullis.toml");
    let text = format!(
        "[control]\nsocket = {:?}\n[[listener]]\nname = \"p\"\nkind = \"socks\"\nlisten = [\"127.0.0.1:1080\"]\n\
         [[listener.allow]]\nto = [\"10.0.0.0/8\"]\nports = [22]\n",
        daemon.socket
    );
    std::fs::write(&config, text).unwrap();
    let output = run(["--config", config.to_str().unwrap(), "logs", "level"]);
    assert_eq!((output.code, output.stdout.as_str()), (0, "info\n"), "{output:?}");
}

#[test]
fn what_does_not_speak_the_protocol_is_told_apart() {
    use std::io::Write as _;
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    std::thread::spawn(move || {
        for (stream, answer) in listener.incoming().zip([&b"HTTP/1.1 400 Bad Request\r\n"[..], b""]) {
            stream.unwrap().write_all(answer).unwrap();
        }
    });
    for _ in 0..2 {
        let output = run(["--socket", socket.to_str().unwrap(), "status"]);
        assert_eq!(output.code, 69, "{output:?}");
        assert!(output.stderr.contains("sock"), "{output:?}");
    }
}
