//! What rustls says we understand, and the other way round.

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

const SIDES: [Side; 2] = [Side::Server, Side::Client];

fn each() -> impl Iterator<Item = (SupportedCipherSuite, Side)> {
    SUITES.into_iter().flat_map(|suite| SIDES.map(|side| (suite, side)))
}

#[test]
fn rustls_reads_what_we_seal_in_place() {
    for (suite, side) in each() {
        let (mut records, mut peer) = pair(suite, side);
        let (front, back) = records.tx.room();
        for length in [1, 15, 16, 17, 1000, CONTENT_MAX_BYTES] {
            let content = random(length);
            let mut buffer = [&[0xee; FRONT_MAX_BYTES][..], &content, &[0xee; BACK_MAX_BYTES]].concat();
            let place = FRONT_MAX_BYTES..FRONT_MAX_BYTES + length;
            let record = records.seal(&mut buffer, place.clone()).unwrap();
            assert_eq!(record, place.start - front..place.end + back);
            assert!(buffer[..record.start].iter().chain(&buffer[record.end..]).all(|byte| *byte == 0xee));
            assert_eq!(received(&mut peer, &buffer[record]).unwrap(), content, "{suite:?} {side:?} {length}");
        }
    }
}

#[test]
fn records_that_come_together_lie_together_in_plaintext() {
    for (suite, side) in each() {
        let (mut records, mut peer) = pair(suite, side);
        let contents = [1, 100, 16, 5000, CONTENT_MAX_BYTES, 3].map(random);
        let mut wire: Vec<u8> = contents.iter().flat_map(|content| say(&mut peer, content)).collect();
        let length = wire.len();
        wire.extend([APPLICATION_DATA, 3, 3]);
        let opened = records.open(&mut wire).unwrap();
        assert_eq!((opened.consumed, opened.closed, records.owes()), (length, false, false));
        assert!(wire[opened.plaintext] == contents.concat(), "{suite:?} {side:?}");
    }
}

#[test]
fn a_record_alone_is_opened_where_it_lies() {
    for (suite, front) in [(TLS13, 5), (TLS12, 13)] {
        let (mut records, mut peer) = pair(suite, Side::Server);
        let mut wire = say(&mut peer, b"where I lie");
        assert_eq!(records.open(&mut wire).unwrap().plaintext, front..front + 11);
    }
}

#[test]
fn a_record_waits_until_it_is_whole() {
    for suite in SUITES {
        let (mut records, mut peer) = pair(suite, Side::Server);
        let wire = say(&mut peer, b"bit by bit");
        for end in 0..wire.len() {
            let mut part = wire[..end].to_vec();
            let opened = records.open(&mut part).unwrap();
            assert_eq!((opened.plaintext.len(), opened.consumed), (0, 0));
            assert_eq!(part, wire[..end], "what is left is not touched");
        }
        assert_eq!(opened(&mut records, &wire).unwrap(), b"bit by bit");
    }
}

#[test]
fn keys_are_updated_by_both_and_each_asks_the_other() {
    for suite in &SUITES[..3] {
        for side in SIDES {
            let (mut records, mut peer) = pair(*suite, side);
            for round in 0..5 {
                // rustls asks; its content follows under its new key.
                let mut wire = say(&mut peer, b"before ");
                peer.refresh_traffic_keys().unwrap();
                wire.extend(say(&mut peer, b"and after"));
                let opened_now = records.open(&mut wire).unwrap();
                assert_eq!(&wire[opened_now.plaintext], b"before and after");
                assert!(records.owes());
                // RFC 8446 §4.6.3: the answer comes before any other content.
                assert_eq!(records.seal(&mut [0; 64], 20..21), None);
                let mut answer = Vec::new();
                records.write(&[round; 40], &mut answer).unwrap();
                assert_eq!(received(&mut peer, &answer).unwrap(), [round; 40]);
                assert!(!records.owes());

                // We ask, which the product never does.
                let mut wire = forged(&mut records, HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, 1]);
                records.tx = records.next_key.as_mut().unwrap()(true).unwrap();
                wire.extend(sealed(&mut records, b"under the next key"));
                assert_eq!(received(&mut peer, &wire).unwrap(), b"under the next key");
                let wire = say(&mut peer, b"so do I");
                assert_eq!(opened(&mut records, &wire).unwrap(), b"so do I");
            }
        }
    }
}

#[test]
fn several_requests_get_one_answer() {
    let (mut records, mut peer) = pair(TLS13, Side::Server);
    for _ in 0..3 {
        peer.refresh_traffic_keys().unwrap();
    }
    assert_eq!(opened(&mut records, &sent(&mut peer)).unwrap(), b"");
    let mut answer = owed(&mut records);
    assert_eq!((answer.len(), owed(&mut records).len()), (27, 0));
    answer.extend(sealed(&mut records, b"x"));
    assert_eq!(received(&mut peer, &answer).unwrap(), b"x");
}

#[test]
fn close_notify_is_said_once_and_heard() {
    for (suite, side) in each() {
        let (mut records, mut peer) = pair(suite, side);
        let mut wire = sealed(&mut records, b"last");
        records.close_notify(&mut wire);
        let length = wire.len();
        records.close_notify(&mut wire);
        records.alert(AlertDescription::InternalError, &mut wire);
        assert_eq!(records.seal(&mut [0; 64], 20..21), None);
        records.write(b"more", &mut wire).unwrap_err();
        assert_eq!(length, wire.len());
        assert_eq!(received(&mut peer, &wire).unwrap(), b"last");
        assert!(peer.process_new_packets().unwrap().peer_has_closed());

        let mut wire = say(&mut peer, b"bye");
        peer.send_close_notify();
        wire.extend(sent(&mut peer));
        // RFC 8446 §6.1: what follows is ignored.
        wire.extend(b"whatever");
        let opened = records.open(&mut wire).unwrap();
        assert_eq!((opened.closed, opened.consumed), (true, wire.len()));
        assert_eq!(&wire[opened.plaintext], b"bye");
        assert!(records.open(&mut b"more".to_vec()).unwrap().closed);
    }
}

#[test]
fn fatal_alerts_are_told_both_ways() {
    for (suite, side) in each() {
        let (mut records, mut peer) = pair(suite, side);
        let mut wire = Vec::new();
        records.alert(AlertDescription::InternalError, &mut wire);
        let error = received(&mut peer, &wire).unwrap_err();
        assert_eq!(error, Error::AlertReceived(AlertDescription::InternalError));

        let (mut records, mut peer) = pair(suite, side);
        received(&mut peer, &[APPLICATION_DATA, 3, 3, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
            .unwrap_err();
        let alert = opened(&mut records, &sent(&mut peer)).unwrap_err();
        assert_eq!(alert, Alert::Received(AlertDescription::BadRecordMac));
    }
}

#[test]
fn a_key_is_updated_before_it_is_used_up() {
    let (mut records, mut peer) = pair(TLS13, Side::Server);
    records.limit = 10;
    let mut updates = 0;
    for _ in 0..100 {
        let mut buffer = [7; 64];
        if let Some(record) = records.seal(&mut buffer, 13..20) {
            assert_eq!(received(&mut peer, &buffer[record]).unwrap(), [7; 7]);
            continue;
        }
        assert_eq!((buffer, records.tx.sequence), ([7; 64], 10));
        let mut wire = Vec::new();
        records.write(&[7; 7], &mut wire).unwrap();
        assert_eq!(received(&mut peer, &wire).unwrap(), [7; 7]);
        updates += 1;
    }
    assert!(updates >= 9);
}

#[test]
fn a_key_of_tls_1_2_that_is_used_up_ends_the_connection() {
    let (mut records, mut peer) = pair(TLS12, Side::Server);
    records.limit = records.tx.sequence + 3;
    let mut wire = Vec::new();
    records.write(b"a", &mut wire).unwrap();
    records.write(b"b", &mut wire).unwrap();
    records.write(b"c", &mut wire).unwrap();
    assert_eq!(records.seal(&mut [0; 64], 13..14), None);
    // The alert that says so is sealed with what was kept for it.
    records.write(b"d", &mut wire).unwrap_err();
    let length = wire.len();
    records.write(b"e", &mut wire).unwrap_err();
    assert_eq!(wire.len(), length);
    assert_eq!(received(&mut peer, &wire).unwrap(), b"abc");
    assert!(peer.process_new_packets().unwrap().peer_has_closed());
}

#[test]
fn nothing_is_sealed_without_room_or_above_the_maximum() {
    for suite in [TLS12, TLS13] {
        let (mut records, _) = pair(suite, Side::Server);
        let (front, back) = records.tx.room();
        let mut buffer = vec![0; front + CONTENT_MAX_BYTES + 1 + back];
        assert_eq!(records.seal(&mut buffer, front - 1..front), None);
        let end = buffer.len() - back + 1;
        assert_eq!(records.seal(&mut buffer, end - 1..end), None);
        #[expect(clippy::reversed_empty_ranges, reason = "a caller's mistake")]
        let reversed = records.seal(&mut buffer, 40..30);
        assert_eq!(reversed, None);
        let all = front..front + CONTENT_MAX_BYTES + 1;
        assert_eq!(records.seal(&mut buffer, all), None);
        assert_eq!(buffer, vec![0; buffer.len()], "nothing was written");
    }
}

#[test]
fn a_quiet_connection_takes_little_memory() {
    // Two keys with their tables. What rustls keeps comes on top under TLS 1.3.
    assert!(size_of::<Records>() <= 1280, "{}", size_of::<Records>());
}

/// How a stream is cut and where it is damaged.
fn streams() -> impl Strategy<Value = (usize, bool, Vec<usize>, Vec<Index>)> {
    let lengths = prop::collection::vec(prop_oneof![0_usize..40, 0..2000_usize, 16_000..20_000_usize], 1..8);
    (0..SUITES.len(), any::<bool>(), lengths, prop::collection::vec(any::<Index>(), 0..8))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_stream_is_the_same_however_it_is_cut((suite, server, lengths, cuts) in streams()) {
        let side = if server { Side::Server } else { Side::Client };
        let (mut records, mut peer) = pair(SUITES[suite], side);
        let contents: Vec<Vec<u8>> = lengths.into_iter().map(random).collect();
        let wire: Vec<u8> = contents.iter().flat_map(|content| say(&mut peer, content)).collect();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(wire.len() + 1)).collect();
        cuts.extend([0, wire.len()]);
        cuts.sort_unstable();
        let (mut pending, mut plain) = (Vec::new(), Vec::new());
        for part in cuts.windows(2) {
            pending.extend_from_slice(&wire[part[0]..part[1]]);
            let opened = records.open(&mut pending).unwrap();
            plain.extend_from_slice(&pending[opened.plaintext]);
            pending.drain(..opened.consumed);
        }
        prop_assert!(pending.is_empty());
        prop_assert!(plain == contents.concat());
    }

    #[test]
    fn a_damaged_stream_is_refused_as_rustls_refuses_it((suite, server, lengths, at) in streams(), bit in 0_u8..8) {
        let side = if server { Side::Server } else { Side::Client };
        let (mut records, mut peer) = pair(SUITES[suite], side);
        let contents: Vec<Vec<u8>> = lengths.into_iter().map(random).collect();
        let mut wire: Vec<u8> = contents.iter().flat_map(|content| say(&mut peer, content)).collect();
        prop_assume!(!wire.is_empty() && !at.is_empty());
        let at = at[0].index(wire.len());
        wire[at] ^= 1_u8 << bit;
        match records.open(&mut wire) {
            Err(Alert::Send(description)) => {
                let (mut alert, mut told) = (Vec::new(), None);
                records.alert(description, &mut alert);
                if let Err(Error::AlertReceived(heard)) = received(&mut peer, &alert) {
                    told = Some(heard);
                }
                prop_assert_eq!(told, Some(description));
                prop_assert!(matches!(
                    description,
                    AlertDescription::BadRecordMac | AlertDescription::RecordOverflow
                        | AlertDescription::UnexpectedMessage | AlertDescription::DecodeError
                ));
            }
            Err(Alert::Received(description)) => prop_assert!(false, "{description:?} was not sent"),
            // A record that seems longer than it is.
            Ok(opened) => prop_assert!(opened.consumed <= at),
        }
    }

    #[test]
    fn rustls_reads_whatever_we_seal((suite, server, lengths, _) in streams()) {
        let side = if server { Side::Server } else { Side::Client };
        let (mut records, mut peer) = pair(SUITES[suite], side);
        let contents: Vec<Vec<u8>> = lengths.into_iter().map(|length| random(length.min(CONTENT_MAX_BYTES))).collect();
        let wire: Vec<u8> = contents.iter().flat_map(|content| sealed(&mut records, content)).collect();
        prop_assert!(received(&mut peer, &wire).unwrap() == contents.concat());
    }
}
