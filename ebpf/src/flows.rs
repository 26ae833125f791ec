//! Flows that user space has admitted, and datagrams whose first fragment passed.

use aya_ebpf::helpers::bpf_get_smp_processor_id;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{HashMap, LruHashMap};
use core::arch::asm;

use portcullis_ebpf_common::tables::{FLOWS_MAX, FRAGMENTS_MAX, FRAGMENTS_TIME};
use portcullis_ebpf_common::{Flow, FlowKey, Hit, Packet};

use crate::context::now;

#[map]
static FLOWS: HashMap<FlowKey, Flow> = HashMap::with_max_entries(FLOWS_MAX, 0);
/// When the first fragment passed. The oldest make room: a datagram that is lost is sent again.
#[map]
static FRAGMENTS: LruHashMap<FlowKey, u64> = LruHashMap::with_max_entries(FRAGMENTS_MAX, 0);

/// Finds the flow and counts the packet.
#[inline(never)]
#[allow(
    clippy::multiple_unsafe_ops_per_block,
    reason = "the addresses of one value's fields, for one reason"
)]
pub(crate) fn hit(packet: &Packet) -> Option<Hit> {
    let flow = FLOWS.get_ptr_mut(&packet.key)?;
    // SAFETY: the map gave the address of a Flow, which stays allocated as long as the program runs.
    let (packets, bytes, seen, owner) =
        unsafe { (&raw mut (*flow).packets, &raw mut (*flow).bytes, &raw mut (*flow).seen, (*flow).owner) };
    add(packets, 1);
    add(bytes, u64::from(packet.data));
    // SAFETY: as above; an aligned word, and whichever processor writes last is right.
    unsafe { seen.write_volatile(now()) };
    // SAFETY: the helper takes nothing and returns a number.
    let here = unsafe { bpf_get_smp_processor_id() };
    Some(Hit { steer: Flow::steered_to(owner, here) })
}

#[inline(never)]
pub(crate) fn is_live(key: &FlowKey) -> bool {
    FLOWS.get_ptr(key).is_some()
}

#[inline(never)]
pub(crate) fn remember(fragments: &FlowKey) {
    // A table that cannot take it costs that one datagram.
    let _ = FRAGMENTS.insert(fragments, now(), 0);
}

#[inline(never)]
pub(crate) fn remembers(fragments: &FlowKey) -> bool {
    // SAFETY: the value is one aligned word, which is copied at once.
    let seen = unsafe { FRAGMENTS.get(fragments) }.copied();
    seen.is_some_and(|seen| now().wrapping_sub(seen) < FRAGMENTS_TIME)
}

/// Adds in one step: packets of a flow may come in on several processors. The target's `AtomicU64` cannot.
#[inline(always)]
pub(crate) fn add(to: *mut u64, count: u64) {
    // SAFETY: the pointer is that of a word in a map's value, which is aligned and stays allocated.
    unsafe { asm!("lock *(u64 *)({to} + 0) += {count}", to = in(reg) to, count = in(reg) count) };
}
