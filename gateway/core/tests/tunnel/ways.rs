use super::talk::*;

#[test]
fn a_bare_socks_request_with_a_ticket_opens_the_ica_server() {
    let mut talk = Talk::new(Kind::Gateway, World::default());
    talk.send(&socks_request(TICKET));
    assert!(talk.relays());
    assert_eq!(talk.dialed.as_deref(), Some("10.77.0.9:1494"));
    assert_eq!(talk.client, [5, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn a_socks_greeting_is_answered_before_the_request() {
    let mut talk = Talk::new(Kind::Gateway, World::default());
    talk.send(&[5, 2, 0, 2]);
    assert_eq!(talk.client, [5, 0]);
    talk.send(&socks_request(TICKET));
    assert!(talk.relays());
}

#[test]
fn three_ambiguous_bytes_are_a_greeting_once_the_wait_is_over() {
    let mut talk = Talk::new(Kind::Gateway, World::default());
    talk.send(&[5, 1, 0]);
    assert!(talk.client.is_empty());
    talk.wait(AMBIGUITY_WAIT);
    assert_eq!(talk.client, [5, 0]);
    talk.send(&socks_request(TICKET));
    assert!(talk.relays());
}

#[test]
fn a_greeting_with_a_pipelined_request_needs_no_wait() {
    let mut talk = Talk::new(Kind::Gateway, World::default());
    talk.send(&[&[5, 1, 0][..], &socks_request(TICKET), b"hello"].concat());
    assert_eq!(talk.outcome, Some(Outcome::Relays { forward: b"hello".to_vec(), framed: false }));
}

#[test]
fn a_plain_socks_listener_answers_a_greeting_at_once() {
    let mut talk = Talk::new(Kind::Socks, World::default());
    talk.send(&[5, 1, 0]);
    assert_eq!(talk.client, [5, 0]);
}

#[test]
fn a_cgp_packet_goes_to_the_cgp_server_unchanged() {
    let packet = [b"\x1aCGP/01\x00\x07", TICKET.as_bytes(), b"\x00rest"].concat();
    let mut talk = Talk::new(Kind::Gateway, World::default());
    talk.send(&packet);
    assert_eq!(talk.dialed.as_deref(), Some("10.77.0.9:2598"));
    assert_eq!(talk.outcome, Some(Outcome::Relays { forward: packet, framed: false }));
    assert!(talk.client.is_empty());
}

#[test]
fn a_ticket_at_the_very_end_of_a_cgp_packet_is_whole_after_the_wait() {
    let mut talk = Talk::new(Kind::Gateway, World::default());
    talk.send(&[b"\x1aCGP/01\x00", TICKET.as_bytes()].concat());
    assert_eq!(talk.redeemed, 0);
    talk.wait(AMBIGUITY_WAIT);
    assert!(talk.relays());
}

#[test]
fn a_cgp_client_goes_to_port_2598_when_the_ticket_names_only_the_ica_address() {
    let world = World {
        tickets: vec![TicketAnswer::Granted(data(Some("10.77.0.9:1494"), None))],
        ..World::default()
    };
    let mut talk = Talk::new(Kind::Gateway, world);
    talk.send(&[b"\x1aCGP/01\x00", TICKET.as_bytes(), b"\x00"].concat());
    assert_eq!(talk.dialed.as_deref(), Some("10.77.0.9:2598"));
}

#[test]
fn connect_with_a_ticket_answers_200_and_passes_early_bytes_on() {
    let mut talk = Talk::new(Kind::Gateway, World::default());
    talk.send(format!("CONNECT {TICKET}:1494 HTTP/1.1\r\nHost: x\r\n\r\nearly").as_bytes());
    assert!(talk.text().starts_with("HTTP/1.1 200 "), "{}", talk.text());
    assert_eq!(talk.outcome, Some(Outcome::Relays { forward: b"early".to_vec(), framed: false }));
}

#[test]
fn a_websocket_carries_socks_and_its_answers_are_framed() {
    let mut talk = Talk::new(Kind::Gateway, World::default());
    talk.send(UPGRADE);
    assert!(talk.text().contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "RFC 6455 §1.3's example");
    talk.client.clear();
    talk.send(&masked(&socks_request(TICKET)));
    assert_eq!(talk.client, [0x82, 10, 5, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    assert_eq!(talk.outcome, Some(Outcome::Relays { forward: vec![], framed: true }));
}

#[test]
fn a_websocket_carries_cgp_even_when_the_frame_comes_with_the_upgrade() {
    let packet = [b"\x1aCGP/01\x00", TICKET.as_bytes(), b"\x00"].concat();
    let mut talk = Talk::new(Kind::HdxOnly, World::default());
    talk.send(&[UPGRADE, &masked(&packet)].concat());
    assert_eq!(talk.outcome, Some(Outcome::Relays { forward: packet, framed: true }));
}

#[test]
fn a_ping_before_the_request_is_answered() {
    let mut talk = Talk::new(Kind::Gateway, World::default());
    talk.send(UPGRADE);
    talk.client.clear();
    talk.send(&[0x89, 0x80, 1, 2, 3, 4]);
    assert_eq!(talk.client, [0x8A, 0]);
}

#[test]
fn other_http_goes_to_the_control_plane_whole() {
    let request = b"GET /cgi/login HTTP/1.1\r\nHost: g\r\n\r\n";
    let mut talk = Talk::new(Kind::Gateway, World::default());
    talk.send(request);
    assert_eq!(talk.outcome, Some(Outcome::Web(request.to_vec())));
}

#[test]
fn an_hdx_only_listener_has_no_pages() {
    let mut talk = Talk::new(Kind::HdxOnly, World::default());
    talk.send(b"GET / HTTP/1.1\r\nHost: g\r\n\r\n");
    assert!(talk.text().starts_with("HTTP/1.1 405 "), "{}", talk.text());
}

#[test]
fn an_ssl_relay_dials_its_target_before_any_byte() {
    let target = Some(HostPort::parse("127.0.0.1:80").expect("a legal value"));
    let talk = Talk::with(Profile { target, ..profile(Kind::SslRelay) }, World::default());
    assert_eq!(talk.dialed.as_deref(), Some("127.0.0.1:80"));
    assert!(talk.relays());
}

#[test]
fn a_relay_listener_reaches_its_access_list_without_a_ticket() {
    let mut talk = Talk::new(Kind::Relay, World::default());
    talk.send(&[5, 1, 0, 1, 10, 77, 0, 9, 0x05, 0xD6]);
    assert!(talk.relays());
    let mut talk = Talk::new(Kind::Relay, World::default());
    talk.send(b"CONNECT 10.77.0.9:22 HTTP/1.0\r\n\r\n");
    assert_eq!(talk.denied(), Some(Deny::Forbidden));
}

#[test]
fn a_forwarded_flow_asks_for_its_servers_in_order_before_any_byte() {
    let servers = ["10.0.0.7:443", "[2001:db8::8]:443"].map(|server| server.parse().expect("a legal value"));
    let talk = Talk::forwarded(&servers, World::default());
    assert_eq!(talk.dialed.as_deref(), Some("10.0.0.7:443,[2001:db8::8]:443"));
    let info = talk.info.as_ref().expect("it was admitted");
    assert_eq!((info.protocol.as_str(), info.target.as_str()), ("forward", "10.0.0.7:443"));
    assert_eq!(talk.outcome, Some(Outcome::Relays { forward: Vec::new(), framed: false }));
}

#[test]
fn a_forwarded_flow_without_a_usable_server_is_closed_in_silence() {
    let talk = Talk::forwarded(&[], World::default());
    assert_eq!((talk.denied(), talk.client.len()), (Some(Deny::ServerUnreachable), 0));
    let server = ["10.0.0.7:443".parse().expect("a legal value")];
    let world = World { dialed: Err(DialError::Refused), ..World::default() };
    let talk = Talk::forwarded(&server, world);
    assert_eq!((talk.denied(), talk.client.len()), (Some(Deny::ServerRefused), 0));
}
