//! Drop events: a sample of what was dropped, one packet at a time, without any of its payload.
//!
//! Each processor takes its own sample. In a second in which few packets are dropped all are taken. When more were
//! dropped in the last second than may be shown, one of 2, 4, 8, … is, so that a flood is seen from its beginning to
//! its end and not only in the first millisecond of every second. Counters count all of them in any case.

use core::net::IpAddr;

use crate::cause::Cause;
use crate::frame::Frame;

/// The length of an event, and with the kernel's header of an entry in its ring.
pub const EVENT_BYTES: u32 = 64;
const ENTRY_BYTES: u32 = EVENT_BYTES + 8;
/// The kernel wants whole pages of memory, and a power of two of them.
const RING_BYTES_MIN: u32 = 65_536;
/// Nanoseconds for which a sampler counts before it decides anew.
const WINDOW: u64 = 1_000_000_000;
/// At the least one of a million is taken.
const SHIFT_MAX: u32 = 20;

/// The size of a ring for so many events.
#[must_use]
pub const fn ring_bytes(events: u32) -> u32 {
    let bytes = events.saturating_mul(ENTRY_BYTES);
    let bytes = if bytes < RING_BYTES_MIN { RING_BYTES_MIN } else { bytes };
    match bytes.checked_next_power_of_two() {
        Some(bytes) => bytes,
        None => 1 << 31,
    }
}

/// How many words a [`Sampler`] has.
pub const SAMPLER_WORDS: usize = 8;

/// How one processor takes its sample, and what became of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Sampler {
    begun: u64,
    seen: u64,
    taken: u64,
    shift: u64,
    /// Events that found a place in the ring.
    pub kept: u64,
    /// Events that found none.
    pub lost: u64,
    /// The kernel's tick at which the clock was last read, and what it said.
    tick: u64,
    time: u64,
}

impl Sampler {
    /// Whether this drop is shown: for how many it stands. At most `most` are within a second.
    #[inline(always)]
    pub fn take(&mut self, now: u64, most: u64) -> Option<u64> {
        let since = now.wrapping_sub(self.begun);
        if since >= WINDOW {
            // After a silence the last count says nothing about now.
            self.shift = if since < 2 * WINDOW { shift(self.seen, most) } else { 0 };
            (self.begun, self.seen, self.taken) = (now, 0, 0);
        }
        self.seen = self.seen.wrapping_add(1);
        let every = 1 << (self.shift & 63);
        if self.seen & (every - 1) != 0 || self.taken >= most {
            return None;
        }
        self.taken = self.taken.wrapping_add(1);
        Some(every)
    }

    /// The time, by a clock that goes on with the tick and is asked once in each: a flood brings thousands of packets
    /// in one.
    #[inline(always)]
    pub fn now(&mut self, tick: u64, clock: impl FnOnce() -> u64) -> u64 {
        if self.tick != tick {
            (self.tick, self.time) = (tick, clock());
        }
        self.time
    }

    /// Counts a drop between two that are shown, as most of a flood are: what is left for [`Self::take`] is seldom.
    #[inline(always)]
    pub fn passes_over(&mut self, now: u64) -> bool {
        let (seen, every) = (self.seen.wrapping_add(1), 1 << (self.shift & 63));
        if now.wrapping_sub(self.begun) >= WINDOW || seen & (every - 1) == 0 {
            return false;
        }
        self.seen = seen;
        true
    }

    #[must_use]
    pub const fn from_words(
        [begun, seen, taken, shift, kept, lost, tick, time]: [u64; SAMPLER_WORDS],
    ) -> Self {
        Self { begun, seen, taken, shift, kept, lost, tick, time }
    }
}

/// The least number of halvings that brings `seen` down to `most`, up to a bound.
#[inline(always)]
fn shift(seen: u64, most: u64) -> u64 {
    let mut halvings = 0;
    while halvings < SHIFT_MAX && seen >> halvings > most {
        halvings += 1;
    }
    u64::from(halvings)
}

/// One packet that was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Event([u64; 8]);

/// `family` of a packet of neither IPv4 nor IPv6, or of one that ends before its addresses do.
const NO_FAMILY: u8 = 0;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const VLANS: [u16; 2] = [0x8100, 0x88a8];
const ETHERTYPE_AT: u32 = 12;
const TAG_BYTES: u32 = 4;
/// TCP and UDP.
const WITH_PORTS: [u8; 2] = [6, 17];

impl Event {
    /// Looks at a frame that was dropped; `weight`: for how many it stands. It takes what can be read: a frame that
    /// is malformed further on has addresses all the same.
    #[inline(always)]
    pub fn of<F: Frame + ?Sized>(frame: &F, time: u64, slot: u8, cause: Cause, weight: u64) -> Self {
        let mut words = [time, 0, 0, 0, 0, 0, 0, weight];
        let mut head = [cause_byte(cause), slot, 0, NO_FAMILY, 0, 0, 0, 0];
        let mut at = ETHERTYPE_AT;
        let mut ethertype = frame.read(at).map_or(0, u16::from_be_bytes);
        for _ in 0..2 {
            if VLANS.contains(&ethertype) {
                at += TAG_BYTES;
                ethertype = frame.read(at).map_or(0, u16::from_be_bytes);
            }
        }
        at += 2;
        let mut transport = 0;
        if ethertype == IPV4 {
            if let (Some([first]), Some([protocol]), Some(source), Some(destination)) =
                (frame.read(at), frame.read(at + 9), frame.read::<4>(at + 12), frame.read::<4>(at + 16))
            {
                (head[2], head[3]) = (protocol, 4);
                (words[2], words[4]) = (word_of_half(source), word_of_half(destination));
                let offset = frame.read(at + 6).map_or(0, u16::from_be_bytes) & 0x1fff;
                let header = u32::from(first & 0xf) * 4;
                transport = if offset == 0 && header >= 20 { at + header } else { 0 };
            }
        } else if ethertype == IPV6
            && let (Some([protocol]), Some(s0), Some(s1), Some(d0), Some(d1)) = (
                frame.read(at + 6),
                frame.read(at + 8),
                frame.read(at + 16),
                frame.read(at + 24),
                frame.read(at + 32),
            )
        {
            (head[2], head[3]) = (protocol, 6);
            words[2] = u64::from_ne_bytes(s0);
            words[3] = u64::from_ne_bytes(s1);
            words[4] = u64::from_ne_bytes(d0);
            words[5] = u64::from_ne_bytes(d1);
            transport = at + 40;
        }
        let mut ports = [0; 4];
        if transport != 0 && WITH_PORTS.contains(&head[2]) {
            ports = frame.read(transport).unwrap_or([0; 4]);
        }
        words[1] = u64::from_ne_bytes(head);
        let ([p0, p1, p2, p3], [l0, l1, l2, l3]) = (ports, frame.length().to_ne_bytes());
        words[6] = u64::from_ne_bytes([p0, p1, p2, p3, l0, l1, l2, l3]);
        Self(words)
    }

    /// `None` for what is no event.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut words = [0; 8];
        let (chunks, rest) = bytes.as_chunks::<8>();
        if chunks.len() != words.len() || !rest.is_empty() {
            return None;
        }
        for (word, chunk) in words.iter_mut().zip(chunks) {
            *word = u64::from_ne_bytes(*chunk);
        }
        Some(Self(words))
    }

    #[must_use]
    pub const fn to_words(self) -> [u64; 8] {
        self.0
    }

    /// Nanoseconds of the monotonic clock.
    #[must_use]
    pub const fn time(&self) -> u64 {
        self.0[0]
    }

    /// For how many drops it stands.
    #[must_use]
    pub const fn weight(&self) -> u64 {
        self.0[7]
    }

    #[must_use]
    pub fn cause(&self) -> Option<Cause> {
        Cause::ALL.get(usize::from(self.head()[0])).copied()
    }

    /// The place of the interface among those that are filtered.
    #[must_use]
    pub const fn slot(&self) -> u8 {
        self.head()[1]
    }

    /// The number of the protocol, for IPv6 that of the first header; `None` for what is not IP.
    #[must_use]
    pub const fn protocol(&self) -> Option<u8> {
        let [_, _, protocol, family, ..] = self.head();
        if family == NO_FAMILY { None } else { Some(protocol) }
    }

    /// Source and destination of an IP packet.
    #[must_use]
    pub fn addresses(&self) -> Option<(IpAddr, IpAddr)> {
        let [_, _, s0, s1, d0, d1, _, _] = self.0;
        match self.head()[3] {
            4 => Some((v4(s0), v4(d0))),
            6 => Some((v6(s0, s1), v6(d0, d1))),
            _ => None,
        }
    }

    /// Source and destination ports, 0 where there are none or they could not be read.
    #[must_use]
    pub const fn ports(&self) -> (u16, u16) {
        let [p0, p1, p2, p3, ..] = self.0[6].to_ne_bytes();
        (u16::from_be_bytes([p0, p1]), u16::from_be_bytes([p2, p3]))
    }

    /// Bytes of the frame.
    #[must_use]
    pub const fn length(&self) -> u32 {
        let [.., l0, l1, l2, l3] = self.0[6].to_ne_bytes();
        u32::from_ne_bytes([l0, l1, l2, l3])
    }

    const fn head(&self) -> [u8; 8] {
        self.0[1].to_ne_bytes()
    }
}

#[inline(always)]
#[allow(clippy::as_conversions, clippy::cast_possible_truncation, reason = "there are fewer causes than 64")]
const fn cause_byte(cause: Cause) -> u8 {
    cause.index() as u8
}

#[inline(always)]
const fn word_of_half([a, b, c, d]: [u8; 4]) -> u64 {
    u64::from_ne_bytes([a, b, c, d, 0, 0, 0, 0])
}

fn v4(word: u64) -> IpAddr {
    let [a, b, c, d, ..] = word.to_ne_bytes();
    [a, b, c, d].into()
}

fn v6(first: u64, second: u64) -> IpAddr {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&first.to_ne_bytes());
    bytes[8..].copy_from_slice(&second.to_ne_bytes());
    bytes.into()
}

#[cfg(test)]
mod tests {
    extern crate std;
    use core::mem::size_of;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = WINDOW;

    fn frame(ethertype: [u8; 2], tags: usize, rest: &[u8]) -> Vec<u8> {
        let mut frame = std::vec![2; 12];
        for _ in 0..tags {
            frame.extend([0x81, 0, 0, 7]);
        }
        frame.extend(ethertype);
        frame.extend(rest);
        frame
    }

    fn v4_header() -> Vec<u8> {
        let mut header = std::vec![0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0];
        header.extend([192, 0, 2, 1, 203, 0, 113, 9]);
        header
    }

    #[test]
    fn an_event_tells_who_wanted_what() {
        for tags in 0..3 {
            let mut packet = v4_header();
            packet.extend([0xc3, 0x50, 0x01, 0xbb, 1, 2, 3]);
            let frame = frame([8, 0], tags, &packet);
            let event = Event::of(frame.as_slice(), 77, 3, Cause::NoRule, 8);
            let expected = ("192.0.2.1".parse().unwrap(), "203.0.113.9".parse().unwrap());
            assert_eq!(event.addresses(), Some(expected));
            assert_eq!((event.protocol(), event.ports()), (Some(6), (50_000, 443)));
            assert_eq!((event.time(), event.slot(), event.weight()), (77, 3, 8));
            assert_eq!(event.cause(), Some(Cause::NoRule));
            assert_eq!(usize::try_from(event.length()), Ok(frame.len()));
        }
    }

    #[test]
    fn an_event_of_ipv6_has_whole_addresses() {
        let mut packet = std::vec![0x60, 0, 0, 0, 0, 8, 17, 64];
        let (source, destination): (core::net::Ipv6Addr, core::net::Ipv6Addr) =
            ("2001:db8::1".parse().unwrap(), "2001:db8:ffff::2".parse().unwrap());
        packet.extend(source.octets());
        packet.extend(destination.octets());
        packet.extend([0, 53, 0x82, 0x35]);
        let event = Event::of(frame([0x86, 0xdd], 0, &packet).as_slice(), 0, 0, Cause::NoRule, 1);
        assert_eq!(event.addresses(), Some((source.into(), destination.into())));
        assert_eq!((event.protocol(), event.ports()), (Some(17), (53, 33_333)));
    }

    #[test]
    fn a_later_fragment_has_no_ports() {
        let mut packet = v4_header();
        packet[6..8].copy_from_slice(&[0x20, 0xb9]);
        packet.extend([1, 2, 3, 4]);
        let event = Event::of(frame([8, 0], 0, &packet).as_slice(), 0, 0, Cause::FragmentUnknown, 1);
        assert!(event.addresses().is_some());
        assert_eq!(event.ports(), (0, 0));
    }

    #[test]
    fn what_cannot_be_read_is_absent() {
        let short = Event::of(frame([8, 0], 0, &v4_header()[..19]).as_slice(), 0, 0, Cause::Truncated, 1);
        assert_eq!((short.addresses(), short.protocol()), (None, None));
        let other = Event::of([0_u8; 6].as_slice(), 0, 0, Cause::EtherType, 1);
        assert_eq!((other.addresses(), other.ports(), other.length()), (None, (0, 0), 6));
        let cut = Event::of(frame([8, 0], 0, &v4_header()).as_slice(), 0, 0, Cause::Truncated, 1);
        assert_eq!((cut.addresses().is_some(), cut.ports()), (true, (0, 0)));
    }

    #[test]
    fn all_are_taken_until_there_are_too_many() {
        let mut sampler = Sampler::default();
        let now = 5 * SECOND;
        let taken = (0..100).filter(|_| sampler.take(now, 10) == Some(1)).count();
        assert_eq!(taken, 10);
        // In the next second one of sixteen is: 100 of the last second come down to ten at the most.
        let weights: Vec<_> = (0..100).filter_map(|_| sampler.take(now + SECOND, 10)).collect();
        assert_eq!(weights, [16; 6]);
        // After a silence all are again.
        assert_eq!(sampler.take(now + 9 * SECOND, 10), Some(1));
    }

    #[test]
    fn nothing_is_taken_where_nothing_is_wanted() {
        let mut sampler = Sampler::default();
        assert!((0..50).all(|second| sampler.take(second * SECOND, 0).is_none()));
    }

    proptest! {
        #[test]
        fn a_steady_flood_is_shown_within_the_bound_and_in_proportion(
            per_second in 1_u64..20_000, most in 1_u64..200
        ) {
            let mut sampler = Sampler::default();
            let mut shown = 0;
            for second in 10..13_u64 {
                let mut taken = 0;
                for packet in 0..per_second {
                    let now = second * SECOND + packet * (SECOND / per_second);
                    if let Some(weight) = sampler.take(now, most) {
                        taken += 1;
                        shown += if second == 12 { weight } else { 0 };
                    }
                }
                prop_assert!(taken <= most);
            }
            // By now the sampler knows the pace: what is shown stands for all, but for less than one event.
            prop_assert!(shown <= per_second && per_second - shown <= 2 * per_second / most + 1);
        }
    }

    #[test]
    fn events_and_samplers_are_words_without_padding() {
        assert_eq!(size_of::<Event>(), usize::try_from(EVENT_BYTES).unwrap());
        assert_eq!(size_of::<Sampler>(), 8 * SAMPLER_WORDS);
        let event = Event([1, 2, 3, 4, 5, 6, 7, 8]);
        let bytes: Vec<u8> = event.to_words().iter().flat_map(|word| word.to_ne_bytes()).collect();
        assert_eq!(Event::from_bytes(&bytes), Some(event));
        assert_eq!(Event::from_bytes(&bytes[1..]), None);
        let sampler = Sampler::from_words([1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!((sampler.kept, sampler.lost), (5, 6));
    }

    #[test]
    fn rings_are_powers_of_two_with_room_for_what_was_asked() {
        for events in [0, 1, 910, 911, 4_096, 262_144, u32::MAX] {
            let bytes = ring_bytes(events);
            assert!(bytes.is_power_of_two() && bytes >= RING_BYTES_MIN);
            assert!(bytes >= events.saturating_mul(ENTRY_BYTES) || bytes == 1 << 31);
        }
    }
}
