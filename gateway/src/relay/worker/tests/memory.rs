//! What a message costs a worker in memory: nothing.

use portcullis_proto::websocket::{Decoder, Role};
use rustls::{Side, SupportedCipherSuite};

use super::*;
use crate::tls::connection::Connection;
use crate::tls::record::tests::{TLS12, TLS13, pair, say};

const MESSAGES: usize = 100;
/// Before anything is counted: lists grow once, and buffers are taken.
const FIRST_MESSAGES: usize = 20;
const CONTENT: [u8; 700] = [7; 700];

/// A session by hand, and both its ends.
struct Talk {
    relay: Relay,
    client: TcpStream,
    server: UnixStream,
    /// What the client sends, sealed and framed.
    wires: Vec<Vec<u8>>,
    /// How much more than content comes back to it.
    overhead: usize,
}

impl Talk {
    fn begin(engine: EngineChoice, suite: Option<SupportedCipherSuite>, is_framed: bool) -> Self {
        let ((client, near), (far, server)) = (tcp(), UnixStream::pair().unwrap());
        let mut handover = handover(near, Server::Web(far));
        let (mut message, mut overhead) = (CONTENT.to_vec(), 0);
        if is_framed {
            // RFC 6455 §5.2: a binary frame of 700 bytes under a mask of zeros. The way back has none.
            message = [&[0x82, 0xfe, 2, 188, 0, 0, 0, 0], CONTENT.as_slice()].concat();
            overhead += 4;
            handover.beginning.framing = Framing::WebSocket(Decoder::new(Role::Server));
        }
        let count = FIRST_MESSAGES + MESSAGES;
        let wires = match suite {
            None => vec![message; count],
            Some(suite) => {
                let (records, mut peer) = pair(suite, Side::Server);
                handover.codec = Codec::from(Connection::from_records(Box::new(records), Vec::new()));
                let wires: Vec<_> = (0..count).map(|_| say(&mut peer, &message)).collect();
                overhead += wires[0].len() - message.len();
                wires
            }
        };
        let (mut relay, queue) = by_hand(engine);
        queue.send(handover).unwrap();
        relay.take_in();
        client.set_nonblocking(true).unwrap();
        server.set_nonblocking(true).unwrap();
        Self { relay, client, server, wires, overhead }
    }

    /// One message there and back.
    fn pass(&mut self, at: usize) {
        let mut buffer = [0; 1024];
        let Self { relay, client, server, wires, overhead } = self;
        client.write_all(&wires[at]).unwrap();
        let mut come = 0;
        turns(relay, "the message to arrive", |_| {
            come += server.read(&mut buffer[come..]).unwrap_or(0);
            come == CONTENT.len()
        });
        assert!(buffer[..come] == CONTENT);
        server.write_all(&CONTENT).unwrap();
        let mut come = 0;
        turns(relay, "the answer to arrive", |_| {
            come += client.read(&mut buffer[come..]).unwrap_or(0);
            come == CONTENT.len() + *overhead
        });
    }
}

#[test]
fn a_message_allocates_nothing() {
    for engine in engines() {
        for suite in [None, Some(TLS12), Some(TLS13)] {
            for is_framed in [false, true] {
                let mut talk = Talk::begin(engine, suite, is_framed);
                (0..FIRST_MESSAGES).for_each(|at| talk.pass(at));
                let info = allocation_counter::measure(|| {
                    (FIRST_MESSAGES..FIRST_MESSAGES + MESSAGES).for_each(|at| talk.pass(at));
                });
                assert_eq!(info.count_total, 0, "{engine:?} {suite:?}, in frames: {is_framed}");
            }
        }
    }
}
