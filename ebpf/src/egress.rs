//! What leaves: programs at the daemon's own sockets, when they connect or send, and one at the interfaces for what
//! no such socket sends. Shells around `portcullis-ebpf-common`'s judgement, as the XDP program is.

use aya_ebpf::bindings::{__sk_buff, TC_ACT_SHOT, TC_ACT_UNSPEC, bpf_sock_addr};
use aya_ebpf::helpers::generated::bpf_skb_pull_data;
use aya_ebpf::macros::{cgroup_sock_addr, classifier, map};
use aya_ebpf::maps::PerCpuArray;
use aya_ebpf::programs::{SockAddrContext, TcContext};
use portcullis_ebpf_common::link::Tag;
use portcullis_ebpf_common::rules::RuleKey;
use portcullis_ebpf_common::tables::{Action, DIAL_SLOT, EGRESS_SLOT, Interface};
use portcullis_ebpf_common::vlan::Tags;
use portcullis_ebpf_common::{
    Cause, Family, Frame, Outgoing, Packet, Seen, Verdict, dial, egress_keys, leave, walk,
};

use crate::{context, maps, rules};

/// What the kernel takes for yes and no at a socket; no is EPERM for who asked.
const ALLOW: i32 = 1;
const REFUSE: i32 = 0;
/// Headers of a packet lie in so many bytes.
const HEADERS: u32 = 256;

/// The packet at hand, of each processor: with the walk's own there is no room for it on the stack.
#[map]
static LEAVING: PerCpuArray<Packet> = PerCpuArray::with_max_entries(1, 0);

#[classifier]
pub(crate) fn portcullis_out(context: TcContext) -> i32 {
    let skb = context.skb.skb;
    let Some(packet) = LEAVING.get_ptr_mut(0) else { return TC_ACT_UNSPEC };
    // SAFETY: the map gave the address of a Packet of zeroes or of an earlier one, both of which are packets. Nobody
    // else has this one: while a packet leaves, its processor sends no other.
    let packet = unsafe { &mut *packet };
    *packet = Packet::NONE;
    let mut refused = read(skb, packet);
    if refused.is_some() && (Buffer { skb }).draws_headers_together() {
        refused = read(skb, packet);
    }
    act(skb, packet, refused)
}

// Functions of their own, as at the XDP program: their stacks come one after the other. They take the kernel's own
// pointer, because every word of the stack counts here.

#[inline(never)]
fn read(skb: *mut __sk_buff, into: &mut Packet) -> Option<Cause> {
    walk(&Buffer { skb }).and_then(Seen::packet).map(|packet| *into = packet).err()
}

#[inline(never)]
fn act(skb: *mut __sk_buff, packet: &Packet, refused: Option<Cause>) -> i32 {
    // SAFETY: the context is the kernel's own; its fields may be read by any program of this type.
    let index = unsafe { (*skb).ifindex };
    let Some(interface) = maps::interface(index) else { return TC_ACT_UNSPEC };
    let interface = if interface.carries_vlans() { of_vlan(skb, index, interface) } else { interface };
    let cause = leave(&Buffer { skb }, packet, refused, &Rows { interface });
    maps::count(EGRESS_SLOT + interface.slot(), cause);
    match cause.verdict() {
        // Whatever else is attached has its turn.
        Verdict::Pass => TC_ACT_UNSPEC,
        // Nothing that leaves is answered.
        Verdict::Drop | Verdict::Answer => TC_ACT_SHOT,
    }
}

/// The VLAN by which a packet leaves. One without a role has none here either: nothing comes in by it, so nothing that
/// leaves is an answer, and it is counted at the interface.
#[inline(always)]
fn of_vlan(skb: *mut __sk_buff, index: u32, trunk: Interface) -> Interface {
    let frame = Buffer { skb };
    // SAFETY: the context is the kernel's own; its fields may be read by any program of this type.
    let beside = unsafe { (*skb).vlan_present };
    // SAFETY: as above.
    let protocol = unsafe { (*skb).vlan_proto };
    // SAFETY: as above.
    let tag = unsafe { (*skb).vlan_tci };
    let tags = if beside == 0 {
        Tags::of(&frame)
    } else {
        Tags::behind(Tag::new(u16::from_be(protocol as u16), tag as u16), &frame)
    };
    match tags {
        Ok(tags) if !tags.is_none() => maps::vlan(index, tags).unwrap_or_else(|| trunk.of_nobody()),
        _ => trunk,
    }
}

/// A packet that leaves.
#[derive(Clone, Copy)]
struct Buffer {
    skb: *mut __sk_buff,
}

impl Buffer {
    #[inline(always)]
    fn context(self) -> TcContext {
        TcContext::new(self.skb)
    }

    /// Headers may lie in several pieces; then they are put in one, and can be read.
    #[inline(always)]
    fn draws_headers_together(self) -> bool {
        let context = self.context();
        let wanted = if context.len() < HEADERS { context.len() } else { HEADERS };
        if context.data() + wanted as usize <= context.data_end() {
            return false;
        }
        // SAFETY: the context is the kernel's own; pointers into the packet are asked for anew afterwards.
        unsafe { bpf_skb_pull_data(self.skb, wanted) == 0 }
    }
}

impl Frame for Buffer {
    #[inline(always)]
    fn length(&self) -> u32 {
        self.context().len()
    }

    #[inline(always)]
    fn read<const N: usize>(&self, at: u32) -> Option<[u8; N]> {
        context::read(at, || self.context().data(), || self.context().data_end())
    }
}

struct Rows {
    interface: Interface,
}

impl Outgoing for Rows {
    #[inline(always)]
    fn rule(&self, packet: &Packet) -> Option<Action> {
        let addresses = &packet.addresses;
        row(packet.protocol, packet.ports.destination, addresses.family, &addresses.destination)
    }

    #[inline(always)]
    fn is_closed(&self) -> bool {
        rules::policy().egress_is_closed()
    }

    #[inline(always)]
    fn is_answer(&self, packet: &Packet) -> bool {
        // Rows about what leaves stand where a role is 0.
        if self.interface.role() == 0 {
            return false;
        }
        let key = RuleKey::new(self.interface.role(), packet.protocol, packet.ports.source);
        let addresses = &packet.addresses;
        let rule = rules::find(key, addresses.family, &addresses.destination);
        rule.is_some_and(|rule| rule.action() != Action::Drop)
    }
}

/// The first key that has an entry has the answer.
#[inline(always)]
fn row(protocol: u8, port: u16, family: Family, destination: &[u32; 4]) -> Option<Action> {
    let [by_port, by_protocol, any] = egress_keys(protocol, port);
    let listed = match rules::listed(by_port) {
        None => match rules::listed(by_protocol) {
            None => rules::listed(any),
            found => found,
        },
        found => found,
    }?;
    let value = match listed.set() {
        Some(set) => rules::of_address(set, family, destination)?,
        None => listed,
    };
    Some(value.action())
}

#[cgroup_sock_addr(connect4)]
pub(crate) fn connect_v4(context: SockAddrContext) -> i32 {
    dial_v4(context.sock_addr)
}

#[cgroup_sock_addr(connect6)]
pub(crate) fn connect_v6(context: SockAddrContext) -> i32 {
    dial_v6(context.sock_addr)
}

#[cgroup_sock_addr(sendmsg4)]
pub(crate) fn sendmsg_v4(context: SockAddrContext) -> i32 {
    dial_v4(context.sock_addr)
}

#[cgroup_sock_addr(sendmsg6)]
pub(crate) fn sendmsg_v6(context: SockAddrContext) -> i32 {
    dial_v6(context.sock_addr)
}

#[inline(always)]
fn dial_v4(address: *mut bpf_sock_addr) -> i32 {
    // SAFETY: the context is the kernel's own and lives as long as the program runs. Only the fields that are asked
    // for are read; any program of this type may.
    let address = unsafe { &*address };
    decide(address.protocol, address.user_port, Family::V4, &[address.user_ip4, 0, 0, 0])
}

#[inline(always)]
fn dial_v6(address: *mut bpf_sock_addr) -> i32 {
    // SAFETY: as above.
    let address = unsafe { &*address };
    let (ip, port, protocol) = (address.user_ip6, address.user_port, address.protocol);
    // IPv4 by a socket of IPv6, RFC 4291 §2.5.5.2.
    if ip[0] | ip[1] == 0 && ip[2] == 0xffff_u32.to_be() {
        return decide(protocol, port, Family::V4, &[ip[3], 0, 0, 0]);
    }
    decide(protocol, port, Family::V6, &ip)
}

#[inline(always)]
fn decide(protocol: u32, port: u32, family: Family, destination: &[u32; 4]) -> i32 {
    if is_loopback(family, destination) {
        return ALLOW;
    }
    let port = u16::from_be(port as u16);
    let cause = dial(row(protocol as u8, port, family, destination), rules::policy().egress_is_closed());
    maps::count(DIAL_SLOT, cause);
    match cause.verdict() {
        Verdict::Pass => ALLOW,
        Verdict::Drop | Verdict::Answer => REFUSE,
    }
}

/// This machine itself; no address at all means it too.
#[inline(always)]
fn is_loopback(family: Family, destination: &[u32; 4]) -> bool {
    let [a, b, c, d] = *destination;
    match family {
        Family::V4 => a == 0 || a.to_ne_bytes()[0] == 127,
        Family::V6 => (a | b | c) == 0 && matches!(u32::from_be(d), 0 | 1),
    }
}
