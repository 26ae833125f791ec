//! Names of servers, and name servers that are slow, silent or wrong.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use portcullis_tests::backend;
use portcullis_tests::client::Client;
use portcullis_tests::dns_double::DnsDouble;
use portcullis_tests::speak::{Speak as _, socks_request};
use portcullis_tests::wait::{self, PATIENCE};

use super::fixture::{ANYTHING_LOCAL, Edge, PROXY_LOCAL, assert_hidden};

const NAME: &str = "vda1.farm.test";

fn start(keys: &str) -> (Edge, DnsDouble, backend::Service) {
    let dns = DnsDouble::start(&[(NAME, Ipv4Addr::new(127, 0, 0, 77))]).unwrap();
    let more = format!("[dns]\nservers = [\"{}\"]\ntimeout = \"1s\"", dns.address());
    (Edge::of_kind("gateway", keys, &more), dns, backend::echo().unwrap())
}

fn named(edge: &Edge, name: &str, server: &backend::Service) -> String {
    edge.gateway.issue(&format!("{name}:{}", server.address().port())).unwrap()
}

#[test]
fn a_server_is_found_by_its_name() {
    let (edge, _dns, server) = start(ANYTHING_LOCAL);
    let mut client = edge.client();
    assert_eq!(client.socks(&named(&edge, NAME, &server), 1494).unwrap(), 0);
    client.echo(b"by name").unwrap();
    assert_hidden(client.received(), server.address());
}

// RFC 1928 §6: "X'04' Host unreachable".
#[test]
fn a_name_that_does_not_exist_is_told_as_unreachable_and_stays_hidden() {
    let (edge, _dns, server) = start(ANYTHING_LOCAL);
    let mut client = edge.client();
    assert_eq!(client.socks(&named(&edge, "gone.farm.test", &server), 1494).unwrap(), 4);
    client.read_to_end().unwrap();
    assert_hidden(client.received(), server.address());
    edge.wait_for_refusals("name_unknown", 1.0);
}

#[test]
fn a_silent_name_server_is_given_up_at_the_deadline_while_others_are_served() {
    let (edge, dns, server) = start(ANYTHING_LOCAL);
    dns.set_silent(true);
    let mut stuck = edge.client();
    stuck.send(&socks_request(&named(&edge, NAME, &server), 1494)).unwrap();
    wait::until(PATIENCE, "the name server to be asked", || dns.asked() > 0).unwrap();
    let start = Instant::now();
    assert_eq!(edge.socks_code(&edge.ticket(server.address())), 0);
    assert!(start.elapsed() < Duration::from_millis(900), "{:?}", start.elapsed());
    assert_ne!(stuck.socks_reply().unwrap(), 0);
}

#[test]
fn a_name_server_that_is_back_is_used_again() {
    let (edge, dns, server) = start(ANYTHING_LOCAL);
    dns.set_silent(true);
    assert_ne!(edge.socks_code(&named(&edge, NAME, &server)), 0);
    dns.set_silent(false);
    wait::until(PATIENCE, "the name to be found again", || {
        edge.socks_code(&named(&edge, NAME, &server)) == 0
    })
    .unwrap();
}

#[test]
fn a_name_that_leads_to_a_forbidden_address_is_refused() {
    let keys = "stas = [\"local\"]\nallow = [{ to = [\"*.farm.test\"], ports = [\"1-65535\"] }]";
    let (edge, _dns, server) = start(keys);
    assert_eq!(edge.socks_code(&named(&edge, NAME, &server)), 2);
    edge.wait_for_refusals("forbidden", 1.0);
    assert_eq!(server.accepted(), 0);
}

#[test]
fn a_name_is_not_looked_up_for_a_port_that_no_rule_lists() {
    let keys = "stas = [\"local\"]\nallow = [{ to = [\"*.farm.test\"], ports = [1494] }]";
    let (edge, dns, server) = start(keys);
    assert_eq!(edge.socks_code(&named(&edge, NAME, &server)), 2);
    assert_eq!(dns.asked(), 0);
}

#[test]
fn a_name_server_that_answers_late_but_in_time_is_waited_for() {
    let (edge, dns, server) = start(ANYTHING_LOCAL);
    let ticket = named(&edge, NAME, &server);
    dns.set_silent(true);
    let mut client = edge.client();
    client.send(&socks_request(&ticket, 1494)).unwrap();
    // The resolver asks again; its second question is answered.
    wait::until(PATIENCE, "the name server to be asked", || dns.asked() > 0).unwrap();
    dns.set_silent(false);
    let code = client.socks_reply().unwrap();
    // Within one second the resolver need not ask twice: then the name counts as not found.
    assert!(code == 0 || code == 4 || code == 6, "{code}");
    assert_eq!(edge.socks_code(&named(&edge, NAME, &server)), 0);
}

#[test]
fn a_proxy_listener_finds_servers_by_name() {
    let dns = DnsDouble::start(&[(NAME, Ipv4Addr::new(127, 0, 0, 77))]).unwrap();
    let more = format!("[dns]\nservers = [\"{}\"]", dns.address());
    let (edge, server) = (Edge::of_kind("socks", PROXY_LOCAL, &more), backend::echo().unwrap());
    let mut client = Client::plain(edge.at).unwrap();
    assert_eq!(client.socks(NAME, server.address().port()).unwrap(), 0);
    client.echo(b"by name").unwrap();
    assert_hidden(client.received(), server.address());
}

#[test]
fn a_name_whose_address_changes_is_checked_anew_each_time() {
    let keys = ANYTHING_LOCAL.replace("\"127.0.0.0/8\", \"*.farm.test\"", "\"127.0.0.77/32\"");
    let (edge, dns, server) = start(&keys);
    assert_eq!(edge.socks_code(&named(&edge, NAME, &server)), 0);
    dns.set(NAME, Ipv4Addr::new(127, 0, 0, 99));
    assert_eq!(edge.socks_code(&named(&edge, NAME, &server)), 2);
}
