//! What sources have taken of the limits of rules.

use aya_ebpf::macros::map;
use aya_ebpf::maps::LruHashMap;
use portcullis_ebpf_common::rules::{RuleValue, limit_key};
use portcullis_ebpf_common::tables::LIMITS_MAX;
use portcullis_ebpf_common::{Addresses, Rate};

use crate::context::now;

/// Buckets by row and source. A source that makes room for others begins with a full bucket: whoever sends from more
/// sources than there is room for is a flood, and meets the flood's budgets.
#[map]
static LIMITS: LruHashMap<[u32; 4], u64> = LruHashMap::with_max_entries(LIMITS_MAX, 0);

/// Whether the source may begin one more; takes it.
#[inline(always)]
pub(crate) fn take(rule: RuleValue, second: bool, addresses: &Addresses) -> bool {
    let (key, rate, now) =
        (limit_key(rule.row(), second, addresses), Rate::per_second(rule.per_second()), now());
    let Some(bucket) = LIMITS.get_ptr_mut(&key) else {
        let Some(full_at) = rate.take(0, now) else { return false };
        // A table that cannot take it lets one pass uncounted.
        let _ = LIMITS.insert(&key, full_at, 0);
        return true;
    };
    // SAFETY: the map gave the address of an aligned word, which stays allocated as long as the program runs.
    let full_at = unsafe { bucket.read_volatile() };
    match rate.take(full_at, now) {
        Some(full_at) => {
            // Two processors at the same moment may take the same token: a limit is no account.
            // SAFETY: as above.
            unsafe { bucket.write_volatile(full_at) };
            true
        }
        None => false,
    }
}
