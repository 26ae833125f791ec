//! First bytes that no protocol here begins with, or that never come.

use portcullis_tests::client::End;

use super::fixture::{ANYTHING_LOCAL, Edge, PROXY_LOCAL};

/// Sends first bytes and expects the end of the connection without an answer, and one refusal.
fn expect_silence(edge: &Edge, bytes: &[u8], reason: &str) {
    let before = edge.refusals(reason);
    let mut client = edge.client();
    client.send(bytes).unwrap();
    let (answer, _) = client.read_to_end().unwrap();
    assert!(answer.is_empty(), "{bytes:?} was answered {answer:?}");
    edge.wait_for_refusals(reason, before + 1.0);
}

#[test]
fn unknown_bytes_are_closed_and_counted() {
    let edge = Edge::start();
    expect_silence(&edge, b"SSH-2.0-OpenSSH_9.2\r\n", "unknown_protocol");
    expect_silence(&edge, &[0xff, 0, 1, 2], "unknown_protocol");
    expect_silence(&edge, &[4, 1, 0, 80, 127, 0, 0, 1, 0], "unknown_protocol");
}

// PROTOCOL §1: `7F 7F 49 43 41 00` is a server's hello; no client begins with it.
#[test]
fn a_raw_ica_greeting_is_closed_and_counted() {
    expect_silence(&Edge::start(), b"\x7f\x7fICA\x00", "unknown_protocol");
}

#[test]
fn the_preface_of_http2_is_closed_and_counted() {
    expect_silence(&Edge::start(), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "unknown_protocol");
}

#[test]
fn a_client_that_says_nothing_is_cut_at_the_deadline() {
    let edge = Edge::with("[limits]\nfirst_bytes_timeout = \"300ms\"");
    let mut client = edge.client();
    let (answer, end) = client.read_to_end().unwrap();
    assert!(answer.is_empty() && end == End::Clean, "{answer:?} {end:?}");
    edge.wait_for_refusals("slow_request", 1.0);
}

#[test]
fn a_client_that_stops_in_the_middle_of_a_request_is_cut_at_the_deadline() {
    let edge = Edge::with("[limits]\nfirst_bytes_timeout = \"300ms\"");
    for start in [&[5_u8, 1, 0, 3, 40, b';'][..], b"\x1aCGP/01\x00", b"GET / HT", b"CONNECT x HTTP/1.1\r\n"] {
        let before = edge.refusals("slow_request");
        let mut client = edge.client();
        client.send(start).unwrap();
        client.read_to_end().unwrap();
        edge.wait_for_refusals("slow_request", before + 1.0);
    }
}

#[test]
fn a_listener_speaks_no_protocol_of_another_kind() {
    let http = b"GET / HTTP/1.1\r\n";
    let cgp = b"\x1aCGP/01\x00\x00";
    let relay = Edge::of_kind("relay", PROXY_LOCAL, "");
    expect_silence(&relay, cgp, "unknown_protocol");
    // Behind the filter there is one gateway at a time.
    drop(relay);
    let tickets = Edge::of_kind("hdx-only", ANYTHING_LOCAL, "");
    let mut client = tickets.client();
    client.send(http).unwrap();
    // Half a head of a method that opens no session here: whatever is answered, it is no page.
    client.send(b"Host: localhost\r\n\r\n").unwrap();
    assert!(!client.read_to_end().unwrap().0.starts_with(b"HTTP/1.1 200"));
}

#[test]
fn a_client_that_leaves_before_its_first_byte_is_no_refusal_and_leaks_nothing() {
    let edge = Edge::start();
    drop(edge.client());
    let before = edge.descriptors();
    for _ in 0..20 {
        drop(edge.client());
    }
    edge.wait_for_descriptors(before);
    assert!(edge.refusals("slow_request") < 1.0);
}
