//! From a frame to what matters in it: Ethernet (IEEE 802.3), VLAN tags (802.1Q, 802.1ad), ARP (RFC 826), IPv4
//! (RFC 791), IPv6 with its extension headers (RFC 8200), and the transport header by `transport`.
//!
//! What cannot be right ends the walk with its cause. Checksums are not verified: the network stack does.

use crate::cause::Cause;
use crate::frame::Frame;
use crate::packet::{Addresses, Layout, Packet, Payload, Protocol};
use crate::transport;

/// Extension headers of one packet; the stack's own packets have one or two.
const EXTENSIONS_MAX: u32 = 8;
/// VLAN tags of one frame, as 802.1ad has it.
const TAGS_MAX: u32 = 2;
const ETHERNET: u32 = 14;

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    Arp,
    LinkControl,
    Ip(Packet),
}

impl Seen {
    /// The packet, or why a frame without one passes.
    ///
    /// # Errors
    /// The cause of what passes unseen.
    #[inline(always)]
    pub const fn packet(self) -> Result<Packet, Cause> {
        match self {
            Self::Ip(packet) => Ok(packet),
            Self::Arp => Err(Cause::Arp),
            Self::LinkControl => Err(Cause::LinkControl),
        }
    }
}

/// A payload within its packet: from `at` up to `end`.
#[derive(Clone, Copy)]
pub(crate) struct Part {
    pub(crate) protocol: u8,
    pub(crate) at: u32,
    pub(crate) end: u32,
    pub(crate) hop_limit: u8,
}

/// What its port alone condemns, whoever sent it. Most of a flood is that, and ends here, before anything is made of it.
pub trait Gate {
    /// Whether a first segment, or a datagram, for that port need not be looked at any further: no rule is about it,
    /// and nothing that this machine begins is answered there.
    fn turns_away(&self, protocol: Protocol, port: u16) -> bool;
}

/// Turns nobody away.
struct Open;

impl Gate for Open {
    #[inline(always)]
    fn turns_away(&self, _: Protocol, _: u16) -> bool {
        false
    }
}

/// Walks through the headers of one frame.
///
/// # Errors
/// Why it is dropped as it is, whatever the rules say.
#[inline(always)]
pub fn walk<F: Frame + ?Sized>(frame: &F) -> Result<Seen, Cause> {
    walk_past(frame, &Open)
}

/// The same, past a gate.
///
/// # Errors
/// Also [`Cause::NoRule`], for what the gate turns away.
#[inline(always)]
pub fn walk_past<F: Frame + ?Sized, G: Gate>(frame: &F, gate: &G) -> Result<Seen, Cause> {
    let mut at = ETHERNET;
    let mut ethertype = frame.read::<2>(12).ok_or(Cause::Truncated)?;
    for _ in 0..TAGS_MAX {
        if !is_tag(ethertype) {
            break;
        }
        ethertype = frame.read::<2>(at + 2).ok_or(Cause::Truncated)?;
        at += 4;
    }
    match u16::from_be_bytes(ethertype) {
        0x0800 => ipv4(frame, at, gate).map(Seen::Ip),
        0x86dd => ipv6(frame, at, gate).map(Seen::Ip),
        0x0806 => arp(frame, at),
        _ if is_link_control(ethertype) => Ok(Seen::LinkControl),
        _ if is_tag(ethertype) => Err(Cause::VlanDepth),
        _ => Err(Cause::EtherType),
    }
}

/// Slow protocols (LACP), EAP over LAN, LLDP.
#[inline(always)]
pub(crate) fn is_link_control(ethertype: [u8; 2]) -> bool {
    matches!(u16::from_be_bytes(ethertype), 0x8809 | 0x888e | 0x88cc)
}

#[inline(always)]
pub(crate) fn is_tag(ethertype: [u8; 2]) -> bool {
    matches!(u16::from_be_bytes(ethertype), 0x8100 | 0x88a8 | 0x9100)
}

#[inline(always)]
fn arp<F: Frame + ?Sized>(frame: &F, at: u32) -> Result<Seen, Cause> {
    let message = frame.read::<28>(at).ok_or(Cause::Truncated)?;
    // Ethernet and IPv4 with their address lengths, RFC 826.
    if message.first_chunk() == Some(&[0, 1, 8, 0, 6, 4]) { Ok(Seen::Arp) } else { Err(Cause::ArpHeader) }
}

#[inline(always)]
fn ipv4<F: Frame + ?Sized, G: Gate>(frame: &F, at: u32, gate: &G) -> Result<Packet, Cause> {
    let header = frame.read::<20>(at).ok_or(Cause::Truncated)?;
    let [first, _, l0, l1, i0, i1, f0, f1, hop_limit, protocol, _, _, s0, s1, s2, s3, d0, d1, d2, d3] =
        header;
    let header_length = u32::from(first & 0x0f) * 4;
    if first >> 4 != 4 || header_length < 20 {
        return Err(Cause::IpHeader);
    }
    let total = u32::from(u16::from_be_bytes([l0, l1]));
    let end = at + total;
    if total < header_length || !frame.reaches(end) {
        return Err(Cause::IpLength);
    }
    let (source, destination) = ([s0, s1, s2, s3], [d0, d1, d2, d3]);
    // RFC 1122 §3.2.1.3: this network and loopback are on no wire, multicast and 240/4 are no sources.
    if matches!(source[0], 0 | 127 | 224..) || matches!(destination[0], 0 | 127) {
        return Err(Cause::Bogon);
    }
    if source == destination {
        return Err(Cause::Land);
    }
    let fragment = u16::from_be_bytes([f0, f1]);
    let part = Part { protocol, at: at + header_length, end, hop_limit };
    let addresses = Addresses::v4(source, destination);
    let identification = u32::from(u16::from_be_bytes([i0, i1]));
    let (offset, more) = (fragment & 0x1fff, fragment & 0x2000 != 0);
    let fragment = (offset != 0 || more).then_some((offset, more, identification));
    if fragment.is_none() {
        transport::pass(frame, part, gate)?;
    }
    rest(frame, addresses, part, fragment, at)
}

#[inline(always)]
fn ipv6<F: Frame + ?Sized, G: Gate>(frame: &F, at: u32, gate: &G) -> Result<Packet, Cause> {
    let [first, _, _, _, l0, l1, next, hop_limit] = frame.read::<8>(at).ok_or(Cause::Truncated)?;
    let source = frame.read::<16>(at + 8).ok_or(Cause::Truncated)?;
    let destination = frame.read::<16>(at + 24).ok_or(Cause::Truncated)?;
    if first >> 4 != 6 {
        return Err(Cause::IpHeader);
    }
    let length = u32::from(u16::from_be_bytes([l0, l1]));
    let end = at + 40 + length;
    // Length 0 is a jumbogram (RFC 2675), which no interface of ours carries, or nothing at all.
    if length == 0 || !frame.reaches(end) {
        return Err(Cause::IpLength);
    }
    let unspecified = source == [0; 16];
    if is_bogon(&source) || is_bogon(&destination) || source[0] == 0xff || destination == [0; 16] {
        return Err(Cause::Bogon);
    }
    if source == destination {
        return Err(Cause::Land);
    }
    let addresses = Addresses::v6(source, destination);
    let part = Part { protocol: next, at: at + 40, end, hop_limit };
    let (part, fragment) = extensions(frame, part)?;
    // Only neighbour discovery asks without an address, RFC 4862 §5.4.
    if unspecified && part.protocol != transport::ICMPV6 {
        return Err(Cause::Bogon);
    }
    if fragment.is_none() {
        transport::pass(frame, part, gate)?;
    }
    rest(frame, addresses, part, fragment, at)
}

/// What follows IP: of a first fragment as much as is there, of a later one nothing.
#[inline(always)]
fn rest<F: Frame + ?Sized>(
    frame: &F,
    addresses: Addresses,
    part: Part,
    fragment: Fragment,
    ip: u32,
) -> Result<Packet, Cause> {
    let layout = Layout { ip, transport: part.at, end: part.end };
    let mut first_of = None;
    let payload = match fragment {
        Some((offset, more, identification)) => {
            check_fragment(part, offset, more)?;
            if offset == 0 {
                first_of = Some(identification);
                transport::read_first(frame, part, &addresses)?
            } else {
                Payload::Fragment { protocol: part.protocol, identification }
            }
        }
        None => transport::read(frame, part, &addresses)?,
    };
    Ok(Packet::new(addresses, payload, first_of, layout))
}

/// Loopback and IPv4 in IPv6 dress.
#[inline(always)]
fn is_bogon(address: &[u8; 16]) -> bool {
    const LOOPBACK: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    *address == LOOPBACK || address.first_chunk() == Some(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff])
}

/// Offset in units of eight bytes, whether more follow, and the identification.
type Fragment = Option<(u16, bool, u32)>;

/// Skips extension headers, RFC 8200 §4, up to that of a fragment.
#[inline(always)]
fn extensions<F: Frame + ?Sized>(frame: &F, mut part: Part) -> Result<(Part, Fragment), Cause> {
    for index in 0..EXTENSIONS_MAX {
        match part.protocol {
            // Hop-by-hop options come first or not at all.
            0 if index != 0 => return Err(Cause::Extension),
            0 | 43 | 60 => {
                let [next, length, kind, _] = frame.read::<4>(part.at).ok_or(Cause::Extension)?;
                if part.protocol == 43 && kind == 0 {
                    return Err(Cause::RoutingHeader);
                }
                part.at += (u32::from(length) + 1) * 8;
                part.protocol = next;
            }
            44 => {
                let [next, _, o0, o1, i0, i1, i2, i3] = frame.read::<8>(part.at).ok_or(Cause::Extension)?;
                let offset = u16::from_be_bytes([o0, o1]);
                part.at += 8;
                part.protocol = next;
                let (offset, more) = (offset >> 3, offset & 1 != 0);
                // One fragment that is all of it, RFC 6946, is no fragment.
                if offset != 0 || more {
                    let identification = u32::from_be_bytes([i0, i1, i2, i3]);
                    return if part.at > part.end {
                        Err(Cause::Extension)
                    } else {
                        Ok((part, Some((offset, more, identification))))
                    };
                }
            }
            _ => return Ok((part, None)),
        }
        if part.at > part.end {
            return Err(Cause::Extension);
        }
    }
    Err(Cause::Extension)
}

/// `offset` in units of eight bytes.
#[inline(always)]
fn check_fragment(part: Part, offset: u16, more: bool) -> Result<(), Cause> {
    let length = part.end - part.at;
    if u32::from(offset) * 8 + length > 65_535 || (more && !length.is_multiple_of(8)) {
        return Err(Cause::IpLength);
    }
    let tcp = part.protocol == Protocol::Tcp.number();
    let least = if tcp { 20 } else { 8 };
    if offset == 0 && length < least {
        return Err(Cause::FragmentTiny);
    }
    // RFC 1858 §4: the flags of TCP lie in the second eight bytes.
    if tcp && u32::from(offset) * 8 < 20 && offset != 0 {
        return Err(Cause::FragmentOverlap);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
