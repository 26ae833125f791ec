//! A piece of bytes with room around it, and how much room each kind of buffer has.

use std::fmt;
use std::ops::Range;

use crate::pool::Place;

/// Which group of buffers a socket receives into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Clients, and servers that we speak TLS to: small buffers would cut their records.
    Client,
    /// Other servers: what one sends is wrapped in one record for the client.
    Server,
}

impl Class {
    /// Both, in the order of their group numbers.
    pub const ALL: [Self; 2] = [Self::Client, Self::Server];

    /// The form of this class's buffers.
    #[must_use]
    pub const fn geometry(self) -> Geometry {
        match self {
            Self::Client => Geometry::CLIENT,
            Self::Server => Geometry::SERVER,
        }
    }
}

/// The form of a buffer: received bytes go behind `front`, and `back` stays free behind them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    pub front: usize,
    pub data: usize,
    pub back: usize,
}

impl Geometry {
    /// In front: a carried-over partial record of 16,640 bytes (header 5, text 16,384, growth 256 at most, RFC 8446
    /// §5.2, is 16,645) so that every record lies in one piece; behind: a type byte and a tag.
    pub const CLIENT: Self = Self { front: 16_704, data: 65_536, back: 32 };
    /// In front: record header 5, explicit nonce 8 (TLS 1.2), WebSocket header 10 at most; data: the text of one
    /// record; behind: type byte 1, tag 16.
    pub const SERVER: Self = Self { front: 32, data: 16_384, back: 32 };

    /// Where received bytes go, within the whole.
    #[must_use]
    pub const fn data_room(self) -> Range<usize> {
        self.front..self.front.saturating_add(self.data)
    }

    /// All rooms together.
    #[must_use]
    pub const fn whole(self) -> usize {
        self.front.saturating_add(self.data).saturating_add(self.back)
    }
}

// The rooms hold what they are for.
const _: () = assert!(Geometry::CLIENT.front > 5 + 16_384 + 256);
const _: () = assert!(Geometry::SERVER.front >= 5 + 8 + 10 && Geometry::SERVER.back > 16);

/// A buffer with bytes in it and room around them.
///
/// One that came from a pool goes back when it is dropped. It belongs to the thread of its pool.
///
/// ```compile_fail
/// fn send<T: Send>(_: T) {}
/// send(portcullis_uring::Chunk::from_vec(Vec::new()));
/// ```
pub struct Chunk {
    memory: Memory,
    filled: Range<usize>,
}

enum Memory {
    Own(Vec<u8>),
    Pooled(Place),
}

impl Chunk {
    /// A chunk of its own memory, without room around the bytes (see [`Chunk::set_range`]).
    #[must_use]
    pub fn from_vec(bytes: Vec<u8>) -> Self {
        let filled = 0..bytes.len();
        Self { memory: Memory::Own(bytes), filled }
    }

    pub(crate) fn pooled(place: Place, filled: Range<usize>) -> Self {
        let mut chunk = Self { memory: Memory::Pooled(place), filled: 0..0 };
        chunk.set_range(filled);
        chunk
    }

    /// The filled range.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.whole().get(self.range()).unwrap_or_default()
    }

    /// The filled range.
    #[must_use]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let range = self.range();
        self.whole_mut().get_mut(range).unwrap_or_default()
    }

    /// Everything, rooms included. Outside of the filled range lies what earlier uses left there.
    #[must_use]
    pub fn whole_mut(&mut self) -> &mut [u8] {
        match &mut self.memory {
            Memory::Own(bytes) => bytes,
            Memory::Pooled(place) => place.bytes_mut(),
        }
    }

    /// Where the bytes lie in the whole.
    #[must_use]
    pub fn range(&self) -> Range<usize> {
        self.filled.clone()
    }

    /// Says where the bytes lie; what is beyond the whole is cut off.
    pub fn set_range(&mut self, range: Range<usize>) {
        let end = range.end.min(self.whole().len());
        self.filled = range.start.min(end)..end;
    }

    /// How many bytes are filled.
    #[must_use]
    pub fn len(&self) -> usize {
        self.filled.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.filled.is_empty()
    }

    fn whole(&self) -> &[u8] {
        match &self.memory {
            Memory::Own(bytes) => bytes,
            Memory::Pooled(place) => place.bytes(),
        }
    }
}

/// Says nothing of the bytes: they may be secret.
impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pooled = matches!(self.memory, Memory::Pooled(_));
        f.debug_struct("Chunk").field("pooled", &pooled).field("range", &self.filled).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_beyond_the_whole_is_cut_off() {
        let mut chunk = Chunk::from_vec(b"abcdef".to_vec());
        assert_eq!(chunk.bytes(), b"abcdef");
        chunk.set_range(2..100);
        assert_eq!((chunk.bytes(), chunk.range()), (b"cdef".as_slice(), 2..6));
        chunk.set_range(50..60);
        assert!(chunk.is_empty());
        chunk.set_range(Range { start: 4, end: 1 });
        assert!(chunk.is_empty());
    }

    #[test]
    fn debugging_a_chunk_does_not_show_its_bytes() {
        let text = format!("{:?}", Chunk::from_vec(b"secret".to_vec()));
        assert!(!text.contains("115") && !text.contains("secret"), "{text}");
    }
}
