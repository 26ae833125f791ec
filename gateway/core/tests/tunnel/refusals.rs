use super::talk::*;

#[test]
fn each_failure_of_the_server_has_its_socks_reply() {
    for (error, code) in [
        (DialError::Refused, 5),
        (DialError::Unreachable, 4),
        (DialError::Timeout, 6),
        (DialError::Untrusted, 1),
        (DialError::Tls, 1),
    ] {
        let mut talk = Talk::new(Kind::Gateway, World { dialed: Err(error), ..World::default() });
        talk.send(&socks_request(TICKET));
        assert_eq!(talk.client, [5, code, 0, 1, 0, 0, 0, 0, 0, 0]);
    }
}

#[test]
fn each_failure_of_the_server_has_its_http_status() {
    for (error, status) in
        [(DialError::Refused, "502"), (DialError::Timeout, "504"), (DialError::Untrusted, "502")]
    {
        let mut talk = Talk::new(Kind::Gateway, World { dialed: Err(error), ..World::default() });
        talk.send(format!("CONNECT {TICKET} HTTP/1.0\r\n\r\n").as_bytes());
        assert!(talk.text().starts_with(&format!("HTTP/1.1 {status} ")), "{}", talk.text());
    }
}

#[test]
fn a_websocket_client_gets_the_socks_refusal_and_a_close_frame() {
    let world = World { tickets: vec![TicketAnswer::Refused(TicketRefusal::Unknown)], ..World::default() };
    let mut talk = Talk::new(Kind::Gateway, world);
    talk.send(UPGRADE);
    talk.client.clear();
    talk.send(&masked(&socks_request(TICKET)));
    let close = [0x88, 2, 0x03, 0xF0];
    assert_eq!(talk.client, [&[0x82, 10, 5, 2, 0, 1, 0, 0, 0, 0, 0, 0][..], &close].concat());
}

#[test]
fn no_answer_ever_holds_the_inside_address() {
    for dialed in [Ok(()), Err(DialError::Refused), Err(DialError::Timeout)] {
        for request in [
            socks_request(TICKET),
            format!("CONNECT {TICKET} HTTP/1.0\r\n\r\n").into_bytes(),
            [b"\x1aCGP/01\x00", TICKET.as_bytes(), b"\x00"].concat(),
        ] {
            let mut talk = Talk::new(Kind::Gateway, World { dialed, ..World::default() });
            talk.send(&request);
            assert!(!talk.text().contains(INSIDE));
            assert!(!talk.client.windows(4).any(|bytes| bytes == [10, 77, 0, 9]));
        }
    }
}

#[test]
fn a_limit_refuses_in_the_protocols_words() {
    let world = World { admitted: Err(Deny::TooManySessions), ..World::default() };
    let mut talk = Talk::new(Kind::Gateway, world);
    talk.send(format!("CONNECT {TICKET} HTTP/1.0\r\n\r\n").as_bytes());
    assert!(talk.text().starts_with("HTTP/1.1 503 "), "{}", talk.text());
    assert_eq!(talk.dialed, None);
}

#[test]
fn bind_and_udp_are_not_supported() {
    for command in [2, 3, 9] {
        let mut request = socks_request(TICKET);
        request[1] = command;
        let mut talk = Talk::new(Kind::Gateway, World::default());
        talk.send(&[5, 2, 0, 1]).send(&request);
        assert_eq!(talk.client[2..4], [5, 7]);
    }
}
