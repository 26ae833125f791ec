//! One direction of a session: what waits to be sent, what is being sent, and when to receive more.

use std::collections::VecDeque;

use portcullis_core::session::EndReason;
use portcullis_uring::{Chunk, Class, SEND_CHUNKS, Socket, Token};

use super::engine::Engine;
use super::splice::{SPLICE_AFTER_BYTES, Splice};

/// Chunks that may wait behind those that are being sent; then nothing is received until they have gone.
const QUEUE_CHUNKS: usize = 8;
/// Bytes that may wait.
const QUEUE_BYTES: usize = 256 * 1024;

/// Whether bytes are being received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Receiving {
    Off,
    On,
    /// It was asked to stop and has not yet.
    Stopping,
    /// No buffer was free.
    Starved,
}

/// Whether more will come from where this direction begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Open,
    /// The sender is done.
    Ended,
    /// The session ends for that reason once the rest is delivered.
    Failed(EndReason),
}

/// Whether more may go to where this direction ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sink {
    Open,
    /// The last words are being sent, or answered by the other direction.
    Closing,
    Closed,
}

/// Bytes ready to go, and how many of them count.
#[derive(Debug)]
struct Piece {
    chunk: Chunk,
    payload: u64,
}

/// What waits, in order. The first piece needs no memory of its own: a session of single messages never has another.
#[derive(Debug, Default)]
struct Queue {
    first: Option<Piece>,
    rest: VecDeque<Piece>,
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    fn len(&self) -> usize {
        usize::from(self.first.is_some()).saturating_add(self.rest.len())
    }

    fn push(&mut self, piece: Piece) {
        match self.first {
            None => self.first = Some(piece),
            Some(_) => self.rest.push_back(piece),
        }
    }

    fn pop(&mut self) -> Option<Piece> {
        std::mem::replace(&mut self.first, self.rest.pop_front())
    }

    fn iter(&self) -> impl Iterator<Item = &Piece> {
        self.first.iter().chain(&self.rest)
    }
}

/// One direction of a session.
#[derive(Debug)]
pub(super) struct Direction {
    pub(super) receiving: Receiving,
    pub(super) source: Source,
    pub(super) sink: Sink,
    pub(super) splice: Option<Box<Splice>>,
    /// Payload that was sent by copying.
    pub(super) copied: u64,
    /// When that reaches this, the rest is spliced if it may be.
    pub(super) splice_after: u64,
    queue: Queue,
    queued: usize,
    /// How much payload is being sent.
    in_flight: Option<u64>,
}

impl Direction {
    pub(super) const fn new() -> Self {
        Self {
            receiving: Receiving::Off,
            source: Source::Open,
            sink: Sink::Open,
            splice: None,
            copied: 0,
            splice_after: SPLICE_AFTER_BYTES,
            queue: Queue { first: None, rest: VecDeque::new() },
            queued: 0,
            in_flight: None,
        }
    }

    pub(super) fn is_sending(&self) -> bool {
        self.in_flight.is_some()
    }

    /// Nothing waits and nothing is being sent.
    pub(super) fn is_drained(&self) -> bool {
        self.in_flight.is_none() && self.queue.is_empty()
    }

    /// Puts bytes behind those that wait; `payload` of them are the session's own.
    pub(super) fn push(&mut self, chunk: Chunk, payload: usize) {
        if !chunk.is_empty() {
            self.queued = self.queued.saturating_add(chunk.len());
            self.queue.push(Piece { chunk, payload: payload.try_into().unwrap_or(u64::MAX) });
        }
    }

    /// Sends what waits, unless something is being sent; at the most as much as one call takes.
    pub(super) fn send(&mut self, engine: &mut Engine, socket: Socket, token: Token) {
        if self.is_drained() || self.is_sending() {
            return;
        }
        let count = self.queue.len().min(SEND_CHUNKS);
        let parts = self.queue.iter().take(count);
        let (payload, bytes) = parts.fold((0_u64, 0_usize), |(payload, bytes), piece| {
            (payload.saturating_add(piece.payload), bytes.saturating_add(piece.chunk.len()))
        });
        self.queued = self.queued.saturating_sub(bytes);
        self.in_flight = Some(payload);
        // Then the end of the stream follows.
        let last = self.sink == Sink::Closing && count == self.queue.len();
        let mut pieces = (0..count).map_while(|_| self.queue.pop());
        let chunks = pieces.by_ref().map(|piece| piece.chunk);
        if last {
            engine.send_last(socket, chunks, token);
        } else {
            engine.send(socket, chunks, token);
        }
        // A socket that is gone takes none.
        pieces.for_each(drop);
    }

    /// What was being sent has gone; returns how much payload that was.
    pub(super) fn note_sent(&mut self) -> u64 {
        let payload = self.in_flight.take().unwrap_or_default();
        self.copied = self.copied.saturating_add(payload);
        payload
    }

    /// Drops what waits: nobody is to get it.
    pub(super) fn discard(&mut self) {
        self.queue = Queue::default();
        self.queued = 0;
    }

    /// Receives as long as not too much waits. With few buffers left, one piece that waits is enough.
    pub(super) fn regulate(&mut self, engine: &mut Engine, socket: Socket, class: Class, token: Token) {
        let few = engine.runs_short(class);
        let most = if few { 1 } else { QUEUE_CHUNKS };
        let wanted = self.source == Source::Open && self.sink == Sink::Open && self.splice.is_none();
        match self.receiving {
            Receiving::On if !wanted || self.queue.len() >= most || self.queued >= QUEUE_BYTES => {
                self.receiving = Receiving::Stopping;
                engine.stop_receiving(socket, token);
            }
            Receiving::Off if wanted && self.queue.is_empty() => {
                self.receiving = Receiving::On;
                engine.receive(socket, class, token);
            }
            _ => {}
        }
    }
}
