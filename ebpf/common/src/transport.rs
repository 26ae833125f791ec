//! The header behind IP: TCP (RFC 9293), UDP (RFC 768), ICMP (RFC 792), ICMPv6 (RFC 4443) with neighbour discovery
//! (RFC 4861) and multicast listener discovery (RFC 2710, RFC 3810).

use crate::cause::Cause;
use crate::frame::Frame;
use crate::walk::{Part, Payload, Protocol};

const ICMP: u8 = 1;
pub(crate) const ICMPV6: u8 = 58;

#[inline(always)]
pub(crate) fn read<F: Frame + ?Sized>(frame: &F, part: Part, v6: bool) -> Result<Payload, Cause> {
    match part.protocol {
        6 => tcp(frame, part),
        17 => udp(frame, part),
        ICMP if !v6 => icmp(frame, part),
        ICMPV6 if v6 => icmpv6(frame, part),
        _ => Ok(Payload::Other),
    }
}

#[inline(always)]
fn tcp<F: Frame + ?Sized>(frame: &F, part: Part) -> Result<Payload, Cause> {
    let header = frame.read::<14>(part.at).ok_or(Cause::TcpHeader)?;
    let [s0, s1, d0, d1, _, _, _, _, _, _, _, _, offset, flags] = header;
    let length = u32::from(offset >> 4) * 4;
    if length < 20 || part.at + length > part.end {
        return Err(Cause::TcpHeader);
    }
    if !possible(flags) {
        return Err(Cause::TcpFlags);
    }
    ports(Protocol::Tcp, [s0, s1], [d0, d1])
}

/// RFC 9293 §3.10: whatever is neither the first SYN nor a reset carries ACK, and SYN, FIN and RST exclude each
/// other.
#[inline(always)]
fn possible(flags: u8) -> bool {
    const FIN: u8 = 0x01;
    const SYN: u8 = 0x02;
    const RST: u8 = 0x04;
    const ACK: u8 = 0x10;
    flags & (SYN | RST | ACK) != 0 && matches!(flags & (FIN | SYN | RST), 0 | FIN | SYN | RST)
}

#[inline(always)]
fn udp<F: Frame + ?Sized>(frame: &F, part: Part) -> Result<Payload, Cause> {
    let [s0, s1, d0, d1, l0, l1, _, _] = frame.read::<8>(part.at).ok_or(Cause::UdpLength)?;
    let length = u32::from(u16::from_be_bytes([l0, l1]));
    if length < 8 || part.at + length > part.end {
        return Err(Cause::UdpLength);
    }
    ports(Protocol::Udp, [s0, s1], [d0, d1])
}

#[inline(always)]
fn ports(protocol: Protocol, source: [u8; 2], destination: [u8; 2]) -> Result<Payload, Cause> {
    let (source, destination) = (u16::from_be_bytes(source), u16::from_be_bytes(destination));
    if source == 0 || destination == 0 {
        return Err(Cause::PortZero);
    }
    Ok(Payload::Ports { protocol, source, destination })
}

#[inline(always)]
fn icmp<F: Frame + ?Sized>(frame: &F, part: Part) -> Result<Payload, Cause> {
    match kind(frame, part)? {
        // Echo and its reply, unreachable (with "fragmentation needed"), time exceeded, parameter problem.
        0 | 3 | 8 | 11 | 12 => Ok(Payload::Icmp),
        _ => Err(Cause::IcmpType),
    }
}

#[inline(always)]
fn icmpv6<F: Frame + ?Sized>(frame: &F, part: Part) -> Result<Payload, Cause> {
    match kind(frame, part)? {
        // Errors (with "packet too big"), echo and its reply, multicast listener discovery.
        1..=4 | 128..=132 | 143 => Ok(Payload::Icmp),
        // RFC 4861 §6.1 and §7.1: a hop limit of 255 proves that no router was on the way.
        133..=136 if part.hop_limit == 255 => Ok(Payload::Neighbour),
        133..=136 => Err(Cause::NeighbourFar),
        _ => Err(Cause::IcmpType),
    }
}

#[inline(always)]
fn kind<F: Frame + ?Sized>(frame: &F, part: Part) -> Result<u8, Cause> {
    if part.at + 8 > part.end {
        return Err(Cause::IcmpHeader);
    }
    let [kind] = frame.read::<1>(part.at).ok_or(Cause::IcmpHeader)?;
    Ok(kind)
}
