//! What relay workers run on: the choice and where it shows, and the same sessions on either engine.

use std::collections::HashSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::thread;

use portcullis_tests::backend::{self, Checker, Pattern};
use portcullis_tests::client::{Client, End};
use portcullis_tests::speak::Speak as _;

use super::fixture::{Edge, PROXY_LOCAL, number, resident_kib};

const MIB: usize = 1024 * 1024;
const ENGINES: [&str; 2] = ["io_uring", "epoll"];

/// A gateway that asks for an engine, or gets what it can where the machine has no io_uring.
fn edge(kind: &str, keys: &str, engine: &str) -> Edge {
    let wanted = if engine == "io_uring" { "auto" } else { engine };
    let limits = "[limits]\nconnections_per_source = 5000\nsessions_per_source = 5000";
    Edge::of_kind(kind, keys, &format!("{limits}\n[server]\nrelay_engine = \"{wanted}\"\nworkers = 1"))
}

#[test]
fn the_engine_is_named_in_status_and_metrics() {
    let edge = edge("socks", PROXY_LOCAL, "epoll");
    let status = edge.gateway.cli_json(["status"]).unwrap();
    assert_eq!(status["relay_engine"], "epoll");
    assert!(edge.gateway.cli(["status"]).unwrap().stdout.contains("epoll"));
    let metrics = edge.gateway.metrics().unwrap();
    assert_eq!(metrics.sum("portcullis_relay_engine", &["engine=\"epoll\""]), Some(1.0));
}

/// Niceness and processors of the gateway's threads whose names begin so.
fn threads(edge: &Edge, name: &str) -> Vec<(i32, String)> {
    let tasks = fs::read_dir(format!("/proc/{}/task", edge.gateway.pid())).unwrap();
    let read = |path: PathBuf| fs::read_to_string(path).unwrap();
    let named =
        tasks.map(|task| task.unwrap().path()).filter(|task| read(task.join("comm")).starts_with(name));
    let facts = named.map(|task| {
        // proc_pid_stat(5): the 19th field, counted from behind the name in parentheses.
        let stat = read(task.join("stat"));
        let nice = stat.rsplit_once(") ").unwrap().1.split(' ').nth(16).unwrap().parse().unwrap();
        let status = read(task.join("status"));
        let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
        (nice, allowed.trim().to_owned())
    });
    facts.collect()
}

#[test]
fn logons_give_way_to_sessions_and_each_worker_has_a_processor_of_its_own() {
    let edge = Edge::of_kind("socks", PROXY_LOCAL, "");
    let (fronts, relays) = (threads(&edge, "front-"), threads(&edge, "relay-"));
    // As whoever started the gateway.
    let (usual, _) = relays[0];
    assert!(relays.iter().all(|(nice, _)| *nice == usual), "{relays:?}");
    let nicer = (usual + 5).min(19);
    assert!(!fronts.is_empty() && fronts.iter().all(|(nice, _)| *nice == nicer), "{fronts:?}");
    let processors = thread::available_parallelism().unwrap().get();
    assert_eq!(relays.len(), processors);
    let own: HashSet<usize> = relays.iter().filter_map(|(_, allowed)| allowed.parse().ok()).collect();
    assert_eq!(own.len(), processors, "{relays:?}");
}

/// Without TLS on either side most of this never comes to user space.
#[test]
fn a_hundred_mebibytes_pass_unchanged_each_way_without_tls_and_are_counted() {
    const TOTAL: usize = 104 * MIB;
    for engine in ENGINES {
        let edge = edge("socks", PROXY_LOCAL, engine);
        let server = backend::echo().unwrap();
        let mut client = Client::plain(edge.at).unwrap();
        assert_eq!(client.socks(&server.address().ip().to_string(), server.address().port()).unwrap(), 0);
        let before = resident_kib(edge.gateway.pid());
        let Client { mut sender, mut receiver } = client;
        let up = thread::spawn(move || {
            let mut pattern = Pattern::new(31);
            (0..TOTAL / MIB).for_each(|_| sender.send(&pattern.bytes(MIB / 8)).unwrap());
            sender.finish().unwrap();
            sender
        });
        let mut checker = Checker::new(31);
        while checker.seen < u64::try_from(TOTAL).unwrap() {
            let bytes = receiver.read_some().unwrap();
            assert!(!bytes.is_empty(), "the stream ended after {}", checker.seen);
            checker.check(&bytes).unwrap();
        }
        assert_eq!(receiver.read_to_end().unwrap(), (Vec::new(), End::Clean));
        drop(up.join().unwrap());
        let record = edge.record();
        let total = u64::try_from(TOTAL).unwrap();
        assert_eq!((number(&record, "bytes_up"), number(&record, "bytes_down")), (total, total), "{engine}");
        let grown = resident_kib(edge.gateway.pid()).saturating_sub(before);
        assert!(grown < 8 * 1024, "{grown} KiB more on {engine}");
    }
}

/// Each has sent and received, so each has held buffers.
#[test]
fn a_thousand_idle_sessions_take_little_memory() {
    const SESSIONS: u64 = 1_000;
    for engine in ENGINES {
        let edge = edge("socks", PROXY_LOCAL, engine);
        let server = backend::echo().unwrap();
        let session = || {
            let mut client = Client::plain(edge.at).unwrap();
            assert_eq!(client.socks(&server.address().ip().to_string(), server.address().port()).unwrap(), 0);
            client.echo(b"now idle").unwrap();
            client
        };
        let warm: Vec<_> = (0..50).map(|_| session()).collect();
        let before = resident_kib(edge.gateway.pid());
        let held: Vec<_> = (0..SESSIONS).map(|_| session()).collect();
        let grown = resident_kib(edge.gateway.pid()).saturating_sub(before);
        assert!(grown < 8 * SESSIONS, "{grown} KiB for {SESSIONS} sessions on {engine}");
        drop((warm, held));
        edge.wait_for_sessions(0);
    }
}

#[test]
fn tls_goes_both_ways_and_ends_in_order_on_either_engine() {
    for engine in ENGINES {
        let edge = edge("gateway", super::fixture::ANYTHING_LOCAL, engine);
        let stage = backend::Stage::open().unwrap();
        let mut client = edge.session(stage.address().unwrap());
        let mut server = stage.accept().unwrap();
        client.send(b"question").unwrap();
        client.sender.finish().unwrap();
        let mut question = Vec::new();
        server.read_to_end(&mut question).unwrap();
        server.write_all(b"answer").unwrap();
        drop(server);
        assert_eq!(question, b"question");
        assert_eq!(client.read_to_end().unwrap(), (b"answer".to_vec(), End::Clean));
        assert_eq!(edge.end_reason(), "client_closed");
    }
}
