//! CGP: the ticket is found in the first packet, everything else is opaque (PROTOCOL §1 and §4).

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use portcullis_tests::backend::Stage;
use portcullis_tests::client::End;
use portcullis_tests::speak::{CGP_PREFIX, cgp_hello};
use serde_json::json;

use super::fixture::{Edge, assert_hidden, text};

fn expect(server: &mut TcpStream, bytes: &[u8]) {
    let mut got = vec![0; bytes.len()];
    server.read_exact(&mut got).unwrap();
    assert_eq!(got, bytes);
}

#[test]
fn the_first_packet_and_all_that_follows_reach_the_server_unchanged() {
    let (edge, stage) = (Edge::start(), Stage::open().unwrap());
    let hello = cgp_hello(&edge.ticket(stage.address().unwrap()));
    let mut client = edge.client();
    client.send(&hello).unwrap();
    let mut server = stage.accept().unwrap();
    expect(&mut server, &hello);
    let opaque: Vec<u8> = (0..=255).collect();
    server.write_all(&opaque).unwrap();
    assert_eq!(client.read(256).unwrap(), opaque, "the client must see the server's bytes and no others");
    client.send(&opaque).unwrap();
    expect(&mut server, &opaque);
    assert_eq!(edge.gateway.control().sessions().unwrap()[0]["protocol"], "cgp");
}

#[test]
fn cgp_goes_to_the_cgp_address_of_the_ticket() {
    let (edge, ica, cgp) = (Edge::start(), Stage::open().unwrap(), Stage::open().unwrap());
    let cgp_address = cgp.address().unwrap().to_string();
    let ticket = edge.ticket_with(ica.address().unwrap(), &json!({"cgp": cgp_address}));
    let mut client = edge.client();
    client.send(&cgp_hello(&ticket)).unwrap();
    cgp.accept().unwrap();
    assert!(ica.try_accept().unwrap().is_none());
}

#[test]
fn the_first_packet_may_come_in_pieces() {
    let (edge, stage) = (Edge::start(), Stage::open().unwrap());
    let hello = cgp_hello(&edge.ticket(stage.address().unwrap()));
    let mut client = edge.client();
    for piece in hello.chunks(3) {
        client.send(piece).unwrap();
    }
    expect(&mut stage.accept().unwrap(), &hello);
}

#[test]
fn a_packet_that_ends_with_the_ticket_is_taken_after_a_short_wait() {
    let (edge, stage) = (Edge::start(), Stage::open().unwrap());
    let ticket = edge.ticket(stage.address().unwrap());
    let hello = [CGP_PREFIX, b"\x00", ticket.as_bytes()].concat();
    let mut client = edge.client();
    client.send(&hello).unwrap();
    expect(&mut stage.accept().unwrap(), &hello);
}

#[test]
fn a_refused_ticket_ends_the_connection_without_a_byte() {
    let edge = Edge::start();
    let mut client = edge.client();
    client.send(&cgp_hello(";40;STA999999999;0123456789ABCDEF0123456789ABCDEF")).unwrap();
    assert_eq!(client.read_to_end().unwrap(), (Vec::new(), End::Clean));
    edge.wait_for_refusals("authority_unknown", 1.0);
}

#[test]
fn a_server_that_refuses_ends_the_connection_and_stays_hidden() {
    let (edge, stage) = (Edge::start(), Stage::open().unwrap());
    let target = stage.address().unwrap();
    drop(stage);
    let mut client = edge.client();
    client.send(&cgp_hello(&edge.ticket(target))).unwrap();
    client.read_to_end().unwrap();
    assert_hidden(client.received(), target);
    assert_eq!(edge.end_reason(), "not_established");
}

#[test]
fn a_first_packet_that_holds_no_ticket_is_given_up_at_its_bound() {
    let edge = Edge::start();
    let mut client = edge.client();
    client.send(&[CGP_PREFIX, &[0x55; 20_000]].concat()).unwrap();
    let (bytes, _) = client.read_to_end().unwrap();
    assert!(bytes.is_empty(), "{bytes:?}");
}

#[test]
fn the_ticket_shows_in_no_log_line() {
    let (edge, stage) = (Edge::with("[log]\nlevel = \"trace\""), Stage::open().unwrap());
    let ticket = edge.ticket(stage.address().unwrap());
    let mut client = edge.client();
    let hello = cgp_hello(&ticket);
    client.send(&hello).unwrap();
    let mut server = stage.accept().unwrap();
    expect(&mut server, &hello);
    drop(server);
    client.sender.finish().unwrap();
    assert_eq!(text(&edge.record(), "protocol"), "cgp");
    let secret = ticket.rsplit(';').next().unwrap().to_uppercase();
    assert!(!edge.gateway.log().to_uppercase().contains(&secret));
}
