use super::talk::*;

#[test]
fn the_session_knows_user_and_application_of_the_ticket() {
    let granted = TicketData {
        user: Some("ann".into()),
        domain: Some("CORP".into()),
        application: Some("Notepad".into()),
        ..data(Some("10.77.0.9:1494"), None)
    };
    let world = World { tickets: vec![TicketAnswer::Granted(granted)], ..World::default() };
    let mut talk = Talk::new(Kind::Gateway, world);
    talk.send(&socks_request(TICKET));
    let info = talk.info.expect("a legal value");
    assert_eq!(info.user.as_deref(), Some("CORP\\ann"));
    assert_eq!(info.application.as_deref(), Some("Notepad"));
}

#[test]
fn the_second_authority_is_asked_when_the_first_cannot_or_will_not_redeem() {
    for first in [
        TicketAnswer::Unavailable(Unavailable::Down),
        TicketAnswer::Unavailable(Unavailable::NoAuthority),
        TicketAnswer::Refused(TicketRefusal::Unknown),
    ] {
        let granted = TicketAnswer::Granted(data(Some("10.77.0.9:1494"), None));
        let world = World { tickets: vec![first, granted], ..World::default() };
        let mut talk = Talk::new(Kind::Gateway, world);
        talk.send(&socks_request(DOUBLE));
        assert!(talk.relays());
        assert_eq!(talk.redeemed, 2);
    }
}

#[test]
fn overload_does_not_ask_the_second_authority() {
    let world =
        World { tickets: vec![TicketAnswer::Unavailable(Unavailable::Overloaded)], ..World::default() };
    let mut talk = Talk::new(Kind::Gateway, world);
    talk.send(&socks_request(DOUBLE));
    assert_eq!(talk.denied(), Some(Deny::Overloaded));
}

#[test]
fn a_refusal_outweighs_an_authority_that_is_down() {
    let tickets =
        vec![TicketAnswer::Refused(TicketRefusal::Expired), TicketAnswer::Unavailable(Unavailable::Timeout)];
    let mut talk = Talk::new(Kind::Gateway, World { tickets, ..World::default() });
    talk.send(&socks_request(DOUBLE));
    assert_eq!(talk.denied(), Some(Deny::TicketRefused));
}

#[test]
fn a_ticket_without_a_server_is_refused() {
    let world = World { tickets: vec![TicketAnswer::Granted(TicketData::default())], ..World::default() };
    let mut talk = Talk::new(Kind::Gateway, world);
    talk.send(&socks_request(TICKET));
    assert_eq!(talk.denied(), Some(Deny::TicketWithoutServer));
}

#[test]
fn a_ticket_for_a_forbidden_server_is_refused_without_dialing() {
    for server in ["10.77.0.9:22", "127.0.0.1:1494", "169.254.169.254:1494"] {
        let world =
            World { tickets: vec![TicketAnswer::Granted(data(Some(server), None))], ..World::default() };
        let mut talk = Talk::new(Kind::Gateway, world);
        talk.send(&socks_request(TICKET));
        assert_eq!(talk.denied(), Some(Deny::Forbidden), "{server}");
        assert_eq!(talk.client[1], 2);
        assert_eq!(talk.dialed, None);
    }
}

#[test]
fn a_server_named_by_the_client_is_refused_where_tickets_rule() {
    let mut talk = Talk::new(Kind::Gateway, World::default());
    talk.send(&[5, 1, 0, 1, 10, 77, 0, 9, 0x05, 0xD6]);
    assert_eq!(talk.denied(), Some(Deny::TicketRequired));
    let mut talk = Talk::new(Kind::Gateway, World::default());
    talk.send(b"CONNECT 10.77.0.9:1494 HTTP/1.0\r\n\r\n");
    assert!(talk.text().starts_with("HTTP/1.1 403 "), "{}", talk.text());
}

#[test]
fn a_ticket_is_refused_where_none_are_redeemed() {
    let mut talk = Talk::new(Kind::Socks, World::default());
    talk.send(&[5, 1, 0]).send(&socks_request(TICKET));
    assert_eq!(talk.denied(), Some(Deny::Forbidden));
    assert_eq!(talk.redeemed, 0);
}

#[test]
fn what_a_name_resolves_to_is_what_is_checked() {
    let world = || World {
        tickets: vec![TicketAnswer::Granted(data(Some("vda.example:1494"), None))],
        ..World::default()
    };
    let mut talk = Talk::new(Kind::Gateway, world());
    talk.send(&socks_request(TICKET));
    assert_eq!(talk.dialed.as_deref(), Some("10.77.0.9:1494"));
    let names = Ok(vec!["127.0.0.1".parse().expect("a legal value")]);
    let mut talk = Talk::new(Kind::Gateway, World { names, ..world() });
    talk.send(&socks_request(TICKET));
    assert_eq!(talk.denied(), Some(Deny::Forbidden));
}

#[test]
fn a_name_rule_admits_what_the_ticket_names() {
    let rule = Rule {
        to: vec![Destination::Name(
            portcullis_proto::host_port::HostName::parse("vda.example").expect("a legal value"),
        )],
        ports: vec![22..=22],
    };
    let world = World {
        tickets: vec![TicketAnswer::Granted(data(Some("vda.example:22"), None))],
        ..World::default()
    };
    let mut talk = Talk::with(Profile { policy: Policy::new(vec![rule]), ..profile(Kind::Gateway) }, world);
    talk.send(&socks_request(TICKET));
    assert!(talk.relays());
}
