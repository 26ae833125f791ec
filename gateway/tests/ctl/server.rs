use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use portcullis::ctl::client::{Client, ClientError};
use portcullis::ctl::protocol::{Answer, Command, ErrorCode, LogLevel, REQUEST_MAX_BYTES};
use portcullis::ctl::server::{BindError, Bounds, bind, serve};
use portcullis::role::Caller;
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(20);

/// A server that answers `log-level` with the level it was given, on a thread that ends with the process.
struct Server {
    _directory: tempfile::TempDir,
    socket: PathBuf,
}

fn echo_server(bounds: Bounds) -> Server {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("run/control.sock");
    let listener = bind(&socket).unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let answer = |_: Caller, command: Command| async move {
            let level = match command {
                Command::LogLevel { level } => level.unwrap_or_default(),
                other => format!("{other:?}"),
            };
            Answer::from(Ok(json!({ "level": level })))
        };
        runtime.block_on(serve(listener, bounds, answer)).unwrap();
    });
    Server { _directory: directory, socket }
}

fn connect(socket: &Path) -> UnixStream {
    let stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn read_line(stream: &UnixStream) -> Value {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
}

/// The error code of one answer line, and then nothing but the end, which is a reset where the server has not read
/// everything (unix(7)).
fn refused(stream: UnixStream) -> Value {
    let mut lines = BufReader::new(stream).lines();
    let text = lines.next().unwrap().unwrap();
    assert!(!matches!(lines.next(), Some(Ok(_))));
    let answer: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text:?}"));
    assert_eq!(answer["ok"], false);
    answer["error"]["code"].clone()
}

#[test]
fn a_client_gets_the_answer_to_its_command() {
    let server = echo_server(Bounds::default());
    let mut client = Client::connect(&server.socket).unwrap();
    for level in ["debug", "info"] {
        let command = Command::LogLevel { level: Some(level.into()) };
        let answer: LogLevel = client.call(&command).unwrap();
        assert_eq!(answer.level, level);
    }
}

#[test]
fn only_the_owner_may_open_the_socket() {
    let server = echo_server(Bounds::default());
    let mode = std::fs::metadata(&server.socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let left: Vec<_> = std::fs::read_dir(server.socket.parent().unwrap()).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[test]
fn a_wrong_version_is_told_which_is_right_and_the_connection_goes_on() {
    let server = echo_server(Bounds::default());
    let mut stream = connect(&server.socket);
    stream.write_all(b"{\"v\":2,\"cmd\":\"status\"}\n").unwrap();
    let answer = read_line(&stream);
    assert_eq!(answer["error"]["code"], "bad-request");
    assert!(answer["error"]["message"].as_str().unwrap().contains("\"v\":1"), "{answer}");
    stream.write_all(b"{\"v\":1,\"cmd\":\"log-level\",\"level\":\"warn\"}\n").unwrap();
    assert_eq!(read_line(&stream), json!({"ok": true, "data": {"level": "warn"}}));
}

#[test]
fn requests_that_arrive_together_or_in_pieces_are_answered_in_order() {
    let server = echo_server(Bounds::default());
    let mut stream = connect(&server.socket);
    let requests: String =
        (0..100).map(|n| format!("{{\"v\":1,\"cmd\":\"log-level\",\"level\":\"{n}\"}}\n")).collect();
    for piece in requests.as_bytes().chunks(7) {
        stream.write_all(piece).unwrap();
    }
    let mut lines = BufReader::new(stream).lines();
    for n in 0..100 {
        let answer: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(answer["data"]["level"], n.to_string());
    }
}

#[test]
fn a_last_line_without_its_newline_counts() {
    let server = echo_server(Bounds::default());
    let mut stream = connect(&server.socket);
    stream.write_all(b"{\"v\":1,\"cmd\":\"log-level\",\"level\":\"x\"}").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(read_line(&stream)["data"]["level"], "x");
}

#[test]
fn a_line_at_the_limit_is_read_and_one_past_it_ends_the_connection() {
    let server = echo_server(Bounds::default());
    let line = |length: usize| {
        let empty = "{\"v\":1,\"cmd\":\"log-level\",\"level\":\"\"}\n";
        let filler = "x".repeat(length - empty.len());
        format!("{{\"v\":1,\"cmd\":\"log-level\",\"level\":\"{filler}\"}}\n")
    };
    let mut stream = connect(&server.socket);
    stream.write_all(line(REQUEST_MAX_BYTES).as_bytes()).unwrap();
    assert_eq!(read_line(&stream)["ok"], true);
    let mut stream = connect(&server.socket);
    // The server may close before all is written.
    drop(stream.write_all(line(REQUEST_MAX_BYTES + 1).as_bytes()));
    assert_eq!(refused(stream), "bad-request");
}

#[test]
fn a_line_that_never_ends_is_cut_off_at_the_limit() {
    let server = echo_server(Bounds { request_bytes: 100, ..Bounds::default() });
    let mut stream = connect(&server.socket);
    stream.write_all(&[b'x'; 100]).unwrap();
    assert_eq!(refused(stream), "bad-request");
}

#[test]
fn one_connection_too_many_is_told_so_and_there_is_room_again_when_one_ends() {
    let server = echo_server(Bounds { connections: 2, ..Bounds::default() });
    let mut held: Vec<_> = (0..2).map(|_| Client::connect(&server.socket).unwrap()).collect();
    let level = Command::LogLevel { level: Some("info".into()) };
    for client in &mut held {
        client.call::<LogLevel>(&level).unwrap();
    }
    let error = Client::connect(&server.socket).unwrap().call::<LogLevel>(&level).unwrap_err();
    assert!(
        matches!(&error, ClientError::Failure(failure) if failure.code == ErrorCode::Unavailable),
        "{error}"
    );
    drop(held.pop());
    let deadline = Instant::now() + PATIENCE;
    while Client::connect(&server.socket).unwrap().call::<LogLevel>(&level).is_err() {
        assert!(Instant::now() < deadline, "there is no room again");
    }
}

#[test]
fn a_silent_connection_is_closed() {
    let server = echo_server(Bounds { idle: Duration::from_millis(20), ..Bounds::default() });
    let mut stream = connect(&server.socket);
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty());
}

#[test]
fn a_client_that_does_not_read_its_answers_is_cut_off() {
    let server = echo_server(Bounds { idle: Duration::from_millis(20), ..Bounds::default() });
    let mut stream = connect(&server.socket);
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    let line = format!("{{\"v\":1,\"cmd\":\"log-level\",\"level\":\"{}\"}}\n", "x".repeat(60_000));
    let error = (0..1000).find_map(|_| stream.write_all(line.as_bytes()).err());
    assert_eq!(error.unwrap().kind(), std::io::ErrorKind::BrokenPipe);
}

#[test]
fn a_socket_that_nobody_listens_on_is_replaced_and_a_live_one_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("control.sock");
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    assert!(socket.exists());
    let live = bind(&socket).unwrap();
    assert!(matches!(bind(&socket), Err(BindError::InUse(_))));
    drop(live);
    assert!(bind(&socket).is_ok());
}

#[test]
fn what_is_no_socket_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("control.sock");
    std::fs::write(&file, "precious").unwrap();
    assert!(matches!(bind(&file), Err(BindError::NotASocket(_))));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
}

#[test]
fn a_path_that_is_too_long_for_a_socket_is_an_error_that_names_it() {
    let directory = tempfile::tempdir().unwrap();
    let error = bind(&directory.path().join("x".repeat(120))).unwrap_err();
    assert!(error.to_string().contains("xxx"), "{error}");
}

#[test]
fn every_line_of_the_document_is_a_request_that_the_protocol_knows() {
    let document = include_str!("../../docs/CONTROL.md");
    let requests: Vec<_> = document.lines().filter(|line| line.starts_with("{\"v\"")).collect();
    let mut commands = std::collections::BTreeSet::new();
    for request in requests {
        let command =
            Command::from_line(request.as_bytes()).unwrap_or_else(|error| panic!("{request}: {error}"));
        let line: Value = serde_json::from_slice(&command.to_line()).unwrap();
        commands.insert(line["cmd"].as_str().unwrap().to_owned());
    }
    assert_eq!(commands.len(), 73, "{commands:?}");
}
