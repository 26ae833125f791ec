//! Packets of an admitted flow that came in on another processor than the one that relays its session.

use aya_ebpf::bindings::xdp_action::XDP_PASS;
use aya_ebpf::macros::map;
use aya_ebpf::maps::CpuMap;

/// A queue for each processor; user space sizes the table and fills it. A processor without one gets nothing, and the
/// packet passes where it is.
#[map]
static CPUS: CpuMap = CpuMap::with_max_entries(1, 0);

#[inline(always)]
pub(crate) fn to(processor: u32) -> u32 {
    match CPUS.redirect(processor, u64::from(XDP_PASS)) {
        Ok(action) | Err(action) => action,
    }
}
