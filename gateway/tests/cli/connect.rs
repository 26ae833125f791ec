//! `portcullis connect` against gateways that are played: what it says to them, what it makes of their answers, and
//! that half-closed connections stay half-closed.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;

use crate::gateway::{Duplex, Gateway, Pki, echo, head, socks_reply, socks_request, socks_target, take};
use crate::program::{Output, PATIENCE, TICKET, collect, command, finish, run, signal, text, wait};

fn socks(stream: &mut dyn Duplex) {
    let (host, _) = socks_request(stream);
    assert_eq!(host, TICKET);
    socks_reply(stream, 0);
    echo(stream);
}

/// `connect --plain` to a gateway, with the ticket in the environment.
fn plain(gateway: &Gateway, more: &[&str]) -> Command {
    let mut connect = command(["connect", "--plain", "--gateway", &gateway.name()]);
    connect.args(more).env("PORTCULLIS_TICKET", TICKET);
    connect
}

fn to_server(gateway: &Gateway, more: &[&str]) -> Output {
    let first = ["connect", "--plain", "--gateway", &gateway.name(), "vda1.example:22"];
    finish(command(first.iter().chain(more)), b"hello")
}

#[test]
fn a_ticket_opens_a_session_over_socks_inside_tls() {
    let pki = Pki::new();
    let gateway = Gateway::tls(&pki, socks);
    let name = format!("localhost:{}", gateway.address.port());
    let mut connect = command(["connect", "--gateway", &name, "--ca", text(&pki.ca())]);
    connect.env("PORTCULLIS_TICKET", TICKET);
    let sent = vec![b'x'; 3_000_000];
    let output = finish(connect, &sent);
    assert_eq!((output.code, output.stderr.as_str()), (0, ""));
    assert_eq!(output.stdout.as_bytes(), sent);
}

#[test]
fn a_certificate_is_trusted_only_by_whoever_says_so() {
    let pki = Pki::new();
    let gateway = Gateway::tls(&pki, socks);
    let name = format!("localhost:{}", gateway.address.port());
    let connect = |more: &[&str]| {
        let mut connect = command(["connect", "--gateway", &name]);
        connect.args(more).env("PORTCULLIS_TICKET", TICKET);
        finish(connect, b"hello")
    };
    let output = connect(&[]);
    assert_eq!(output.code, 69, "{output:?}");
    assert!(output.stderr.contains("not trusted") && output.stderr.contains("--ca"), "{output:?}");
    let output = connect(&["--ca", text(&pki.ca()), "--server-name", "other.example"]);
    assert_eq!(output.code, 69, "{output:?}");
    let output = connect(&["--insecure"]);
    assert_eq!((output.code, output.stdout.as_str()), (0, "hello"), "{output:?}");
    assert!(output.stderr.contains("warning"), "{output:?}");
    let output = connect(&["--ca", "/nonexistent.pem"]);
    assert_eq!(output.code, 65, "{output:?}");
}

#[test]
fn a_gateway_without_tls_is_told_apart() {
    let gateway = Gateway::plain(|stream| {
        take::<5>(stream);
        stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").unwrap();
        stream.finish();
    });
    let mut connect = command(["connect", "--gateway", &gateway.name()]);
    connect.env("PORTCULLIS_TICKET", TICKET);
    let output = finish(connect, b"");
    assert_eq!(output.code, 69, "{output:?}");
    assert!(output.stderr.contains("--plain"), "{output:?}");
}

#[test]
fn what_is_sent_after_our_end_still_arrives() {
    let gateway = Gateway::plain(|stream| {
        socks_request(stream);
        socks_reply(stream, 0);
        let mut received = String::new();
        stream.read_to_string(&mut received).unwrap();
        stream.write_all(format!("you said {received}").as_bytes()).unwrap();
        stream.finish();
    });
    let output = finish(plain(&gateway, &[]), b"hello");
    assert_eq!((output.code, output.stdout.as_str()), (0, "you said hello"));
}

#[test]
fn our_output_ends_when_the_server_ends_though_our_input_goes_on() {
    let (told, heard) = std::sync::mpsc::channel();
    let gateway = Gateway::plain(move |stream| {
        socks_request(stream);
        socks_reply(stream, 0);
        stream.write_all(b"bye").unwrap();
        stream.finish();
        let mut received = String::new();
        stream.read_to_string(&mut received).unwrap();
        told.send(received).unwrap();
    });
    let mut connect = plain(&gateway, &[]);
    let mut child = connect.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut output = String::new();
    child.stdout.take().unwrap().read_to_string(&mut output).unwrap();
    assert_eq!(output, "bye");
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"one more thing").unwrap();
    drop(stdin);
    assert_eq!(heard.recv_timeout(PATIENCE).unwrap(), "one more thing");
    assert_eq!(wait(&mut child), 0);
}

#[test]
fn bytes_that_come_with_the_consent_are_the_servers() {
    let gateway = Gateway::plain(|stream| {
        head(stream);
        stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\nearly").unwrap();
        echo(stream);
    });
    let output = finish(plain(&gateway, &["--via", "connect"]), b" bird");
    assert_eq!((output.code, output.stdout.as_str()), (0, "early bird"));
}

#[test]
fn connect_names_the_ticket_or_the_server() {
    let (told, heard) = std::sync::mpsc::channel();
    let gateway = Gateway::plain(move |stream| {
        told.send(head(stream)).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        stream.finish();
    });
    finish(plain(&gateway, &["--via", "connect"]), b"");
    let asked = heard.recv_timeout(PATIENCE).unwrap();
    assert!(asked.starts_with(&format!("CONNECT {TICKET}:1494 HTTP/1.1\r\n")), "{asked}");
    to_server(&gateway, &["--via", "connect"]);
    let asked = heard.recv_timeout(PATIENCE).unwrap();
    assert!(asked.starts_with("CONNECT vda1.example:22 HTTP/1.1\r\n"), "{asked}");
}

#[test]
fn each_refusal_over_socks_has_its_words_and_the_code_for_refusals() {
    for (code, words) in [
        (1, "general failure"),
        (2, "the ticket is not valid"),
        (4, "unreachable"),
        (5, "refused the connection"),
        (6, "in time"),
        (99, "SOCKS reply 99"),
    ] {
        let gateway = Gateway::plain(move |stream| {
            socks_request(stream);
            socks_reply(stream, code);
        });
        let output = finish(plain(&gateway, &[]), b"");
        assert_eq!(output.code, 76, "{output:?}");
        assert!(output.stderr.contains(words) && output.stdout.is_empty(), "{output:?}");
        assert!(!output.stderr.contains("0123456789ABCDEF"), "{output:?}");
    }
}

#[test]
fn a_refusal_over_connect_shows_the_gateways_words_without_its_control_characters() {
    let gateway = Gateway::plain(|stream| {
        head(stream);
        let page = "the policy\x1b[2J forbids that";
        let answer = format!("HTTP/1.1 403 Forbidden\r\nContent-Length: {}\r\n\r\n{page}", page.len());
        stream.write_all(answer.as_bytes()).unwrap();
    });
    let output = finish(plain(&gateway, &["--via", "connect"]), b"");
    assert_eq!(output.code, 76, "{output:?}");
    assert!(output.stderr.contains("403 Forbidden: the policy [2J forbids that"), "{output:?}");
}

#[test]
fn credentials_are_shown_where_they_are_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let password = directory.path().join("password");
    std::fs::write(&password, "s3cret\n").unwrap();
    let credentials = ["--proxy-user", "ann", "--proxy-password-file", text(&password)];
    for (status, code) in [(0, 0), (1, 76)] {
        let gateway = Gateway::plain(move |stream| {
            assert_eq!(take::<4>(stream), [5, 2, 0, 2]);
            stream.write_all(&[5, 2]).unwrap();
            assert_eq!(&take::<12>(stream), b"\x01\x03ann\x06s3cret");
            stream.write_all(&[1, status]).unwrap();
            if status == 0 {
                assert_eq!(socks_target(stream), ("vda1.example".into(), 22));
                socks_reply(stream, 0);
                echo(stream);
            }
        });
        let output = to_server(&gateway, &credentials);
        assert_eq!(output.code, code, "{output:?}");
        assert!(!output.stderr.contains("s3cret"));
    }
    let gateway = Gateway::plain(|stream| {
        let asked = head(stream);
        assert!(asked.contains("Proxy-Authorization: Basic YW5uOnMzY3JldA==\r\n"), "{asked}");
        stream.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n").unwrap();
    });
    let output = to_server(&gateway, &[&credentials[..], &["--via", "connect"]].concat());
    assert!(output.code == 76 && output.stderr.contains("407"), "{output:?}");
}

#[test]
fn a_proxy_that_wants_credentials_says_how_to_give_them() {
    let gateway = Gateway::plain(|stream| {
        take::<3>(stream);
        stream.write_all(&[5, 0xFF]).unwrap();
    });
    let output = to_server(&gateway, &[]);
    assert!(output.code == 76 && output.stderr.contains("--proxy-user"), "{output:?}");
}

#[test]
fn cgp_begins_with_the_ticket_and_its_refusal_is_silence() {
    let (told, heard) = std::sync::mpsc::channel();
    let gateway = Gateway::plain(move |stream| {
        let mut received = Vec::new();
        stream.read_to_end(&mut received).unwrap();
        told.send(received).unwrap();
        stream.finish();
    });
    let output = finish(plain(&gateway, &["--via", "cgp"]), b"hello");
    assert_eq!(output.code, 76, "{output:?}");
    let received = heard.recv_timeout(PATIENCE).unwrap();
    assert!(received.starts_with(b"\x1aCGP/01") && received.ends_with(b"hello"), "{received:?}");
    assert!(String::from_utf8_lossy(&received).contains(TICKET));
}

#[test]
fn a_gateway_that_is_not_there_or_does_not_answer_is_unavailable() {
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let mut connect = command(["connect", "--gateway", &gone]);
    connect.env("PORTCULLIS_TICKET", TICKET);
    let output = finish(connect, b"");
    assert!(output.code == 69 && output.stderr.contains(&gone), "{output:?}");
    let gateway = Gateway::plain(|stream| {
        // Until the client gives up.
        drop(stream.read_to_end(&mut Vec::new()));
    });
    let output = finish(plain(&gateway, &["--timeout", "100ms"]), b"");
    assert!(output.code == 69 && output.stderr.contains("100ms"), "{output:?}");
}

#[test]
fn a_gateway_that_hangs_up_instead_of_answering_has_refused() {
    let gateway = Gateway::plain(|stream| {
        take::<3>(stream);
    });
    let output = finish(plain(&gateway, &[]), b"");
    assert_eq!(output.code, 76, "{output:?}");
}

#[test]
fn a_session_that_is_cut_is_not_taken_for_one_that_ended() {
    let pki = Pki::new();
    let gateway = Gateway::tls(&pki, |stream| {
        socks_request(stream);
        socks_reply(stream, 0);
        stream.write_all(b"half a fi").unwrap();
        // Without close_notify.
    });
    let name = format!("localhost:{}", gateway.address.port());
    let mut connect = command(["connect", "--gateway", &name, "--ca", text(&pki.ca())]);
    connect.env("PORTCULLIS_TICKET", TICKET);
    let mut child =
        connect.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let stdin = child.stdin.take().unwrap();
    let output = collect(child);
    drop(stdin);
    assert_eq!((output.code, output.stdout.as_str()), (69, "half a fi"), "{output:?}");
}

#[test]
fn a_local_reader_that_goes_away_ends_it_quietly() {
    let gateway = Gateway::plain(|stream| {
        socks_request(stream);
        socks_reply(stream, 0);
        let flood = [0; 64 * 1024];
        while stream.write_all(&flood).is_ok() {}
    });
    let mut connect = plain(&gateway, &[]);
    let mut child =
        connect.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let _stdin = child.stdin.take();
    let mut first = [0; 10];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    drop(child.stdout.take());
    let output = collect(child);
    assert_eq!((output.code, output.stderr.as_str()), (0, ""));
}

#[test]
fn the_ticket_comes_from_a_file_a_command_or_an_ica_file() {
    let gateway = Gateway::plain(socks);
    let directory = tempfile::tempdir().unwrap();
    let (ticket, ica) = (directory.path().join("ticket"), directory.path().join("launch.ica"));
    std::fs::write(&ticket, format!("{TICKET}\n")).unwrap();
    let ica_arguments =
        ["ica", "--ticket", TICKET, "--gateway", &gateway.name(), "--no-cgp", "--out", text(&ica)];
    assert_eq!(run(ica_arguments).code, 0);
    let print = format!("echo '{TICKET}'");
    let name = gateway.name();
    for source in [
        &["--gateway", &name, "--ticket-file", text(&ticket)][..],
        &["--gateway", &name, "--ticket-command", &print],
        &["--gateway", &name, "--ticket", TICKET],
        &["--ica", text(&ica)],
    ] {
        let output = finish(command(["connect", "--plain"].iter().chain(source)), b"hello");
        assert_eq!((output.code, output.stdout.as_str()), (0, "hello"), "{source:?}: {output:?}");
    }
}

#[test]
fn a_source_without_a_ticket_is_bad_data() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "[A]\r\nAddress=10.0.0.9:1494\r\n").unwrap();
    for source in [
        &["--ticket-file", text(&file)][..],
        &["--ticket-file", "/nonexistent/file"],
        &["--ticket-command", "exit 3"],
        &["--ticket-command", "echo no ticket"],
        &["--ica", text(&file)],
    ] {
        let output = finish(command(["connect", "--gateway", "127.0.0.1:1"].iter().chain(source)), b"");
        assert_eq!(output.code, 65, "{source:?}: {output:?}");
    }
}

/// A running `connect --listen` and where it listens.
fn listening(mut connect: Command) -> (Child, String) {
    let mut child =
        connect.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let said: serde_json::Value = serde_json::from_str(&line).unwrap();
    (child, said["listening"].as_str().unwrap().to_owned())
}

fn exchange(address: &str, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(bytes).unwrap();
    stream.finish();
    let mut received = Vec::new();
    stream.read_to_end(&mut received).unwrap();
    received
}

#[test]
fn a_local_port_serves_one_connection_after_another_until_control_c() {
    let gateway = Gateway::plain(socks);
    let (mut child, address) = listening(plain(&gateway, &["--listen", "127.0.0.1:0", "--json"]));
    for text in [&b"first"[..], b"second"] {
        assert_eq!(exchange(&address, text), text);
    }
    signal(&child, Signal::SIGINT);
    assert_eq!(wait(&mut child), 0);
}

#[test]
fn a_refused_connection_to_the_local_port_leaves_the_others_alone() {
    let count = std::sync::atomic::AtomicUsize::new(0);
    let gateway = Gateway::plain(move |stream| {
        socks_request(stream);
        if count.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0 {
            socks_reply(stream, 2);
        } else {
            socks_reply(stream, 0);
            echo(stream);
        }
    });
    let (mut child, address) = listening(plain(&gateway, &["--listen", "127.0.0.1:0", "--json"]));
    let mut refused = TcpStream::connect(&address).unwrap();
    assert_eq!(refused.read(&mut [0; 1]).unwrap_or(0), 0);
    assert_eq!(exchange(&address, b"hello"), b"hello");
    signal(&child, Signal::SIGTERM);
    assert_eq!(wait(&mut child), 0);
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(said.contains("the gateway refused"), "{said}");
}

#[test]
fn a_local_port_that_is_taken_is_told() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let gateway = Gateway::plain(socks);
    let address = taken.local_addr().unwrap().to_string();
    let output = finish(plain(&gateway, &["--listen", &address]), b"");
    assert!(output.code == 69 && output.stderr.contains(&address), "{output:?}");
}
