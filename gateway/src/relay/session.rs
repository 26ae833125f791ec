//! One session on its worker: what comes from either side, and how each direction ends.
//!
//! Events only note what happened and queue bytes; once a turn, [`Session::go_on`] sends, receives and ends. So
//! everything that one turn brings for one side goes out together.

mod server;
mod spliced;

use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use portcullis_core::command::{Framing as ClientFraming, Relay as Beginning};
use portcullis_core::session::{Counters, EndReason};
use portcullis_uring::{Chunk, Class, Event, Socket, Stop, Token};

use super::direction::{Direction, Receiving, Sink, Source};
use super::framing::Framing;
use super::worker::Shared;
use crate::tls::codec::Codec;
use server::ServerTls;

/// How long a session may be silent once one side is done.
const HALF_CLOSED_IDLE: Duration = Duration::from_mins(5);
/// How long a server may be silent after a WebSocket client's close frame before the frame is answered.
const WEBSOCKET_ANSWER_WAIT: Duration = Duration::from_secs(5);
/// How long a client may take to answer a WebSocket close frame (RFC 6455 §7.1.1).
const WEBSOCKET_CLOSE_WAIT: Duration = Duration::from_secs(10);

/// Which of the two connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Server,
}

/// What an operation was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Receive(Side),
    Send(Side),
    /// Towards that side.
    Splice(Side),
}

impl Op {
    const ALL: [Self; 6] = [
        Self::Receive(Side::Client),
        Self::Receive(Side::Server),
        Self::Send(Side::Client),
        Self::Send(Side::Server),
        Self::Splice(Side::Client),
        Self::Splice(Side::Server),
    ];

    fn token(self, key: u32) -> Token {
        let code = Self::ALL.iter().position(|op| *op == self).unwrap_or_default();
        Token::new((u64::from(key) << 8) | u64::try_from(code).unwrap_or_default())
    }

    /// Whose operation it was, and which.
    pub(super) fn of(token: Token) -> Option<(u32, Self)> {
        let key = u32::try_from(token.value() >> 8).ok()?;
        let op = Self::ALL.get(usize::try_from(token.value() & 0xFF).ok()?)?;
        Some((key, *op))
    }
}

/// One session on its worker.
#[derive(Debug)]
pub(super) struct Session {
    key: u32,
    client: Socket,
    server: Socket,
    codec: Codec,
    server_tls: Option<Box<ServerTls>>,
    framing: Option<Box<Framing>>,
    /// Client to server.
    up: Direction,
    /// Server to client.
    down: Direction,
    counters: Arc<Counters>,
    may_splice: bool,
    idle_timeout: Duration,
    last_activity: Instant,
    end: Option<EndReason>,
    aborted: bool,
    /// It is in the list of those that go on at the end of this turn.
    pub(super) is_listed: bool,
    /// It is due sooner than it was.
    pub(super) is_due_sooner: bool,
    /// The tick for which it is in the wheel.
    pub(super) armed: u64,
}

/// What a session is made of.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) key: u32,
    pub(super) client: Socket,
    pub(super) server: Socket,
    pub(super) codec: Codec,
    pub(super) server_codec: Codec,
    /// What the server has said already.
    pub(super) unread: Vec<u8>,
    pub(super) counters: Arc<Counters>,
    pub(super) idle_timeout: Duration,
    /// Both ends are TCP.
    pub(super) is_tcp: bool,
}

impl Session {
    /// Begins with the bytes that came before the session did.
    pub(super) fn new(parts: Parts, beginning: Beginning, shared: &mut Shared) -> Self {
        let Parts { key, client, server, codec, server_codec, unread, counters, idle_timeout, is_tcp } =
            parts;
        let Beginning { framing, forward, undecoded } = beginning;
        let framing = match framing {
            ClientFraming::Direct => None,
            ClientFraming::WebSocket(decoder) => Some(Box::new(Framing::new(decoder))),
        };
        let mut session = Self {
            key,
            client,
            server,
            may_splice: is_tcp && codec.is_plain() && server_codec.is_plain() && framing.is_none(),
            codec,
            server_tls: ServerTls::new(server_codec),
            framing,
            up: Direction::new(),
            down: Direction::new(),
            counters,
            idle_timeout,
            last_activity: shared.now,
            end: None,
            aborted: false,
            is_listed: false,
            is_due_sooner: false,
            armed: 0,
        };
        session.push_up(Chunk::from_vec(forward), shared);
        session.begin(undecoded, shared);
        session.begin_server(unread, shared);
        session
    }

    /// Bytes may wait in the TLS connection since the handshake, and in the framing since the request.
    fn begin(&mut self, undecoded: Vec<u8>, shared: &mut Shared) {
        let mut first = Chunk::from_vec(Vec::new());
        match self.codec.open(&mut first, &mut shared.scratch) {
            Ok(ended) => {
                let chunk = Chunk::from_vec([undecoded.as_slice(), first.bytes()].concat());
                self.take_opened(chunk, ended, shared);
            }
            Err(_) => self.violated(shared),
        }
    }

    /// Takes one event in.
    pub(super) fn handle(&mut self, op: Op, event: Event, shared: &mut Shared) {
        match (op, event) {
            (Op::Receive(side), Event::Received { chunk, .. }) => self.received(side, chunk, shared),
            (Op::Receive(Side::Client), Event::End { .. }) => self.source_ended(Side::Client, Source::Ended),
            (Op::Receive(Side::Server), Event::End { .. }) => {
                self.source_ended(Side::Server, self.server_end());
            }
            (Op::Receive(side), Event::Stopped { why, .. }) => self.stopped(side, why, shared),
            (Op::Send(side), Event::Sent { result, .. }) => self.sent(side, result.is_ok(), shared.now),
            (Op::Splice(to), Event::Ready { .. }) => {
                if let Some(splice) = &mut self.towards(to).splice {
                    splice.awaits = false;
                }
            }
            _ => {}
        }
    }

    fn received(&mut self, side: Side, mut chunk: Chunk, shared: &mut Shared) {
        match side {
            Side::Client if self.up.source == Source::Open && self.up.sink == Sink::Open => {
                self.last_activity = shared.now;
                match self.codec.open(&mut chunk, &mut shared.scratch) {
                    Ok(ended) => self.take_opened(chunk, ended, shared),
                    Err(_) => self.violated(shared),
                }
            }
            Side::Server if self.down.source == Source::Open && self.down.sink == Sink::Open => {
                self.last_activity = shared.now;
                self.take_from_server(chunk, shared);
            }
            // Nobody is to get it.
            Side::Client | Side::Server => {}
        }
    }

    /// Bytes of the client without TLS.
    fn take_opened(&mut self, mut chunk: Chunk, mut ended: bool, shared: &mut Shared) {
        if let Some(framing) = &mut self.framing {
            match framing.unwrap(&mut chunk) {
                Ok(closed) => ended |= closed,
                Err(_) => return self.violated(shared),
            }
        }
        self.push_up(chunk, shared);
        if ended {
            self.up.source = Source::Ended;
        }
    }

    /// Bytes of the server, wrapped for the client.
    fn wrap(&mut self, chunk: Chunk, shared: &mut Shared) {
        let count = chunk.len();
        let header = self.framing.is_some().then(|| Framing::header(count));
        let header = header.as_ref().map(AsRef::as_ref).unwrap_or_default();
        match self.codec.seal(header, chunk, &mut shared.scratch) {
            Ok((before, chunk)) => {
                if let Some(before) = before {
                    self.down.push(before, 0);
                }
                self.down.push(relieved(chunk, self.server_class(), shared), count);
            }
            Err(_) => self.abort(EndReason::ClientViolation),
        }
    }

    /// The client broke TLS or its framing. The server's end makes the other direction finish, which tells the client
    /// why in TLS's and WebSocket's own words.
    fn violated(&mut self, shared: &mut Shared) {
        self.up.discard();
        self.up.source = Source::Ended;
        self.up.sink = Sink::Closed;
        self.part(EndReason::ClientViolation, Shutdown::Both, shared);
    }

    fn source_ended(&mut self, side: Side, how: Source) {
        let direction = self.from(side);
        direction.receiving = Receiving::Off;
        if direction.source == Source::Open {
            direction.source = how;
        }
    }

    fn stopped(&mut self, side: Side, why: Stop, shared: &mut Shared) {
        match why {
            Stop::Asked => self.from(side).receiving = Receiving::Off,
            Stop::NoBuffer => {
                self.from(side).receiving = Receiving::Starved;
                shared.starved.push_back((self.key, side));
            }
            Stop::Failed(error) => {
                let reason = match side {
                    Side::Client => EndReason::ClientReset,
                    Side::Server if is_reset(&error) => EndReason::ServerReset,
                    Side::Server => EndReason::ServerClosed,
                };
                self.source_ended(side, Source::Failed(reason));
            }
        }
    }

    /// Buffers are free again.
    pub(super) fn feed(&mut self, side: Side) {
        let direction = self.from(side);
        if direction.receiving == Receiving::Starved {
            direction.receiving = Receiving::Off;
        }
    }

    fn sent(&mut self, side: Side, is_ok: bool, now: Instant) {
        if !is_ok {
            // After a violation the server's connection is cut on purpose.
            if side == Side::Client || self.up.sink == Sink::Open {
                self.abort(if side == Side::Client {
                    EndReason::ClientReset
                } else {
                    EndReason::ServerReset
                });
            } else {
                self.up.note_sent();
            }
            return;
        }
        self.last_activity = now;
        match side {
            Side::Server => {
                let count = self.up.note_sent();
                self.counters.bytes_up.fetch_add(count, Ordering::Relaxed);
            }
            Side::Client => {
                let count = self.down.note_sent();
                self.counters.bytes_down.fetch_add(count, Ordering::Relaxed);
            }
        }
    }

    /// The direction that begins at a side.
    fn from(&mut self, side: Side) -> &mut Direction {
        match side {
            Side::Client => &mut self.up,
            Side::Server => &mut self.down,
        }
    }

    /// The direction that ends at a side.
    fn towards(&mut self, side: Side) -> &mut Direction {
        match side {
            Side::Client => &mut self.down,
            Side::Server => &mut self.up,
        }
    }

    /// Does what the events of this turn have made possible.
    pub(super) fn go_on(&mut self, shared: &mut Shared) {
        if self.counters.is_killed() {
            self.abort(EndReason::Killed);
        }
        if !self.aborted {
            self.go_on_up(shared);
        }
        if !self.aborted {
            self.go_on_down(shared);
        }
        if self.is_over() {
            return;
        }
        self.consider_splicing(shared);
        let class = self.server_class();
        let engine = &mut shared.engine;
        self.up.regulate(engine, self.client, Class::Client, Op::Receive(Side::Client).token(self.key));
        self.down.regulate(engine, self.server, class, Op::Receive(Side::Server).token(self.key));
    }

    fn go_on_up(&mut self, shared: &mut Shared) {
        if self.up.sink != Sink::Open || self.up.is_sending() {
            return;
        }
        self.say_to_server();
        self.up.send(&mut shared.engine, self.server, Op::Send(Side::Server).token(self.key));
        if !self.up.is_drained() || !self.splice_to(Side::Server, shared) {
            return;
        }
        if self.up.source == Source::Ended && self.is_telling_server(shared) {
            return;
        }
        match self.up.source {
            Source::Open => {}
            Source::Failed(reason) => self.abort(reason),
            // WebSocket has no half-close of its own, but a close frame may be answered after the last message
            // (RFC 6455 §5.5.1). So the server hears of the client's end, and what it still has to say is passed on.
            Source::Ended if self.framing.is_some() && self.down.sink != Sink::Closed => {
                self.up.sink = Sink::Closing;
                self.part(EndReason::ClientClosed, Shutdown::Write, shared);
            }
            Source::Ended => {
                self.up.sink = Sink::Closed;
                self.part(EndReason::ClientClosed, Shutdown::Write, shared);
            }
        }
    }

    fn go_on_down(&mut self, shared: &mut Shared) {
        if self.down.sink == Sink::Closed || self.down.is_sending() {
            return;
        }
        if self.down.sink == Sink::Open {
            self.say(shared);
        }
        self.down.send(&mut shared.engine, self.client, Op::Send(Side::Client).token(self.key));
        if !self.down.is_drained() || self.aborted || !self.splice_to(Side::Client, shared) {
            return;
        }
        match (self.down.sink, self.down.source) {
            (Sink::Open, Source::Open) => {}
            (Sink::Open, Source::Failed(_)) if self.is_alerting_server() => {}
            (Sink::Open, Source::Failed(reason)) => self.abort(reason),
            (Sink::Open, Source::Ended) => self.finish(shared),
            (Sink::Closing | Sink::Closed, _) => self.finished(shared),
        }
    }

    /// What waits for the client besides the server's bytes goes behind those that are queued.
    fn say(&mut self, shared: &mut Shared) {
        let answers = self.framing.as_ref().is_some_and(|framing| framing.has_answers());
        if !answers && !self.codec.has_to_say() {
            return;
        }
        let (mut frames, mut out) = (Vec::new(), Vec::new());
        if let Some(framing) = &mut self.framing {
            framing.take_answers(&mut frames);
        }
        match self.codec.say(&frames, &mut out) {
            Ok(()) => self.down.push(relieved(Chunk::from_vec(out), Class::Server, shared), 0),
            Err(_) => self.abort(EndReason::ClientViolation),
        }
    }

    /// The server is done: says so in each layer.
    fn finish(&mut self, shared: &mut Shared) {
        self.note_end(EndReason::ServerClosed);
        if let Some(framing) = &mut self.framing {
            framing.close();
        }
        self.say(shared);
        let mut out = Vec::new();
        self.codec.close(&mut out);
        self.down.push(Chunk::from_vec(out), 0);
        self.down.sink = Sink::Closing;
        if self.down.is_drained() {
            return self.finished(shared);
        }
        self.down.send(&mut shared.engine, self.client, Op::Send(Side::Client).token(self.key));
    }

    /// The client has been told everything.
    fn finished(&mut self, shared: &mut Shared) {
        self.down.sink = Sink::Closed;
        shared.engine.shutdown(self.client, Shutdown::Write);
        self.shorten_idle();
        if self.up.sink == Sink::Closing {
            self.up.sink = Sink::Closed;
        }
    }

    /// One side is done: tells the server, and lets the other direction finish in a shorter while.
    fn part(&mut self, reason: EndReason, how: Shutdown, shared: &mut Shared) {
        self.note_end(reason);
        self.shut_server(how, shared);
        self.shorten_idle();
    }

    /// With one side done, silence means something else.
    fn shorten_idle(&mut self) {
        let most = if self.framing.is_some() { WEBSOCKET_CLOSE_WAIT } else { HALF_CLOSED_IDLE };
        self.idle_timeout = self.idle_timeout.min(most);
        self.is_due_sooner = true;
    }

    /// The first reason is the reason.
    fn note_end(&mut self, reason: EndReason) {
        self.end.get_or_insert(reason);
    }

    /// Ends both directions now.
    pub(super) fn abort(&mut self, reason: EndReason) {
        self.note_end(reason);
        self.aborted = true;
    }

    pub(super) fn is_over(&self) -> bool {
        self.aborted || (self.up.sink == Sink::Closed && self.down.sink == Sink::Closed)
    }

    /// Both sockets, and whether each peer was told that nothing more comes.
    pub(super) fn sockets(&self) -> [(Socket, bool); 2] {
        [(self.client, self.down.sink == Sink::Closed), (self.server, self.up.sink == Sink::Closed)]
    }

    pub(super) fn end_reason(&self) -> EndReason {
        self.end.unwrap_or(EndReason::ClientClosed)
    }

    /// When the session is to be looked at if nothing moves.
    pub(super) fn due(&self) -> Instant {
        let wait = match self.up.sink {
            Sink::Closing => self.idle_timeout.min(WEBSOCKET_ANSWER_WAIT),
            Sink::Open | Sink::Closed => self.idle_timeout,
        };
        self.last_activity + wait
    }

    /// Its time has come, unless something has moved since.
    pub(super) fn expire(&mut self, shared: &mut Shared) {
        if self.due() > shared.now {
            return;
        }
        if self.last_activity + self.idle_timeout <= shared.now {
            self.abort(EndReason::Idle);
        } else if self.up.sink == Sink::Closing {
            self.up.sink = Sink::Closed;
            self.shut_server(Shutdown::Both, shared);
        }
    }
}

/// Where buffers run short, bytes that may have to wait get memory of their own.
fn relieved(chunk: Chunk, class: Class, shared: &Shared) -> Chunk {
    if shared.engine.runs_short(class) { Chunk::from_vec(chunk.bytes().to_vec()) } else { chunk }
}

/// Whether an error says that the peer, not the network, cut the connection.
fn is_reset(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted)
}
