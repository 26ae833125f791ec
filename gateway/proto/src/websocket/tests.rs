use alloc::format;

use proptest::prelude::*;

use super::*;

fn head(text: &str) -> RequestHead {
    RequestHead::parse(text.as_bytes()).unwrap()
}

/// A good opening handshake, in which one line is replaced (or left out, when `to` is empty).
fn handshake(from: &str, to: &str) -> Result<Option<Upgrade>, UpgradeError> {
    let good = "GET / HTTP/1.1\r\nHost: gw\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Protocol: chat, superchat\r\n\r\n";
    if from.is_empty() {
        return upgrade(&head(good));
    }
    let to = if to.is_empty() { String::new() } else { format!("{to}\r\n") };
    upgrade(&head(&good.replace(&format!("{from}\r\n"), &to)))
}

const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
const VERSION_13: &str = "Sec-WebSocket-Version: 13";
const PROTOCOLS: &str = "Sec-WebSocket-Protocol: chat, superchat";

fn refused(error: Malformed) -> Result<Option<Upgrade>, UpgradeError> {
    Err(UpgradeError::Malformed(error))
}

#[test]
fn an_opening_handshake_is_read() {
    let found = handshake("", "").unwrap().unwrap();
    assert_eq!(found.key, "dGhlIHNhbXBsZSBub25jZQ==");
    assert_eq!(found.protocols, ["chat", "superchat"]);
    assert!(handshake(PROTOCOLS, "").unwrap().unwrap().protocols.is_empty());
    assert!(handshake("Upgrade: websocket", "Upgrade: h2c, WebSocket").unwrap().is_some());
}

#[test]
fn other_requests_are_no_handshake() {
    assert_eq!(handshake("Upgrade: websocket", ""), Ok(None));
    assert_eq!(handshake("Upgrade: websocket", "Upgrade: h2c"), Ok(None));
}

#[test]
fn malformed_handshakes_are_refused() {
    let illegal = |what| refused(Malformed::Illegal { what });
    assert_eq!(handshake("GET / HTTP/1.1", "POST / HTTP/1.1"), illegal("HTTP method"));
    assert_eq!(handshake("GET / HTTP/1.1", "GET / HTTP/1.0"), illegal("HTTP version"));
    assert_eq!(handshake("Connection: keep-alive, Upgrade", ""), illegal("Connection header"));
    assert_eq!(handshake(KEY, ""), refused(Malformed::Missing { what: "Sec-WebSocket-Key" }));
    for key in
        ["short", "dGhlIHNhbXBsZSBub25jZ", "dGhlIHNhbXBsZSBub25jZQ", "dGhlIHNhbXBsZSBub25jZSE=", "\u{E9}"]
    {
        assert_eq!(
            handshake(KEY, &format!("Sec-WebSocket-Key: {key}")),
            illegal("Sec-WebSocket-Key"),
            "{key}"
        );
    }
    assert_eq!(handshake(KEY, &format!("{KEY}\r\n{KEY}")), illegal("Sec-WebSocket-Key"));
    assert_eq!(handshake(VERSION_13, ""), refused(Malformed::Missing { what: "Sec-WebSocket-Version" }));
    for list in ["a, a", "a,,b", "a b", "a;b", "\u{E9}", ""] {
        let line = format!("Sec-WebSocket-Protocol: {list}");
        assert_eq!(handshake(PROTOCOLS, &line), illegal("Sec-WebSocket-Protocol"), "{list}");
    }
}

#[test]
fn another_version_is_told_apart() {
    for version in ["8", "14", "013", "13, 8"] {
        let line = format!("Sec-WebSocket-Version: {version}");
        assert_eq!(handshake(VERSION_13, &line), Err(UpgradeError::UnsupportedVersion), "{version}");
    }
}

#[test]
fn at_most_16_subprotocols_are_offered() {
    let list = |n: usize| {
        let names: Vec<String> = (0..n).map(|i| format!("p{i}")).collect();
        handshake(PROTOCOLS, &format!("Sec-WebSocket-Protocol: {}", names.join(",")))
    };
    assert_eq!(list(16).unwrap().unwrap().protocols.len(), 16);
    assert_eq!(list(17), refused(Malformed::TooLong { what: "Sec-WebSocket-Protocol", limit: 16 }));
}

#[test]
fn our_client_and_our_server_agree() {
    let key = *b"0123456789abcdef";
    let asked =
        upgrade(&head(&String::from_utf8(client_upgrade("gw:443", "/", &key)).unwrap())).unwrap().unwrap();
    let answer = ResponseHead::parse(&switching_protocols(&asked, None)).unwrap();
    assert_eq!(verify_accept(&answer, &key), Ok(()));
    assert!(verify_accept(&answer, b"fedcba9876543210").is_err());
}

#[test]
fn a_server_that_does_not_keep_to_the_handshake_is_refused() {
    let key = *b"0123456789abcdef";
    let accept = accept_key(&STANDARD.encode(key));
    let good = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    let verify = |text: &str| verify_accept(&ResponseHead::parse(text.as_bytes()).unwrap(), &key);
    assert_eq!(verify(&good), Ok(()));
    let line = format!("Sec-WebSocket-Accept: {accept}\r\n");
    for (from, to) in [
        ("101", "200"),
        ("Upgrade: websocket\r\n", ""),
        ("Upgrade: websocket", "Upgrade: h2c"),
        ("Connection: Upgrade\r\n", ""),
        (line.as_str(), ""),
        (line.as_str(), "Sec-WebSocket-Accept: AAAA\r\n"),
        (line.as_str(), &format!("{line}{line}")),
        (line.as_str(), &format!("{line}Sec-WebSocket-Extensions: permessage-deflate\r\n")),
        (line.as_str(), &format!("{line}Sec-WebSocket-Protocol: chat\r\n")),
    ] {
        assert!(verify(&good.replace(from, to)).is_err(), "{from:?} → {to:?}");
    }
}

#[test]
fn a_chosen_subprotocol_is_named() {
    let asked = handshake("", "").unwrap().unwrap();
    let answer = ResponseHead::parse(&switching_protocols(&asked, Some("chat"))).unwrap();
    assert_eq!(answer.header("sec-websocket-protocol"), Some("chat"));
}

/// What a decoder makes of `bytes` fed in `chunks`: the payload, and the events other than data or the violation.
fn run(role: Role, bytes: &[u8], chunks: &[usize]) -> (Vec<u8>, Vec<Result<Event, Violation>>, bool) {
    let mut decoder = Decoder::new(role);
    let (mut payload, mut events) = (Vec::new(), Vec::new());
    let mut sizes = chunks.iter().copied().chain(core::iter::repeat(usize::MAX));
    let mut rest = bytes.to_vec();
    while !rest.is_empty() {
        let size = sizes.next().unwrap().clamp(1, rest.len());
        let mut chunk: Vec<u8> = rest.drain(..size).collect();
        let mut chunk = chunk.as_mut_slice();
        while !chunk.is_empty() {
            match decoder.decode(chunk) {
                Ok((used, event)) => {
                    match event {
                        Some(Event::Data(range)) => {
                            assert!(!range.is_empty() && range.end <= used);
                            payload.extend_from_slice(&chunk[range]);
                        }
                        Some(event) => events.push(Ok(event)),
                        None => assert_eq!(used, chunk.len()),
                    }
                    chunk = &mut chunk[used..];
                }
                Err(violation) => {
                    events.push(Err(violation));
                    return (payload, events, false);
                }
            }
        }
    }
    (payload, events, decoder.pending())
}

fn server(bytes: &[u8]) -> (Vec<u8>, Vec<Result<Event, Violation>>, bool) {
    run(Role::Server, bytes, &[])
}

fn client(bytes: &[u8]) -> (Vec<u8>, Vec<Result<Event, Violation>>, bool) {
    run(Role::Client, bytes, &[])
}

fn violation(bytes: &[u8]) -> Violation {
    let (_, events, _) = client(bytes);
    (*events.last().unwrap()).clone().unwrap_err()
}

fn message(payload: &[u8], key: Option<[u8; 4]>) -> Vec<u8> {
    let mut bytes = frame_header(Opcode::Binary, payload.len(), key).as_ref().to_vec();
    let start = bytes.len();
    bytes.extend_from_slice(payload);
    if let Some(key) = key {
        mask(&mut bytes[start..], key, 0);
    }
    bytes
}

#[test]
fn messages_of_every_length_form_are_read() {
    for length in [0, 1, 125, 126, 127, 65_535, 65_536, 70_000] {
        let payload: Vec<u8> = (0..=250).cycle().take(length).collect();
        let key = Some([1, 2, 3, 4]);
        assert_eq!(server(&message(&payload, key)), (payload.clone(), Vec::new(), false));
        assert_eq!(client(&message(&payload, None)), (payload, Vec::new(), false));
    }
}

#[test]
fn frame_headers_use_the_shortest_length() {
    assert_eq!(frame_header(Opcode::Binary, 125, None).as_ref(), [0x82, 125]);
    assert_eq!(frame_header(Opcode::Binary, 126, None).as_ref(), [0x82, 126, 0, 126]);
    assert_eq!(frame_header(Opcode::Binary, 65_535, None).as_ref(), [0x82, 126, 0xFF, 0xFF]);
    let longest = frame_header(Opcode::Binary, 65_536, Some([1, 2, 3, 4]));
    assert_eq!(longest.as_ref(), [0x82, 0xFF, 0, 0, 0, 0, 0, 1, 0, 0, 1, 2, 3, 4]);
    assert_eq!(longest.as_ref().len(), FrameHeader::MAX_BYTES);
}

#[test]
fn fragments_are_one_stream_with_control_frames_between() {
    let bytes =
        [&[0x02, 1, b'a'][..], &[0x89, 1, b'p'], &[0x00, 1, b'b'], &[0x8A, 0], &[0x80, 1, b'c']].concat();
    let (payload, events, pending) = client(&bytes);
    assert_eq!(payload, b"abc");
    assert_eq!(events, [Ok(Event::Ping(b"p".to_vec())), Ok(Event::Pong)]);
    assert!(!pending);
}

#[test]
fn a_stream_is_pending_inside_a_frame_or_message() {
    for (bytes, expected) in [
        (&[][..], false),
        (&[0x82], true),
        (&[0x82, 2, b'a'], true),
        (&[0x82, 2, b'a', b'b'], false),
        (&[0x02, 1, b'a'], true),
        (&[0x02, 1, b'a', 0x80, 0], false),
        (&[0x89, 1], true),
        (&[0x88, 0], false),
    ] {
        assert_eq!(client(bytes).2, expected, "{bytes:02x?}");
    }
}

#[test]
fn a_close_ends_the_stream_and_the_rest_is_ignored() {
    for (bytes, code) in [
        (&[0x88, 0][..], None),
        (&[0x88, 2, 0x03, 0xE8], Some(1000)),
        (&[0x88, 5, 0x03, 0xE8, b'b', b'y', b'e'], Some(1000)),
        (&[0x88, 2, 0x0F, 0xA0], Some(4000)),
    ] {
        let longer = [bytes, &[0xFF, 0xFF]].concat();
        assert_eq!(client(&longer), (Vec::new(), Vec::from([Ok(Event::Close(code))]), false));
    }
}

#[test]
fn violations_are_told_with_their_close_codes() {
    for (bytes, expected, code) in [
        (&[0xC2, 0][..], Violation::Reserved, 1002),
        (&[0xA2], Violation::Reserved, 1002),
        (&[0x92], Violation::Reserved, 1002),
        (&[0x83], Violation::Reserved, 1002),
        (&[0x8B], Violation::Reserved, 1002),
        (&[0x82, 0x80], Violation::Masking, 1002),
        (&[0x80, 0], Violation::Continuation, 1002),
        (&[0x02, 0, 0x82, 0], Violation::Continuation, 1002),
        (&[0x02, 0, 0x81, 0], Violation::Continuation, 1002),
        (&[0x81, 0], Violation::Text, 1003),
        (&[0x09, 0], Violation::Control, 1002),
        (&[0x89, 126, 0, 126], Violation::Control, 1002),
        (&[0x82, 126, 0, 125], Violation::Length, 1002),
        (&[0x82, 127, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF], Violation::Length, 1002),
        (&[0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0], Violation::Length, 1002),
        (&[0x88, 1, 3], Violation::CloseCode, 1002),
        (&[0x88, 2, 0x03, 0xE7], Violation::CloseCode, 1002),
        (&[0x88, 2, 0x03, 0xED], Violation::CloseCode, 1002),
        (&[0x88, 2, 0x03, 0xF7], Violation::CloseCode, 1002),
        (&[0x88, 2, 0x13, 0x88], Violation::CloseCode, 1002),
        (&[0x88, 3, 0x03, 0xE8, 0xFF], Violation::CloseReason, 1007),
    ] {
        let found = violation(bytes);
        assert_eq!((found, found.close_code()), (expected, code), "{bytes:02x?}");
    }
    assert_eq!(server(&[0x82, 0x01, b'a']).1, [Err(Violation::Masking)]);
}

#[test]
fn the_longest_frame_and_the_longest_control_frame_are_read() {
    let mut decoder = Decoder::new(Role::Client);
    let mut bytes = [0x82, 127, 0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, b'a'];
    assert_eq!(decoder.decode(&mut bytes), Ok((11, Some(Event::Data(10..11)))));
    assert!(decoder.pending());
    let ping = control_frame(Opcode::Ping, &[7; CONTROL_MAX_BYTES], None);
    assert_eq!(client(&ping).1, [Ok(Event::Ping(Vec::from([7; CONTROL_MAX_BYTES])))]);
    assert_eq!(control_frame(Opcode::Ping, &[7; CONTROL_MAX_BYTES + 1], None), ping);
}

#[test]
fn control_frames_are_written_for_both_roles() {
    assert_eq!(close_frame(1000), [0x88, 2, 0x03, 0xE8]);
    assert_eq!(pong(b"ab"), [0x8A, 2, b'a', b'b']);
    let masked = control_frame(Opcode::Close, &1001_u16.to_be_bytes(), Some([9, 8, 7, 6]));
    assert_eq!(server(&masked).1, [Ok(Event::Close(Some(1001)))]);
}

/// A stream as a peer would send it: messages, sometimes fragmented, and control frames.
fn any_stream() -> impl Strategy<Value = (Vec<u8>, Vec<u8>, usize)> {
    let message =
        (proptest::collection::vec(any::<u8>(), 0..300), any::<[u8; 4]>(), 1..4_usize, any::<bool>());
    proptest::collection::vec(message, 0..6).prop_map(|messages| {
        let (mut bytes, mut payload, mut pings) = (Vec::new(), Vec::new(), 0);
        for (data, key, fragments, ping) in messages {
            payload.extend_from_slice(&data);
            let size = data.len().div_ceil(fragments).max(1);
            let parts: Vec<&[u8]> =
                if data.is_empty() { Vec::from([&data[..]]) } else { data.chunks(size).collect() };
            for (i, part) in parts.iter().enumerate() {
                let mut frame = self::message(part, Some(key));
                frame[0] = if i == 0 { 0x02 } else { 0x00 };
                if i + 1 == parts.len() {
                    frame[0] |= 0x80;
                }
                bytes.extend(frame);
                if ping {
                    pings += 1;
                    bytes.extend(control_frame(Opcode::Ping, &part[..part.len().min(125)], Some(key)));
                }
            }
        }
        (bytes, payload, pings)
    })
}

proptest! {
    #[test]
    fn any_stream_is_read_the_same_however_it_is_cut(
        (bytes, payload, pings) in any_stream(),
        chunks in proptest::collection::vec(1..40_usize, 0..60),
    ) {
        let (found, events, pending) = run(Role::Server, &bytes, &chunks);
        prop_assert_eq!(&found, &payload);
        prop_assert_eq!(events.len(), pings);
        prop_assert!(!pending);
        prop_assert_eq!(run(Role::Server, &bytes, &std::vec![1; bytes.len()]), (found, events, pending));
    }

    #[test]
    fn arbitrary_bytes_are_read_the_same_however_they_are_cut(
        bytes: Vec<u8>,
        first in prop_oneof![Just(0x82_u8), Just(0x02), Just(0x89), Just(0x88), any::<u8>()],
        length in 0..=255_u8,
        chunks in proptest::collection::vec(1..9_usize, 0..60),
    ) {
        let bytes = [&[first, length][..], &bytes].concat();
        for role in [Role::Server, Role::Client] {
            prop_assert_eq!(run(role, &bytes, &[]), run(role, &bytes, &chunks));
        }
    }

    #[test]
    fn masking_in_parts_is_masking_the_whole(payload: Vec<u8>, key: [u8; 4], cut in 0..=100_usize) {
        let cut = cut.min(payload.len());
        let (mut whole, mut parts) = (payload.clone(), payload.clone());
        mask(&mut whole, key, 0);
        let (left, right) = parts.split_at_mut(cut);
        mask(left, key, 0);
        mask(right, key, cut);
        prop_assert_eq!(&whole, &parts);
        prop_assert!(whole.iter().zip(payload).enumerate().all(|(i, (m, p))| *m == p ^ key[i % 4]));
    }
}
