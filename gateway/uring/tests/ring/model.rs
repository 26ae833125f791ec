//! Random operations against a model of what has to come of them.

use std::collections::HashMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use portcullis_uring::{Chunk, Class, Event, Ring, Settings, Socket, Stop, Token};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::world::{PATIENCE, pair, pattern, quiet_until, ring};

const CONNECTIONS: usize = 4;
const BUFFERS: u16 = 3;
const HELD_MAX: usize = 4;

#[derive(Clone, Debug)]
enum Step {
    PeerWrites(usize, usize),
    PeerReads(usize, usize),
    PeerEnds(usize),
    Receive(usize),
    Stop(usize),
    Send(usize, Vec<usize>),
    Ready(usize, bool),
    Renew(usize),
    DropChunks,
    Turn,
}

fn step() -> impl Strategy<Value = Step> {
    let connection = 0..CONNECTIONS;
    prop_oneof![
        4 => (connection.clone(), 1..40_000_usize).prop_map(|(at, length)| Step::PeerWrites(at, length)),
        4 => (connection.clone(), 1..200_000_usize).prop_map(|(at, length)| Step::PeerReads(at, length)),
        1 => connection.clone().prop_map(Step::PeerEnds),
        5 => connection.clone().prop_map(Step::Receive),
        2 => connection.clone().prop_map(Step::Stop),
        4 => (connection.clone(), vec(prop_oneof![0..500_usize, 0..60_000_usize], 0..8)).prop_map(|(at, sizes)| Step::Send(at, sizes)),
        1 => (connection.clone(), any::<bool>()).prop_map(|(at, write)| Step::Ready(at, write)),
        1 => connection.prop_map(Step::Renew),
        2 => Just(Step::DropChunks),
        6 => Just(Step::Turn),
    ]
}

/// One socket of the ring and what was said about it.
struct Connection {
    socket: Socket,
    peer: UnixStream,
    class: Class,
    /// Bytes that the peer wrote, and those that the ring handed out.
    written: usize,
    received: usize,
    /// Bytes given to `send`, and those that the peer read.
    sent: usize,
    read: usize,
    peer_ended: bool,
    end_seen: bool,
    receiving: Option<Token>,
    sending: Option<Token>,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum What {
    Receive,
    Send,
    Ready,
}

struct Model {
    ring: Ring,
    connections: Vec<Connection>,
    /// What each operation that has not ended belongs to.
    open: HashMap<Token, (usize, What)>,
    held: Vec<Chunk>,
    tokens: u64,
}

impl Model {
    fn new(send_at_once: bool) -> Self {
        let settings = Settings {
            send_at_once,
            entries: 8,
            completions_per_entry: 2,
            sockets: 8,
            client_buffers: BUFFERS,
            server_buffers: BUFFERS,
        };
        let mut ring = ring(&settings);
        let connections = (0..CONNECTIONS).map(|at| connect(&mut ring, at)).collect();
        Self { ring, connections, open: HashMap::new(), held: Vec::new(), tokens: 0 }
    }

    fn token(&mut self, at: usize, what: What) -> Token {
        self.tokens += 1;
        let token = Token::new(self.tokens);
        self.open.insert(token, (at, what));
        token
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::PeerWrites(at, length) => self.peer_writes(at, length),
            Step::PeerReads(at, length) => self.peer_reads(at, length),
            Step::PeerEnds(at) => {
                self.connections[at].peer.shutdown(Shutdown::Write).expect("it is open");
                self.connections[at].peer_ended = true;
            }
            Step::Receive(at) => self.receive(at),
            Step::Stop(at) => {
                if let Some(token) = self.connections[at].receiving {
                    self.ring.stop_receiving(self.connections[at].socket, token);
                }
            }
            Step::Send(at, sizes) => self.send(at, &sizes),
            Step::Ready(at, write) => {
                // A second one of the same kind does nothing, so its token may stay without event.
                let token = self.token(at, What::Ready);
                self.ring.ready(self.connections[at].socket, write, token);
            }
            Step::Renew(at) => self.renew(at),
            Step::DropChunks => self.held.clear(),
            Step::Turn => self.turn(Duration::ZERO),
        }
    }

    fn peer_writes(&mut self, at: usize, length: usize) {
        let connection = &mut self.connections[at];
        if connection.peer_ended {
            return;
        }
        match connection.peer.write(&pattern(at + connection.written, length)) {
            Ok(count) => connection.written += count,
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }

    fn peer_reads(&mut self, at: usize, length: usize) {
        let connection = &mut self.connections[at];
        let mut bytes = vec![0; length];
        match connection.peer.read(&mut bytes) {
            Ok(count) => {
                assert!(bytes[..count] == pattern(at + connection.read, count), "out of order");
                connection.read += count;
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }

    fn receive(&mut self, at: usize) {
        if self.connections[at].receiving.is_none() {
            let token = self.token(at, What::Receive);
            self.connections[at].receiving = Some(token);
            self.ring.receive(self.connections[at].socket, self.connections[at].class, token);
        }
    }

    fn send(&mut self, at: usize, sizes: &[usize]) {
        if self.connections[at].sending.is_some() {
            return;
        }
        let token = self.token(at, What::Send);
        let connection = &mut self.connections[at];
        connection.sending = Some(token);
        let mut chunks = Vec::new();
        for size in sizes {
            chunks.push(Chunk::from_vec(pattern(at + connection.sent, *size)));
            connection.sent += size;
        }
        self.ring.send(connection.socket, chunks, token);
    }

    /// Closes a socket in whatever state it is, and puts a new one in its stead.
    fn renew(&mut self, at: usize) {
        self.ring.close(self.connections[at].socket);
        self.open.retain(|_, (of, _)| *of != at);
        self.connections[at] = connect(&mut self.ring, at);
    }

    fn turn(&mut self, timeout: Duration) {
        self.ring.wait(Some(timeout)).expect("the kernel answers");
        while let Some(event) = self.ring.next() {
            self.hear(event);
        }
    }

    fn hear(&mut self, event: Event) {
        match event {
            Event::Received { token, chunk } => {
                let at = self.known(token, What::Receive);
                let connection = &mut self.connections[at];
                assert!(chunk.bytes() == pattern(at + connection.received, chunk.len()), "out of order");
                connection.received += chunk.len();
                if self.held.len() < HELD_MAX {
                    self.held.push(chunk);
                }
            }
            Event::End { token } => {
                let at = self.finished(token, What::Receive);
                let connection = &mut self.connections[at];
                connection.end_seen = true;
                assert!(connection.peer_ended && connection.received == connection.written);
            }
            Event::Stopped { token, why } => {
                self.finished(token, What::Receive);
                assert!(matches!(why, Stop::Asked | Stop::NoBuffer), "{why:?}");
            }
            Event::Sent { token, result } => {
                self.finished(token, What::Send);
                result.expect("the peer is there");
            }
            Event::Ready { token } => {
                self.finished(token, What::Ready);
            }
            Event::Woken => unreachable!("nobody used the waker"),
        }
    }

    fn known(&self, token: Token, what: What) -> usize {
        let (at, of) = *self.open.get(&token).expect("events belong to operations that have not ended");
        assert_eq!(of, what);
        at
    }

    fn finished(&mut self, token: Token, what: What) -> usize {
        let at = self.known(token, what);
        self.open.remove(&token);
        let connection = &mut self.connections[at];
        match what {
            What::Receive => assert_eq!(connection.receiving.take(), Some(token)),
            What::Send => assert_eq!(connection.sending.take(), Some(token)),
            What::Ready => {}
        }
        at
    }

    /// Everything that was written arrives, and everything comes back.
    fn finish(mut self) {
        let deadline = Instant::now() + PATIENCE;
        self.held.clear();
        loop {
            for at in 0..CONNECTIONS {
                if !self.connections[at].end_seen {
                    self.receive(at);
                }
                self.peer_reads(at, 1 << 20);
            }
            self.turn(Duration::from_millis(1));
            self.held.clear();
            let done = |connection: &Connection| {
                connection.received == connection.written
                    && connection.read == connection.sent
                    && connection.sending.is_none()
                    && connection.end_seen == connection.peer_ended
            };
            if self.connections.iter().all(done) {
                break;
            }
            assert!(Instant::now() < deadline, "all bytes arrive in time");
        }
        self.connections.iter().for_each(|connection| self.ring.close(connection.socket));
        quiet_until(&mut self.ring, "everything is back", |ring| {
            let back = |class| ring.available(class) == usize::from(BUFFERS);
            ring.in_flight() == 1 && Class::ALL.into_iter().all(back)
        });
    }
}

fn connect(ring: &mut Ring, at: usize) -> Connection {
    let (socket, peer) = pair(ring);
    peer.set_nonblocking(true).expect("an option");
    let class = if at.is_multiple_of(2) { Class::Client } else { Class::Server };
    Connection {
        socket,
        peer,
        class,
        written: 0,
        received: 0,
        sent: 0,
        read: 0,
        peer_ended: false,
        end_seen: false,
        receiving: None,
        sending: None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_order_of_operations_keeps_the_bytes_in_order_and_gives_everything_back(
        send_at_once in any::<bool>(),
        steps in vec(step(), 1..200),
    ) {
        let mut model = Model::new(send_at_once);
        for step in steps {
            model.run(step);
        }
        model.finish();
    }
}
