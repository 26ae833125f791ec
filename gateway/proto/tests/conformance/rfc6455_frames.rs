//! RFC 6455 §5 to §7, frames.

use portcullis_proto::websocket::{
    Decoder, Event, Opcode, Role, Violation, close_frame, frame_header, mask, pong,
};

/// The payload and the last event or violation that `bytes` give.
fn read(role: Role, bytes: &[u8]) -> (Vec<u8>, Option<Result<Event, Violation>>) {
    let (mut decoder, mut bytes) = (Decoder::new(role), bytes.to_vec());
    let (mut rest, mut payload, mut last) = (bytes.as_mut_slice(), Vec::new(), None);
    while !rest.is_empty() {
        match decoder.decode(rest) {
            Ok((used, event)) => {
                if let Some(Event::Data(range)) = &event {
                    payload.extend_from_slice(&rest[range.clone()]);
                } else if let Some(event) = event {
                    last = Some(Ok(event));
                }
                rest = &mut rest[used..];
            }
            Err(violation) => return (payload, Some(Err(violation))),
        }
    }
    (payload, last)
}

fn fails(role: Role, bytes: &[u8]) -> u16 {
    let (_, last) = read(role, bytes);
    last.and_then(Result::err).map_or(0, Violation::close_code)
}

// RFC 6455 §5.1: "The server MUST close the connection upon receiving a frame that is not masked. In this case, a server
// MAY send a Close frame with a status code of 1002 (protocol error)".
#[test]
fn a_server_fails_on_a_frame_without_a_mask() {
    assert_eq!(fails(Role::Server, &[0x82, 0x01, 0x00]), 1002);
}

// RFC 6455 §5.1: "A client MUST close a connection if it detects a masked frame."
#[test]
fn a_client_fails_on_a_masked_frame() {
    assert_eq!(fails(Role::Client, &[0x82, 0x81, 1, 2, 3, 4, 0]), 1002);
}

// RFC 6455 §5.1: "A server MUST NOT mask any frames that it sends to the client."
#[test]
fn what_a_server_writes_is_not_masked() {
    assert_eq!(frame_header(Opcode::Binary, 1, None).as_ref()[1] & 0x80, 0);
    assert_eq!(close_frame(1000)[1] & 0x80, 0);
    assert_eq!(pong(b"x")[1] & 0x80, 0);
}

// RFC 6455 §5.2: "If a nonzero value is received and none of the negotiated extensions defines the meaning of such a
// nonzero value, the receiving endpoint MUST _Fail the WebSocket Connection_."
#[test]
fn reserved_bits_fail_the_connection() {
    for bit in [0x40, 0x20, 0x10] {
        assert_eq!(fails(Role::Client, &[0x82 | bit, 0]), 1002);
    }
}

// RFC 6455 §5.2: "If an unknown opcode is received, the receiving endpoint MUST _Fail the WebSocket Connection_."
#[test]
fn unknown_opcodes_fail_the_connection() {
    for opcode in (0x3..=0x7).chain(0xB..=0xF) {
        assert_eq!(fails(Role::Client, &[0x80 | opcode, 0]), 1002);
    }
}

// RFC 6455 §5.2: "If 126, the following 2 bytes interpreted as a 16-bit unsigned integer are the payload length. If 127,
// the following 8 bytes interpreted as a 64-bit unsigned integer (the most significant bit MUST be 0) are the payload
// length. Multibyte length quantities are expressed in network byte order."
#[test]
fn lengths_are_in_network_order() {
    let payload = vec![7; 0x1_0102];
    let short = [&[0x82, 126, 0x01, 0x02][..], &payload[..0x0102]].concat();
    assert_eq!(read(Role::Client, &short).0.len(), 0x0102);
    let long = [&[0x82, 127, 0, 0, 0, 0, 0, 1, 1, 2][..], &payload].concat();
    assert_eq!(read(Role::Client, &long).0.len(), 0x1_0102);
    assert_eq!(fails(Role::Client, &[0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 1]), 1002);
}

// RFC 6455 §5.2: "Note that in all cases, the minimal number of bytes MUST be used to encode the length, for example, the
// length of a 124-byte-long string can't be encoded as the sequence 126, 0, 124."
#[test]
fn lengths_are_minimal() {
    assert_eq!(fails(Role::Client, &[0x82, 126, 0, 124]), 1002);
    assert_eq!(fails(Role::Client, &[0x82, 127, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF]), 1002);
}

// RFC 6455 §5.3: "Octet i of the transformed data ("transformed-octet-i") is the XOR of octet i of the original data
// ("original-octet-i") with octet at index i modulo 4 of the masking key ("masking-key-octet-j")".
#[test]
fn masking_is_that_of_the_document() {
    // RFC 6455 §5.7, the masked "Hello".
    let mut payload = *b"Hello";
    mask(&mut payload, [0x37, 0xFA, 0x21, 0x3D], 0);
    assert_eq!(payload, [0x7F, 0x9F, 0x4D, 0x51, 0x58]);
}

// RFC 6455 §5.4: "A fragmented message consists of a single frame with the FIN bit clear and an opcode other than 0,
// followed by zero or more frames with the FIN bit clear and the opcode set to 0, and terminated by a single frame with
// the FIN bit set and an opcode of 0."
#[test]
fn fragments_are_joined() {
    let bytes = [&[0x02, 3][..], b"Hel", &[0x00, 1], b"l", &[0x80, 1], b"o"].concat();
    assert_eq!(read(Role::Client, &bytes).0, b"Hello");
    assert_eq!(fails(Role::Client, &[0x80, 0]), 1002);
    assert_eq!(fails(Role::Client, &[0x02, 0, 0x02, 0]), 1002);
}

// RFC 6455 §5.4: "Control frames (see Section 5.5) MAY be injected in the middle of a fragmented message. Control frames
// themselves MUST NOT be fragmented."
#[test]
fn control_frames_stand_between_fragments_and_are_whole() {
    let bytes = [&[0x02, 1][..], b"a", &[0x89, 1], b"p", &[0x80, 1], b"b"].concat();
    assert_eq!(read(Role::Client, &bytes), (b"ab".to_vec(), Some(Ok(Event::Ping(b"p".to_vec())))));
    for opcode in [0x08, 0x09, 0x0A] {
        assert_eq!(fails(Role::Client, &[opcode, 0]), 1002);
    }
}

// RFC 6455 §5.5: "All control frames MUST have a payload length of 125 bytes or less and MUST NOT be fragmented."
#[test]
fn control_frames_hold_125_bytes() {
    let longest = [&[0x89, 125][..], &[7; 125]].concat();
    assert_eq!(read(Role::Client, &longest).1, Some(Ok(Event::Ping(vec![7; 125]))));
    assert_eq!(fails(Role::Client, &[0x89, 126, 0, 126]), 1002);
}

// RFC 6455 §5.5.1: "If there is a body, the first two bytes of the body MUST be a 2-byte unsigned integer (in network
// byte order) representing a status code with value /code/ defined in Section 7.4. Following the 2-byte integer, the body
// MAY contain UTF-8-encoded data with value /reason/".
#[test]
fn a_close_body_is_a_code_and_a_reason() {
    assert_eq!(read(Role::Client, &[0x88, 0]).1, Some(Ok(Event::Close(None))));
    assert_eq!(read(Role::Client, b"\x88\x05\x03\xE9bye").1, Some(Ok(Event::Close(Some(1001)))));
    assert_eq!(fails(Role::Client, &[0x88, 1, 3]), 1002);
    assert_eq!(fails(Role::Client, b"\x88\x03\x03\xE9\xFF"), 1007);
}

// RFC 6455 §5.5.3: "A Pong frame sent in response to a Ping frame must have identical "Application data" as found in the
// message body of the Ping frame being replied to."
#[test]
fn a_pong_repeats_the_ping() {
    let (_, event) = read(Role::Client, b"\x89\x05Hello");
    let Some(Ok(Event::Ping(payload))) = event else { panic!() };
    // RFC 6455 §5.7: the unmasked form of the example's pong.
    assert_eq!(pong(&payload), b"\x8A\x05Hello");
}

// RFC 6455 §7.4.1: "1003 indicates that an endpoint is terminating the connection because it has received a type of data
// it cannot accept (e.g., an endpoint that understands only text data MAY send this if it receives a binary message)."
#[test]
fn text_is_refused_with_1003() {
    assert_eq!(fails(Role::Client, b"\x81\x05Hello"), 1003);
}

// RFC 6455 §7.4.1: "1005 is a reserved value and MUST NOT be set as a status code in a Close control frame by an
// endpoint." The same is said of 1006 and 1015; §7.4.2: "Status codes in the range 0-999 are not used."
#[test]
fn reserved_status_codes_are_refused() {
    for code in [0_u16, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535] {
        assert_eq!(fails(Role::Client, &close_frame(code)), 1002, "{code}");
    }
    for code in [1000, 1001, 1002, 1003, 1007, 1011, 3000, 4999] {
        assert_eq!(read(Role::Client, &close_frame(code)).1, Some(Ok(Event::Close(Some(code)))));
    }
}
