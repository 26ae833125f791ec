//! The header behind IP: TCP (RFC 9293), UDP (RFC 768), ICMP (RFC 792), ICMPv6 (RFC 4443) with neighbour discovery
//! (RFC 4861) and multicast listener discovery (RFC 2710, RFC 3810).

use crate::cause::Cause;
use crate::frame::Frame;
use crate::packet::{Addresses, Family, Payload, Ports, Protocol, Quoted, TcpFlags};
use crate::walk::{Gate, Part};

const ICMP: u8 = 1;
pub(crate) const ICMPV6: u8 = 58;

#[inline(always)]
pub(crate) fn read<F: Frame + ?Sized>(
    frame: &F,
    part: Part,
    addresses: &Addresses,
) -> Result<Payload, Cause> {
    match (part.protocol, addresses.family) {
        (6, _) => tcp(frame, part, true),
        (17, _) => udp(frame, part, true),
        (ICMP, Family::V4) => icmp(frame, part),
        (ICMPV6, Family::V6) => icmpv6(frame, part),
        _ => Ok(Payload::Other { protocol: part.protocol }),
    }
}

/// Of a first fragment, whose datagram ends elsewhere.
#[inline(always)]
pub(crate) fn read_first<F: Frame + ?Sized>(
    frame: &F,
    part: Part,
    addresses: &Addresses,
) -> Result<Payload, Cause> {
    match (part.protocol, addresses.family) {
        (6, _) => tcp(frame, part, false),
        (17, _) => udp(frame, part, false),
        // What an error quotes fits into one packet; nothing that is asked of a neighbour is larger than a link.
        (ICMP, Family::V4) | (ICMPV6, Family::V6) => match echo(frame, part)? {
            true => Ok(Payload::Icmp),
            false => Err(Cause::IcmpFragment),
        },
        _ => Ok(Payload::Other { protocol: part.protocol }),
    }
}

/// Past the gate, before anything is made of the packet.
#[inline(always)]
pub(crate) fn pass<F: Frame + ?Sized, G: Gate>(frame: &F, part: Part, gate: &G) -> Result<(), Cause> {
    let (protocol, port) = match part.protocol {
        6 => {
            // Most packets go on with a connection, and are read once only.
            let [flags] = frame.read::<1>(part.at + 13).ok_or(Cause::TcpHeader)?;
            if !TcpFlags(flags).opens() {
                return Ok(());
            }
            match tcp(frame, part, true)? {
                Payload::Tcp { ports, .. } => (Protocol::Tcp, ports.destination),
                _ => return Ok(()),
            }
        }
        17 => match udp(frame, part, true)? {
            Payload::Udp { ports, .. } => (Protocol::Udp, ports.destination),
            _ => return Ok(()),
        },
        _ => return Ok(()),
    };
    if gate.turns_away(protocol, port) { Err(Cause::NoRule) } else { Ok(()) }
}

#[inline(always)]
fn tcp<F: Frame + ?Sized>(frame: &F, part: Part, whole: bool) -> Result<Payload, Cause> {
    let header = frame.read::<14>(part.at).ok_or(Cause::TcpHeader)?;
    let [s0, s1, d0, d1, _, _, _, _, _, _, _, _, offset, flags] = header;
    let length = u32::from(offset >> 4) * 4;
    if length < 20 || (whole && part.at + length > part.end) {
        return Err(Cause::TcpHeader);
    }
    if !possible(flags) {
        return Err(Cause::TcpFlags);
    }
    let ports = ports([s0, s1], [d0, d1])?;
    let data = part.end.saturating_sub(part.at + length);
    Ok(Payload::Tcp { ports, flags: TcpFlags(flags), data })
}

/// RFC 9293 §3.10: whatever is neither the first SYN nor a reset carries ACK, and SYN, FIN and RST exclude each
/// other.
#[inline(always)]
fn possible(flags: u8) -> bool {
    const FIN: u8 = TcpFlags::FIN;
    const SYN: u8 = TcpFlags::SYN;
    const RST: u8 = TcpFlags::RST;
    const ACK: u8 = TcpFlags::ACK;
    flags & (SYN | RST | ACK) != 0 && matches!(flags & (FIN | SYN | RST), 0 | FIN | SYN | RST)
}

#[inline(always)]
fn udp<F: Frame + ?Sized>(frame: &F, part: Part, whole: bool) -> Result<Payload, Cause> {
    let [s0, s1, d0, d1, l0, l1, _, _] = frame.read::<8>(part.at).ok_or(Cause::UdpLength)?;
    let length = u32::from(u16::from_be_bytes([l0, l1]));
    if length < 8 || (whole && part.at + length > part.end) {
        return Err(Cause::UdpLength);
    }
    Ok(Payload::Udp { ports: ports([s0, s1], [d0, d1])?, data: length - 8 })
}

#[inline(always)]
fn ports(source: [u8; 2], destination: [u8; 2]) -> Result<Ports, Cause> {
    let (source, destination) = (u16::from_be_bytes(source), u16::from_be_bytes(destination));
    if source == 0 || destination == 0 { Err(Cause::PortZero) } else { Ok(Ports { source, destination }) }
}

#[inline(always)]
fn icmp<F: Frame + ?Sized>(frame: &F, part: Part) -> Result<Payload, Cause> {
    match kind(frame, part)? {
        0 | 8 => Ok(Payload::Icmp),
        // Unreachable (with "fragmentation needed"), time exceeded, parameter problem.
        3 | 11 | 12 => quoted_v4(frame, part),
        _ => Err(Cause::IcmpType),
    }
}

#[inline(always)]
fn icmpv6<F: Frame + ?Sized>(frame: &F, part: Part) -> Result<Payload, Cause> {
    match kind(frame, part)? {
        // Errors, with "packet too big".
        1..=4 => quoted_v6(frame, part),
        // Echo and its reply, multicast listener discovery.
        128..=132 | 143 => Ok(Payload::Icmp),
        // RFC 4861 §6.1 and §7.1: a hop limit of 255 proves that no router was on the way.
        133..=136 if part.hop_limit == 255 => Ok(Payload::Neighbour),
        133..=136 => Err(Cause::NeighbourFar),
        _ => Err(Cause::IcmpType),
    }
}

#[inline(always)]
fn echo<F: Frame + ?Sized>(frame: &F, part: Part) -> Result<bool, Cause> {
    Ok(matches!((part.protocol, kind(frame, part)?), (ICMP, 0 | 8) | (ICMPV6, 128 | 129)))
}

/// The packet that an error is about: its IP header and eight bytes, RFC 792.
#[inline(always)]
fn quoted_v4<F: Frame + ?Sized>(frame: &F, part: Part) -> Result<Payload, Cause> {
    let at = part.at + 8;
    let header = frame.read::<20>(at).ok_or(Cause::IcmpQuote)?;
    let [first, _, _, _, _, _, _, o1, _, protocol, _, _, s0, s1, s2, s3, d0, d1, d2, d3] = header;
    let length = u32::from(first & 0x0f) * 4;
    // A later fragment has no ports to know it by; offsets below 256 units are enough for any of ours.
    if first >> 4 != 4 || length < 20 || o1 != 0 || at + length + 8 > part.end {
        return Err(Cause::IcmpQuote);
    }
    let addresses = Addresses::v4([s0, s1, s2, s3], [d0, d1, d2, d3]);
    quoted(frame, addresses, protocol, at + length)
}

/// RFC 4443 §3: as much of the packet as fits. Behind extension headers nothing of ours is looked for.
#[inline(always)]
fn quoted_v6<F: Frame + ?Sized>(frame: &F, part: Part) -> Result<Payload, Cause> {
    let at = part.at + 8;
    let [first, _, _, _, _, _, next, _] = frame.read::<8>(at).ok_or(Cause::IcmpQuote)?;
    let source = frame.read::<16>(at + 8).ok_or(Cause::IcmpQuote)?;
    let destination = frame.read::<16>(at + 24).ok_or(Cause::IcmpQuote)?;
    if first >> 4 != 6 || at + 48 > part.end {
        return Err(Cause::IcmpQuote);
    }
    quoted(frame, Addresses::v6(source, destination), next, at + 40)
}

#[inline(always)]
fn quoted<F: Frame + ?Sized>(
    frame: &F,
    addresses: Addresses,
    protocol: u8,
    at: u32,
) -> Result<Payload, Cause> {
    let protocol = match protocol {
        6 => Protocol::Tcp,
        17 => Protocol::Udp,
        ICMP | ICMPV6 => return Ok(Payload::Icmp),
        _ => return Err(Cause::IcmpQuote),
    };
    let [s0, s1, d0, d1] = frame.read::<4>(at).ok_or(Cause::IcmpQuote)?;
    let ports = Ports { source: u16::from_be_bytes([s0, s1]), destination: u16::from_be_bytes([d0, d1]) };
    Ok(Payload::IcmpError { quoted: Quoted { addresses, protocol, ports } })
}

#[inline(always)]
fn kind<F: Frame + ?Sized>(frame: &F, part: Part) -> Result<u8, Cause> {
    if part.at + 8 > part.end {
        return Err(Cause::IcmpHeader);
    }
    let [kind] = frame.read::<1>(part.at).ok_or(Cause::IcmpHeader)?;
    Ok(kind)
}
