//! A machine that runs out of something: descriptors, or room for the log.

use std::net::{Ipv4Addr, TcpStream};
use std::process::Command;

use portcullis_tests::backend;
use portcullis_tests::client::Client;
use portcullis_tests::process;
use portcullis_tests::skip::skip;
use portcullis_tests::wait::{self, PATIENCE};

use super::fixture::{ANYTHING_LOCAL, Edge, records, setup, tls_config, without_programs};

#[test]
fn at_the_limit_of_descriptors_live_sessions_go_on_and_new_ones_come_when_there_is_room() {
    if without_programs(&["prlimit"]) {
        return;
    }
    let mut setup = setup();
    let at = setup.listener("edge", "gateway", ANYTHING_LOCAL).unwrap();
    let config = setup.write().unwrap();
    let mut command = Command::new("prlimit");
    command.arg("--nofile=160:160").arg(process::binary("portcullisd").unwrap()).arg("--config").arg(&config);
    command.current_dir(setup.dir());
    let edge = Edge { gateway: setup.start_command(&mut command).unwrap(), at };
    let server = backend::echo().unwrap();
    drop(edge.session(server.address()));
    edge.wait_for_sessions(0);
    let before = edge.descriptors();
    let mut live = edge.session(server.address());
    // Far more connections than there are descriptors: most wait in the kernel's queue or are refused.
    let crowd: Vec<TcpStream> = (0..300).filter_map(|_| TcpStream::connect(at).ok()).collect();
    wait::until(PATIENCE, "the limit to be near", || edge.descriptors() >= 120).unwrap();
    live.echo(b"at the limit").unwrap();
    drop(crowd);
    let config = tls_config(&edge.ca());
    let again = || Client::tls_with(at, &config, "localhost").ok();
    wait::value(PATIENCE, "a new connection after the crowd has gone", again).unwrap();
    edge.session(server.address()).echo(b"after the crowd").unwrap();
    live.echo(b"all the while").unwrap();
    drop(live);
    edge.wait_for_sessions(0);
    edge.wait_for_descriptors(before);
}

#[test]
fn a_log_that_cannot_be_written_stops_nothing_and_is_counted() {
    let edge = Edge::with("[log]\nfile = \"/dev/full\"");
    let server = backend::echo().unwrap();
    for _ in 0..5 {
        edge.session(server.address()).echo(b"unlogged").unwrap();
    }
    let lost = || edge.gateway.metrics().unwrap().sum("portcullis_log_lines_lost_total", &[]);
    wait::until(PATIENCE, "lost lines to be counted", || lost() > Some(0.0)).unwrap();
    let ended = || edge.gateway.metrics().unwrap().sum("portcullis_sessions_total", &[]);
    wait::until(PATIENCE, "five sessions to be counted", || ended() == Some(5.0)).unwrap();
}

#[test]
fn a_log_goes_on_when_a_full_disk_has_room_again() {
    if without_programs(&["unshare", "mount", "dd"]) {
        return;
    }
    if !nix::unistd::geteuid().is_root() {
        skip("a file system of a few pages can be mounted by root only");
        return;
    }
    let mut setup = setup();
    let at = setup.listener("edge", "gateway", ANYTHING_LOCAL).unwrap();
    let disk = setup.dir().join("disk");
    std::fs::create_dir(&disk).unwrap();
    setup.merge(&format!("[log]\nfile = \"{}/log\"", disk.display())).unwrap();
    let config = setup.write().unwrap();
    let mut command = Command::new("unshare");
    command.args([
        "--mount",
        "sh",
        "-c",
        "mount -t tmpfs -o size=64k none \"$1\" && exec \"$2\" --config \"$3\"",
        "sh",
    ]);
    command.arg(&disk).arg(process::binary("portcullisd").unwrap()).arg(&config).current_dir(setup.dir());
    let edge = Edge { gateway: setup.start_command(&mut command).unwrap(), at };
    let server = backend::echo().unwrap();
    // The daemon's own view of the disk, from outside its mount namespace.
    let seen = std::path::PathBuf::from(format!("/proc/{}/root{}", edge.gateway.pid(), disk.display()));
    let filler = seen.join("filler");
    drop(std::fs::write(&filler, vec![0; 1 << 20]));
    for _ in 0..40 {
        edge.session(server.address()).echo(b"disk full").unwrap();
    }
    let lost = || edge.gateway.metrics().unwrap().sum("portcullis_log_lines_lost_total", &[]);
    wait::until(PATIENCE, "lost lines to be counted", || lost() > Some(0.0)).unwrap();
    std::fs::remove_file(&filler).unwrap();
    let count = || records(&std::fs::read_to_string(seen.join("log")).unwrap_or_default()).len();
    let before = count();
    edge.session(server.address()).echo(b"room again").unwrap();
    wait::until(PATIENCE, "a record on the disk that has room again", || count() > before).unwrap();
}

#[test]
fn each_worker_and_front_thread_carries_sessions() {
    let (edge, server) = (Edge::with("[server]\nworkers = 4"), backend::echo().unwrap());
    let mut all: Vec<_> = (0..24).map(|_| edge.session(server.address())).collect();
    for client in &mut all {
        client.echo(b"one of many").unwrap();
    }
    assert_eq!(edge.gateway.metrics().unwrap().sum("portcullis_sessions_active", &[]), Some(24.0));
}

#[test]
fn ipv6_clients_are_served_like_others() {
    let mut setup = setup();
    let port = process::free_port().unwrap();
    let at = ("::1".parse::<std::net::IpAddr>().unwrap(), port).into();
    if std::net::TcpListener::bind((std::net::Ipv6Addr::LOCALHOST, 0)).is_err() {
        skip("no IPv6 on loopback");
        return;
    }
    let v4 = (Ipv4Addr::LOCALHOST, port).into();
    setup.listener_at("edge", "gateway", &[v4, at], ANYTHING_LOCAL).unwrap();
    let edge = Edge { gateway: setup.start().unwrap(), at };
    let server = backend::echo().unwrap();
    edge.session(server.address()).echo(b"over version six").unwrap();
    assert!(edge.gateway.control().sessions().unwrap().len() <= 1);
}
