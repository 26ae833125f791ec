//! TLS as `openssl s_client` and rustls see it: versions, suites, names, resumption, deadlines, limits, new files.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;

use anyhow::Context as _;
use portcullis_tests::backend;
use portcullis_tests::client::Client;
use portcullis_tests::pki::{Leaf, Validity};
use portcullis_tests::process::{self, Output};
use portcullis_tests::speak::Speak as _;
use portcullis_tests::wait::{self, PATIENCE};
use rustls::{ClientConfig, HandshakeKind, ProtocolVersion};

use super::fixture::{ANYTHING_LOCAL, Edge, setup, tls_config, without_programs};

/// Asks for a page, so that the gateway ends the connection after the handshake and its session tickets.
const PAGE: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

fn s_client(edge: &Edge, arguments: &[&str]) -> Output {
    let mut openssl = Command::new("openssl");
    openssl.args([
        "s_client",
        "-ign_eof",
        "-verify_return_error",
        "-connect",
        &edge.at.to_string(),
        "-CAfile",
    ]);
    openssl.arg(edge.ca()).args(arguments);
    process::run_with_input(&mut openssl, PAGE, PATIENCE).unwrap()
}

fn chosen(output: &Output) -> String {
    let line = output.stdout.lines().find(|line| line.contains("Cipher is")).unwrap_or("no handshake");
    line.to_owned()
}

#[test]
fn openssl_speaks_both_versions() {
    if without_programs(&["openssl"]) {
        return;
    }
    let edge = Edge::start();
    for (flag, version) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        let output = s_client(&edge, &[flag]).ok().unwrap();
        assert!(chosen(&output).contains(version), "{flag}: {}", chosen(&output));
        assert!(output.stdout.contains("Verify return code: 0 (ok)"), "{}", output.stdout);
        let label = format!("version=\"{}\"", if flag == "-tls1_2" { "1.2" } else { "1.3" });
        let count = edge.gateway.metrics().unwrap().sum("portcullis_tls_handshakes_total", &[&label]);
        assert!(count >= Some(1.0), "{}", edge.gateway.metrics().unwrap().0);
    }
}

#[test]
fn older_versions_are_refused_and_counted() {
    if without_programs(&["openssl"]) {
        return;
    }
    let edge = Edge::start();
    for flag in ["-tls1", "-tls1_1"] {
        let output = s_client(&edge, &[flag, "-cipher", "DEFAULT:@SECLEVEL=0"]);
        assert!(!output.success(), "{flag}: {}", chosen(&output));
    }
    wait_for_failures(&edge, 2.0);
}

#[test]
fn a_floor_of_1_3_refuses_1_2() {
    if without_programs(&["openssl"]) {
        return;
    }
    let edge = Edge::of_kind("gateway", &format!("min_tls = \"1.3\"\n{ANYTHING_LOCAL}"), "");
    assert!(!s_client(&edge, &["-tls1_2"]).success());
    s_client(&edge, &["-tls1_3"]).ok().unwrap();
}

#[test]
fn each_modern_suite_can_be_had() {
    if without_programs(&["openssl"]) {
        return;
    }
    let edge = Edge::start();
    let suites =
        ["ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-CHACHA20-POLY1305"];
    for suite in suites {
        let output = s_client(&edge, &["-tls1_2", "-cipher", suite]).ok().unwrap();
        assert!(chosen(&output).contains(suite), "{}", chosen(&output));
    }
    for suite in ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"] {
        let output = s_client(&edge, &["-tls1_3", "-ciphersuites", suite]).ok().unwrap();
        assert!(chosen(&output).contains(suite), "{}", chosen(&output));
    }
}

#[test]
fn old_suites_cannot_be_had() {
    if without_programs(&["openssl"]) {
        return;
    }
    let edge = Edge::start();
    for suite in ["ECDHE-ECDSA-AES128-SHA256", "AES128-GCM-SHA256", "AES128-SHA", "DHE-RSA-AES128-GCM-SHA256"]
    {
        let cipher = format!("{suite}:@SECLEVEL=0");
        assert!(!s_client(&edge, &["-tls1_2", "-cipher", &cipher]).success(), "{suite}");
    }
}

#[test]
fn aes_128_gcm_is_preferred_to_what_openssl_would_rather_have() {
    if without_programs(&["openssl"]) {
        return;
    }
    let edge = Edge::start();
    let twelve = chosen(&s_client(&edge, &["-tls1_2"]).ok().unwrap());
    assert!(twelve.contains("ECDHE-ECDSA-AES128-GCM-SHA256"), "{twelve}");
    let thirteen = chosen(&s_client(&edge, &["-tls1_3"]).ok().unwrap());
    assert!(thirteen.contains("TLS_AES_128_GCM_SHA256"), "{thirteen}");
}

fn openssl_resumes(flag: &str) {
    if without_programs(&["openssl"]) {
        return;
    }
    let edge = Edge::start();
    let file = edge.gateway.dir().join("session");
    let file = file.to_str().unwrap();
    let first = s_client(&edge, &[flag, "-sess_out", file]).ok().unwrap();
    assert!(first.stdout.contains("New, "), "{}", first.stdout);
    let second = s_client(&edge, &[flag, "-sess_in", file]).ok().unwrap();
    assert!(second.stdout.contains("Reused, "), "{}", chosen(&second));
    let resumed =
        edge.gateway.metrics().unwrap().sum("portcullis_tls_handshakes_total", &["resumed=\"true\""]);
    assert!(resumed >= Some(1.0), "{resumed:?}");
}

#[test]
fn openssl_resumes_1_2() {
    openssl_resumes("-tls1_2");
}

#[test]
fn openssl_resumes_1_3() {
    openssl_resumes("-tls1_3");
}

#[test]
fn a_session_ticket_is_good_at_every_front_thread() {
    let (edge, server) = (Edge::with("[server]\nworkers = 4"), backend::echo().unwrap());
    let config = tls_config(&edge.ca());
    let connect = || {
        let mut client = Client::tls_with(edge.at, &config, "localhost").unwrap();
        assert_eq!(client.socks(&edge.ticket(server.address()), 1494).unwrap(), 0);
        client.echo(b"so that the session tickets arrive").unwrap();
        client.tls_facts().unwrap()
    };
    assert_eq!(connect(), (ProtocolVersion::TLSv1_3, HandshakeKind::Full));
    for _ in 0..8 {
        assert_eq!(connect().1, HandshakeKind::Resumed);
    }
}

#[test]
fn each_name_gets_its_certificate_and_other_names_the_first() {
    let edge = edge_with_names("");
    let shown = |name: &str| shown(&edge, name).unwrap();
    let (main, exact, wild) = (shown("localhost"), shown("a.example.test"), shown("other.wild.test"));
    assert!(main != exact && exact != wild && main != wild);
    assert_eq!(shown("unknown.test"), main);
    // RFC 6125 §6.4.3: a wildcard stands for one label.
    assert_eq!(shown("too.deep.wild.test"), main);
}

#[test]
fn other_names_are_rejected_where_configured() {
    let edge = edge_with_names("unmatched_sni = \"reject\"");
    assert!(shown(&edge, "a.example.test").is_ok());
    assert!(shown(&edge, "unknown.test").is_err());
}

/// The certificate that is shown for a name, without any check of it.
fn shown(edge: &Edge, name: &str) -> anyhow::Result<Vec<u8>> {
    let mut openssl = Command::new("openssl");
    openssl.args(["s_client", "-connect", &edge.at.to_string(), "-servername", name]);
    let output = process::run(&mut openssl, PATIENCE)?;
    let (_, rest) =
        output.stdout.split_once("-----BEGIN CERTIFICATE-----").context("no certificate was shown")?;
    Ok(rest.split_once("-----END").unwrap().0.as_bytes().to_vec())
}

fn edge_with_names(keys: &str) -> Edge {
    let mut setup = setup();
    for (file, name) in [("exact", "a.example.test"), ("wild", "*.wild.test")] {
        setup.ca().issue(&Leaf::named(&[name])).unwrap().write(setup.dir(), file).unwrap();
        let section =
            format!("[[certificate]]\nname = \"{file}\"\nchain = \"{file}.crt\"\nkey = \"{file}.key\"");
        setup.merge(&section).unwrap();
    }
    let keys = format!("certificates = [\"main\", \"exact\", \"wild\"]\n{keys}\n{ANYTHING_LOCAL}");
    Edge::of_setup(setup, "gateway", &keys)
}

#[test]
fn intermediates_are_sent() {
    let mut setup = setup();
    let middle = setup.ca().intermediate("middle").unwrap();
    middle.issue(&Leaf::loopback()).unwrap().write(setup.dir(), "main").unwrap();
    setup.merge("").unwrap();
    let edge = Edge::of_setup(setup, "gateway", ANYTHING_LOCAL);
    // The client trusts the root alone.
    assert!(Client::tls(edge.at, &edge.ca()).is_ok());
}

/// Reads to the end of a raw connection, which must come in time.
fn drain(stream: &mut TcpStream) -> Vec<u8> {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("the connection was not cut: {error}"),
    }
    bytes
}

#[test]
fn a_client_that_begins_no_handshake_is_cut_at_the_deadline() {
    let edge = Edge::with("[limits]\nhandshake_timeout = \"300ms\"");
    drain(&mut TcpStream::connect(edge.at).unwrap());
    wait_for_failures(&edge, 1.0);
}

/// Waits until so many handshakes have failed.
fn wait_for_failures(edge: &Edge, count: f64) {
    let failures = || edge.gateway.metrics().unwrap().sum("portcullis_tls_handshake_failures_total", &[]);
    wait::until(PATIENCE, "failed handshakes to be counted", || failures() >= Some(count)).unwrap();
}

#[test]
fn a_client_that_drips_its_handshake_is_cut_at_the_deadline() {
    let edge = Edge::with("[limits]\nhandshake_timeout = \"500ms\"");
    let mut stream = TcpStream::connect(edge.at).unwrap();
    stream.set_nodelay(true).unwrap();
    // A record of 512 bytes is announced; one byte of it comes at a time.
    stream.write_all(&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]).unwrap();
    let cut = wait::until(PATIENCE, "the end of a dripping handshake", || stream.write_all(&[0]).is_err());
    cut.unwrap();
}

#[test]
fn a_handshake_that_is_none_is_refused_and_counted() {
    let edge = Edge::start();
    for garbage in [&b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"[..], &[0xff; 4096], b"\x05\x01\x00"] {
        let mut stream = TcpStream::connect(edge.at).unwrap();
        stream.write_all(garbage).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        drain(&mut stream);
    }
    wait_for_failures(&edge, 3.0);
}

#[test]
fn one_source_has_so_many_handshakes_at_a_time_and_no_more() {
    let edge = Edge::with("[limits]\nhandshakes_per_source = 3");
    let idle: Vec<_> = (0..3).map(|_| TcpStream::connect(edge.at).unwrap()).collect();
    let current =
        || edge.gateway.metrics().unwrap().sum("portcullis_limit_current", &["limit=\"handshakes\""]);
    wait::until(PATIENCE, "three handshakes in flight", || current() >= Some(3.0)).unwrap();
    drain(&mut TcpStream::connect(edge.at).unwrap());
    edge.wait_for_refusals("too_many_handshakes_from_source", 1.0);
    drop(idle);
    let config = tls_config(&edge.ca());
    let again = || Client::tls_with(edge.at, &config, "localhost").ok();
    wait::value(PATIENCE, "room for another handshake", again).unwrap();
}

#[test]
fn new_certificate_files_are_used_without_touching_a_live_session() {
    let (mut edge, server) = (Edge::start(), backend::echo().unwrap());
    let config = tls_config(&edge.ca());
    let mut live = edge.session(server.address());
    let old = live.shown_certificate().unwrap();
    let new = edge.gateway.setup().ca().issue(&Leaf::loopback()).unwrap();
    new.write(edge.gateway.dir(), "main").unwrap();
    wait::until(PATIENCE, "the new certificate to be shown", || {
        let client = Client::tls_with(edge.at, &config, "localhost").unwrap();
        client.shown_certificate().unwrap() == new.leaf_der
    })
    .unwrap();
    assert_ne!(old, new.leaf_der);
    live.echo(b"still alive").unwrap();
}

#[test]
fn an_expired_certificate_is_an_error_in_the_log_but_keeps_no_gateway_down() {
    let setup = setup();
    let leaf = Leaf::named(&["expired.example.test"]).validity(Validity::Expired);
    let expired = setup.ca().issue(&leaf).unwrap();
    expired.write(setup.dir(), "main").unwrap();
    let edge = Edge::of_setup(setup, "gateway", ANYTHING_LOCAL);
    assert!(!shown(&edge, "expired.example.test").unwrap().is_empty());
    let told = |line: &str| line.contains("ERROR") && line.contains("expired on");
    assert!(edge.gateway.log().lines().any(told), "{}", edge.gateway.log());
    assert!(!edge.gateway.cli(["check"]).unwrap().success());
}

#[test]
fn new_certificate_files_that_do_not_fit_leave_the_old_ones_in_use() {
    let mut edge = Edge::start();
    let config = tls_config(&edge.ca());
    let old = edge.client().shown_certificate().unwrap();
    let bad = edge.gateway.setup().ca().issue(&Leaf::loopback()).unwrap().with_wrong_key().unwrap();
    bad.write(edge.gateway.dir(), "main").unwrap();
    let tells = |line: &str| {
        let alarming = line.contains("\"level\":\"error\"") || line.contains("\"level\":\"warn\"");
        alarming && line.contains("certificate")
    };
    let noticed = || edge.gateway.log().lines().any(tells);
    wait::until(PATIENCE, "the bad files to be noticed", noticed).unwrap();
    let client = Client::tls_with(edge.at, &config, "localhost").unwrap();
    assert_eq!(client.shown_certificate().unwrap(), old);
}

#[test]
fn bytes_of_a_client_without_tls_never_reach_a_protocol() {
    let edge = Edge::start();
    let mut stream = TcpStream::connect(edge.at).unwrap();
    stream.write_all(b"\x1aCGP/01\x00\x00;40;STA490101972;0123456789ABCDEF0123456789ABCDEF\x00").unwrap();
    drain(&mut stream);
    assert!(edge.refusals("authority_unknown") < 1.0);
}

#[test]
fn a_client_that_offers_only_http_1_1_by_alpn_gets_it() {
    let edge = Edge::start();
    let mut config: ClientConfig = portcullis_tests::client::trusting(&edge.ca()).unwrap();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let mut client = Client::tls_with(edge.at, &Arc::new(config), "localhost").unwrap();
    client.send(PAGE).unwrap();
    assert_eq!(client.http_answer().unwrap().status, 200);
}
