//! Connections without input or output: with each other, with bytes cut anywhere, and with `openssl s_server`.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use portcullis::tls::connection::Connection;
use portcullis::tls::record::{CONTENT_MAX_BYTES, Records};
use rustls::{ClientConfig, ProtocolVersion, ServerConfig};

use crate::handshakes::{plain_client, server};
use crate::pki::Pki;

const PATIENCE: Duration = Duration::from_secs(20);

struct World {
    pki: Pki,
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl World {
    /// Both sides with our records or without.
    fn new(own: bool) -> Self {
        let pki = Pki::new();
        let mut server = (*server(&[pki.issue("main", &["a.example"])], "")).clone();
        let mut client = plain_client(&pki);
        (server.enable_secret_extraction, client.enable_secret_extraction) = (own, own);
        Self { pki, server: Arc::new(server), client: Arc::new(client) }
    }

    fn server(&self) -> Connection {
        Connection::server(Arc::clone(&self.server)).unwrap()
    }

    fn client(&self) -> Connection {
        Connection::client(Arc::clone(&self.client), "a.example".try_into().unwrap()).unwrap()
    }

    fn pair(&self) -> (Connection, Connection) {
        let (mut client, mut server) = (self.client(), self.server());
        while client.is_handshaking() || server.is_handshaking() || server.wants_write() {
            carry(&mut client, &mut server, usize::MAX).unwrap();
            carry(&mut server, &mut client, usize::MAX).unwrap();
        }
        (client, server)
    }
}

/// Carries what one has for the other, in parts of that size.
fn carry(from: &mut Connection, to: &mut Connection, part: usize) -> Result<(), rustls::Error> {
    let mut wire = Vec::new();
    from.take_outgoing(&mut wire);
    wire.chunks(part).try_for_each(|part| to.feed(part))
}

fn plaintext(connection: &mut Connection) -> Vec<u8> {
    let mut plaintext = Vec::new();
    connection.read_plaintext(&mut plaintext);
    plaintext
}

#[test]
fn what_is_written_arrives_whoever_protects_it() {
    for own in [true, false] {
        let world = World::new(own);
        let (mut client, mut server) = world.pair();
        let long = vec![b'x'; 3 * CONTENT_MAX_BYTES + 1];
        for (back, said) in [(false, &b"question"[..]), (true, b"answer"), (true, &long), (false, &long)] {
            let (from, to) = if back { (&mut server, &mut client) } else { (&mut client, &mut server) };
            from.write(said).unwrap();
            carry(from, to, 1000).unwrap();
            assert!(plaintext(to) == said);
        }
        server.close_notify();
        carry(&mut server, &mut client, usize::MAX).unwrap();
        assert!(client.peer_closed() && !server.peer_closed());
        client.write(b"half-closed").unwrap();
        carry(&mut client, &mut server, usize::MAX).unwrap();
        assert_eq!(plaintext(&mut server), b"half-closed");
    }
}

#[test]
fn a_handshake_may_come_byte_by_byte_with_content_behind_it() {
    for own in [true, false] {
        for part in [1, 7, usize::MAX] {
            let world = World::new(own);
            let (mut client, mut server) = (world.client(), world.server());
            while client.is_handshaking() {
                carry(&mut client, &mut server, part).unwrap();
                carry(&mut server, &mut client, part).unwrap();
            }
            client.write(b"content that comes with Finished").unwrap();
            carry(&mut client, &mut server, part).unwrap();
            assert_eq!(plaintext(&mut server), b"content that comes with Finished");
            assert_eq!(server.server_name().as_deref(), Some("a.example"));
            let facts = server.facts().unwrap();
            assert_eq!((facts.version, facts.resumed), (ProtocolVersion::TLSv1_3, false));
            let mut wire = Vec::new();
            server.take_outgoing(&mut wire);
            assert!(!wire.is_empty(), "a session ticket");
            assert_eq!(server.into_records().is_ok(), own);
        }
    }
}

#[test]
fn records_are_given_up_when_nothing_waits() {
    let world = World::new(true);
    let (mut client, mut server) = world.pair();
    client.write(b"whole").unwrap();
    client.write(b"cut").unwrap();
    let mut wire = Vec::new();
    client.take_outgoing(&mut wire);
    let (last, early) = (wire.split_off(wire.len() - 5), wire);
    server.feed(&early).unwrap();
    let mut server = *server.into_records().unwrap_err();
    assert_eq!(plaintext(&mut server), b"whole");
    let (mut records, mut leftover) = server.into_records().unwrap();
    assert!(!leftover.is_empty());
    leftover.extend(last);
    let opened = records.open(&mut leftover).unwrap();
    assert_eq!(&leftover[opened.plaintext], b"cut");
}

#[test]
fn a_handshake_that_fails_leaves_one_alert_and_stays_failed() {
    for own in [true, false] {
        let world = World::new(own);
        for garbage in
            [&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], &[0xff; 600], &[22, 3, 1, 0, 4, 1, 0, 0, 0]]
        {
            let mut server = world.server();
            server.feed(garbage).unwrap_err();
            assert_eq!((server.outgoing().len(), server.outgoing()[0]), (7, 21), "{garbage:?}");
            // Nothing comes of it any more.
            server.feed(garbage).ok();
            server.write(b"x").unwrap_err();
            server.close_notify();
            assert_eq!(server.outgoing().len(), 7);
        }
    }
}

/// A running `openssl s_server` that answers each line with the line reversed. Ends when dropped.
struct Reverser(Child, u16);

impl Reverser {
    fn start(pki: &Pki, flag: &str) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (chain, key) = (pki.path("main.pem"), pki.path("main.key"));
        let mut openssl = Command::new("openssl");
        openssl.args(["s_server", "-rev", flag, "-accept", &format!("127.0.0.1:{port}")]);
        openssl.arg("-cert").arg(&chain).arg("-cert_chain").arg(&chain).arg("-key").arg(key);
        let mut child =
            openssl.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let ready = BufReader::new(child.stdout.take().unwrap())
            .lines()
            .map_while(Result::ok)
            .any(|line| line.contains("ACCEPT"));
        assert!(ready, "openssl does not listen");
        Self(child, port)
    }
}

impl Drop for Reverser {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn has_openssl() -> bool {
    Command::new("openssl").arg("version").output().is_ok_and(|output| output.status.success())
}

/// Says a line and hears what comes back.
fn reverse(tcp: &mut TcpStream, records: &mut Records, pending: &mut Vec<u8>, line: &str) -> String {
    let mut buffer = [&[0; 13][..], line.as_bytes(), b"\n", &[0; 17]].concat();
    let record = records.seal(&mut buffer, 13..13 + line.len() + 1).unwrap();
    tcp.write_all(&buffer[record]).unwrap();
    let mut heard = Vec::new();
    while !heard.ends_with(b"\n") {
        let mut part = [0; 4096];
        let count = tcp.read(&mut part).unwrap();
        assert!(count > 0, "openssl has gone");
        pending.extend_from_slice(&part[..count]);
        let opened = records.open(pending).unwrap();
        heard.extend_from_slice(&pending[opened.plaintext]);
        pending.drain(..opened.consumed);
    }
    String::from_utf8(heard).unwrap().trim_end().to_owned()
}

#[test]
fn our_clients_side_talks_to_openssl() {
    if !has_openssl() {
        return;
    }
    let world = World::new(true);
    for (flag, version) in [("-tls1_2", ProtocolVersion::TLSv1_2), ("-tls1_3", ProtocolVersion::TLSv1_3)] {
        let openssl = Reverser::start(&world.pki, flag);
        let mut tcp = TcpStream::connect(("127.0.0.1", openssl.1)).unwrap();
        tcp.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut client = world.client();
        while client.is_handshaking() || client.wants_write() {
            let mut wire = Vec::new();
            client.take_outgoing(&mut wire);
            tcp.write_all(&wire).unwrap();
            if client.is_handshaking() {
                let mut part = [0; 4096];
                let count = tcp.read(&mut part).unwrap();
                client.feed(&part[..count]).unwrap();
            }
        }
        assert_eq!(client.facts().unwrap().version, version);
        let (mut records, mut pending) = client.into_records().unwrap();
        assert_eq!(reverse(&mut tcp, &mut records, &mut pending, "stressed"), "desserts");
        assert_eq!(reverse(&mut tcp, &mut records, &mut pending, "drawer"), "reward");
        let mut wire = Vec::new();
        records.close_notify(&mut wire);
        tcp.write_all(&wire).unwrap();
        // OpenSSL answers a closure with its own, or just goes.
        tcp.read_to_end(&mut pending).ok();
        assert!(pending.is_empty() || records.open(&mut pending).unwrap().closed);
    }
}
