//! An established session: both directions, their ends, their pressure and their count.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use portcullis_tests::backend::{self, Checker, Pattern, Stage};
use portcullis_tests::client::{Client, End};
use portcullis_tests::wait::{self, PATIENCE};
use serde_json::json;

use super::fixture::{Edge, kill, number, resident_kib, text};

const MIB: usize = 1024 * 1024;

/// An established session and its other end.
fn both_ends(edge: &Edge) -> (Client, TcpStream) {
    let stage = Stage::open().unwrap();
    let client = edge.session(stage.address().unwrap());
    (client, stage.accept().unwrap())
}

fn read_to_end(server: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    server.read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn the_client_may_finish_first_and_still_hear_the_server() {
    let edge = Edge::start();
    let (mut client, mut server) = both_ends(&edge);
    client.send(b"question").unwrap();
    client.sender.finish().unwrap();
    assert_eq!(read_to_end(&mut server), b"question");
    server.write_all(b"long answer").unwrap();
    drop(server);
    assert_eq!(client.read_to_end().unwrap(), (b"long answer".to_vec(), End::Clean));
    assert_eq!(edge.end_reason(), "client_closed");
}

#[test]
fn the_server_may_finish_first_and_still_hear_the_client() {
    let edge = Edge::start();
    let (mut client, mut server) = both_ends(&edge);
    server.write_all(b"greeting").unwrap();
    server.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.read_to_end().unwrap(), (b"greeting".to_vec(), End::Clean));
    client.send(b"late answer").unwrap();
    client.sender.finish().unwrap();
    assert_eq!(read_to_end(&mut server), b"late answer");
    assert_eq!(edge.end_reason(), "server_closed");
}

#[test]
fn close_notify_alone_ends_only_the_clients_direction() {
    let edge = Edge::start();
    let (mut client, mut server) = both_ends(&edge);
    client.sender.close_notify().unwrap();
    assert_eq!(read_to_end(&mut server), b"");
    server.write_all(b"after").unwrap();
    drop(server);
    assert_eq!(client.read_to_end().unwrap().0, b"after");
}

#[test]
fn sixty_four_mebibytes_pass_unchanged_in_both_directions_at_once_and_are_counted() {
    const TOTAL: usize = 64 * MIB;
    let edge = Edge::start();
    let (client, server) = both_ends(&edge);
    let Client { mut sender, mut receiver } = client;
    let mut writer = server.try_clone().unwrap();
    let up = thread::spawn(move || {
        let mut pattern = Pattern::new(1);
        (0..TOTAL / MIB).for_each(|_| sender.send(&pattern.bytes(MIB / 8)).unwrap());
        sender.finish().unwrap();
        sender
    });
    let down = thread::spawn(move || {
        let mut pattern = Pattern::new(2);
        (0..TOTAL / MIB).for_each(|_| writer.write_all(&pattern.bytes(MIB / 8)).unwrap());
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let at_server = thread::spawn(move || {
        let (mut server, mut checker, mut buffer) = (server, Checker::new(1), vec![0; 256 * 1024]);
        while let count @ 1.. = server.read(&mut buffer).unwrap() {
            checker.check(&buffer[..count]).unwrap();
        }
        checker.seen
    });
    let mut checker = Checker::new(2);
    loop {
        let bytes = receiver.read_some().unwrap();
        if bytes.is_empty() {
            break;
        }
        checker.check(&bytes).unwrap();
    }
    let total = u64::try_from(TOTAL).unwrap();
    drop(up.join().unwrap());
    down.join().unwrap();
    assert_eq!((at_server.join().unwrap(), checker.seen), (total, total));
    let record = edge.record();
    assert_eq!((number(&record, "bytes_up"), number(&record, "bytes_down")), (total, total), "{record}");
    let metrics = edge.gateway.metrics().unwrap();
    for direction in ["up", "down"] {
        let label = format!("direction=\"{direction}\"");
        assert_eq!(
            metrics.sum("portcullis_session_bytes_total", &[&label]),
            Some(67_108_864.0),
            "{direction}"
        );
    }
}

/// Writes until nothing has been taken for a while, and returns how much was.
pub(crate) fn write_until_stuck(stream: &mut TcpStream, most: usize) -> usize {
    stream.set_nonblocking(true).unwrap();
    let (chunk, mut written, mut moved) = (vec![0x42; 64 * 1024], 0, Instant::now());
    wait::until(PATIENCE, "the receiving side to stop taking bytes", || {
        loop {
            match stream.write(&chunk) {
                Ok(count) => (written, moved) = (written + count, Instant::now()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
            assert!(written <= most, "the gateway took {written} bytes that nobody read");
        }
        moved.elapsed() > Duration::from_secs(1)
    })
    .unwrap();
    stream.set_nonblocking(false).unwrap();
    written
}

#[test]
fn a_client_that_does_not_read_slows_the_server_and_costs_no_memory() {
    let edge = Edge::start();
    let (mut client, mut server) = both_ends(&edge);
    let before = resident_kib(edge.gateway.pid());
    // What the kernel's own buffers of two connections may hold is well below this.
    let written = write_until_stuck(&mut server, 64 * MIB);
    let grown = resident_kib(edge.gateway.pid()).saturating_sub(before);
    assert!(grown < 4 * 1024, "{grown} KiB more for one session");
    drop(server);
    let (bytes, end) = client.read_to_end().unwrap();
    assert_eq!((bytes.len(), end), (written, End::Clean));
}

#[test]
fn a_session_that_is_stuck_does_not_hold_up_another() {
    let (edge, echo) = (Edge::with("[server]\nworkers = 1"), backend::echo().unwrap());
    let (client, mut server) = both_ends(&edge);
    write_until_stuck(&mut server, 64 * MIB);
    edge.session(echo.address()).echo(&[7; 10_000]).unwrap();
    drop(client);
}

#[test]
fn a_session_that_is_stuck_ends_when_nothing_has_moved_for_long() {
    let edge = Edge::with("[limits]\nidle_timeout = \"2s\"");
    let (client, mut server) = both_ends(&edge);
    write_until_stuck(&mut server, 64 * MIB);
    assert_eq!(edge.end_reason(), "idle");
    drop(client);
}

#[test]
fn a_session_in_which_nothing_moves_ends() {
    let edge = Edge::with("[limits]\nidle_timeout = \"1s\"");
    let (mut client, mut server) = both_ends(&edge);
    client.read_to_end().unwrap();
    assert_eq!(read_to_end(&mut server), b"");
    assert_eq!(edge.end_reason(), "idle");
}

#[test]
fn bytes_in_one_direction_keep_a_session_alive() {
    let edge = Edge::with("[limits]\nidle_timeout = \"1s\"");
    let (mut client, mut server) = both_ends(&edge);
    let start = Instant::now();
    wait::until(PATIENCE, "three idle times to pass", || {
        server.write_all(b".").unwrap();
        client.read(1).unwrap();
        start.elapsed() > Duration::from_secs(3)
    })
    .unwrap();
    assert!(edge.records().is_empty());
}

#[test]
fn a_killed_session_ends_at_both_sides() {
    let edge = Edge::start();
    let (mut client, mut server) = both_ends(&edge);
    let id = text(&edge.gateway.control().sessions().unwrap()[0], "id");
    kill(&edge, &json!({"id": id}));
    client.read_to_end().unwrap();
    // A reset is as good an end as any for a session that is killed.
    drop(server.read_to_end(&mut Vec::new()));
    let record = edge.record();
    assert_eq!((text(&record, "reason"), text(&record, "id")), ("killed".to_owned(), id));
    edge.wait_for_sessions(0);
}

#[test]
fn killing_one_users_sessions_leaves_the_others() {
    let (edge, server) = (Edge::start(), backend::echo().unwrap());
    let session = |user: &str| {
        use portcullis_tests::speak::Speak as _;
        let mut client = edge.client();
        let ticket = edge.ticket_with(server.address(), &json!({"user": user}));
        assert_eq!(client.socks(&ticket, 1494).unwrap(), 0);
        client
    };
    let (mut ann, mut bob) = (session("ann"), session("bob"));
    kill(&edge, &json!({"user": "ann"}));
    ann.read_to_end().unwrap();
    bob.echo(b"still here").unwrap();
}

#[test]
fn a_killed_session_whose_tickets_are_revoked_does_not_come_back_with_them() {
    use portcullis_tests::speak::Speak as _;
    let (edge, server) = (Edge::start(), backend::echo().unwrap());
    let ticket = |user: &str| {
        edge.ticket_with(server.address(), &json!({"user": user, "refreshable": true, "life_seconds": 600}))
    };
    let (anns, bobs) = (ticket("Ann"), ticket("bob"));
    let mut ann = edge.client();
    assert_eq!(ann.socks(&anns, 1494).unwrap(), 0);
    kill(&edge, &json!({"user": "ann", "revoke": true}));
    ann.read_to_end().unwrap();
    assert_ne!(edge.client().socks(&anns, 1494).unwrap(), 0);
    assert_eq!(edge.client().socks(&bobs, 1494).unwrap(), 0);
}

#[test]
fn a_client_that_closes_everything_at_once_ends_the_servers_connection() {
    let edge = Edge::start();
    let (client, mut server) = both_ends(&edge);
    drop(client);
    // FIN or reset: the server must learn of it.
    drop(server.read_to_end(&mut Vec::new()));
    drop(server);
    assert!(matches!(edge.end_reason().as_str(), "client_closed" | "client_reset"));
    edge.wait_for_sessions(0);
}

#[test]
fn a_record_tells_when_and_how_long() {
    let edge = Edge::start();
    let (mut client, server) = both_ends(&edge);
    client.send(b"x").unwrap();
    drop(server);
    client.sender.finish().unwrap();
    client.read_to_end().unwrap();
    let record = edge.record();
    assert!(number(&record, "duration_ms") < 60_000, "{record}");
    assert!(text(&record, "started").starts_with("20"), "{record}");
    assert_eq!(text(&record, "id").len(), 16, "{record}");
}

#[test]
fn many_small_messages_keep_their_order() {
    let edge = Edge::start();
    let (mut client, mut server) = both_ends(&edge);
    let sent: Vec<u8> = (0..2_000_u16).flat_map(u16::to_be_bytes).collect();
    for piece in sent.chunks(2) {
        client.send(piece).unwrap();
    }
    let mut got = vec![0; sent.len()];
    server.read_exact(&mut got).unwrap();
    assert_eq!(got, sent);
}

#[test]
fn a_session_over_tls_1_2_carries_bytes_and_ends_like_any_other() {
    let (edge, stage) = (Edge::start(), Stage::open().unwrap());
    let mut openssl = std::process::Command::new("openssl");
    if super::fixture::without_programs(&["openssl"]) {
        return;
    }
    openssl
        .args(["s_client", "-quiet", "-tls1_2", "-connect", &edge.at.to_string(), "-CAfile"])
        .arg(edge.ca());
    let hello = portcullis_tests::speak::cgp_hello(&edge.ticket(stage.address().unwrap()));
    let expected = hello.clone();
    let server = thread::spawn(move || {
        let mut server = stage.accept().unwrap();
        let mut got = vec![0; expected.len()];
        server.read_exact(&mut got).unwrap();
        assert_eq!(got, expected);
        server.write_all(b"over 1.2").unwrap();
    });
    let output = portcullis_tests::process::run_with_input(&mut openssl, &hello, PATIENCE).unwrap();
    server.join().unwrap();
    assert_eq!(output.stdout, "over 1.2", "{}", output.stderr);
    assert_eq!(edge.end_reason(), "server_closed");
}

#[test]
fn sixteen_mebibytes_pass_unchanged_without_tls() {
    use portcullis_tests::speak::Speak as _;
    const TOTAL: usize = 16 * MIB;
    let edge = Edge::of_kind("socks", super::fixture::PROXY_LOCAL, "");
    let server = backend::echo().unwrap();
    let mut client = Client::plain(edge.at).unwrap();
    assert_eq!(client.socks(&server.address().ip().to_string(), server.address().port()).unwrap(), 0);
    let Client { mut sender, mut receiver } = client;
    let up = thread::spawn(move || {
        let mut pattern = Pattern::new(3);
        (0..TOTAL / MIB).for_each(|_| sender.send(&pattern.bytes(MIB / 8)).unwrap());
        sender.finish().unwrap();
        sender
    });
    let mut checker = Checker::new(3);
    loop {
        let bytes = receiver.read_some().unwrap();
        if bytes.is_empty() {
            break;
        }
        checker.check(&bytes).unwrap();
    }
    assert_eq!(checker.seen, u64::try_from(TOTAL).unwrap());
    drop(up.join().unwrap());
}

#[test]
fn a_server_over_ipv6_is_reached() {
    let Ok(stage) = Stage::at(std::net::Ipv6Addr::LOCALHOST.into()) else {
        portcullis_tests::skip::skip("no IPv6 on loopback");
        return;
    };
    let keys = super::fixture::ANYTHING_LOCAL.replace("\"127.0.0.0/8\"", "\"::1/128\"");
    let edge = Edge::of_kind("gateway", &keys, "");
    let mut client = edge.session(stage.address().unwrap());
    stage.accept().unwrap().write_all(b"six").unwrap();
    assert_eq!(client.read(3).unwrap(), b"six");
}
