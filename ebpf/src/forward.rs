//! Forwarding: which packets belong to a forwarded flow, which begin one, and how they leave.
//!
//! The decision is made while the verdict is: the tuple that a packet is changed to is put aside. Then the packet is
//! sent (`send`): the kernel's own routing table and neighbours say where to, the headers are rewritten, and the frame
//! goes out without having been a packet of this machine.

mod send;

use core::arch::asm;

use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray};
use portcullis_ebpf_common::forward::{
    ANSWERED, FINISHED, FORWARDS_MAX, FROM_SERVER, Forward, HALF_OPEN_MAX, HALF_OPEN_TIME, RESET,
    SERVERS_MAX, SERVICES_MAX, Service, TRIES, WORDS_MAX, in_word,
};
use portcullis_ebpf_common::{Cause, FlowKey, Packet, TcpFlags, maglev};

use crate::context::now;
use crate::flows::add;
pub(crate) use send::{put_tags, send};

#[map]
static SERVICES: HashMap<FlowKey, Service> = HashMap::with_max_entries(SERVICES_MAX, 0);
/// Tables of Maglev hashing, four slots a word.
#[map]
static SLOTS: Array<u64> = Array::with_max_entries(WORDS_MAX, 0);
/// The tuple from us to each server, without our port.
#[map]
static SERVERS: Array<FlowKey> = Array::with_max_entries(SERVERS_MAX, 0);
/// Pinned by name: flows go on when the daemon ends.
#[map]
static FORWARDS: HashMap<FlowKey, Forward> = HashMap::pinned(FORWARDS_MAX, 0);
#[map]
static HALF_OPEN: LruHashMap<FlowKey, Forward> = LruHashMap::with_max_entries(HALF_OPEN_MAX, 0);
/// What the packet at hand is changed to.
#[map]
static OUT: PerCpuArray<FlowKey> = PerCpuArray::with_max_entries(1, 0);
/// An entry on its way into a table.
#[map]
static NEW: PerCpuArray<Forward> = PerCpuArray::with_max_entries(1, 0);

/// What becomes of a packet of a forwarded flow; `None` where it is of none. It is counted there, and what it is changed
/// to is put aside.
#[inline(never)]
pub(crate) fn belongs(packet: &Packet) -> Option<Cause> {
    let Some(flow) = FORWARDS.get_ptr_mut(&packet.key) else {
        // First segments begin a flow, or ask again for one that has begun: see `begin`.
        return if packet.flags.opens() { None } else { half_open(packet) };
    };
    // SAFETY: the map gave the address of a Forward, which stays allocated as long as the program runs.
    let state = unsafe { (*flow).state };
    if packet.flags.opens() && state & (FINISHED | RESET) != 0 {
        // The client uses its port again; the old flow is over.
        forget(&packet.key, flow);
        return None;
    }
    take(flow, packet);
    Some(Cause::Forwarded)
}

/// The same for a flow that is being opened; the client's answer opens it.
#[inline(never)]
fn half_open(packet: &Packet) -> Option<Cause> {
    let flow = HALF_OPEN.get_ptr_mut(&packet.key)?;
    // SAFETY: the map gave the address of a Forward, which stays allocated as long as the program runs.
    let state = unsafe { (*flow).state };
    if state & FROM_SERVER == 0 {
        return opened(flow, packet);
    }
    if packet.flags.has(TcpFlags::SYN) {
        // SAFETY: as above.
        set(unsafe { &raw mut (*flow).state }, ANSWERED);
    }
    take(flow, packet);
    Some(Cause::Forwarded)
}

/// The client answers the server's answer: the flow moves to the table of those that are open.
#[inline(always)]
fn opened(flow: *const Forward, packet: &Packet) -> Option<Cause> {
    let key = &packet.key;
    // SAFETY: the pointer is that of a value of a map, which stays allocated as long as the program runs.
    let reverse = unsafe { (*flow).out }.reversed();
    let answer = HALF_OPEN.get_ptr(&reverse)?;
    // SAFETY: as above.
    if unsafe { (*answer).state } & ANSWERED == 0 {
        return clears(flow, packet);
    }
    // SAFETY: a value of a map, which the kernel copies.
    let flow = unsafe { &*flow };
    // SAFETY: as above.
    let answer = unsafe { &*answer };
    if FORWARDS.insert(key, flow, 0).is_err() {
        // It stays half open; the client asks again, and there may be room then.
        return Some(Cause::ForwardFull);
    }
    if FORWARDS.insert(&reverse, answer, 0).is_err() {
        // What is not there need not be removed.
        let _ = FORWARDS.remove(key);
        return Some(Cause::ForwardFull);
    }
    let _ = (HALF_OPEN.remove(key), HALF_OPEN.remove(&reverse));
    let flow = FORWARDS.get_ptr_mut(key)?;
    take(flow, packet);
    Some(Cause::Forwarded)
}

/// The server still had a connection with these ports and has asked about it: only the client's reset ends that one, so
/// that the client's next first segment gets its answer (RFC 9293, section 3.5.1). The flow stays half open.
#[inline(always)]
fn clears(flow: *const Forward, packet: &Packet) -> Option<Cause> {
    if !packet.flags.has(TcpFlags::RST) {
        return None;
    }
    // SAFETY: as for `take`.
    put_aside(unsafe { &(*flow).out });
    Some(Cause::Forwarded)
}

/// Counts a packet of a flow, notes its end, and puts aside what the packet is changed to.
#[inline(always)]
#[allow(
    clippy::multiple_unsafe_ops_per_block,
    reason = "the addresses of one value's fields, for one reason"
)]
fn take(flow: *mut Forward, packet: &Packet) {
    // SAFETY: the pointer is that of a value of a map, which stays allocated as long as the program runs.
    let (packets, bytes, seen, state, out) = unsafe {
        (
            &raw mut (*flow).packets,
            &raw mut (*flow).bytes,
            &raw mut (*flow).seen,
            &raw mut (*flow).state,
            &raw const (*flow).out,
        )
    };
    add(packets, 1);
    add(bytes, u64::from(packet.data));
    // SAFETY: as above; an aligned word, and whichever processor writes last is right.
    unsafe { seen.write_volatile(now()) };
    if packet.flags.has(TcpFlags::FIN) {
        set(state, FINISHED);
    }
    if packet.flags.has(TcpFlags::RST) {
        set(state, RESET);
    }
    // SAFETY: as above; the program writes it before the entry is in the table, and never after.
    put_aside(unsafe { &*out });
}

#[inline(always)]
fn put_aside(out: &FlowKey) {
    if let Some(place) = OUT.get_ptr_mut(0) {
        // SAFETY: the place of this processor, where nobody else writes while the program runs.
        unsafe { *place = *out };
    }
}

/// What the packet at hand is changed to.
#[inline(always)]
fn aside() -> Option<&'static FlowKey> {
    // SAFETY: the place of this processor, which was written for this packet.
    OUT.get_ptr(0).map(|out| unsafe { &*out })
}

/// Sets bits in one step: both directions may be handled at once.
#[inline(always)]
fn set(to: *mut u64, bits: u64) {
    // SAFETY: the pointer is that of an aligned word in a map's value, which stays allocated.
    unsafe { asm!("lock *(u64 *)({to} + 0) |= {bits}", to = in(reg) to, bits = in(reg) bits) };
}

#[inline(always)]
fn forget(key: &FlowKey, flow: *const Forward) {
    // SAFETY: as for `take`.
    let reverse = unsafe { (*flow).out }.reversed();
    // Another processor may have been first.
    let _ = (FORWARDS.remove(key), FORWARDS.remove(&reverse));
}

/// Whether a packet is for a service.
#[inline(always)]
pub(crate) fn serves(packet: &Packet) -> bool {
    SERVICES.get_ptr(packet.key.service()).is_some()
}

/// What becomes of a first segment for a service; `None` where it is for none.
#[inline(never)]
pub(crate) fn begin(packet: &Packet) -> Option<Cause> {
    // SAFETY: user space replaces a value, it does not change one.
    let service = unsafe { SERVICES.get(packet.key.service()) }?;
    Some(begin_for(packet, service))
}

#[inline(never)]
fn begin_for(packet: &Packet, service: &Service) -> Cause {
    if asks_again(packet) {
        return Cause::Forwarded;
    }
    let hash = maglev::flow_hash(&packet.addresses, packet.ports);
    let slot = maglev::slot(hash);
    let Some(word) = SLOTS.get(service.word(slot)) else { return Cause::ForwardNoServer };
    let index = in_word(*word, slot);
    if index == maglev::NO_SERVER {
        return Cause::ForwardNoServer;
    }
    let Some(server) = SERVERS.get(service.server(index)) else { return Cause::ForwardNoServer };
    let (Some(flow), Some(reverse)) = (NEW.get_ptr_mut(0), OUT.get_ptr_mut(0)) else {
        return Cause::ForwardFull;
    };
    // SAFETY: a place of this processor, where nobody else writes while the program runs.
    let flow = unsafe { &mut *flow };
    // SAFETY: as above, and another place.
    let reverse = unsafe { &mut *reverse };
    let since = now();
    *flow = Forward {
        out: packet.key.reversed(),
        state: FROM_SERVER,
        listener: u32::from(service.listener),
        server: u32::from(index),
        packets: 0,
        bytes: 0,
        seen: since,
        since,
    };
    // A first segment that comes again tries other ports: a flood may hold many of them for a while.
    let start = hash ^ (since >> 16) as u32;
    for attempt in 0..TRIES {
        *reverse = server.from_port(service.port(start, attempt)).reversed();
        if claim(reverse, flow) {
            return began(packet, reverse, flow);
        }
    }
    Cause::ForwardNoPort
}

/// The way to the server is there; now the client's own.
#[inline(never)]
fn began(packet: &Packet, reverse: &mut FlowKey, flow: &mut Forward) -> Cause {
    // What the packet is changed to stays aside.
    *reverse = reverse.reversed();
    (flow.out, flow.state, flow.packets) = (*reverse, 0, 1);
    if HALF_OPEN.insert(&packet.key, &*flow, 0).is_err() { Cause::ForwardFull } else { Cause::Forwarded }
}

/// A first segment that comes again, because its answer was late or lost.
#[inline(never)]
fn asks_again(packet: &Packet) -> bool {
    let Some(flow) = HALF_OPEN.get_ptr_mut(&packet.key) else { return false };
    // SAFETY: as for `take`.
    let entry = unsafe { &*flow };
    let (reverse, seen) = (entry.out.reversed(), entry.seen);
    // Another client's connection by now, or the same client's next one: the server may be another.
    if now().wrapping_sub(seen) > HALF_OPEN_TIME || HALF_OPEN.get_ptr(&reverse).is_none() {
        return false;
    }
    take(flow, packet);
    true
}

/// Takes a port towards a server, unless an open or half-open flow has it.
#[inline(never)]
fn claim(reverse: &FlowKey, flow: &Forward) -> bool {
    FORWARDS.get_ptr(reverse).is_none() && HALF_OPEN.insert(reverse, flow, u64::from(BPF_NOEXIST)).is_ok()
}

/// Whether an error is about a forwarded flow; what its packets are changed to is put aside.
#[inline(never)]
pub(crate) fn is_about(key: &FlowKey) -> bool {
    let Some(flow) = FORWARDS.get_ptr(key) else { return false };
    // SAFETY: as for `take`.
    put_aside(unsafe { &(*flow).out });
    true
}

/// Leaves a flow that has not begun to user space, where the listener allows it: a first segment for which there is no
/// way that the program can send by.
#[inline(never)]
fn leave_to_user(packet: &Packet, out: &FlowKey) -> Cause {
    // SAFETY: as for `begin`.
    let allowed = unsafe { SERVICES.get(packet.key.service()) }.is_some_and(|service| service.fallback != 0);
    if !allowed {
        return Cause::ForwardNoLink;
    }
    let _ = (HALF_OPEN.remove(&packet.key), HALF_OPEN.remove(&out.reversed()));
    Cause::ForwardByUser
}
