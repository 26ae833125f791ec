//! Ticket authorities that fail: dead, slow, half, lying. Tickets of others are never delayed.

use std::time::{Duration, Instant};

use portcullis_tests::backend::{self, Service};
use portcullis_tests::speak::{Speak as _, socks_request};
use portcullis_tests::sta_double::{Mood, StaDouble, vacant};
use portcullis_tests::wait::{self, PATIENCE};

use super::fixture::{ANYTHING_LOCAL, Edge, setup};

const ID: &str = "STA000000777";

/// A gateway with its own authority and a double that answers requests within a second or not at all.
fn edge_with(double: &StaDouble, keys: &str) -> Edge {
    let mut setup = setup();
    let keys = format!("authority_id = \"{ID}\"\ntimeout = \"1s\"\nhealth_interval = \"1s\"\n{keys}");
    setup.merge(&double.section("double", &keys)).unwrap();
    Edge::of_setup(setup, "gateway", &ANYTHING_LOCAL.replace("[\"local\"]", "[\"local\", \"double\"]"))
}

fn start() -> (Edge, StaDouble, Service) {
    let double = StaDouble::start(ID).unwrap();
    (edge_with(&double, ""), double, backend::echo().unwrap())
}

fn target(server: &Service) -> String {
    server.address().to_string()
}

/// A mood in which no ticket is granted, then a sound one in which the next ticket is.
fn fails_and_recovers(mood: Mood) {
    let (edge, double, server) = start();
    assert_eq!(edge.socks_code(&double.issue(&target(&server))), 0);
    double.set_mood(mood.clone());
    assert_ne!(edge.socks_code(&double.issue(&target(&server))), 0, "{mood:?}");
    assert_eq!(
        edge.socks_code(&edge.ticket(server.address())),
        0,
        "another authority's ticket, while {mood:?}"
    );
    double.set_mood(Mood::Sound);
    wait::until(PATIENCE, "the authority to be trusted again", || {
        edge.socks_code(&double.issue(&target(&server))) == 0
    })
    .unwrap();
}

#[test]
fn garbage_instead_of_http_grants_nothing() {
    fails_and_recovers(Mood::Bytes(b"\x00\xff garbage".to_vec()));
}

#[test]
fn an_answer_that_is_no_xml_grants_nothing() {
    fails_and_recovers(Mood::Body(b"<<<not xml".to_vec()));
}

#[test]
fn an_error_status_grants_nothing() {
    fails_and_recovers(Mood::Status("500 Internal Server Error"));
}

#[test]
fn a_redirect_is_not_followed() {
    fails_and_recovers(Mood::Status("302 Found\r\nLocation: http://127.0.0.1:1/"));
}

#[test]
fn half_an_answer_grants_nothing() {
    fails_and_recovers(Mood::Half);
}

#[test]
fn no_answer_at_all_grants_nothing() {
    fails_and_recovers(Mood::WhenTold);
}

#[test]
fn a_connection_that_is_closed_instead_of_an_answer_grants_nothing() {
    fails_and_recovers(Mood::Bytes(Vec::new()));
}

#[test]
fn an_answer_without_end_grants_nothing() {
    let mut bytes = b"HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\n\r\n<CtxSTAProtocol>".to_vec();
    bytes.extend(vec![b' '; 2_000_000]);
    fails_and_recovers(Mood::Bytes(bytes));
}

#[test]
fn an_entity_bomb_grants_nothing() {
    let bomb = "<?xml version=\"1.0\"?><!DOCTYPE x [<!ENTITY a \"aaaaaaaaaa\"><!ENTITY b \"&a;&a;&a;&a;\">]>\
                <CtxSTAProtocol><ResponseData><TicketData><Value name=\"ICAAddress\">&b;</Value></TicketData>\
                </ResponseData></CtxSTAProtocol>";
    fails_and_recovers(Mood::Body(bomb.as_bytes().to_vec()));
}

#[test]
fn deep_nesting_grants_nothing() {
    fails_and_recovers(Mood::Body("<a>".repeat(10_000).into_bytes()));
}

#[test]
fn data_without_an_address_are_a_refusal() {
    let (edge, double, _server) = start();
    let ticket = double.issue_with("<Value name=\"XData\">nothing</Value>");
    assert_eq!(edge.socks_code(&ticket), 2);
    edge.wait_for_refusals("ticket_refused", 1.0);
}

#[test]
fn an_authority_that_hangs_does_not_delay_the_tickets_of_another() {
    let (edge, double, server) = start();
    double.set_mood(Mood::WhenTold);
    let waiting: Vec<_> = (0..8)
        .map(|_| {
            let mut client = edge.client();
            let ticket = double.issue(&target(&server));
            client.send(&socks_request(&ticket, 1494)).unwrap();
            client
        })
        .collect();
    wait::until(PATIENCE, "the authority to be asked", || double.redeemed() > 0).unwrap();
    let start = Instant::now();
    assert_eq!(edge.socks_code(&edge.ticket(server.address())), 0);
    assert!(start.elapsed() < Duration::from_millis(900), "{:?}", start.elapsed());
    drop(waiting);
}

#[test]
fn an_authority_that_is_down_is_shown_as_down_and_as_up_when_it_is_back() {
    let at = vacant("127.0.0.78".parse().unwrap()).unwrap();
    let mut setup = setup();
    let section = format!(
        "[[sta]]\nname = \"double\"\nurl = \"http://{at}\"\ntimeout = \"1s\"\nhealth_interval = \"1s\""
    );
    setup.merge(&section).unwrap();
    let edge = Edge::of_setup(setup, "gateway", &ANYTHING_LOCAL.replace("[\"local\"]", "[\"double\"]"));
    let up = || edge.gateway.metrics().unwrap().sum("portcullis_sta_up", &["sta=\"double\""]);
    wait::until(PATIENCE, "the authority to be shown as down", || up() == Some(0.0)).unwrap();
    let server = backend::echo().unwrap();
    let secret = "0123456789ABCDEF0123456789ABCD";
    assert_ne!(edge.socks_code(&format!(";40;{ID};{secret}")), 0);
    let double = StaDouble::start_at(ID, at, None).unwrap();
    let shown = wait::until(PATIENCE, "the authority to be shown as up", || up() == Some(1.0));
    shown.unwrap_or_else(|error| panic!("{error}; the log:\n{}", edge.gateway.log()));
    // Its id was nowhere configured: it has been learned.
    assert_eq!(edge.socks_code(&double.issue(&target(&server))), 0);
    let list = edge.gateway.cli(["sta", "list"]).unwrap().ok().unwrap();
    assert!(list.stdout.contains("double") && list.stdout.contains(ID), "{}", list.stdout);
}

#[test]
fn connections_to_an_authority_are_kept_and_used_again() {
    let (edge, double, server) = start();
    for _ in 0..20 {
        assert_eq!(edge.socks_code(&double.issue(&target(&server))), 0);
    }
    assert!(
        double.connections() <= 4,
        "{} connections for 20 tickets one after another",
        double.connections()
    );
}

#[test]
fn a_connection_that_the_authority_closed_meanwhile_costs_no_ticket() {
    let (edge, double, server) = start();
    assert_eq!(edge.socks_code(&double.issue(&target(&server))), 0);
    let at = double.address();
    drop(double);
    let double =
        wait::value(PATIENCE, "the port to be free again", || StaDouble::start_at(ID, at, None).ok())
            .unwrap();
    wait::until(PATIENCE, "a ticket to be granted again", || {
        edge.socks_code(&double.issue(&target(&server))) == 0
    })
    .unwrap();
}

#[test]
fn the_security_key_is_sent_in_the_configured_header_and_nowhere_logged() {
    let double = StaDouble::start(ID).unwrap();
    let mut setup = setup();
    std::fs::write(setup.dir().join("key"), "c2VjcmV0LWtleQ==\n").unwrap();
    let keys = format!(
        "authority_id = \"{ID}\"\nsecurity_key_header = \"X-Sta-Key\"\nsecurity_key_files = [\"key\"]"
    );
    setup.merge(&double.section("double", &keys)).unwrap();
    setup.merge("[log]\nlevel = \"trace\"").unwrap();
    let edge = Edge::of_setup(setup, "gateway", &ANYTHING_LOCAL.replace("[\"local\"]", "[\"double\"]"));
    let server = backend::echo().unwrap();
    assert_eq!(edge.socks_code(&double.issue(&target(&server))), 0);
    let sent = |head: &String| {
        head.to_lowercase().contains("x-sta-key: c2vjcmv0lwtlet09") || head.contains("c2VjcmV0LWtleQ==")
    };
    assert!(double.heads().iter().all(sent), "{:?}", double.heads());
    assert!(!edge.gateway.log().contains("c2VjcmV0LWtleQ=="));
}

#[test]
fn clients_that_leave_while_their_tickets_are_asked_for_leave_nothing() {
    let double = StaDouble::start(ID).unwrap();
    let (edge, server) = (edge_with(&double, "connections = 2"), backend::echo().unwrap());
    assert_eq!(edge.socks_code(&double.issue(&target(&server))), 0);
    edge.wait_for_sessions(0);
    let before = edge.descriptors();
    double.set_mood(Mood::WhenTold);
    for _ in 0..10 {
        let mut client = edge.client();
        client.send(&socks_request(&double.issue(&target(&server)), 1494)).unwrap();
    }
    double.set_mood(Mood::Sound);
    // A second connection to the authority may have come to stay.
    edge.wait_for_descriptors(before + 1);
    edge.wait_for_sessions(0);
}

#[test]
fn an_authority_that_is_slow_but_in_time_grants_its_tickets() {
    let (edge, double, server) = start();
    double.set_mood(Mood::WhenTold);
    let mut client = edge.client();
    client.send(&socks_request(&double.issue(&target(&server)), 1494)).unwrap();
    wait::until(PATIENCE, "the authority to be asked", || double.redeemed() > 0).unwrap();
    double.set_mood(Mood::Sound);
    assert_eq!(client.socks_reply().unwrap(), 0);
    client.echo(b"worth the wait").unwrap();
}
