//! The answer to a SYN that is made without a socket: a SYN-ACK whose sequence number is a cookie of the kernel.
//!
//! It has at most one option, the maximum segment size, and only where the SYN had options: so the answer is never
//! longer than what it answers, and whoever forges sources gains nothing. Window scaling and selective
//! acknowledgement would have to be kept in timestamps (RFC 7323), whose offset for each connection is a secret of
//! the kernel's that the program cannot ask for; connections that begin under pressure do without.

use crate::checksum::Sum;
use crate::frame::Frame;
use crate::packet::{Addresses, Family, Layout, Packet, Ports, Protocol, TcpFlags};

/// A TCP header with one option of four bytes.
pub const HEADER_MAX: usize = 24;
const HEADER: u32 = 20;
/// Options that are looked at in search of the segment size; the usual systems write it first.
const OPTIONS_MAX: u32 = 8;
/// As large as a window is that cannot be scaled, and a multiple of the usual segment sizes, as the kernel's own.
const WINDOW: u16 = 64_240;
const HOPS: u8 = 64;

/// What a SYN says that its answer depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening {
    pub sequence: u32,
    /// The largest segment that the client takes; 0 where it does not say.
    pub segment: u16,
    /// Whether there is room for an option in an answer of the same length.
    pub has_options: bool,
}

impl Opening {
    /// A place for one.
    pub const NONE: Self = Self { sequence: 0, segment: 0, has_options: false };

    /// Reads a SYN that the walk has found to be well-formed.
    #[must_use]
    #[inline(always)]
    pub fn read<F: Frame + ?Sized>(frame: &F, layout: Layout) -> Option<Self> {
        let [_, _, _, _, s0, s1, s2, s3, _, _, _, _, offset, _] = frame.read::<14>(layout.transport)?;
        let length = u32::from(offset >> 4) * 4;
        let end = layout.transport + length;
        Some(Self {
            sequence: u32::from_be_bytes([s0, s1, s2, s3]),
            segment: segment(frame, layout.transport + HEADER, end),
            has_options: length > HEADER,
        })
    }

    /// The SYN as the kernel's cookie helper wants to see it: it reads ports, sequence number and segment size.
    #[must_use]
    #[inline(always)]
    pub const fn header(&self, ports: Ports, family: Family) -> [u8; HEADER_MAX] {
        let segment = match (self.segment, family) {
            // RFC 9293 §3.7.1: what everybody can take.
            (0, Family::V4) => 536,
            (0, Family::V6) => 1_220,
            (segment, _) => segment,
        };
        header(ports, self.sequence, 0, TcpFlags::SYN, 0, segment)
    }
}

/// The value of the segment size option, RFC 9293 §3.2; 0 where there is none.
#[inline(always)]
fn segment<F: Frame + ?Sized>(frame: &F, mut at: u32, end: u32) -> u16 {
    for _ in 0..OPTIONS_MAX {
        if at + 4 > end {
            return 0;
        }
        let Some([kind, length, high, low]) = frame.read::<4>(at) else { return 0 };
        match (kind, length) {
            (0, _) => return 0,
            (1, _) => at += 1,
            (2, 4) => return u16::from_be_bytes([high, low]),
            (_, 0 | 1) => return 0,
            (_, length) => at += u32::from(length),
        }
    }
    0
}

/// A SYN-ACK: the IP header and the TCP header, each as long as it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SynAck {
    /// Of IPv4 the first 20 bytes.
    pub ip: [u8; 40],
    pub ip_length: u32,
    /// Without an option the first 20 bytes.
    pub tcp: [u8; HEADER_MAX],
    pub tcp_length: u32,
}

impl SynAck {
    /// A place for one.
    pub const NONE: Self = Self { ip: [0; 40], ip_length: 0, tcp: [0; HEADER_MAX], tcp_length: 0 };

    /// Whether a packet may be answered at all: only what was sent to this machine alone, in one piece.
    #[must_use]
    #[inline(always)]
    pub const fn answers(packet: &Packet) -> bool {
        let [first, ..] = packet.addresses.destination[0].to_ne_bytes();
        let group = match packet.addresses.family {
            Family::V4 => first >= 224,
            Family::V6 => first == 0xff,
        };
        !group && !packet.is_first
    }

    /// Answers a SYN. `segment` is the size that the cookie remembers.
    #[must_use]
    #[inline(always)]
    pub fn new(packet: &Packet, opening: &Opening, cookie: u32, segment: u16) -> Self {
        let addresses = packet.addresses.reversed();
        let segment = if opening.has_options { segment } else { 0 };
        let flags = TcpFlags::SYN | TcpFlags::ACK;
        let acknowledged = opening.sequence.wrapping_add(1);
        let mut tcp = header(packet.ports.reversed(), cookie, acknowledged, flags, WINDOW, segment);
        let tcp_length: u16 = if segment == 0 { 20 } else { 24 };
        // An option that is not there is zeroes, which add nothing.
        let sum = Sum::ZERO.pseudo(&addresses, Protocol::Tcp.number(), tcp_length).bytes(&tcp);
        [tcp[16], tcp[17]] = sum.finish();
        let (ip, ip_length) = match addresses.family {
            Family::V4 => (ipv4(&addresses, tcp_length), 20),
            Family::V6 => (ipv6(&addresses, tcp_length), 40),
        };
        Self { ip, ip_length, tcp, tcp_length: u32::from(tcp_length) }
    }

    #[must_use]
    #[inline(always)]
    pub const fn length(&self) -> u32 {
        self.ip_length + self.tcp_length
    }
}

#[inline(always)]
const fn header(
    ports: Ports,
    sequence: u32,
    acknowledged: u32,
    flags: u8,
    window: u16,
    segment: u16,
) -> [u8; HEADER_MAX] {
    let ([p0, p1], [p2, p3]) = (ports.source.to_be_bytes(), ports.destination.to_be_bytes());
    let [s0, s1, s2, s3] = sequence.to_be_bytes();
    let [a0, a1, a2, a3] = acknowledged.to_be_bytes();
    let ([w0, w1], [m0, m1]) = (window.to_be_bytes(), segment.to_be_bytes());
    let (offset, kind, length) = if segment == 0 { (0x50, 0, 0) } else { (0x60, 2, 4) };
    [p0, p1, p2, p3, s0, s1, s2, s3, a0, a1, a2, a3, offset, flags, w0, w1, 0, 0, 0, 0, kind, length, m0, m1]
}

/// RFC 791; not to be fragmented, and therefore without an identification (RFC 6864 §4.1).
#[inline(always)]
fn ipv4(addresses: &Addresses, payload: u16) -> [u8; 40] {
    let [l0, l1] = (payload + 20).to_be_bytes();
    let [s0, s1, s2, s3] = addresses.source[0].to_ne_bytes();
    let [d0, d1, d2, d3] = addresses.destination[0].to_ne_bytes();
    let header = [
        0x45, 0, l0, l1, 0, 0, 0x40, 0, HOPS, 6, 0, 0, s0, s1, s2, s3, d0, d1, d2, d3, 0, 0, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    let mut ip = header;
    [ip[10], ip[11]] = Sum::ZERO.bytes(&header).finish();
    ip
}

/// RFC 8200 §3.
#[inline(always)]
const fn ipv6(addresses: &Addresses, payload: u16) -> [u8; 40] {
    let [l0, l1] = payload.to_be_bytes();
    let mut ip = [0; 40];
    [ip[0], ip[4], ip[5], ip[6], ip[7]] = [0x60, l0, l1, 6, HOPS];
    let mut word = 0;
    while word < 4 {
        let at = 8 + word * 4;
        [ip[at], ip[at + 1], ip[at + 2], ip[at + 3]] = addresses.source[word].to_ne_bytes();
        [ip[at + 16], ip[at + 17], ip[at + 18], ip[at + 19]] = addresses.destination[word].to_ne_bytes();
        word += 1;
    }
    ip
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::packet::{Kind, Payload};
    use crate::walk::{Seen, walk};

    fn syn(addresses: Addresses, sequence: u32, options: &[u8]) -> (Vec<u8>, Packet) {
        let mut padded = options.to_vec();
        padded.resize(options.len().next_multiple_of(4), 0);
        let offset = u8::try_from((20 + padded.len()) / 4).unwrap() << 4;
        let ports = [0xc3, 0x50, 1, 0xbb];
        let rest = [0, 0, 0, 0, offset, TcpFlags::SYN, 0xff, 0xff, 0, 0, 0, 0];
        let frame = [&ports[..], &sequence.to_be_bytes(), &rest, &padded].concat();
        let payload = Payload::Tcp {
            ports: Ports { source: 50_000, destination: 443 },
            flags: TcpFlags(TcpFlags::SYN),
            data: 0,
        };
        (frame, Packet::new(addresses, payload, None, Layout::default()))
    }

    fn opening(frame: &[u8]) -> Opening {
        Opening::read(frame, Layout::default()).unwrap()
    }

    #[test]
    fn the_segment_size_is_found_among_other_options_and_nowhere_else() {
        let v4 = Addresses::v4([192, 0, 2, 1], [192, 0, 2, 2]);
        for (options, segment) in [
            (&[][..], 0),
            (&[2, 4, 5, 0xb4], 1460),
            (&[1, 1, 3, 3, 7, 2, 4, 5, 0xb4], 1460),
            (&[4, 2, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0, 2, 4, 2, 24], 536),
            // The list ends before it, an option without a length, one that is cut off.
            (&[0, 2, 4, 5, 0xb4], 0),
            (&[9, 0, 2, 4, 5, 0xb4], 0),
            (&[1, 2, 4, 5], 0),
        ] {
            let (frame, _) = syn(v4, 7, options);
            let expected = Opening { sequence: 7, segment, has_options: !options.is_empty() };
            assert_eq!(opening(&frame), expected, "{options:?}");
        }
    }

    #[test]
    fn groups_and_fragments_are_not_answered() {
        let packet = |addresses| syn(addresses, 7, &[]).1;
        assert!(SynAck::answers(&packet(Addresses::v4([192, 0, 2, 1], [192, 0, 2, 2]))));
        assert!(!SynAck::answers(&packet(Addresses::v4([192, 0, 2, 1], [224, 0, 0, 1]))));
        assert!(!SynAck::answers(&packet(Addresses::v6([0x20; 16], [0xff; 16]))));
        let first = Packet { is_first: true, ..packet(Addresses::v4([192, 0, 2, 1], [192, 0, 2, 2])) };
        assert!(!SynAck::answers(&first));
    }

    #[test]
    fn the_kernel_is_shown_a_segment_size_in_any_case() {
        let ports = Ports { source: 50_000, destination: 443 };
        let silent = Opening { sequence: 0x0102_0304, segment: 0, has_options: false };
        let header = silent.header(ports, Family::V6);
        assert_eq!(header[..8], [0xc3, 0x50, 1, 0xbb, 1, 2, 3, 4]);
        assert_eq!((header[12], header[13], &header[20..]), (0x60, TcpFlags::SYN, &[2, 4, 4, 0xc4][..]));
        assert_eq!(silent.header(ports, Family::V4)[20..], [2, 4, 2, 24]);
    }

    /// Plain sum of the words of a whole packet, pseudo header first; 0xffff where the checksum is right.
    fn sum(parts: &[&[u8]]) -> u16 {
        let bytes = parts.concat();
        let sum: u64 = bytes.chunks(2).map(|pair| u64::from(pair[0]) * 256 + u64::from(pair[1])).sum();
        u16::try_from((sum - 1) % 65_535 + 1).unwrap()
    }

    proptest! {
        #[test]
        fn an_answer_is_a_syn_ack_that_every_check_accepts(
            source in any::<[u8; 16]>(), destination in any::<[u8; 16]>(), v6: bool,
            sequence: u32, cookie: u32, segment in 1..u16::MAX, with_option: bool,
        ) {
            let (mut from, mut to) = (source, destination);
            [from[0], to[0]] = [20, 30];
            let addresses = if v6 {
                Addresses::v6(from, to)
            } else {
                Addresses::v4([from[0], from[1], from[2], from[3]], [to[0], to[1], to[2], to[3]])
            };
            let (frame, packet) = syn(addresses, sequence, if with_option { &[2, 4, 5, 0xb4] } else { &[] });
            let answer = SynAck::new(&packet, &opening(&frame), cookie, segment);
            let ip = &answer.ip[..usize::try_from(answer.ip_length).unwrap()];
            let tcp = &answer.tcp[..usize::try_from(answer.tcp_length).unwrap()];
            prop_assert!(tcp.len() <= frame.len(), "no answer is longer than its SYN");
            let addresses = if v6 { &ip[8..40] } else { &ip[12..20] };
            let length = u8::try_from(tcp.len()).unwrap();
            prop_assert_eq!(sum(&[addresses, &[0, 6, 0, length], tcp]), 0xffff);
            if !v6 {
                prop_assert_eq!(sum(&[ip]), 0xffff);
            }
            let ethertype: [u8; 2] = if v6 { [0x86, 0xdd] } else { [8, 0] };
            let wire = [&[2; 12][..], &ethertype, ip, tcp].concat();
            let Seen::Ip(seen) = walk(wire.as_slice()).unwrap() else { panic!("no packet") };
            prop_assert_eq!(seen.addresses, packet.addresses.reversed());
            prop_assert_eq!((seen.kind, seen.ports), (Kind::Tcp, packet.ports.reversed()));
            prop_assert_eq!(seen.flags, TcpFlags(TcpFlags::SYN | TcpFlags::ACK));
            prop_assert_eq!(&tcp[4..8], &cookie.to_be_bytes()[..]);
            prop_assert_eq!(&tcp[8..12], &sequence.wrapping_add(1).to_be_bytes()[..]);
            let read = Opening::read(wire.as_slice(), seen.layout).unwrap();
            prop_assert_eq!(read.segment, if with_option { segment } else { 0 });
        }
    }
}
