//! What an engine is told and what it tells.

use std::io;

use crate::buffer::Chunk;

/// At most so many chunks go out by one `send`.
pub const SEND_CHUNKS: usize = 8;

/// What the caller knows an operation by; the engine hands it back. 56 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(u64);

impl Token {
    pub const MAX: u64 = (1 << 56) - 1;

    /// Bits above the 56th are cut off.
    #[must_use]
    pub const fn new(value: u64) -> Self {
        Self(value & Self::MAX)
    }

    #[must_use]
    pub const fn value(self) -> u64 {
        self.0
    }
}

/// A descriptor that an engine keeps. One that was closed does nothing any more, even when its place is used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Socket {
    place: u32,
    generation: u32,
}

impl Socket {
    /// For engines: a place in their table, and how often it was used before.
    #[must_use]
    pub const fn new(place: u32, generation: u32) -> Self {
        Self { place, generation }
    }

    #[must_use]
    pub const fn place(self) -> u32 {
        self.place
    }

    #[must_use]
    pub const fn generation(self) -> u32 {
        self.generation
    }
}

/// News from an engine.
#[derive(Debug)]
pub enum Event {
    /// Bytes from the peer, in their order.
    Received { token: Token, chunk: Chunk },
    /// The peer sends no more. Receiving has stopped.
    End { token: Token },
    /// Receiving has stopped otherwise.
    Stopped { token: Token, why: Stop },
    /// The kernel took all bytes, or the send failed. The chunks are free again.
    Sent { token: Token, result: io::Result<()> },
    /// The descriptor is ready, or has failed: the next call on it says which.
    Ready { token: Token },
    /// Someone used the waker, once or often.
    Woken,
}

/// Why receiving has stopped although the peer may send more.
#[derive(Debug)]
pub enum Stop {
    /// `stop_receiving` was called.
    Asked,
    /// No buffer of the class was free. Receive again after chunks were dropped; no byte is lost.
    NoBuffer,
    Failed(io::Error),
}
