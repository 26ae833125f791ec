//! SOCKS5 with a ticket as domain name (PROTOCOL §1 and §4, RFC 1928).

use std::io::{Read as _, Write as _};

use portcullis_tests::backend::{self, Stage};
use portcullis_tests::process;
use portcullis_tests::speak::{GREETING, SOCKS_SUCCESS, Speak as _, socks_request, socks_request_v4};
use portcullis_tests::wait::PATIENCE;

use super::fixture::{Edge, assert_hidden, python, text};

#[test]
fn a_ticket_in_a_request_after_a_greeting_reaches_its_server() {
    let (edge, server) = (Edge::start(), backend::echo().unwrap());
    let mut client = edge.client();
    assert_eq!(client.socks(&edge.ticket(server.address()), 1494).unwrap(), 0);
    client.echo(b"over socks").unwrap();
    client.sender.finish().unwrap();
    client.read_to_end().unwrap();
    let record = edge.record();
    assert_eq!(
        (text(&record, "protocol").as_str(), text(&record, "reason").as_str()),
        ("socks5", "client_closed")
    );
}

#[test]
fn a_bare_request_without_a_greeting_reaches_its_server() {
    let (edge, server) = (Edge::start(), backend::echo().unwrap());
    let mut client = edge.client();
    client.send(&socks_request(&edge.ticket(server.address()), 1494)).unwrap();
    assert_eq!(client.socks_reply().unwrap(), 0);
    client.echo(b"bare").unwrap();
}

#[test]
fn a_request_may_arrive_byte_by_byte() {
    let (edge, server) = (Edge::start(), backend::echo().unwrap());
    let mut client = edge.client();
    for byte in GREETING {
        client.send(&[*byte]).unwrap();
    }
    assert_eq!(client.read(2).unwrap(), [5, 0]);
    for byte in socks_request(&edge.ticket(server.address()), 1494) {
        client.send(&[byte]).unwrap();
    }
    assert_eq!(client.socks_reply().unwrap(), 0);
    client.echo(b"slow").unwrap();
}

#[test]
fn a_bare_request_may_arrive_in_pieces_after_its_fourth_byte() {
    let (edge, server) = (Edge::start(), backend::echo().unwrap());
    let mut client = edge.client();
    let request = socks_request(&edge.ticket(server.address()), 1494);
    let (start, rest) = request.split_at(4);
    client.send(start).unwrap();
    for byte in rest {
        client.send(&[*byte]).unwrap();
    }
    assert_eq!(client.socks_reply().unwrap(), 0);
    client.echo(b"slow").unwrap();
}

#[test]
fn a_greeting_request_and_first_data_may_come_in_one_piece() {
    let (edge, server) = (Edge::start(), backend::echo().unwrap());
    let mut client = edge.client();
    let request = socks_request(&edge.ticket(server.address()), 1494);
    client.send(&[GREETING, &request, b"early data"].concat()).unwrap();
    assert_eq!(client.read(2).unwrap(), [5, 0]);
    assert_eq!(client.read(10).unwrap(), SOCKS_SUCCESS);
    assert_eq!(client.read(10).unwrap(), b"early data");
}

#[test]
fn data_behind_a_bare_request_is_not_lost() {
    let (edge, server) = (Edge::start(), backend::echo().unwrap());
    let mut client = edge.client();
    let request = socks_request(&edge.ticket(server.address()), 1494);
    client.send(&[&request, &b"early data"[..]].concat()).unwrap();
    assert_eq!(client.read(10).unwrap(), SOCKS_SUCCESS);
    assert_eq!(client.read(10).unwrap(), b"early data");
}

#[test]
fn a_server_that_speaks_first_is_heard() {
    let (edge, stage) = (Edge::start(), Stage::open().unwrap());
    let mut client = edge.session(stage.address().unwrap());
    let mut server = stage.accept().unwrap();
    server.write_all(b"\x7f\x7fICA\x00").unwrap();
    assert_eq!(client.read(6).unwrap(), b"\x7f\x7fICA\x00");
    client.send(b"answer").unwrap();
    let mut got = [0; 6];
    server.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"answer");
}

// RFC 1928 §3: "X'00' NO AUTHENTICATION REQUIRED" is chosen from among the methods that the client lists.
#[test]
fn a_greeting_with_several_methods_gets_the_one_without_authentication() {
    let (edge, server) = (Edge::start(), backend::echo().unwrap());
    let mut client = edge.client();
    client.send(&[5, 3, 2, 1, 0]).unwrap();
    assert_eq!(client.read(2).unwrap(), [5, 0]);
    client.send(&socks_request(&edge.ticket(server.address()), 1494)).unwrap();
    assert_eq!(client.socks_reply().unwrap(), 0);
}

// RFC 1928 §3: "If the selected METHOD is X'FF', none of the methods listed by the client are acceptable".
#[test]
fn a_greeting_without_an_acceptable_method_is_told_so() {
    let edge = Edge::start();
    let mut client = edge.client();
    client.send(&[5, 1, 1]).unwrap();
    assert_eq!(client.read_to_end().unwrap().0, [5, 0xff]);
}

// RFC 1928 §6: "X'07' Command not supported".
#[test]
fn bind_and_udp_associate_are_not_supported() {
    let (edge, server) = (Edge::start(), backend::echo().unwrap());
    for command in [2, 3] {
        let mut client = edge.client();
        let mut request = socks_request(&edge.ticket(server.address()), 1494);
        request[1] = command;
        client.send(GREETING).unwrap();
        assert_eq!(client.read(2).unwrap(), [5, 0]);
        client.send(&request).unwrap();
        assert_eq!(client.socks_reply().unwrap(), 7);
    }
    edge.wait_for_refusals("unsupported_command", 2.0);
}

// RFC 1928 §6: "X'02' connection not allowed by ruleset".
#[test]
fn an_address_instead_of_a_ticket_is_not_allowed() {
    let (edge, server) = (Edge::start(), backend::echo().unwrap());
    let mut client = edge.client();
    client.send(GREETING).unwrap();
    assert_eq!(client.read(2).unwrap(), [5, 0]);
    client.send(&socks_request_v4([127, 0, 0, 77], server.address().port())).unwrap();
    assert_eq!(client.socks_reply().unwrap(), 2);
    edge.wait_for_refusals("ticket_required", 1.0);
    assert_eq!(server.accepted(), 0);
}

#[test]
fn a_refusal_is_followed_by_the_end_of_the_connection() {
    let edge = Edge::start();
    let mut client = edge.client();
    assert_eq!(client.socks(";40;STA999999999;0123456789ABCDEF0123456789ABCDEF", 1494).unwrap(), 2);
    let (rest, _) = client.read_to_end().unwrap();
    assert!(rest.is_empty(), "{rest:?}");
}

// RFC 1928 §6: "X'05' Connection refused".
#[test]
fn a_server_that_refuses_is_told_as_such_without_its_address() {
    let (edge, stage) = (Edge::start(), Stage::open().unwrap());
    let target = stage.address().unwrap();
    drop(stage);
    let mut client = edge.client();
    assert_eq!(client.socks(&edge.ticket(target), 1494).unwrap(), 5);
    client.read_to_end().unwrap();
    assert_hidden(client.received(), target);
}

#[test]
fn python_socks_inside_tls_reaches_the_server_with_a_ticket() {
    let Some(mut python) = python("python_socks") else { return };
    let (edge, server) = (Edge::start(), backend::echo().unwrap());
    python.arg("socks_client.py").arg(edge.ca()).arg(edge.at.port().to_string());
    python.env("TICKET", edge.ticket(server.address()));
    let output = process::run(&mut python, PATIENCE).unwrap().ok().unwrap();
    assert_eq!(output.stdout.trim(), "echoed 100000 bytes");
}
