//! WebSocket on `/`, carrying SOCKS or CGP in binary frames (RFC 6455).

use std::io::{Read as _, Write as _};

use portcullis_tests::backend::{self, Stage};
use portcullis_tests::client::Client;
use portcullis_tests::process;
use portcullis_tests::speak::{GREETING, SOCKS_SUCCESS, Speak as _, base64, cgp_hello, socks_request};
use portcullis_tests::wait::PATIENCE;
use portcullis_tests::websocket::{
    BINARY, CLOSE, CONTINUATION, EXAMPLE_KEY, FIN, PING, PONG, TEXT, WebSocket as _, masked, unmasked,
};

use super::fixture::{Edge, assert_hidden, number, python, text};

const UNKNOWN: &str = ";40;STA999999999;0123456789ABCDEF0123456789ABCDEF";

/// An open WebSocket.
fn upgraded(edge: &Edge) -> Client {
    let mut client = edge.client();
    client.upgrade("").unwrap();
    client
}

/// A WebSocket with an established SOCKS session to an echoing server inside.
fn session(edge: &Edge, target: std::net::SocketAddr) -> Client {
    let mut client = upgraded(edge);
    client.send_binary(&socks_request(&edge.ticket(target), 1494)).unwrap();
    assert_eq!(client.read_binary(10).unwrap(), SOCKS_SUCCESS);
    client
}

/// Reads frames until the gateway's close frame and returns the payload before it and its code.
fn until_close(client: &mut Client) -> (Vec<u8>, Option<u16>) {
    let mut payload = Vec::new();
    loop {
        let frame = client.frame().unwrap();
        if frame.opcode == CLOSE {
            return (payload, frame.close_code());
        }
        payload.extend(frame.payload);
    }
}

#[test]
fn socks_with_a_ticket_in_binary_frames_reaches_its_server() {
    let (edge, server) = (Edge::start(), backend::echo().unwrap());
    let mut client = upgraded(&edge);
    client.send_binary(GREETING).unwrap();
    assert_eq!(client.read_binary(2).unwrap(), [5, 0]);
    client.send_binary(&socks_request(&edge.ticket(server.address()), 1494)).unwrap();
    assert_eq!(client.read_binary(10).unwrap(), SOCKS_SUCCESS);
    client.send_binary(b"inside").unwrap();
    assert_eq!(client.read_binary(6).unwrap(), b"inside");
    assert_eq!(edge.gateway.control().sessions().unwrap()[0]["protocol"], "websocket-socks5");
}

#[test]
fn cgp_in_binary_frames_reaches_the_server_unchanged() {
    let (edge, stage) = (Edge::start(), Stage::open().unwrap());
    let hello = cgp_hello(&edge.ticket(stage.address().unwrap()));
    let mut client = upgraded(&edge);
    client.send_binary(&hello).unwrap();
    let mut server = stage.accept().unwrap();
    let mut got = vec![0; hello.len()];
    server.read_exact(&mut got).unwrap();
    assert_eq!(got, hello);
    server.write_all(&[0, 255, 1]).unwrap();
    assert_eq!(client.read_binary(3).unwrap(), [0, 255, 1]);
    assert_eq!(edge.gateway.control().sessions().unwrap()[0]["protocol"], "websocket-cgp");
}

#[test]
fn the_record_counts_payload_and_no_framing() {
    let (edge, server) = (Edge::start(), backend::echo().unwrap());
    let mut client = session(&edge, server.address());
    for _ in 0..10 {
        client.send_binary(&[7; 100]).unwrap();
        client.read_binary(100).unwrap();
    }
    client.send(&masked(FIN | CLOSE, &[0x03, 0xe8])).unwrap();
    until_close(&mut client);
    let record = edge.record();
    assert_eq!((number(&record, "bytes_up"), number(&record, "bytes_down")), (1000, 1000), "{record}");
}

// RFC 6455 §5.4: "A fragmented message consists of a single frame with the FIN bit clear and an opcode other than 0,
// followed by zero or more frames with the FIN bit clear and the opcode set to 0".
#[test]
fn a_message_in_fragments_is_one_stream_of_bytes() {
    let (edge, server) = (Edge::start(), backend::echo().unwrap());
    let mut client = upgraded(&edge);
    let request = socks_request(&edge.ticket(server.address()), 1494);
    let (start, rest) = request.split_at(6);
    let (middle, end) = rest.split_at(20);
    client.send(&masked(BINARY, start)).unwrap();
    client.send(&masked(CONTINUATION, middle)).unwrap();
    client.send(&masked(FIN | CONTINUATION, end)).unwrap();
    assert_eq!(client.read_binary(10).unwrap(), SOCKS_SUCCESS);
}

// RFC 6455 §5.4: "Control frames MAY be injected in the middle of a fragmented message."
#[test]
fn a_ping_between_fragments_is_answered_and_disturbs_nothing() {
    let (edge, server) = (Edge::start(), backend::echo().unwrap());
    let mut client = session(&edge, server.address());
    client.send(&masked(BINARY, b"first ")).unwrap();
    client.send(&masked(FIN | PING, b"hello?")).unwrap();
    client.send(&masked(FIN | CONTINUATION, b"second")).unwrap();
    let (mut data, mut pongs) = (Vec::new(), Vec::new());
    while data.len() < 12 || pongs.is_empty() {
        let frame = client.frame().unwrap();
        if frame.opcode == PONG { pongs.push(frame.payload) } else { data.extend(frame.payload) }
    }
    assert_eq!((data.as_slice(), pongs), (&b"first second"[..], vec![b"hello?".to_vec()]));
}

// RFC 6455 §5.5.2: "Upon receipt of a Ping frame, an endpoint MUST send a Pong frame in response".
#[test]
fn a_ping_before_the_first_data_is_answered() {
    let edge = Edge::start();
    let mut client = upgraded(&edge);
    client.send(&masked(FIN | PING, b"early")).unwrap();
    let frame = client.frame().unwrap();
    assert_eq!((frame.opcode, frame.payload.as_slice()), (PONG, &b"early"[..]));
}

// RFC 6455 §5.5.1: "the endpoint MUST send a Close frame in response".
#[test]
fn a_close_frame_is_answered_and_ends_the_session() {
    let (edge, server) = (Edge::start(), backend::echo().unwrap());
    let mut client = session(&edge, server.address());
    client.send(&masked(FIN | CLOSE, &[0x03, 0xe8])).unwrap();
    assert_eq!(until_close(&mut client), (Vec::new(), Some(1000)));
    client.read_to_end().unwrap();
    assert_eq!(edge.end_reason(), "client_closed");
}

// RFC 6455 §5.5.1: "An endpoint MAY delay sending a Close frame until its current message is sent".
#[test]
fn what_the_server_still_has_to_say_comes_before_the_answer_to_a_close_frame() {
    let (edge, stage) = (Edge::start(), Stage::open().unwrap());
    let mut client = session(&edge, stage.address().unwrap());
    let mut server = stage.accept().unwrap();
    client.send_binary(b"question").unwrap();
    client.send(&masked(FIN | CLOSE, &[0x03, 0xe9])).unwrap();
    let mut question = Vec::new();
    server.read_to_end(&mut question).unwrap();
    assert_eq!(question, b"question", "the client's end must reach the server");
    server.write_all(b"answer").unwrap();
    drop(server);
    assert_eq!(until_close(&mut client), (b"answer".to_vec(), Some(1001)));
}

#[test]
fn a_server_that_does_not_end_holds_up_the_answer_to_a_close_frame_for_seconds_only() {
    let (edge, stage) = (Edge::start(), Stage::open().unwrap());
    let mut client = session(&edge, stage.address().unwrap());
    let server = stage.accept().unwrap();
    client.send(&masked(FIN | CLOSE, &[0x03, 0xe8])).unwrap();
    assert_eq!(until_close(&mut client), (Vec::new(), Some(1000)));
    assert_eq!(edge.end_reason(), "client_closed");
    drop(server);
}

#[test]
fn a_server_that_closes_is_told_by_a_close_frame_after_its_last_byte() {
    let (edge, stage) = (Edge::start(), Stage::open().unwrap());
    let mut client = session(&edge, stage.address().unwrap());
    let mut server = stage.accept().unwrap();
    server.write_all(b"bye").unwrap();
    drop(server);
    assert_eq!(until_close(&mut client), (b"bye".to_vec(), Some(1000)));
}

// RFC 6455 §5.1: "The server MUST close the connection upon receiving a frame that is not masked."
#[test]
fn an_unmasked_frame_is_a_protocol_error() {
    let edge = Edge::start();
    let mut client = upgraded(&edge);
    client.send(&unmasked(FIN | BINARY, GREETING)).unwrap();
    assert_eq!(until_close(&mut client), (Vec::new(), Some(1002)));
}

#[test]
fn an_unmasked_frame_within_a_session_ends_it_as_a_violation() {
    let (edge, server) = (Edge::start(), backend::echo().unwrap());
    let mut client = session(&edge, server.address());
    client.send(&unmasked(FIN | BINARY, b"data")).unwrap();
    assert_eq!(until_close(&mut client), (Vec::new(), Some(1002)));
    assert_eq!(edge.end_reason(), "client_violation");
}

// RFC 6455 §7.4.1: "1003 indicates that an endpoint is terminating the connection because it has received a type of
// data it cannot accept (e.g., an endpoint that understands only text data MAY send this if it receives a binary
// message)". Ours understands only binary data.
#[test]
fn a_text_frame_is_data_of_a_type_that_is_not_accepted() {
    let edge = Edge::start();
    let mut client = upgraded(&edge);
    client.send(&masked(FIN | TEXT, b"hello")).unwrap();
    assert_eq!(until_close(&mut client), (Vec::new(), Some(1003)));
}

// RFC 6455 §5.2: a reserved bit "MUST be 0 unless an extension is negotiated that defines meanings".
#[test]
fn a_reserved_bit_is_a_protocol_error() {
    let edge = Edge::start();
    let mut client = upgraded(&edge);
    client.send(&masked(FIN | 0x40 | BINARY, GREETING)).unwrap();
    assert_eq!(until_close(&mut client), (Vec::new(), Some(1002)));
}

// RFC 6455 §5.5: "All control frames MUST have a payload length of 125 bytes or less".
#[test]
fn a_ping_that_is_too_long_is_a_protocol_error() {
    let edge = Edge::start();
    let mut client = upgraded(&edge);
    client.send(&masked(FIN | PING, &[0; 126])).unwrap();
    assert_eq!(until_close(&mut client), (Vec::new(), Some(1002)));
}

#[test]
fn a_refused_ticket_inside_cgp_closes_by_policy() {
    let edge = Edge::start();
    let mut client = upgraded(&edge);
    client.send_binary(&cgp_hello(UNKNOWN)).unwrap();
    assert_eq!(until_close(&mut client), (Vec::new(), Some(1008)));
    edge.wait_for_refusals("authority_unknown", 1.0);
}

#[test]
fn a_refused_ticket_inside_socks_gets_its_reply_and_then_a_close_frame() {
    let edge = Edge::start();
    let mut client = upgraded(&edge);
    client.send_binary(&socks_request(UNKNOWN, 1494)).unwrap();
    assert_eq!(until_close(&mut client), (vec![5, 2, 0, 1, 0, 0, 0, 0, 0, 0], Some(1008)));
}

#[test]
fn a_server_that_refuses_closes_with_try_again_later_and_stays_hidden() {
    let (edge, stage) = (Edge::start(), Stage::open().unwrap());
    let target = stage.address().unwrap();
    drop(stage);
    let mut client = upgraded(&edge);
    client.send_binary(&cgp_hello(&edge.ticket(target))).unwrap();
    assert_eq!(until_close(&mut client), (Vec::new(), Some(1013)));
    assert_hidden(client.received(), target);
}

// RFC 6455 §4.4: a server that does not support the version answers 426 and names those that it does.
#[test]
fn another_version_is_told_which_one_is_spoken() {
    let edge = Edge::start();
    let mut client = edge.client();
    let key = base64(EXAMPLE_KEY);
    let request = format!(
        "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 8\r\n\r\n"
    );
    client.send(request.as_bytes()).unwrap();
    let answer = client.http_answer().unwrap();
    assert_eq!((answer.status, answer.header("Sec-WebSocket-Version")), (426, Some("13")));
}

#[test]
fn frames_behind_the_upgrade_request_are_not_lost() {
    let (edge, server) = (Edge::start(), backend::echo().unwrap());
    let mut client = edge.client();
    let request = format!(
        "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {}\r\nSec-WebSocket-Version: 13\r\n\r\n",
        base64(EXAMPLE_KEY)
    );
    let frame = masked(FIN | BINARY, &socks_request(&edge.ticket(server.address()), 1494));
    client.send(&[request.as_bytes(), &frame].concat()).unwrap();
    assert_eq!(client.http_answer().unwrap().status, 101);
    assert_eq!(client.read_binary(10).unwrap(), SOCKS_SUCCESS);
}

#[test]
fn a_message_of_a_megabyte_passes_both_ways() {
    let (edge, server) = (Edge::start(), backend::echo().unwrap());
    let mut client = session(&edge, server.address());
    let sent = backend::Pattern::new(11).bytes(131_072);
    let (mut sender, frame) = (client.sender, masked(FIN | BINARY, &sent));
    let writer = std::thread::spawn(move || {
        sender.send(&frame).unwrap();
        sender
    });
    let mut all = Vec::new();
    while all.len() < sent.len() {
        let head = client.receiver.read(2).unwrap();
        let length = match head[1] {
            126 => u64::from(u16::from_be_bytes(client.receiver.read(2).unwrap().try_into().unwrap())),
            127 => u64::from_be_bytes(client.receiver.read(8).unwrap().try_into().unwrap()),
            short => u64::from(short),
        };
        all.extend(client.receiver.read(usize::try_from(length).unwrap()).unwrap());
    }
    assert!(all == sent, "other bytes came back");
    drop(writer.join().unwrap());
}

fn python_client(inner: &str) {
    let Some(mut python) = python("websockets") else { return };
    let (edge, server) = (Edge::start(), backend::echo().unwrap());
    python.arg("websocket_client.py").arg(edge.ca()).args([&edge.at.port().to_string(), inner]);
    python.env("TICKET", edge.ticket(server.address()));
    let output = process::run(&mut python, PATIENCE).unwrap().ok().unwrap();
    let record = edge.record();
    assert_eq!(output.stdout.trim(), "echoed 300000 bytes, closed with 1000", "{record}");
    assert!(text(&record, "protocol").starts_with("websocket"), "{record}");
}

#[test]
fn python_websockets_carries_socks() {
    python_client("socks");
}

#[test]
fn python_websockets_carries_cgp() {
    python_client("cgp");
}
