//! Records that no honest peer sends, or not that often.

use super::*;

fn refused(suite: SupportedCipherSuite, kind: u8, content: &[u8]) -> Alert {
    let (mut server, mut client) = forging(suite);
    opened(&mut server, &forged(&mut client, kind, content)).unwrap_err()
}

#[test]
fn padding_is_taken_off() {
    let (mut server, mut client) = forging(TLS13);
    for zeros in [0, 1, 200] {
        // What is sealed as type 0 ends in a byte of padding.
        let content = [&b"padded"[..], &[APPLICATION_DATA], &vec![0; zeros]].concat();
        assert_eq!(opened(&mut server, &forged(&mut client, 0, &content)).unwrap(), b"padded");
    }
}

#[test]
fn nothing_but_padding_is_refused() {
    assert_eq!(refused(TLS13, 0, &[]), UNEXPECTED);
    assert_eq!(refused(TLS13, 0, &[0; 300]), UNEXPECTED);
}

#[test]
fn unknown_types_are_refused() {
    for kind in [1, 19, CHANGE_CIPHER_SPEC, 24, 25, 255] {
        assert_eq!(refused(TLS13, kind, &[1]), UNEXPECTED, "{kind}");
    }
}

#[test]
fn padding_that_makes_a_record_too_long_is_refused() {
    for (zeros, good) in [(0, true), (1, false), (100, false)] {
        let (mut server, mut client) = forging(TLS13);
        let content = [vec![b'x'; CONTENT_MAX_BYTES - 1], vec![APPLICATION_DATA], vec![0; zeros]].concat();
        let mut buffer = [&[0; 5][..], &content, &[0; 17]].concat();
        let made = client.tx.seal(0, &mut buffer, 5..5 + content.len());
        if good {
            assert!(opened(&mut server, &buffer[made.unwrap()]).is_ok());
        } else {
            // Not even a forger of ours makes one; see the next test for the header.
            assert_eq!(made, None);
        }
    }
}

#[test]
fn records_that_are_too_long_are_refused_at_their_header() {
    for suite in SUITES {
        let (mut server, _) = forging(suite);
        let (front, back) = server.rx.room();
        let most = front - HEADER_BYTES + CONTENT_MAX_BYTES + back;
        let [high, low] = u16::try_from(most + 1).unwrap().to_be_bytes();
        let alert = server.open(&mut [APPLICATION_DATA, 3, 3, high, low]).unwrap_err();
        assert_eq!(alert, Alert::Send(AlertDescription::RecordOverflow));
        let [high, low] = u16::try_from(most).unwrap().to_be_bytes();
        assert_eq!(server.open(&mut [APPLICATION_DATA, 3, 3, high, low]).unwrap().consumed, 0);
    }
}

#[test]
fn records_that_are_too_short_are_refused() {
    for suite in SUITES {
        for length in [0, 7, 15, 23] {
            let (mut server, _) = forging(suite);
            let mut wire = [vec![APPLICATION_DATA, 3, 3, 0, length], vec![9; usize::from(length)]].concat();
            let alert = server.open(&mut wire).unwrap_err();
            assert_eq!(alert, Alert::Send(AlertDescription::BadRecordMac), "{suite:?} {length}");
        }
    }
}

#[test]
fn records_in_plaintext_are_refused() {
    for suite in SUITES {
        for (header, body) in [([ALERT, 3, 3, 0, 2], &[2, 40][..]), ([HANDSHAKE, 3, 3, 0, 4], &[0; 4])] {
            let (mut server, _) = forging(suite);
            let alert = server.open(&mut [&header, body].concat()).unwrap_err();
            let is_13 = suite.tls13().is_some();
            let expected = if is_13 { UNEXPECTED } else { Alert::Send(AlertDescription::BadRecordMac) };
            assert_eq!(alert, expected);
        }
        let (mut server, _) = forging(suite);
        assert_eq!(server.open(&mut [CHANGE_CIPHER_SPEC, 3, 3, 0, 1, 1]).unwrap_err(), UNEXPECTED);
        for garbage in [b"GET / HTTP/1.1\r\n", &[0xff; 16], b"\x17\x02\x03\x00\x20aaaaaaaaaaa"] {
            let (mut server, _) = forging(suite);
            assert_eq!(server.open(&mut garbage.to_vec()).unwrap_err(), UNEXPECTED);
        }
    }
}

#[test]
fn the_whole_header_is_authenticated() {
    for suite in SUITES {
        let (mut server, mut client) = forging(suite);
        let mut wire = sealed(&mut client, b"version");
        wire[2] = 1;
        let alert = server.open(&mut wire).unwrap_err();
        assert_eq!(alert, Alert::Send(AlertDescription::BadRecordMac));
    }
}

#[test]
fn a_record_cannot_be_replayed_or_left_out() {
    for suite in SUITES {
        let (mut server, mut client) = forging(suite);
        let wire = sealed(&mut client, b"once");
        assert_eq!(opened(&mut server, &wire).unwrap(), b"once");
        assert!(opened(&mut server, &wire).is_err());
        let (mut server, mut client) = forging(suite);
        drop(sealed(&mut client, b"lost"));
        assert!(opened(&mut server, &sealed(&mut client, b"found")).is_err());
    }
}

#[test]
fn empty_records_are_bounded_in_a_row() {
    for suite in [TLS12, TLS13] {
        let (mut server, mut client) = forging(suite);
        for _ in 0..3 {
            for _ in 0..QUIET_MAX {
                assert_eq!(opened(&mut server, &sealed(&mut client, b"")).unwrap(), b"");
            }
            assert_eq!(opened(&mut server, &sealed(&mut client, b"x")).unwrap(), b"x");
        }
        let wire: Vec<u8> = (0..=QUIET_MAX).flat_map(|_| sealed(&mut client, b"")).collect();
        assert_eq!(opened(&mut server, &wire).unwrap_err(), UNEXPECTED);
        assert_eq!(refused(suite, ALERT, b""), UNEXPECTED);
        assert_eq!(refused(suite, HANDSHAKE, b""), UNEXPECTED);
    }
}

#[test]
fn alerts_are_judged() {
    let decode = Alert::Send(AlertDescription::DecodeError);
    for suite in [TLS12, TLS13] {
        assert_eq!(refused(suite, ALERT, &[1]), decode);
        assert_eq!(refused(suite, ALERT, &[1, 0, 0]), decode);
        assert_eq!(refused(suite, ALERT, &[3, 0]), decode);
        assert_eq!(refused(suite, ALERT, &[2, 80]), Alert::Received(AlertDescription::InternalError));
        let (mut server, mut client) = forging(suite);
        let canceled = [WARNING, AlertDescription::UserCanceled.into()];
        for _ in 0..WARNINGS_MAX {
            opened(&mut server, &forged(&mut client, ALERT, &canceled)).unwrap();
        }
        assert_eq!(opened(&mut server, &forged(&mut client, ALERT, &canceled)).unwrap_err(), UNEXPECTED);
    }
    let unrecognized = [WARNING, AlertDescription::UnrecognisedName.into()];
    assert_eq!(refused(TLS13, ALERT, &unrecognized), Alert::Received(AlertDescription::UnrecognisedName));
    let (mut server, mut client) = forging(TLS12);
    assert!(opened(&mut server, &forged(&mut client, ALERT, &unrecognized)).is_ok());
}

#[test]
fn key_updates_are_judged() {
    assert_eq!(
        refused(TLS13, HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, 2]),
        Alert::Send(AlertDescription::IllegalParameter)
    );
    assert_eq!(refused(TLS13, HANDSHAKE, &[KEY_UPDATE, 0, 0, 0]), UNEXPECTED);
    for length in [2, 0xff] {
        let message = [KEY_UPDATE, 0, 0, length, 0, 0];
        assert_eq!(refused(TLS13, HANDSHAKE, &message), Alert::Send(AlertDescription::DecodeError));
    }
    // A message before a change of keys ends its record.
    let two = [KEY_UPDATE, 0, 0, 1, 0, KEY_UPDATE, 0, 0, 1, 0];
    assert_eq!(refused(TLS13, HANDSHAKE, &two), UNEXPECTED);
    assert_eq!(refused(TLS13, HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, 0, KEY_UPDATE]), UNEXPECTED);
    assert_eq!(refused(TLS12, HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, 0]), UNEXPECTED);
}

#[test]
fn a_key_update_may_be_cut_over_records() {
    let (mut server, mut client) = forging(TLS13);
    let message = [KEY_UPDATE, 0, 0, 1, 1];
    let mut wire: Vec<u8> =
        message.iter().flat_map(|byte| forged(&mut client, HANDSHAKE, &[*byte])).collect();
    client.tx = client.next_key.as_mut().unwrap()(true).unwrap();
    wire.extend(sealed(&mut client, b"after"));
    let opened = server.open(&mut wire).unwrap();
    assert!(server.owes());
    assert_eq!(&wire[opened.plaintext], b"after");
}

#[test]
fn nothing_comes_between_the_parts_of_a_message() {
    for kind in [APPLICATION_DATA, ALERT] {
        let (mut server, mut client) = forging(TLS13);
        let mut wire = forged(&mut client, HANDSHAKE, &[KEY_UPDATE, 0]);
        wire.extend(forged(&mut client, kind, &[1, 0]));
        assert_eq!(opened(&mut server, &wire).unwrap_err(), UNEXPECTED);
    }
}

#[test]
fn a_flood_of_key_updates_is_refused() {
    let (mut server, mut client) = forging(TLS13);
    let update = |client: &mut Records| {
        let mut wire = Vec::new();
        client.key_update(&mut wire).unwrap();
        wire
    };
    for _ in 0..3 {
        for _ in 0..QUIET_MAX {
            opened(&mut server, &update(&mut client)).unwrap();
        }
        opened(&mut server, &sealed(&mut client, b"x")).unwrap();
    }
    // An empty record between them changes nothing.
    let wire: Vec<u8> =
        (0..=QUIET_MAX / 2).flat_map(|_| [update(&mut client), sealed(&mut client, b"")].concat()).collect();
    assert_eq!(opened(&mut server, &wire).unwrap_err(), UNEXPECTED);
}

#[test]
fn a_server_hears_no_other_message_after_the_handshake() {
    for kind in [HELLO_REQUEST, CLIENT_HELLO, 2, NEW_SESSION_TICKET, 11, 20] {
        assert_eq!(refused(TLS13, HANDSHAKE, &[kind, 0, 0, 0]), UNEXPECTED, "{kind}");
        if kind != CLIENT_HELLO {
            assert_eq!(refused(TLS12, HANDSHAKE, &[kind, 0, 0, 0]), UNEXPECTED, "{kind}");
        }
    }
}

#[test]
fn a_client_ignores_session_tickets_even_in_parts() {
    let (mut server, mut client) = forging(TLS13);
    let ticket = [&[NEW_SESSION_TICKET, 0, 1, 0][..], &[7; 256]].concat();
    let mut wire = forged(&mut server, HANDSHAKE, &[&ticket[..], &ticket, &ticket[..100]].concat());
    wire.extend(forged(&mut server, HANDSHAKE, &ticket[100..200]));
    wire.extend(forged(&mut server, HANDSHAKE, &[&ticket[200..], &[KEY_UPDATE, 0, 0, 1, 0]].concat()));
    server.tx = server.next_key.as_mut().unwrap()(true).unwrap();
    wire.extend(sealed(&mut server, b"content"));
    assert_eq!(opened(&mut client, &wire).unwrap(), b"content");
    let long = forged(&mut server, HANDSHAKE, &[NEW_SESSION_TICKET, 1, 0, 0]);
    assert_eq!(opened(&mut client, &long).unwrap_err(), Alert::Send(AlertDescription::DecodeError));
}

#[test]
fn renegotiation_is_declined_once_and_then_refused() {
    for (is_client, kind) in [(false, CLIENT_HELLO), (true, HELLO_REQUEST)] {
        let (mut server, mut client) = forging(TLS12);
        let (asking, asked) = if is_client { (&mut server, &mut client) } else { (&mut client, &mut server) };
        let message = forged(asking, HANDSHAKE, &[kind, 0, 0, 0]);
        let mut buffer = [message, sealed(asking, b"never mind")].concat();
        let opened_now = asked.open(&mut buffer).unwrap();
        assert!(asked.owes());
        assert_eq!(&buffer[opened_now.plaintext], b"never mind");
        let mut answer = owed(asked);
        answer.extend(sealed(asked, b"as you like"));
        assert_eq!(opened(asking, &answer).unwrap(), b"as you like");
        let again = forged(asking, HANDSHAKE, &[kind, 0, 0, 0]);
        let alert = opened(asked, &again).unwrap_err();
        assert_eq!(alert, Alert::Send(AlertDescription::HandshakeFailure));
    }
}
