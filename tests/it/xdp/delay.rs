//! A session whose client is 50 ms away, by the kernel's netem: bytes arrive unchanged, a message takes one way there
//! and back and no more, and how fast bulk is with and without the delay is told (`--nocapture`).
//!
//! Kernels without netem skip it; the appliance's has it (`cargo xtask boot`).

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use portcullis_tests::backend::{Checker, Pattern};
use portcullis_tests::client::Client;
use portcullis_tests::process;
use portcullis_tests::skip::skip;
use portcullis_tests::speak::Speak as _;
use portcullis_tests::wait::PATIENCE;

use crate::sessions::Scene;

const DELAY: Duration = Duration::from_millis(50);
const MIB: usize = 1024 * 1024;
const TOTAL: usize = 16 * MIB;
const MESSAGES: usize = 20;

/// What leaves the client is late from now on, or on time again.
fn delay(scene: &Scene, on: bool) -> bool {
    let client = scene.lab.outside.namespace().unwrap();
    let milliseconds = format!("{}ms", DELAY.as_millis());
    let words = ["qdisc", "replace", "dev", "wan", "root", "netem", "limit", "100000", "delay"];
    let mut tc = client.command("tc");
    if on {
        tc.args(words).arg(milliseconds);
    } else {
        tc.args(["qdisc", "del", "dev", "wan", "root"]);
    }
    process::run(&mut tc, PATIENCE).unwrap().success()
}

fn session(scene: &Scene) -> (Client, TcpStream) {
    let edge = scene.addresses()[0];
    let stage = scene.server(edge);
    let mut client = scene.client(edge);
    assert_eq!(client.socks(&scene.ticket(&stage), 1494).unwrap(), 0);
    let server = stage.accept().unwrap();
    server.set_nodelay(true).unwrap();
    client.tcp().set_nodelay(true).unwrap();
    (client, server)
}

/// How long words take there and back, each time.
fn latencies(scene: &Scene) -> Vec<Duration> {
    let (mut client, mut server) = session(scene);
    let echo = thread::spawn(move || {
        let mut words = [0; 32];
        while server.read_exact(&mut words).is_ok() {
            server.write_all(&words).unwrap();
        }
    });
    let message = |_| {
        let begun = Instant::now();
        client.echo(&[7; 32]).unwrap();
        begun.elapsed()
    };
    let mut took: Vec<Duration> = (0..MESSAGES).map(message).collect();
    drop(client);
    echo.join().unwrap();
    took.sort();
    took
}

/// How long `TOTAL` bytes take from the client to the server.
fn up(scene: &Scene) -> Duration {
    let (client, mut server) = session(scene);
    let Client { mut sender, receiver } = client;
    let begun = Instant::now();
    let sending = thread::spawn(move || {
        let mut pattern = Pattern::new(1);
        (0..TOTAL / MIB).for_each(|_| sender.send(&pattern.bytes(MIB / 8)).unwrap());
        sender.finish().unwrap();
        sender
    });
    let (mut checker, mut buffer) = (Checker::new(1), vec![0; 256 * 1024]);
    while let count @ 1.. = server.read(&mut buffer).unwrap() {
        checker.check(&buffer[..count]).unwrap();
    }
    let took = begun.elapsed();
    assert_eq!(checker.seen, u64::try_from(TOTAL).unwrap());
    drop((sending.join().unwrap(), receiver));
    took
}

/// How long `TOTAL` bytes take from the server to the client.
fn down(scene: &Scene) -> Duration {
    let (client, mut server) = session(scene);
    let Client { sender, mut receiver } = client;
    let begun = Instant::now();
    let sending = thread::spawn(move || {
        let mut pattern = Pattern::new(2);
        (0..TOTAL / MIB).for_each(|_| server.write_all(&pattern.bytes(MIB / 8)).unwrap());
        server.shutdown(Shutdown::Write).unwrap();
    });
    let mut checker = Checker::new(2);
    while let Some(bytes) = Some(receiver.read_some().unwrap()).filter(|bytes| !bytes.is_empty()) {
        checker.check(&bytes).unwrap();
    }
    let took = begun.elapsed();
    assert_eq!(checker.seen, u64::try_from(TOTAL).unwrap());
    drop((sender, sending));
    took
}

#[allow(clippy::print_stderr, reason = "numbers for a person; no bound on speed holds on every machine")]
fn tell(when: &str, messages: &[Duration], up: Duration, down: Duration) {
    let speed = |took: Duration| f64::from(u32::try_from(TOTAL / MIB).unwrap()) / took.as_secs_f64();
    let (up, down) = (speed(up), speed(down));
    let middle = messages[messages.len() / 2].as_secs_f64() * 1000.0;
    eprintln!("{when}: {up:.1} MiB/s up, {down:.1} MiB/s down, a message {middle:.1} ms there and back");
}

#[test]
fn over_50_ms_bulk_arrives_unchanged_and_a_message_takes_one_round_trip() {
    let Some(scene) = Scene::build() else { return };
    if !delay(&scene, true) {
        return skip("this kernel has no netem: nothing can be delayed");
    }
    let messages = latencies(&scene);
    let (late_up, late_down) = (up(&scene), down(&scene));
    tell("50 ms away", &messages, late_up, late_down);
    // The quickest shows what the way costs; others may have waited for a busy machine.
    assert!((DELAY..DELAY * 2).contains(&messages[0]), "{messages:?}");
    assert!(delay(&scene, false));
    tell("beside it", &latencies(&scene), up(&scene), down(&scene));
}
