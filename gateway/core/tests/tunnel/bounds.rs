use super::talk::*;

#[test]
fn unknown_first_bytes_are_refused_silently() {
    for bytes in [&b"\x16\x03\x01"[..], b"\x7f\x7fICA\x00", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x04\x01"]
    {
        let mut talk = Talk::new(Kind::Gateway, World::default());
        talk.send(bytes);
        assert_eq!(talk.denied(), Some(Deny::UnknownProtocol), "{bytes:?}");
        assert!(talk.client.is_empty());
    }
}

#[test]
fn a_request_must_be_complete_by_the_deadline_however_slowly_it_trickles() {
    let mut talk = Talk::new(Kind::Gateway, World::default());
    let step = Limits::default().first_bytes_timeout / 4;
    talk.send(b"CONNECT").wait(step).send(b" x").wait(step).send(b":1").wait(step);
    assert_eq!(talk.outcome, None);
    talk.wait(step);
    assert_eq!(talk.denied(), Some(Deny::SlowRequest));
    assert!(talk.text().starts_with("HTTP/1.1 408 "), "{}", talk.text());
}

#[test]
fn an_http_head_past_its_limit_is_refused() {
    let mut talk = Talk::new(Kind::Gateway, World::default());
    talk.send(b"GET / HTTP/1.1\r\nX: ");
    talk.send(&vec![b'a'; SETUP_INPUT_MAX_BYTES]);
    assert!(talk.text().starts_with("HTTP/1.1 431 "), "{}", talk.text());
}

#[test]
fn a_client_that_leaves_before_asking_is_no_refusal() {
    let mut talk = Talk::new(Kind::Gateway, World::default());
    talk.tunnel.handle_end_of_input();
    talk.drain();
    assert_eq!(talk.outcome, Some(Outcome::Closed(None)));
}

#[test]
fn an_unmasked_websocket_frame_gets_a_protocol_error() {
    let mut talk = Talk::new(Kind::Gateway, World::default());
    talk.send(UPGRADE);
    talk.client.clear();
    talk.send(&[0x82, 1, 0]);
    assert_eq!(talk.client, [0x88, 2, 0x03, 0xEA]);
    assert_eq!(talk.denied(), Some(Deny::Malformed));
}

proptest! {
    #[test]
    fn arbitrary_bytes_in_arbitrary_pieces_never_reach_a_server_without_a_ticket(
        pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..64), 0..16),
        kind in 0_usize..2,
    ) {
        let mut talk = Talk::new([Kind::Gateway, Kind::HdxOnly][kind], World::default());
        for piece in pieces {
            if talk.outcome.is_none() {
                talk.send(&piece);
            }
        }
        prop_assert_eq!(talk.dialed, None);
    }

    #[test]
    fn a_request_means_the_same_however_it_is_cut(cut in 1_usize..40, which in 0_usize..3) {
        let whole = [
            socks_request(TICKET),
            format!("CONNECT {TICKET}:1494 HTTP/1.1\r\nHost: x\r\n\r\n").into_bytes(),
            [UPGRADE, &masked(&socks_request(TICKET))].concat(),
        ];
        let whole = &whole[which];
        let mut talk = Talk::new(Kind::Gateway, World::default());
        for piece in whole.chunks(cut) {
            talk.send(piece);
        }
        prop_assert!(talk.relays());
        prop_assert_eq!(talk.dialed.as_deref(), Some("10.77.0.9:1494"));
    }
}
