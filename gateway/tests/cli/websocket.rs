//! `portcullis connect --via websocket` against gateways that are played (RFC 6455).

use std::collections::VecDeque;
use std::io::{self, Read, Write};

use portcullis_proto::http_head::RequestHead;
use portcullis_proto::websocket::{
    Decoder, Event, Opcode, Role, close_frame, control_frame, frame_header, switching_protocols, upgrade,
};

use crate::gateway::{Duplex, Gateway, head, socks_reply, socks_request};
use crate::program::{Output, TICKET, command, finish};

/// The server's side of a WebSocket as a stream of bytes.
struct Socket<'a> {
    stream: &'a mut dyn Duplex,
    decoder: Decoder,
    pending: VecDeque<u8>,
    closed: Option<u16>,
    pongs: usize,
}

impl<'a> Socket<'a> {
    fn accept(stream: &'a mut dyn Duplex) -> Self {
        let asked = RequestHead::parse(head(stream).as_bytes()).unwrap();
        assert_eq!(asked.target, "/");
        let asked = upgrade(&asked).unwrap().unwrap();
        stream.write_all(&switching_protocols(&asked, None)).unwrap();
        Self { stream, decoder: Decoder::new(Role::Server), pending: VecDeque::new(), closed: None, pongs: 0 }
    }

    fn frame(&mut self, payload: &[u8]) {
        let header = frame_header(Opcode::Binary, payload.len(), None);
        self.stream.write_all(&[header.as_ref(), payload].concat()).unwrap();
    }

    /// Reads once and keeps what it finds.
    fn fill(&mut self) {
        let mut bytes = [0; 4096];
        let length = self.stream.read(&mut bytes).unwrap();
        assert!(length > 0, "the client closed without a close frame");
        let mut rest = &mut bytes[..length];
        while !rest.is_empty() && self.closed.is_none() {
            let (used, event) = self.decoder.decode(rest).unwrap();
            match event {
                Some(Event::Data(range)) => self.pending.extend(&rest[range]),
                Some(Event::Close(code)) => self.closed = Some(code.unwrap_or(1005)),
                Some(Event::Ping(_)) => panic!("a client has no reason to ping"),
                Some(Event::Pong) => self.pongs += 1,
                None => {}
            }
            rest = &mut rest[used..];
        }
    }
}

impl Read for Socket<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        while self.pending.is_empty() {
            if self.closed.is_some() {
                return Ok(0);
            }
            self.fill();
        }
        self.pending.read(bytes)
    }
}

impl Write for Socket<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.frame(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Duplex for Socket<'_> {
    fn finish(&mut self) {
        self.stream.write_all(&close_frame(1000)).unwrap();
        self.stream.finish();
    }
}

fn connect(gateway: &Gateway, via: &str, input: &[u8]) -> Output {
    let mut connect = command(["connect", "--plain", "--gateway", &gateway.name(), "--via", via]);
    connect.env("PORTCULLIS_TICKET", TICKET);
    finish(connect, input)
}

#[test]
fn a_session_runs_inside_binary_frames_and_both_sides_close() {
    const LENGTH: usize = 200_000;
    let (told, heard) = std::sync::mpsc::channel();
    let gateway = Gateway::plain(move |stream| {
        let mut socket = Socket::accept(stream);
        assert_eq!(socks_request(&mut socket).0, TICKET);
        socks_reply(&mut socket, 0);
        let mut received = vec![0; LENGTH];
        socket.read_exact(&mut received).unwrap();
        socket.write_all(&received).unwrap();
        socket.stream.write_all(&close_frame(1000)).unwrap();
        while socket.closed.is_none() {
            socket.fill();
        }
        told.send(socket.closed).unwrap();
    });
    let sent = "0123456789".repeat(LENGTH / 10);
    let output = connect(&gateway, "websocket", sent.as_bytes());
    assert_eq!((output.code, output.stderr.as_str()), (0, ""));
    assert_eq!(output.stdout, sent);
    assert_eq!(heard.recv().unwrap(), Some(1000));
}

#[test]
fn pings_and_odd_frames_do_not_disturb_the_bytes() {
    let gateway = Gateway::plain(|stream| {
        let mut socket = Socket::accept(stream);
        socks_request(&mut socket);
        socket.stream.write_all(&control_frame(Opcode::Ping, b"are you there", None)).unwrap();
        while socket.pongs == 0 {
            socket.fill();
        }
        // The reply in frames of one byte each.
        for byte in [5, 0, 0, 1, 0, 0, 0, 0, 0, 0] {
            socket.frame(&[byte]);
        }
        let ping = control_frame(Opcode::Ping, b"are you there", None);
        socket.frame(b"before ");
        socket.stream.write_all(&ping).unwrap();
        socket.frame(b"after");
        socket.finish();
    });
    let output = connect(&gateway, "websocket", b"");
    assert_eq!((output.code, output.stdout.as_str()), (0, "before after"), "{output:?}");
}

#[test]
fn cgp_runs_inside_frames_too() {
    let gateway = Gateway::plain(|stream| {
        let mut socket = Socket::accept(stream);
        let mut prefix = [0; 7];
        socket.read_exact(&mut prefix).unwrap();
        assert_eq!(&prefix, b"\x1aCGP/01");
        socket.write_all(b"hello").unwrap();
        socket.finish();
    });
    let output = connect(&gateway, "websocket-cgp", b"");
    assert_eq!((output.code, output.stdout.as_str()), (0, "hello"), "{output:?}");
}

#[test]
fn the_code_of_a_close_frame_is_the_gateways_reason() {
    for (code, words) in [(1008, "not allowed"), (1013, "try again later")] {
        let gateway = Gateway::plain(move |stream| {
            let socket = Socket::accept(stream);
            socket.stream.write_all(&close_frame(code)).unwrap();
            drop(socket.stream.read(&mut [0; 100]));
        });
        let output = connect(&gateway, "websocket", b"");
        assert_eq!(output.code, 76, "{output:?}");
        assert!(output.stderr.contains(words), "{output:?}");
    }
}

#[test]
fn an_answer_that_is_no_websocket_is_a_refusal() {
    let gateway = Gateway::plain(|stream| {
        head(stream);
        stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").unwrap();
    });
    let output = connect(&gateway, "websocket", b"");
    assert!(output.code == 76 && output.stderr.contains("404"), "{output:?}");
    let gateway = Gateway::plain(|stream| {
        head(stream);
        let wrong = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                      Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n\r\n";
        stream.write_all(wrong).unwrap();
    });
    assert_eq!(connect(&gateway, "websocket", b"").code, 76);
}

#[test]
fn an_end_without_a_close_frame_is_not_taken_for_one_that_was_meant() {
    let gateway = Gateway::plain(|stream| {
        let mut socket = Socket::accept(stream);
        socks_request(&mut socket);
        socks_reply(&mut socket, 0);
        socket.frame(b"half a fi");
        socket.stream.finish();
    });
    let output = connect(&gateway, "websocket", b"");
    assert_eq!((output.code, output.stdout.as_str()), (69, "half a fi"), "{output:?}");
}
