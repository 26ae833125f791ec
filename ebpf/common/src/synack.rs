//! The answer to a SYN that is made without a socket: a SYN-ACK whose sequence number is a cookie of the kernel.
//!
//! It has at most one option, the maximum segment size, and only where the SYN had options: so the answer is never
//! longer than what it answers, and whoever forges sources gains nothing. Window scaling and selective
//! acknowledgement would have to be kept in timestamps (RFC 7323), whose offset for each connection is a secret of
//! the kernel's that the program cannot ask for; connections that begin under pressure do without.

use crate::checksum::Sum;
use crate::frame::Frame;
use crate::packet::{Addresses, Family, Layout, Packet, Ports, Protocol, TcpFlags};

/// A TCP header with one option of four bytes: 32-bit words with their bytes in network order, as all headers here.
pub type Header = [u32; 6];
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
    pub const fn header(&self, ports: Ports, family: Family) -> Header {
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
#[repr(C)]
pub struct SynAck {
    /// Of IPv4 the first five words.
    pub ip: [u32; 10],
    /// Without an option the first five words.
    pub tcp: Header,
    /// In bytes, as the next.
    pub ip_length: u32,
    pub tcp_length: u32,
}

impl SynAck {
    /// A place for one.
    pub const NONE: Self = Self { ip: [0; 10], tcp: [0; 6], ip_length: 0, tcp_length: 0 };

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
    #[inline(always)]
    pub fn write(&mut self, packet: &Packet, opening: &Opening, cookie: u32, segment: u16) {
        let addresses = packet.addresses.reversed();
        let segment = if opening.has_options { segment } else { 0 };
        let flags = TcpFlags::SYN | TcpFlags::ACK;
        let acknowledged = opening.sequence.wrapping_add(1);
        let tcp_length: u16 = if segment == 0 { 20 } else { 24 };
        self.tcp = header(packet.ports.reversed(), cookie, acknowledged, flags, WINDOW, segment);
        // An option that is not there is zeroes, which add nothing.
        let sum = words(Sum::ZERO.pseudo(&addresses, Protocol::Tcp.number(), tcp_length), &self.tcp);
        let [high, low] = sum.finish();
        self.tcp[4] = u32::from_be_bytes([high, low, 0, 0]).to_be();
        self.tcp_length = u32::from(tcp_length);
        (self.ip_length, self.ip) = match addresses.family {
            Family::V4 => (20, ipv4(&addresses, tcp_length)),
            Family::V6 => (40, ipv6(&addresses, tcp_length)),
        };
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
) -> Header {
    let (offset, option) = if segment == 0 { (0x50, 0) } else { (0x60, pair(0x0204, segment)) };
    let [w0, w1] = window.to_be_bytes();
    let control = u32::from_be_bytes([offset, flags, w0, w1]);
    let ports = pair(ports.source, ports.destination);
    [ports.to_be(), sequence.to_be(), acknowledged.to_be(), control.to_be(), 0, option.to_be()]
}

/// RFC 791; not to be fragmented, and therefore without an identification (RFC 6864 §4.1).
#[inline(always)]
fn ipv4(addresses: &Addresses, payload: u16) -> [u32; 10] {
    let (source, destination) = (addresses.source[0], addresses.destination[0]);
    let first = pair(0x4500, payload + 20);
    let hops = u32::from_be_bytes([HOPS, 6, 0, 0]);
    let header = [first.to_be(), 0x4000_u32.to_be(), hops.to_be(), source, destination];
    let [high, low] = words(Sum::ZERO, &header).finish();
    let hops = hops | u32::from_be_bytes([0, 0, high, low]);
    [header[0], header[1], hops.to_be(), source, destination, 0, 0, 0, 0, 0]
}

/// RFC 8200 §3.
#[inline(always)]
const fn ipv6(addresses: &Addresses, payload: u16) -> [u32; 10] {
    let ([a, b, c, d], [e, f, g, h]) = (addresses.source, addresses.destination);
    let [l0, l1] = payload.to_be_bytes();
    let rest = u32::from_be_bytes([l0, l1, 6, HOPS]);
    [0x6000_0000_u32.to_be(), rest.to_be(), a, b, c, d, e, f, g, h]
}

#[inline(always)]
const fn pair(high: u16, low: u16) -> u32 {
    let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
    u32::from_be_bytes([a, b, c, d])
}

#[inline(always)]
fn words<const N: usize>(sum: Sum, words: &[u32; N]) -> Sum {
    let (mut sum, mut at) = (sum, 0);
    while at < N {
        sum = sum.double_word(u32::from_be(words[at]));
        at += 1;
    }
    sum
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
        let header = octets(&silent.header(ports, Family::V6));
        assert_eq!(header[..8], [0xc3, 0x50, 1, 0xbb, 1, 2, 3, 4]);
        assert_eq!((header[12], header[13], &header[20..]), (0x60, TcpFlags::SYN, &[2, 4, 4, 0xc4][..]));
        assert_eq!(octets(&silent.header(ports, Family::V4))[20..], [2, 4, 2, 24]);
    }

    fn octets(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
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
            let mut answer = SynAck::NONE;
            answer.write(&packet, &opening(&frame), cookie, segment);
            let (ip, tcp) = (octets(&answer.ip), octets(&answer.tcp));
            let ip = &ip[..usize::try_from(answer.ip_length).unwrap()];
            let tcp = &tcp[..usize::try_from(answer.tcp_length).unwrap()];
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
