//! The maps. User space writes all of them but the counters, which it only reads.

use aya_ebpf::macros::map;
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, PerCpuArray};
use portcullis_ebpf_common::tables::{
    self, BANS_MAX, Ban, COUNTERS_MAX, INDICES_MAX, Interface, NEAR_INTERFACES_MAX, SETTINGS_MAX, Setting,
};
use portcullis_ebpf_common::vlan::{Tags, VLANS_MAX, VlanKey};
use portcullis_ebpf_common::{Cause, Packet};

#[map]
static SETTINGS: Array<u64> = Array::with_max_entries(SETTINGS_MAX, 0);
#[map]
static INTERFACES: HashMap<[u8; 4], Interface> = HashMap::with_max_entries(INDICES_MAX, 0);
#[map]
static NEAR_INTERFACES: Array<Interface> = Array::with_max_entries(NEAR_INTERFACES_MAX, 0);
#[map]
static VLANS: HashMap<VlanKey, Interface> = HashMap::with_max_entries(VLANS_MAX, 0);
/// Pinned by name, so that bans outlive the daemon.
#[map]
static BANS_V4: LpmTrie<u32, Ban> = LpmTrie::pinned(BANS_MAX, 0);
#[map]
static BANS_V6: LpmTrie<[u32; 4], Ban> = LpmTrie::pinned(BANS_MAX, 0);
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(COUNTERS_MAX, 0);

/// The packet at hand. It lies here and not on the stack, which is small; and the verifier, which follows every value
/// on the stack, has less to follow.
#[map]
static PACKET: PerCpuArray<Packet> = PerCpuArray::with_max_entries(1, 0);

#[inline(always)]
pub(crate) fn packet() -> Option<&'static mut Packet> {
    // SAFETY: the place of this processor; one program runs on it at a time, which asks again only when it is done with
    // what it got.
    PACKET.get_ptr_mut(0).map(|packet| unsafe { &mut *packet })
}

#[inline(always)]
pub(crate) fn interface(index: u32) -> Option<Interface> {
    if let Some(near) = NEAR_INTERFACES.get(index)
        && !near.is_none()
    {
        return Some(*near);
    }
    // SAFETY: the daemon writes an entry before the program is attached and changes none later, so the value is not
    // replaced while it is copied.
    unsafe { INTERFACES.get(index.to_be_bytes()) }.copied()
}

/// The VLAN of an interface that has a role of its own.
#[inline(always)]
pub(crate) fn vlan(interface: u32, tags: Tags) -> Option<Interface> {
    // SAFETY: a value is one aligned word, which user space writes at once.
    unsafe { VLANS.get(VlanKey::new(interface, tags)) }.copied()
}

/// What user space has set; 0 until it does.
#[inline(always)]
pub(crate) fn setting(setting: Setting) -> u64 {
    SETTINGS.get(setting.index()).copied().unwrap_or(0)
}

#[inline(always)]
pub(crate) fn ban_v4(source: u32) -> Option<Ban> {
    BANS_V4.get(Key::new(32, source)).copied()
}

#[inline(always)]
pub(crate) fn ban_v6(source: [u32; 4]) -> Option<Ban> {
    BANS_V6.get(Key::new(128, source)).copied()
}

#[inline(always)]
pub(crate) fn count(slot: u8, cause: Cause) {
    if let Some(counter) = COUNTERS.get_ptr_mut(tables::counter(slot, cause.index())) {
        // SAFETY: the map gave the address of an aligned u64 that lives as long as the map, and the slots of this
        // CPU are written by nobody else while the program runs on it.
        let counter = unsafe { &mut *counter };
        *counter = counter.wrapping_add(1);
    }
}
