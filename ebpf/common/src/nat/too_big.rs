//! The answer to a packet that is larger than the next link takes: ICMP "fragmentation needed", RFC 792 and RFC 1191, or
//! "packet too big", RFC 4443.
//!
//! It is built in front of the packet that it answers: what is quoted lies where it has to already.

use crate::frame::FrameMut;
use crate::packet::{Addresses, Family, Packet};

use super::Refusal;

/// How much of the packet is quoted: its headers, whatever options they have, and more than the 8 bytes that the
/// sender needs to find its connection.
pub const QUOTE: u32 = 128;
/// Headers of IP and ICMP.
const ROOM_V4: u32 = 28;
const ROOM_V6: u32 = 48;
/// As Linux sends them.
const HOPS: u8 = 64;

/// How many bytes the answer puts in front of the packet.
#[must_use]
#[inline(always)]
pub const fn room(family: Family) -> u32 {
    match family {
        Family::V4 => ROOM_V4,
        Family::V6 => ROOM_V6,
    }
}

/// How long the frame is in the end.
#[must_use]
#[inline(always)]
pub const fn length(packet: &Packet) -> u32 {
    packet.layout.ip + room(packet.addresses.family) + QUOTE
}

/// Whether so much of the packet can be quoted.
#[must_use]
#[inline(always)]
pub const fn is_quotable(packet: &Packet) -> bool {
    packet.layout.end >= packet.layout.ip + QUOTE && packet.layout.transport + 8 <= packet.layout.ip + QUOTE
}

/// Writes the answer to `packet` into its own frame, which has got [`room`] bytes in front and was cut to [`length`].
///
/// # Errors
/// [`Refusal::Frame`]
#[inline(always)]
pub fn write<F: FrameMut + ?Sized>(frame: &mut F, packet: &Packet, mtu: u16) -> Result<(), Refusal> {
    let family = packet.addresses.family;
    link(frame, packet.layout.ip, room(family)).ok_or(Refusal::Frame)?;
    let quoted = sum(frame, packet.layout.ip + room(family)).ok_or(Refusal::Frame)?;
    match family {
        Family::V4 => v4(frame, packet, mtu, quoted),
        Family::V6 => v6(frame, packet, mtu, quoted),
    }
    .ok_or(Refusal::Frame)
}

/// The header of the link, with its tags, back to where it came from.
#[inline(always)]
fn link<F: FrameMut + ?Sized>(frame: &mut F, length: u32, from: u32) -> Option<()> {
    let to = frame.read::<6>(from + 6)?;
    let own = frame.read::<6>(from)?;
    frame.write(0, to)?;
    frame.write(6, own)?;
    let mut at = 12;
    // Two tags and the type of what follows.
    for _ in 0..5 {
        if at < length {
            let word = frame.read::<2>(from + at)?;
            frame.write(at, word)?;
            at += 2;
        }
    }
    Some(())
}

/// The sum of the quoted words, in network order.
#[inline(always)]
fn sum<F: FrameMut + ?Sized>(frame: &F, from: u32) -> Option<u64> {
    let mut sum = 0;
    let mut at = 0;
    while at < QUOTE {
        sum += u64::from(u32::from_ne_bytes(frame.read::<4>(from + at)?));
        at += 4;
    }
    Some(sum)
}

#[inline(always)]
fn v4<F: FrameMut + ?Sized>(frame: &mut F, packet: &Packet, mtu: u16, quoted: u64) -> Option<()> {
    let at = packet.layout.ip;
    let from = packet.addresses.destination[0];
    let to = packet.addresses.source[0];
    let total = u16::try_from(ROOM_V4 + QUOTE).ok()?;
    let [t0, t1] = total.to_be_bytes();
    let first = word([0x45, 0, t0, t1]);
    // Never in fragments, which is why it needs no identification.
    let second = word([0, 0, 0x40, 0]);
    let third = word([HOPS, 1, 0, 0]);
    let header = checksum(first + second + third + u64::from(from) + u64::from(to));
    frame.write(at, [0x45, 0, t0, t1])?;
    frame.write(at + 4, [0, 0, 0x40, 0])?;
    frame.write(at + 8, [HOPS, 1, header[0], header[1]])?;
    frame.write(at + 12, from.to_ne_bytes())?;
    frame.write(at + 16, to.to_ne_bytes())?;
    let [m0, m1] = mtu.to_be_bytes();
    let [c0, c1] = checksum(word([3, 4, 0, 0]) + word([0, 0, m0, m1]) + quoted);
    frame.write(at + 20, [3, 4, c0, c1])?;
    frame.write(at + 24, [0, 0, m0, m1])
}

#[inline(always)]
fn v6<F: FrameMut + ?Sized>(frame: &mut F, packet: &Packet, mtu: u16, quoted: u64) -> Option<()> {
    let at = packet.layout.ip;
    let Addresses { source, destination, .. } = packet.addresses;
    let [l0, l1] = u16::try_from(8 + QUOTE).ok()?.to_be_bytes();
    frame.write(at, [0x60, 0, 0, 0])?;
    frame.write(at + 4, [l0, l1, 58, HOPS])?;
    frame.write(at + 8, Addresses::bytes(destination))?;
    frame.write(at + 24, Addresses::bytes(source))?;
    let mut pseudo = word([0, 0, l0, l1]) + word([0, 0, 0, 58]);
    for index in 0..4 {
        pseudo += u64::from(source[index]) + u64::from(destination[index]);
    }
    let [m0, m1] = mtu.to_be_bytes();
    let [c0, c1] = checksum(pseudo + word([2, 0, 0, 0]) + word([0, 0, m0, m1]) + quoted);
    frame.write(at + 40, [2, 0, c0, c1])?;
    frame.write(at + 44, [0, 0, m0, m1])
}

#[inline(always)]
const fn word(bytes: [u8; 4]) -> u64 {
    // Widened by hand: `From` is not const.
    let [a, b, c, d] = bytes;
    u64::from_ne_bytes(if cfg!(target_endian = "little") {
        [a, b, c, d, 0, 0, 0, 0]
    } else {
        [0, 0, 0, 0, a, b, c, d]
    })
}

/// The complement of a sum of a few dozen words, RFC 1071.
#[inline(always)]
fn checksum(sum: u64) -> [u8; 2] {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let [a, b, _, _, _, _, _, _] = sum.to_le_bytes();
    (!u16::from_le_bytes([a, b])).to_ne_bytes()
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec::Vec;

    use super::*;
    use crate::packet::Kind;
    use crate::walk::{Seen, walk};

    /// The ones' complement sum of bytes, by the book.
    fn folded(bytes: &[u8]) -> u16 {
        let words =
            bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
        let sum: u32 = words.sum();
        let sum = (sum & 0xffff) + (sum >> 16);
        u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap()
    }

    fn tcp() -> Vec<u8> {
        let mut tcp = [0; 20];
        tcp[..4].copy_from_slice(&[0xc3, 0x50, 0x01, 0xbb]);
        (tcp[12], tcp[13]) = (0x50, 0x10);
        let data = (0..1380_u32).map(|number| u8::try_from(number * 7 % 251).unwrap());
        tcp.into_iter().chain(data).collect()
    }

    fn frame(tags: &[u8], v6: bool) -> Vec<u8> {
        let link = [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2][..], tags].concat();
        let ip: Vec<u8> = if v6 {
            let source: Vec<u8> = (0x20..0x30).collect();
            let destination: Vec<u8> = (0x30..0x40).collect();
            [&[0x86, 0xdd, 0x60, 0, 0, 0, 0x05, 0x78, 6, 64][..], &source, &destination].concat()
        } else {
            let fixed = [0x08, 0, 0x45, 0, 0x05, 0x8c, 0, 1, 0x40, 0, 64, 6, 0, 0];
            [&fixed[..], &[203, 0, 113, 9], &[192, 0, 2, 2]].concat()
        };
        [link, ip, tcp()].concat()
    }

    /// What becomes of a frame, as the program does it.
    fn answered(frame: &[u8], mtu: u16) -> (Packet, Vec<u8>) {
        let packet = walk(frame).and_then(Seen::packet).unwrap();
        assert!(is_quotable(&packet));
        let room = usize::try_from(room(packet.addresses.family)).unwrap();
        let mut answer = [&std::vec![0xee; room][..], frame].concat();
        answer.truncate(usize::try_from(length(&packet)).unwrap());
        write(answer.as_mut_slice(), &packet, mtu).unwrap();
        (packet, answer)
    }

    #[test]
    fn the_answer_goes_back_by_the_same_tags_with_right_checksums_and_quotes_what_came() {
        for tags in [&[][..], &[0x81, 0, 0, 9], &[0x88, 0xa8, 0, 1, 0x81, 0, 0, 2]] {
            for v6 in [false, true] {
                let came = frame(tags, v6);
                let (packet, answer) = answered(&came, 1280);
                assert_eq!((&answer[..6], &answer[6..12]), (&came[6..12], &came[..6]));
                let ip = usize::try_from(packet.layout.ip).unwrap();
                assert_eq!(answer[12..ip], came[12..ip]);
                let header = if v6 { 40 } else { 20 };
                let message = &answer[ip + header..];
                assert_eq!(message[8..], came[ip..ip + 128]);
                assert_eq!(message[4..8], [0, 0, 5, 0]);
                if v6 {
                    assert_eq!(message[..2], [2, 0]);
                    let length = u8::try_from(message.len()).unwrap();
                    let pseudo =
                        [&answer[ip + 8..ip + 40], &[0, 0, 0, length, 0, 0, 0, 58], message].concat();
                    assert_eq!(folded(&pseudo), 0xffff);
                } else {
                    assert_eq!(message[..2], [3, 4]);
                    assert_eq!((folded(&answer[ip..ip + 20]), folded(message)), (0xffff, 0xffff));
                }
            }
        }
    }

    #[test]
    fn it_is_an_error_about_the_flow_that_it_answers() {
        for v6 in [false, true] {
            let (packet, answer) = answered(&frame(&[], v6), 1400);
            let error = walk(answer.as_slice()).and_then(Seen::packet).unwrap();
            assert_eq!((error.kind, error.addresses), (Kind::IcmpError, packet.addresses.reversed()));
            assert_eq!((error.quoted.addresses, error.quoted.ports), (packet.addresses, packet.ports));
        }
    }

    #[test]
    fn what_is_too_short_to_be_quoted_is_not_answered() {
        let mut packet = answered(&frame(&[], false), 1400).0;
        packet.layout.end = packet.layout.ip + 127;
        assert!(!is_quotable(&packet));
    }
}
