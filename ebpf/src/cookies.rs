//! SYN cookies: the kernel's helpers make and check them, so a connection that is completed with one is taken by the
//! kernel's own listener as if it had sent the cookie itself.

use core::mem::size_of_val;

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_TX};
use aya_ebpf::helpers::generated::{
    bpf_tcp_raw_check_syncookie_ipv4, bpf_tcp_raw_check_syncookie_ipv6, bpf_tcp_raw_gen_syncookie_ipv4,
    bpf_tcp_raw_gen_syncookie_ipv6, bpf_xdp_adjust_tail,
};
use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use portcullis_ebpf_common::{Addresses, Family, Frame, FrameMut, Opening, Packet, SynAck, TcpFlags};

use crate::context::Context;
use crate::forward::put_tags;

/// Ethernet frames are at least as long, without their checksum.
const FRAME_MIN: u32 = 60;
/// An IP header of either family, as words.
type Ip = [u32; 10];

/// Where answers are written: there is no room on the stack.
#[map]
static ANSWERS: PerCpuArray<SynAck> = PerCpuArray::with_max_entries(1, 0);

// Steps are functions of their own, one after the other, so that each has the rest of the stack.

/// Answers a SYN in its own frame. What cannot be answered is dropped; the client tries again.
#[inline(always)]
pub(crate) fn answer(context: &mut Context<'_>, packet: &Packet) -> u32 {
    let Some(answer) = ANSWERS.get_ptr_mut(0) else { return XDP_DROP };
    // SAFETY: the map gave the address of a value of that type, which is this processor's own while the program runs.
    let answer = unsafe { &mut *answer };
    let written =
        write(context, packet, answer) && send(context, packet, answer) && put_tags(context, packet);
    if written { XDP_TX } else { XDP_DROP }
}

#[inline(never)]
fn write(context: &Context<'_>, packet: &Packet, answer: &mut SynAck) -> bool {
    let Some(opening) = Opening::read(context, packet.layout) else { return false };
    let made = cookie(packet, &opening);
    if made < 0 {
        return false;
    }
    // The cookie, and the segment size that it remembers.
    answer.write(packet, &opening, made as u32, (made >> 32) as u16);
    true
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
    let checked = match packet.addresses.family {
        // SAFETY: the helpers read an IP header and the 20 bytes of a TCP header, which lie there.
        Family::V4 => unsafe { bpf_tcp_raw_check_syncookie_ipv4(ip.cast(), tcp.cast()) },
        // SAFETY: as above.
        Family::V6 => unsafe { bpf_tcp_raw_check_syncookie_ipv6(ip.cast(), tcp.cast()) },
    };
    checked == 0
}

/// What the kernel's helper makes, negative where it cannot.
#[inline(never)]
fn cookie(packet: &Packet, opening: &Opening) -> i64 {
    let mut tcp = opening.header(packet.ports, packet.addresses.family);
    let mut ip = ip(&packet.addresses);
    let length = size_of_val(&tcp) as u32;
    let (ip, tcp) = (&raw mut ip, &raw mut tcp);
    match packet.addresses.family {
        // SAFETY: the helper reads an IP header and a TCP header of the length that is said, which lie there.
        Family::V4 => unsafe { bpf_tcp_raw_gen_syncookie_ipv4(ip.cast(), tcp.cast(), length) },
        // SAFETY: as above.
        Family::V6 => unsafe { bpf_tcp_raw_gen_syncookie_ipv6(ip.cast(), tcp.cast(), length) },
    }
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
#[inline(never)]
fn send(context: &mut Context<'_>, packet: &Packet, answer: &SynAck) -> bool {
    let Some([d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5]) = context.read::<12>(0) else { return false };
    // What was sent to a group was not sent to us alone.
    if d0 & 1 != 0 {
        return false;
    }
    let at = packet.layout.ip;
    let (before, after) = (context.length(), (at + answer.length()).max(FRAME_MIN));
    let ip = match packet.addresses.family {
        Family::V4 => store(context, at, &answer.ip, 5),
        Family::V6 => store(context, at, &answer.ip, 10),
    };
    let at = at + answer.ip_length;
    let tcp = match answer.tcp_length {
        20 => store(context, at, &answer.tcp, 5),
        _ => store(context, at, &answer.tcp, 6),
    };
    let ethernet = context.write(0, [s0, s1, s2, s3, s4, s5, d0, d1, d2, d3, d4, d5]);
    ip && tcp && ethernet.is_some() && trim(context, before.saturating_sub(after))
}

/// The first words of a header.
#[inline(always)]
fn store<const N: usize>(context: &mut Context<'_>, at: u32, header: &[u32; N], words: usize) -> bool {
    let mut stored = true;
    let mut place = at;
    for word in &header[..words] {
        stored &= context.write(place, word.to_ne_bytes()).is_some();
        place += 4;
    }
    stored
}

/// Makes the frame shorter. Nothing of it is read afterwards.
#[inline(always)]
fn trim(context: &Context<'_>, less: u32) -> bool {
    // SAFETY: the helper checks the new length itself.
    less == 0 || unsafe { bpf_xdp_adjust_tail(context.raw(), -(less as i32)) } == 0
}
