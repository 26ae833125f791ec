//! SYN cookies: the kernel's helpers make and check them, so a connection that is completed with one is taken by the
//! kernel's own listener as if it had sent the cookie itself.

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_TX};
use aya_ebpf::helpers::generated::{
    bpf_tcp_raw_check_syncookie_ipv4, bpf_tcp_raw_check_syncookie_ipv6, bpf_tcp_raw_gen_syncookie_ipv4,
    bpf_tcp_raw_gen_syncookie_ipv6, bpf_xdp_adjust_tail, bpf_xdp_store_bytes,
};
use portcullis_ebpf_common::{Addresses, Family, Frame, HEADER_MAX, Opening, Packet, SynAck, TcpFlags};

use crate::context::Context;

/// Ethernet frames are at least as long, without their checksum.
const FRAME_MIN: u32 = 60;
/// An IP header of either family, as words.
type Ip = [u32; 10];

/// Answers a SYN in its own frame. What cannot be answered is dropped; the client tries again.
#[inline(never)]
pub(crate) fn answer(context: &Context<'_>, packet: &Packet) -> u32 {
    let Some(opening) = Opening::read(context, packet.layout) else { return XDP_DROP };
    let Some((cookie, segment)) = cookie(packet, &opening) else { return XDP_DROP };
    let answer = SynAck::new(packet, &opening, cookie, segment);
    if send(context, packet, &answer) { XDP_TX } else { XDP_DROP }
}

/// Whether a segment completes a connection with a cookie of this machine.
#[inline(never)]
pub(crate) fn is_valid(context: &Context<'_>, packet: &Packet) -> bool {
    let flags = packet.flags;
    if !flags.has(TcpFlags::ACK) || flags.has(TcpFlags::SYN) || flags.has(TcpFlags::RST) {
        return false;
    }
    let Some(mut tcp) = context.read::<20>(packet.layout.transport) else { return false };
    let mut ip = ip(&packet.addresses);
    let (ip, tcp) = (&raw mut ip, &raw mut tcp);
    // SAFETY: the helpers read an IP header and the 20 bytes of a TCP header, which lie there.
    let checked = unsafe {
        match packet.addresses.family {
            Family::V4 => bpf_tcp_raw_check_syncookie_ipv4(ip.cast(), tcp.cast()),
            Family::V6 => bpf_tcp_raw_check_syncookie_ipv6(ip.cast(), tcp.cast()),
        }
    };
    checked == 0
}

/// The cookie, and the segment size that it remembers.
#[inline(always)]
fn cookie(packet: &Packet, opening: &Opening) -> Option<(u32, u16)> {
    let mut tcp = opening.header(packet.ports, packet.addresses.family);
    let mut ip = ip(&packet.addresses);
    let (ip, tcp) = (&raw mut ip, &raw mut tcp);
    // SAFETY: the helpers read an IP header and a TCP header of the length that is said, which lie there.
    let made = unsafe {
        match packet.addresses.family {
            Family::V4 => bpf_tcp_raw_gen_syncookie_ipv4(ip.cast(), tcp.cast(), HEADER_MAX as u32),
            Family::V6 => bpf_tcp_raw_gen_syncookie_ipv6(ip.cast(), tcp.cast(), HEADER_MAX as u32),
        }
    };
    if made < 0 { None } else { Some((made as u32, (made >> 32) as u16)) }
}

/// Of an IP header the helpers read nothing but the addresses.
#[inline(always)]
fn ip(addresses: &Addresses) -> Ip {
    let ([a, b, c, d], [e, f, g, h]) = (addresses.source, addresses.destination);
    match addresses.family {
        Family::V4 => [0, 0, 0, a, e, 0, 0, 0, 0, 0],
        Family::V6 => [0, 0, a, b, c, d, e, f, g, h],
    }
}

/// Writes the answer over the SYN and turns the frame round; VLAN tags stay as they are.
#[inline(always)]
fn send(context: &Context<'_>, packet: &Packet, answer: &SynAck) -> bool {
    let Some([d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5]) = context.read::<12>(0) else { return false };
    // What was sent to a group was not sent to us alone.
    if d0 & 1 != 0 {
        return false;
    }
    let ethernet = [s0, s1, s2, s3, s4, s5, d0, d1, d2, d3, d4, d5];
    let ip = packet.layout.ip;
    let length = (ip + answer.length()).max(FRAME_MIN).min(context.length());
    store(context, 0, &ethernet, 12)
        && store(context, ip, &answer.ip, answer.ip_length)
        && store(context, ip + answer.ip_length, &answer.tcp, answer.tcp_length)
        && trim(context, length)
}

/// `length` is that of the array or less.
#[inline(always)]
fn store<const N: usize>(context: &Context<'_>, at: u32, bytes: &[u8; N], length: u32) -> bool {
    if length == 0 || length > N as u32 {
        return false;
    }
    // SAFETY: the helper reads `length` bytes, which the array has, and checks the place in the frame itself.
    let stored = unsafe { bpf_xdp_store_bytes(context.raw(), at, bytes.as_ptr().cast_mut().cast(), length) };
    stored == 0
}

#[inline(always)]
fn trim(context: &Context<'_>, length: u32) -> bool {
    let less = context.length().saturating_sub(length);
    // SAFETY: the helper checks the new length itself. Nothing of the frame is read afterwards.
    less == 0 || unsafe { bpf_xdp_adjust_tail(context.raw(), -(less as i32)) } == 0
}
