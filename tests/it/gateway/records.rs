//! TLS records of live sessions, by the relay's own layer and by rustls, against `openssl s_client` and rustls.

use std::io::Write as _;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::Receiver;

use portcullis_tests::backend::{self, Service};
use portcullis_tests::speak::Speak as _;
use portcullis_tests::wait::PATIENCE;

use super::fixture::{Edge, OPENSSL_SUITES, lines_of, number, text, without_programs};

const LAYERS: [&str; 2] = ["own", "rustls"];

/// A listener whose TLS ends in an echo.
fn edge(layer: &str) -> (Edge, Service) {
    let server = backend::echo().unwrap();
    let keys = format!("target = \"{}\"\npermit_loopback = true", server.address());
    (Edge::of_kind("ssl-relay", &keys, &format!("[server]\nrecord_layer = \"{layer}\"")), server)
}

/// An interactive `openssl s_client`. Ends when dropped.
struct Talk {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
}

impl Talk {
    fn start(edge: &Edge, flags: &[&str]) -> Self {
        let mut openssl = Command::new("openssl");
        openssl.args(["s_client", "-verify_return_error", "-connect", &edge.at.to_string(), "-CAfile"]);
        openssl.arg(edge.ca()).args(flags);
        openssl.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = openssl.spawn().unwrap();
        let lines = lines_of(&mut child);
        let stdin = child.stdin.take().unwrap();
        Self { child, stdin, lines }
    }

    /// One line, in a record or as a command of `s_client`'s.
    fn say(&mut self, line: &str) {
        self.stdin.write_all(format!("{line}\n").as_bytes()).unwrap();
        self.stdin.flush().unwrap();
    }

    fn hear(&self, what: &str) {
        loop {
            let line = self.lines.recv_timeout(PATIENCE);
            if line.unwrap_or_else(|_| panic!("{what:?} was not said")).contains(what) {
                return;
            }
        }
    }

    fn echo(&mut self, line: &str) {
        self.say(line);
        self.hear(line);
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[test]
fn openssl_talks_in_every_suite() {
    if without_programs(&["openssl"]) {
        return;
    }
    for layer in LAYERS {
        let (edge, _server) = edge(layer);
        for flags in OPENSSL_SUITES {
            let mut talk = Talk::start(&edge, &flags);
            for line in ["hello", &"long ".repeat(1500), "bye"] {
                talk.echo(line);
            }
        }
    }
}

#[test]
fn openssl_updates_keys_with_and_without_request() {
    if without_programs(&["openssl"]) {
        return;
    }
    for layer in LAYERS {
        let (edge, _server) = edge(layer);
        let mut talk = Talk::start(&edge, &["-tls1_3"]);
        talk.echo("before");
        for (command, line) in [("K", "first"), ("k", "second"), ("K", "third"), ("K", "fourth")] {
            talk.say(command);
            talk.hear("KEYUPDATE");
            talk.echo(line);
        }
    }
}

#[test]
fn openssl_is_not_renegotiated_with() {
    if without_programs(&["openssl"]) {
        return;
    }
    for layer in LAYERS {
        let (edge, _server) = edge(layer);
        let mut talk = Talk::start(&edge, &["-tls1_2"]);
        talk.echo("before");
        talk.say("R");
        talk.hear("RENEGOTIATING");
        // What OpenSSL makes of the warning `no_renegotiation`.
        talk.hear("no renegotiation");
        assert_eq!(edge.end_reason(), "client_violation", "{layer}");
    }
}

#[test]
fn openssls_close_notify_is_an_orderly_end() {
    if without_programs(&["openssl"]) {
        return;
    }
    for layer in LAYERS {
        let (edge, _server) = edge(layer);
        let mut talk = Talk::start(&edge, &["-tls1_3"]);
        talk.echo("before");
        talk.say("Q");
        let record = edge.record();
        assert_eq!(text(&record, "reason"), "client_closed", "{layer}");
        assert_eq!((number(&record, "bytes_up"), number(&record, "bytes_down")), (7, 7));
    }
}

#[test]
fn a_renewal_of_keys_stays_unnoticed() {
    for layer in LAYERS {
        let (edge, server) = (Edge::with(&format!("[server]\nrecord_layer = \"{layer}\"")), backend::echo());
        let server = server.unwrap();
        let mut client = edge.session(server.address());
        for size in [1, 100, 20_000] {
            client.echo(&vec![b'x'; size]).unwrap();
            client.renew_keys().unwrap();
        }
        client.echo(b"still here").unwrap();
    }
}

#[test]
fn bytes_that_come_with_the_request_are_relayed() {
    for layer in LAYERS {
        let (edge, server) = (Edge::with(&format!("[server]\nrecord_layer = \"{layer}\"")), backend::echo());
        let server = server.unwrap();
        let mut client = edge.client();
        assert_eq!(client.socks(&edge.ticket(server.address()), 1494).unwrap(), 0);
        let many: Vec<u8> = (0..=u8::MAX).cycle().take(200_000).collect();
        client.echo(&many).unwrap();
        client.sender.finish().unwrap();
        assert_eq!(client.read_to_end().unwrap().0, b"");
    }
}

#[test]
fn damaged_records_end_the_session_with_an_alert() {
    for layer in LAYERS {
        let (edge, server) = (Edge::with(&format!("[server]\nrecord_layer = \"{layer}\"")), backend::echo());
        let server = server.unwrap();
        let mut client = edge.session(server.address());
        client.echo(b"good").unwrap();
        let mut tcp = client.tcp();
        tcp.write_all(&[&[0x17, 3, 3, 0, 32][..], &[0x5a; 32]].concat()).unwrap();
        let error = client.read_to_end().unwrap_err();
        assert!(format!("{error:#}").contains("BadRecordMac"), "{layer}: {error:#}");
        assert_eq!(edge.end_reason(), "client_violation");
    }
}
