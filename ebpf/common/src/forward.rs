//! Forwarded flows: what the tables of the kernel side hold of services, their servers, and both directions of a flow.
//!
//! A service is an address and port of this machine whose connections are sent on to servers, with both ends
//! rewritten: the client sees the service only, a server sees this machine only. A flow has two entries, one for each
//! direction; the key is what comes in, `out` is what leaves, and the other direction's key is `out` turned around.
//! It is half open until the client has answered the server's answer, in a table of its own in which the oldest make
//! room: a flood of first segments cannot touch flows that are open.

use crate::flow::FlowKey;
use crate::maglev;

/// Services at the same time. Listeners have one for each of their addresses, and one table of servers together.
pub const SERVICES_MAX: u32 = 256;
/// Listeners at the same time; each has two tables, one of which is being written.
pub const LISTENERS_MAX: u32 = 32;
/// Places of servers; each listener has two ranges of them.
pub const SERVERS_MAX: u32 = LISTENERS_MAX * 2 * SERVERS_EACH;
/// Servers of one listener.
pub const SERVERS_EACH: u32 = 128;
/// Words of one table: four slots each.
pub const WORDS_EACH: u32 = maglev::SLOTS.div_ceil(4);
/// Words of all tables.
pub const WORDS_MAX: u32 = LISTENERS_MAX * 2 * WORDS_EACH;
/// Entries of open flows, two for each; the configuration sets another number.
pub const FORWARDS_MAX: u32 = 65_536;
/// Entries of half-open flows.
pub const HALF_OPEN_MAX: u32 = 16_384;
/// How long after its last segment a flow is taken for half open still, in nanoseconds: as long as clients repeat their
/// first segment for a connection that is not answered.
pub const HALF_OPEN_TIME: u64 = 60_000_000_000;
/// Ports that are tried for a new flow.
pub const TRIES: u16 = 16;

/// A service: which table leads to its servers, and the ports that we may use towards them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Service {
    /// Which of the tables.
    pub table: u32,
    /// The listener's number, which flows keep.
    pub listener: u16,
    pub first_port: u16,
    /// How many ports; at least 1.
    pub ports: u32,
    /// 1 where user space may forward what the program cannot, otherwise 0.
    pub fallback: u32,
}

impl Service {
    #[must_use]
    #[inline(always)]
    pub const fn word(&self, slot: u32) -> u32 {
        self.table * WORDS_EACH + slot / 4
    }

    /// The place of a server of the service.
    #[must_use]
    #[inline(always)]
    pub fn server(&self, index: u16) -> u32 {
        self.table * SERVERS_EACH + u32::from(index)
    }

    /// The port for a flow of that hash, at a try.
    #[must_use]
    #[inline(always)]
    pub fn port(&self, hash: u32, attempt: u16) -> u16 {
        // A prime apart, so that neighbours in one try are none in the next.
        let place = hash.rotate_left(16).wrapping_add(u32::from(attempt).wrapping_mul(7_919));
        let ports = if self.ports == 0 { 1 } else { self.ports };
        u16::try_from((u32::from(self.first_port) + place % ports) & 0xffff).unwrap_or(0)
    }

    #[must_use]
    pub fn to_words(self) -> [u64; 2] {
        let [p0, p1] = self.first_port.to_ne_bytes();
        let [l0, l1] = self.listener.to_ne_bytes();
        let [t0, t1, t2, t3] = self.table.to_ne_bytes();
        let [n0, n1, n2, n3] = self.ports.to_ne_bytes();
        let [f0, f1, f2, f3] = self.fallback.to_ne_bytes();
        [
            u64::from_ne_bytes([t0, t1, t2, t3, l0, l1, p0, p1]),
            u64::from_ne_bytes([n0, n1, n2, n3, f0, f1, f2, f3]),
        ]
    }
}

/// The server that stands in a slot, of the four in a word.
#[must_use]
#[inline(always)]
pub fn in_word(word: u64, slot: u32) -> u16 {
    let shifted = word >> ((slot % 4) * 16);
    u16::try_from(shifted & 0xffff).unwrap_or(maglev::NO_SERVER)
}

/// Four slots in one word.
#[must_use]
pub fn to_word(slots: &[u16]) -> u64 {
    let place = |index: usize| u64::from(slots.get(index).copied().unwrap_or(maglev::NO_SERVER));
    place(0) | place(1) << 16 | place(2) << 32 | place(3) << 48
}

/// One direction of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Forward {
    /// What leaves: from us to the server, or from the service to the client.
    pub out: FlowKey,
    /// The bits below.
    pub state: u64,
    /// The listener's number and the server's place in it.
    pub listener: u32,
    pub server: u32,
    /// Packets that came in.
    pub packets: u64,
    /// Bytes behind the TCP header that came in.
    pub bytes: u64,
    /// When the last packet came in, and the first, in nanoseconds of the monotonic clock.
    pub seen: u64,
    pub since: u64,
}

/// The direction from the server to the client.
pub const FROM_SERVER: u64 = 1;
/// The server has answered the first segment.
pub const ANSWERED: u64 = 2;
/// This direction has sent its last byte.
pub const FINISHED: u64 = 4;
/// This direction has reset the connection.
pub const RESET: u64 = 8;

/// A value as user space reads it.
pub const FORWARD_WORDS: usize = 11;

impl Forward {
    #[must_use]
    #[inline(always)]
    pub const fn has(&self, bit: u64) -> bool {
        self.state & bit != 0
    }

    #[must_use]
    pub fn from_words(words: [u64; FORWARD_WORDS]) -> Self {
        let [o0, o1, o2, o3, o4, state, place, packets, bytes, seen, since] = words;
        let [l0, l1, l2, l3, s0, s1, s2, s3] = place.to_ne_bytes();
        Self {
            out: FlowKey::from_words([o0, o1, o2, o3, o4]),
            state,
            listener: u32::from_ne_bytes([l0, l1, l2, l3]),
            server: u32::from_ne_bytes([s0, s1, s2, s3]),
            packets,
            bytes,
            seen,
            since,
        }
    }

    #[must_use]
    pub fn to_words(self) -> [u64; FORWARD_WORDS] {
        let [o0, o1, o2, o3, o4] = self.out.to_words();
        let ([l0, l1, l2, l3], [s0, s1, s2, s3]) = (self.listener.to_ne_bytes(), self.server.to_ne_bytes());
        let place = u64::from_ne_bytes([l0, l1, l2, l3, s0, s1, s2, s3]);
        [o0, o1, o2, o3, o4, self.state, place, self.packets, self.bytes, self.seen, self.since]
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use core::mem::size_of;
    use std::collections::BTreeSet;
    use std::vec::Vec;

    use super::*;

    #[test]
    fn values_are_whole_words_without_gaps() {
        assert_eq!(size_of::<Forward>(), FORWARD_WORDS * 8);
        assert_eq!(size_of::<Service>(), 16);
        let words = core::array::from_fn(|index| u64::try_from(index).unwrap() << 32 | 7);
        assert_eq!(Forward::from_words(words).to_words(), words);
    }

    #[test]
    fn a_slot_is_found_in_its_word() {
        let slots: Vec<u16> = (0..16).collect();
        let words: Vec<u64> = slots.chunks(4).map(to_word).collect();
        for (slot, server) in (0..).zip(&slots) {
            let word = usize::try_from(slot / 4).unwrap();
            assert_eq!(in_word(words[word], slot), *server);
        }
        assert_eq!(in_word(to_word(&[1]), 3), maglev::NO_SERVER);
    }

    #[test]
    fn the_ports_that_are_tried_lie_in_the_range_and_differ() {
        let service = Service { table: 3, listener: 1, first_port: 20_000, ports: 10_000, fallback: 0 };
        for hash in [0, 1, 0xdead_beef, u32::MAX] {
            let tried: BTreeSet<u16> = (0..TRIES).map(|attempt| service.port(hash, attempt)).collect();
            assert!(tried.iter().all(|port| (20_000..30_000).contains(port)), "{tried:?}");
            assert_eq!(tried.len(), usize::from(TRIES));
        }
        let last = Service { table: LISTENERS_MAX * 2 - 1, ..service };
        assert!(last.word(maglev::SLOTS - 1) < WORDS_MAX && last.server(127) < SERVERS_MAX);
    }
}
