//! Which tickets open a session, and which do not (PROTOCOL §2 and §3).

use std::time::Duration;

use portcullis_tests::speak::Speak as _;
use portcullis_tests::sta_double::StaDouble;
use portcullis_tests::wait;
use portcullis_tests::{backend, filtered};
use serde_json::json;

use super::fixture::{ANYTHING_LOCAL, Edge, setup, text};

const DOUBLE_ID: &str = "STA000000777";
const SECRET: &str = "0123456789ABCDEF0123456789ABCDEF";

/// A gateway that knows its own authority and a double.
fn edge_with_double() -> (Edge, StaDouble) {
    let double = StaDouble::start(DOUBLE_ID).unwrap();
    let mut setup = setup();
    setup.merge(&double.section("double", &format!("authority_id = \"{DOUBLE_ID}\""))).unwrap();
    let keys = ANYTHING_LOCAL.replace("[\"local\"]", "[\"local\", \"double\"]");
    (Edge::of_setup(setup, "gateway", &keys), double)
}

/// The authority and the secret of a single ticket string, without the version.
fn pair(ticket: &str) -> String {
    ticket.splitn(3, ';').nth(2).unwrap().to_owned()
}

#[test]
fn a_used_ticket_is_refused() {
    let (edge, server) = (Edge::start(), backend::echo().unwrap());
    let ticket = edge.ticket(server.address());
    assert_eq!(edge.socks_code(&ticket), 0);
    assert_eq!(edge.socks_code(&ticket), 2);
    edge.wait_for_refusals("ticket_refused", 1.0);
    assert_eq!(server.accepted(), 1);
}

#[test]
fn a_refreshable_ticket_opens_several_sessions() {
    let (edge, server) = (Edge::start(), backend::echo().unwrap());
    let ticket = edge.ticket_with(server.address(), &json!({"refreshable": true}));
    for _ in 0..3 {
        assert_eq!(edge.socks_code(&ticket), 0);
    }
}

#[test]
fn an_expired_ticket_is_refused() {
    let (edge, server) = (Edge::start(), backend::echo().unwrap());
    let ticket = edge.ticket_with(server.address(), &json!({"life_seconds": 1}));
    let issued = std::time::Instant::now();
    wait::until(Duration::from_secs(5), "the ticket to expire", || issued.elapsed().as_millis() > 1_200)
        .unwrap();
    assert_eq!(edge.socks_code(&ticket), 2);
    assert_eq!(server.accepted(), 0);
}

#[test]
fn a_forged_ticket_is_refused_and_the_true_one_still_works() {
    let (edge, server) = (Edge::start(), backend::echo().unwrap());
    let ticket = edge.ticket(server.address());
    let last = if ticket.ends_with('0') { "1" } else { "0" };
    let forged = format!("{}{last}", ticket.strip_suffix(|_: char| true).unwrap());
    assert_eq!(edge.socks_code(&forged), 2);
    assert_eq!(edge.socks_code(&ticket), 0);
}

#[test]
fn a_ticket_of_an_unknown_authority_is_refused() {
    let edge = Edge::start();
    assert_eq!(edge.socks_code(&format!(";40;STA999999999;{SECRET}")), 2);
    edge.wait_for_refusals("authority_unknown", 1.0);
}

#[test]
fn a_ticket_of_an_authority_that_the_listener_does_not_list_is_refused() {
    let double = StaDouble::start(DOUBLE_ID).unwrap();
    let mut setup = setup();
    setup.merge(&double.section("double", &format!("authority_id = \"{DOUBLE_ID}\""))).unwrap();
    let edge = Edge::of_setup(setup, "gateway", ANYTHING_LOCAL);
    let server = backend::echo().unwrap();
    assert_eq!(edge.socks_code(&double.issue(&server.address().to_string())), 2);
    assert_eq!(
        double.redeemed(),
        0,
        "the ticket must not be shown to an authority that the listener does not list"
    );
}

#[test]
fn a_ticket_is_shown_to_the_authority_that_it_names() {
    let (edge, double) = edge_with_double();
    let server = backend::echo().unwrap();
    assert_eq!(edge.socks_code(&double.issue(&server.address().to_string())), 0);
    assert_eq!(edge.socks_code(&edge.ticket(server.address())), 0);
    assert_eq!(double.redeemed(), 1);
}

#[test]
fn authority_ids_are_compared_without_regard_to_case() {
    let (edge, double) = edge_with_double();
    let server = backend::echo().unwrap();
    let ticket = double.issue(&server.address().to_string()).replace("STA", "sta");
    assert_eq!(edge.socks_code(&ticket), 0);
}

#[test]
fn malformed_ticket_strings_are_refused() {
    let edge = Edge::start();
    let strings = [
        ";40;STA490101972",
        ";40;STA490101972;",
        ";40;STA490101972;XYZ",
        ";99;STA490101972;0123456789ABCDEF0123456789ABCDEF",
        ";;;;;;;;",
        "no-ticket-at-all",
    ];
    for string in strings {
        assert_eq!(edge.socks_code(string), 2, "{string}");
    }
}

#[test]
fn the_first_of_two_tickets_is_enough() {
    let (edge, double) = edge_with_double();
    let server = backend::echo().unwrap();
    let first = pair(&edge.ticket(server.address()));
    let second = pair(&double.issue(&server.address().to_string()));
    assert_eq!(edge.socks_code(&format!(";42;{first};{second}")), 0);
    assert_eq!(double.redeemed(), 0);
}

#[test]
fn the_second_ticket_is_tried_when_the_first_ones_authority_is_unknown() {
    let (edge, server) = (Edge::start(), backend::echo().unwrap());
    let second = pair(&edge.ticket(server.address()));
    assert_eq!(edge.socks_code(&format!(";42;STA999999999;{SECRET};{second}")), 0);
}

#[test]
fn the_second_ticket_is_tried_when_the_first_ones_authority_is_down() {
    let (edge, double) = edge_with_double();
    let server = backend::echo().unwrap();
    let (first, second) =
        (pair(&double.issue(&server.address().to_string())), pair(&edge.ticket(server.address())));
    drop(double);
    assert_eq!(edge.socks_code(&format!(";42;{first};{second}")), 0);
}

#[test]
fn a_ticket_for_a_port_that_the_policy_does_not_list_is_refused_without_dialing() {
    let keys = "stas = [\"local\"]\npermit_loopback = true";
    let (edge, server) = (Edge::of_kind("gateway", keys, ""), backend::echo().unwrap());
    assert_eq!(edge.socks_code(&edge.ticket(server.address())), 2);
    edge.wait_for_refusals("forbidden", 1.0);
    assert_eq!(server.accepted(), 0);
}

#[test]
fn a_ticket_for_loopback_is_refused_by_default() {
    let keys = ANYTHING_LOCAL.replace("permit_loopback = true", "");
    let (edge, server) = (Edge::of_kind("gateway", &keys, ""), backend::echo().unwrap());
    assert_eq!(edge.socks_code(&edge.ticket(server.address())), 2);
    edge.wait_for_refusals("forbidden", 1.0);
    assert_eq!(server.accepted(), 0);
}

#[test]
fn a_ticket_for_link_local_addresses_is_refused_whatever_the_policy_lists() {
    let keys = ANYTHING_LOCAL.replace("\"127.0.0.0/8\"", "\"0.0.0.0/0\", \"::/0\"");
    let edge = Edge::of_kind("gateway", &keys, "");
    for target in ["169.254.169.254:80", "[fe80::1]:80", "0.0.0.0:80", "224.0.0.1:80"] {
        // An authority that issues no such ticket is as good as a policy that refuses it.
        let Ok(ticket) = edge.gateway.issue(target) else { continue };
        assert_eq!(edge.socks_code(&ticket), 2, "{target}");
    }
}

/// The same gateway before and after a restart, and a ticket from before for this server.
fn restarted(server: &backend::Service) -> (String, Edge) {
    let mut setup = setup();
    let at = setup.listener("edge", "gateway", ANYTHING_LOCAL).unwrap();
    let gateway = setup.start().unwrap();
    let ticket = gateway.issue(&server.address().to_string()).unwrap();
    (ticket, Edge { gateway: gateway.halt().unwrap().start().unwrap(), at })
}

#[test]
fn a_ticket_from_before_a_restart_works_or_is_refused_clearly() {
    let server = backend::echo().unwrap();
    let (ticket, edge) = restarted(&server);
    let code = edge.socks_code(&ticket);
    assert!(code == 0 || code == 2, "{code}");
}

#[test]
fn our_own_authority_keeps_its_id_over_a_restart() {
    let server = backend::echo().unwrap();
    let (ticket, edge) = restarted(&server);
    let id = |ticket: &str| ticket.split(';').nth(2).unwrap().to_owned();
    assert_eq!(id(&edge.ticket(server.address())), id(&ticket));
}

#[test]
fn user_and_application_of_a_ticket_are_in_the_sessions_record() {
    let (edge, server) = (Edge::start(), backend::echo().unwrap());
    let who = json!({"user": "ann", "domain": "FARM", "application": "Notepad"});
    let mut client = edge.client();
    assert_eq!(client.socks(&edge.ticket_with(server.address(), &who), 1494).unwrap(), 0);
    client.sender.finish().unwrap();
    client.read_to_end().unwrap();
    let record = edge.record();
    assert!(text(&record, "user").contains("ann"), "{record}");
    assert_eq!(text(&record, "application"), "Notepad");
    assert_eq!(text(&record, "target"), server.address().to_string());
    assert!(text(&record, "source").starts_with(&format!("{}:", filtered::client())), "{record}");
    assert_eq!(text(&record, "listener"), "edge");
}

#[test]
fn our_own_authority_serves_the_xml_of_storefront() {
    use std::io::{Read as _, Write as _};
    let server = backend::echo().unwrap();
    let mut setup = setup();
    let sta = setup.own_authority("127.0.0.1".parse().unwrap()).unwrap();
    let edge = Edge::of_setup(setup, "gateway", ANYTHING_LOCAL);
    let body = format!(
        "<?xml version=\"1.0\"?><!DOCTYPE CtxSTAProtocol SYSTEM \"CtxSTA.dtd\"><CtxSTAProtocol version=\"4.0\">\
         <RequestTicket><AllowedTicketType>STA-v4</AllowedTicketType>\
         <AllowedAuthorityIDType>STA-v1</AllowedAuthorityIDType><TicketData>\
         <Value name=\"ICAAddress\">{}</Value></TicketData></RequestTicket></CtxSTAProtocol>",
        server.address()
    );
    let request = format!(
        "POST /Scripts/CtxSTA.dll HTTP/1.1\r\nHost: sta\r\nContent-Type: text/xml\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    );
    let mut stream = std::net::TcpStream::connect(sta).unwrap();
    stream.set_read_timeout(Some(wait::PATIENCE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let field = |name: &str| {
        let (_, rest) =
            answer.split_once(&format!("<{name}>")).unwrap_or_else(|| panic!("no {name} in {answer}"));
        rest.split_once("</").unwrap().0.to_owned()
    };
    let ticket = format!(";{};{};{}", field("TicketVersion"), field("AuthorityID"), field("Ticket"));
    assert_eq!(edge.socks_code(&ticket), 0);
}
