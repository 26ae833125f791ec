//! How a forwarded packet leaves: by the kernel's own routes and neighbours, by the interface below a VLAN device with
//! the tags of that device, and not at all where an interface takes no frames of ours.

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::helpers::bpf_redirect;
use aya_ebpf::helpers::generated::{bpf_fib_lookup, bpf_xdp_adjust_head, bpf_xdp_adjust_tail};
use aya_ebpf::macros::map;
use aya_ebpf::maps::HashMap;
use portcullis_ebpf_common::link::{ETHERNET, LINKS_MAX, Link};
use portcullis_ebpf_common::nat::{self, Refusal, too_big};
use portcullis_ebpf_common::tables::Setting;
use portcullis_ebpf_common::{Cause, Family, FlowKey, Frame as _, Kind, Packet};

use super::{aside, leave_to_user};
use crate::context::Context;
use crate::maps;

/// Devices that routes name and frames can leave by, and how they do.
#[map]
static LINKS: HashMap<u32, Link> = HashMap::with_max_entries(LINKS_MAX, 0);

/// The loopback interface. Routes are looked up as for what comes from there: the helper asks that the incoming
/// interface may forward, and the kernel itself forwards nothing that "comes from" loopback.
const LOOPBACK: u32 = 1;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// Results of the route lookup, of the kernel's interface to programs.
const FIB_SUCCESS: i64 = 0;
const FIB_NO_NEIGHBOUR: i64 = 7;
const FIB_TOO_BIG: i64 = 8;

/// The kernel's `struct bpf_fib_lookup`, whose layout is part of its interface to programs: [2] is the interface, [13] to
/// [15] are the addresses of the link.
type Route = [u32; 16];

/// Sends a packet on: the action, and the cause that it is counted for.
#[inline(always)]
pub(crate) fn send(context: &mut Context<'_>, packet: &Packet) -> (Cause, u32) {
    let mut route = [0; 16];
    let cause = prepare(context, packet, &mut route);
    match cause {
        Cause::Forwarded | Cause::ForwardedError => {}
        Cause::ForwardTooBig => return (cause, refuse(context, packet, &route)),
        // Nothing of the packet has been changed.
        Cause::ForwardByUser => return (cause, XDP_PASS),
        _ => return (cause, XDP_DROP),
    }
    // SAFETY: the helper takes numbers only.
    let action = unsafe { bpf_redirect(route[2], 0) };
    (cause, action as u32)
}

/// Tells the sender how much the next link takes, in place of the packet; errors are not answered, RFC 1122.
#[inline(never)]
fn refuse(context: &mut Context<'_>, packet: &Packet, route: &Route) -> u32 {
    let [_, _, m0, m1] = route[1].to_ne_bytes();
    let room = too_big::room(packet.addresses.family) as i32;
    if packet.kind == Kind::IcmpError || !too_big::is_quotable(packet) {
        return XDP_DROP;
    }
    if !adjust_head(context, -room) {
        return XDP_DROP;
    }
    let surplus = context.length().wrapping_sub(too_big::length(packet)) as i32;
    // SAFETY: the context is the kernel's own; places in the frame are computed anew afterwards.
    if unsafe { bpf_xdp_adjust_tail(context.raw(), surplus.wrapping_neg()) } != 0 {
        return XDP_DROP;
    }
    if too_big::write(context, packet, u16::from_ne_bytes([m0, m1])).is_err() || !put_tags(context, packet) {
        return XDP_DROP;
    }
    // Not XDP_TX: an Ethernet pair whose peer has no program of its own lets such frames lie, and whatever forwards can
    // redirect.
    // SAFETY: the helper takes numbers only.
    let action = unsafe { bpf_redirect(context.interface(), 0) };
    action as u32
}

/// Gives an answer that goes back by the interface its tags. A card may have taken those of the packet off before the
/// program saw it: then they are the ones of the way back. An answer to a packet with tags has them already.
#[inline(never)]
pub(crate) fn put_tags(context: &mut Context<'_>, packet: &Packet) -> bool {
    if packet.layout.ip != ETHERNET || maps::setting(Setting::Tags) == 0 {
        return true;
    }
    let mut route = [0; 16];
    if look_up(context, packet, &packet.key.reversed(), 0, &mut route) != FIB_SUCCESS {
        return true;
    }
    let Some(link) = link(&route) else { return true };
    if link.tags == 0 || link.interface != context.interface() {
        return true;
    }
    let Some(addresses) = context.read::<12>(0) else { return false };
    relink(context, ETHERNET, packet.addresses.family, link, addresses)
}

#[inline(never)]
fn prepare(context: &mut Context<'_>, packet: &Packet, route: &mut Route) -> Cause {
    let Some(out) = aside() else { return Cause::ForwardNoRoute };
    if packet.kind == Kind::Tcp && packet.flags.opens() && !leads_back(context, packet, route) {
        return leave_to_user(packet, out);
    }
    match find_route(context, packet, out, route) {
        Cause::Forwarded => {}
        Cause::ForwardNoLink if packet.kind == Kind::Tcp && packet.flags.opens() => {
            return leave_to_user(packet, out);
        }
        cause => return cause,
    }
    let error = packet.kind == Kind::IcmpError;
    let refused = if error { rewrite_error(context, packet, out) } else { rewrite(context, packet, out) };
    if refused != 0 {
        return if refused == 1 { Cause::ForwardHopLimit } else { Cause::Truncated };
    }
    let Some(link) = link(route) else { return Cause::ForwardNoLink };
    let [s0, s1, s2, s3] = route[13].to_ne_bytes();
    let [s4, s5, d0, d1] = route[14].to_ne_bytes();
    let [d2, d3, d4, d5] = route[15].to_ne_bytes();
    let addresses = [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5];
    route[2] = link.interface;
    // Tags are those of the link that the packet came by; it leaves with those of the other one.
    if !relink(context, packet.layout.ip, packet.addresses.family, link, addresses) {
        return Cause::Truncated;
    }
    if error { Cause::ForwardedError } else { Cause::Forwarded }
}

/// Puts the header of a link in the place of the one that the frame has, which ends at `ip`.
#[inline(never)]
fn relink(context: &mut Context<'_>, ip: u32, family: Family, link: &Link, addresses: [u8; 12]) -> bool {
    let surplus = ip.wrapping_sub(link.header()) as i32;
    (surplus == 0 || adjust_head(context, surplus)) && link.write(context, addresses, family).is_some()
}

/// Takes bytes off the frame's beginning, or puts some there.
#[inline(always)]
fn adjust_head(context: &mut Context<'_>, bytes: i32) -> bool {
    // SAFETY: the context is the kernel's own; places in the frame are computed anew afterwards.
    unsafe { bpf_xdp_adjust_head(context.raw(), bytes) == 0 }
}

#[inline(never)]
fn rewrite(context: &mut Context<'_>, packet: &Packet, out: &FlowKey) -> u32 {
    code(nat::rewrite(context, packet, out))
}

#[inline(never)]
fn rewrite_error(context: &mut Context<'_>, packet: &Packet, out: &FlowKey) -> u32 {
    code(nat::rewrite_error(context, packet, out))
}

#[inline(always)]
fn code(rewritten: Result<(), Refusal>) -> u32 {
    match rewritten {
        Ok(()) => 0,
        Err(Refusal::HopLimit) => 1,
        Err(Refusal::Frame) => 2,
    }
}

/// Whether answers can go where a first segment comes from. Who has no way at all is told by the answer's own fate.
#[inline(never)]
fn leads_back(context: &Context<'_>, packet: &Packet, route: &mut Route) -> bool {
    let result = look_up(context, packet, &packet.key.reversed(), 0, route);
    !matches!(result, FIB_SUCCESS | FIB_NO_NEIGHBOUR) || link(route).is_some()
}

/// Asks the kernel where the packet goes, and whether it can leave there.
#[inline(never)]
fn find_route(context: &Context<'_>, packet: &Packet, out: &FlowKey, route: &mut Route) -> Cause {
    let length = packet.layout.end - packet.layout.ip;
    match look_up(context, packet, out, length, route) {
        FIB_SUCCESS => {}
        FIB_TOO_BIG => return Cause::ForwardTooBig,
        // The device is known all the same: user space makes the kernel ask for the neighbour, the program cannot.
        FIB_NO_NEIGHBOUR if link(route).is_none() => return Cause::ForwardNoLink,
        _ => return Cause::ForwardNoRoute,
    }
    let Some(link) = link(route) else { return Cause::ForwardNoLink };
    if length > link.most {
        let [m0, m1, _, _] = link.most.to_ne_bytes();
        route[1] = u32::from_ne_bytes([0, 0, m0, m1]);
        return Cause::ForwardTooBig;
    }
    Cause::Forwarded
}

/// How frames leave by the device that a route names.
#[inline(always)]
fn link(route: &Route) -> Option<&'static Link> {
    // SAFETY: user space replaces a value, it does not change one.
    unsafe { LINKS.get(&route[2]) }
}

/// Asks for the route of what has this tuple; `length` 0 asks not how much the link takes.
#[inline(always)]
fn look_up(context: &Context<'_>, packet: &Packet, out: &FlowKey, length: u32, route: &mut Route) -> i64 {
    let (source, destination, _) = out.words();
    let family = if packet.addresses.is_v6() { AF_INET6 } else { AF_INET };
    let [l0, l1, _, _] = length.to_ne_bytes();
    route[0] = u32::from_ne_bytes([family, packet.protocol, 0, 0]);
    route[1] = u32::from_ne_bytes([0, 0, l0, l1]);
    route[2] = LOOPBACK;
    route[3] = 0;
    [route[4], route[5], route[6], route[7]] = source;
    [route[8], route[9], route[10], route[11]] = destination;
    route[12] = 0;
    // SAFETY: the context is the kernel's own, and the helper is told the size of what it may read and write.
    unsafe { bpf_fib_lookup(context.raw().cast(), route.as_mut_ptr().cast(), 64, 0) }
}
