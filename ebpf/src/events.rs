//! Drop events for user space: sampled, bounded in number, and never waited for.

use aya_ebpf::macros::map;
use aya_ebpf::maps::{PerCpuArray, RingBuf};
use portcullis_ebpf_common::Cause;
use portcullis_ebpf_common::event::{Event, Sampler, ring_bytes};
use portcullis_ebpf_common::tables::{EVENTS_MAX, Setting};

use crate::context::{Context, exact_now, now, tick};
use crate::maps;

#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(ring_bytes(EVENTS_MAX), 0);
/// One for each processor.
#[map]
static SAMPLERS: PerCpuArray<Sampler> = PerCpuArray::with_max_entries(1, 0);

/// Shows a drop, if it is its turn.
#[inline(always)]
pub(crate) fn show(context: &Context<'_>, slot: u8, cause: Cause) {
    if !sampler().is_some_and(|sampler| {
        let now = sampler.now(tick(), now);
        sampler.passes_over(now)
    }) {
        take(context, slot, cause);
    }
}

#[inline(always)]
fn sampler() -> Option<&'static mut Sampler> {
    // SAFETY: the map gives the address of an aligned Sampler that lives as long as the map, and nobody else touches
    // that of this processor while the program runs on it, which asks again only when it is done with it.
    SAMPLERS.get_ptr_mut(0).map(|sampler| unsafe { &mut *sampler })
}

/// A function of its own: its stack is free again when others need theirs.
#[inline(never)]
fn take(context: &Context<'_>, slot: u8, cause: Cause) -> u32 {
    let Some(sampler) = sampler() else { return 0 };
    let now = sampler.now(tick(), now);
    let Some(weight) = sampler.take(now, maps::setting(Setting::EventRate)) else { return 0 };
    let Some(mut entry) = EVENTS.reserve::<[u64; 8]>(0) else {
        sampler.lost = sampler.lost.wrapping_add(1);
        return 0;
    };
    entry.write(Event::of(context, exact_now(), slot, cause, weight).to_words());
    entry.submit(0);
    sampler.kept = sampler.kept.wrapping_add(1);
    1
}
