//! Rewriting a forwarded packet: addresses, ports, hop limit and checksums, of the packet itself and of the packet that
//! an ICMP error quotes.
//!
//! Checksums are updated by what has changed, RFC 1624: the payload is never read, and a packet that was damaged on
//! its way arrives as damaged as it was.

pub mod too_big;

use crate::flow::FlowKey;
use crate::frame::FrameMut;
use crate::packet::{Addresses, Family, Kind, Packet, Protocol};

/// What a packet is changed to. For an error: what the packets of the flow that it answers are changed to.
pub type Out = FlowKey;

/// Why a packet cannot be rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It has been on its way for too long.
    HopLimit,
    /// A header is not where it was.
    Frame,
}

/// What a checksum changes by: the ones' complement sum of the words that come and of the complements of those that
/// go. Words are in network order, as they lie in the packet; the sum does not mind.
#[derive(Clone, Copy)]
struct Delta(u64);

impl Delta {
    const NONE: Self = Self(0);

    #[inline(always)]
    fn replace(self, old: u32, new: u32) -> Self {
        // Two terms below 2^32 each; a packet has a few dozen of them.
        Self(self.0 + u64::from(!old) + u64::from(new))
    }

    #[inline(always)]
    fn replace_address(self, old: [u32; 4], new: [u32; 4]) -> Self {
        self.replace(old[0], new[0]).replace(old[1], new[1]).replace(old[2], new[2]).replace(old[3], new[3])
    }

    #[inline(always)]
    fn apply(self, checksum: [u8; 2]) -> [u8; 2] {
        let sum = self.0 + u64::from(!u16::from_ne_bytes(checksum));
        let sum = (sum & 0xffff_ffff) + (sum >> 32);
        let sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        let [a, b, _, _, _, _, _, _] = sum.to_le_bytes();
        (!u16::from_le_bytes([a, b])).to_ne_bytes()
    }
}

/// Rewrites a packet of TCP or UDP.
///
/// # Errors
/// See [`Refusal`]; the frame may be partly written then and must be dropped.
#[inline(always)]
pub fn rewrite<F: FrameMut + ?Sized>(frame: &mut F, packet: &Packet, out: &Out) -> Result<(), Refusal> {
    let (source, destination, ports) = out.words();
    let old = &packet.addresses;
    let addresses =
        Delta::NONE.replace_address(old.source, source).replace_address(old.destination, destination);
    network(frame, packet, source, destination, addresses)?;
    let at = packet.layout.transport;
    let old_ports = frame.read::<4>(at).ok_or(Refusal::Frame)?;
    frame.write(at, ports.to_ne_bytes()).ok_or(Refusal::Frame)?;
    let delta = addresses.replace(u32::from_ne_bytes(old_ports), ports);
    let udp = packet.kind == Kind::Udp;
    checksum(frame, at + if udp { 6 } else { 16 }, delta, udp)
}

/// Rewrites an ICMP error about a forwarded packet, so that it seems to come from where the answers come from, and
/// quotes what its receiver has sent.
///
/// # Errors
/// As for [`rewrite`].
#[inline(always)]
pub fn rewrite_error<F: FrameMut + ?Sized>(frame: &mut F, packet: &Packet, out: &Out) -> Result<(), Refusal> {
    let (source, destination, _) = out.words();
    let (quoted_source, quoted_destination, ports) = out.reversed().words();
    let (old, quoted) = (&packet.addresses, &packet.quoted);
    let outer = Delta::NONE.replace_address(old.source, source).replace_address(old.destination, destination);
    network(frame, packet, source, destination, outer)?;
    let inner = Delta::NONE
        .replace_address(quoted.addresses.source, quoted_source)
        .replace_address(quoted.addresses.destination, quoted_destination);
    let at = packet.layout.transport + 8;
    let length = set_addresses(frame, at, old.family, quoted_source, quoted_destination)?;
    if old.family == Family::V4 {
        checksum(frame, at + 10, inner, false)?;
    }
    let old_ports = frame.read::<4>(at + length).ok_or(Refusal::Frame)?;
    frame.write(at + length, ports.to_ne_bytes()).ok_or(Refusal::Frame)?;
    let moved = Delta::NONE.replace(u32::from_ne_bytes(old_ports), ports);
    let udp = quoted.protocol == Protocol::Udp;
    let mut delta = moved;
    if udp {
        // The quoted checksum is among the eight bytes that every error has.
        let at = at + length + 6;
        let [a, b] = frame.read::<2>(at).ok_or(Refusal::Frame)?;
        let updated = Delta(inner.0 + moved.0);
        checksum(frame, at, updated, true)?;
        let [c, d] = frame.read::<2>(at).ok_or(Refusal::Frame)?;
        delta = delta.replace(u32::from_ne_bytes([a, b, 0, 0]), u32::from_ne_bytes([c, d, 0, 0]));
    }
    if old.family == Family::V6 {
        // A quoted header of IPv4 has a checksum that makes up for its addresses; of IPv6 they count, and those of
        // the pseudo-header too.
        delta = Delta(delta.0 + inner.0 + outer.0);
    }
    checksum(frame, packet.layout.transport + 2, delta, false)
}

/// Addresses and hop limit of the IP header, and its checksum.
#[inline(always)]
fn network<F: FrameMut + ?Sized>(
    frame: &mut F,
    packet: &Packet,
    source: [u32; 4],
    destination: [u32; 4],
    delta: Delta,
) -> Result<(), Refusal> {
    let at = packet.layout.ip;
    let family = packet.addresses.family;
    let hops = at + if family == Family::V4 { 8 } else { 7 };
    let [limit, next] = frame.read::<2>(hops).ok_or(Refusal::Frame)?;
    if limit <= 1 {
        return Err(Refusal::HopLimit);
    }
    frame.write(hops, [limit - 1]).ok_or(Refusal::Frame)?;
    set_addresses(frame, at, family, source, destination)?;
    if family == Family::V6 {
        return Ok(());
    }
    let word = |limit| u32::from_ne_bytes([limit, next, 0, 0]);
    checksum(frame, at + 10, delta.replace(word(limit), word(limit - 1)), false)
}

/// Writes the addresses of an IP header, and says how long it is.
#[inline(always)]
fn set_addresses<F: FrameMut + ?Sized>(
    frame: &mut F,
    at: u32,
    family: Family,
    source: [u32; 4],
    destination: [u32; 4],
) -> Result<u32, Refusal> {
    if family == Family::V4 {
        let [first] = frame.read::<1>(at).ok_or(Refusal::Frame)?;
        frame.write(at + 12, source[0].to_ne_bytes()).ok_or(Refusal::Frame)?;
        frame.write(at + 16, destination[0].to_ne_bytes()).ok_or(Refusal::Frame)?;
        return Ok(u32::from(first & 0x0f) * 4);
    }
    frame.write(at + 8, Addresses::bytes(source)).ok_or(Refusal::Frame)?;
    frame.write(at + 24, Addresses::bytes(destination)).ok_or(Refusal::Frame)?;
    Ok(40)
}

/// Updates a checksum in place. Of UDP, 0 is no checksum and stays one, and one that becomes 0 is written as its
/// other zero, RFC 768.
#[inline(always)]
fn checksum<F: FrameMut + ?Sized>(frame: &mut F, at: u32, delta: Delta, udp: bool) -> Result<(), Refusal> {
    let old = frame.read::<2>(at).ok_or(Refusal::Frame)?;
    if udp && old == [0, 0] {
        return Ok(());
    }
    let new = delta.apply(old);
    let new = if udp && new == [0, 0] { [0xff, 0xff] } else { new };
    frame.write(at, new).ok_or(Refusal::Frame)
}

#[cfg(test)]
mod tests;
