//! Looking up port rules: the hash, and the set of prefixes where the address matters.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::macros::map;
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::maps::{Array, HashMap, LpmTrie};
use portcullis_ebpf_common::rules::{
    Ports, RuleKey, RuleValue, SET_BITS, closed_place, port_bit, set_key_v4, set_key_v6,
};
use portcullis_ebpf_common::tables::{CLOSED_MAX, RULES_MAX, SOURCES_MAX, Setting};
use portcullis_ebpf_common::{Family, Policy, Protocol};

use crate::maps;

/// Both generations; one that is not in force is being written, or waits to be taken back.
#[map]
static RULES: HashMap<RuleKey, RuleValue> = HashMap::with_max_entries(2 * RULES_MAX, BPF_F_NO_PREALLOC);
#[map]
static RULES_V4: LpmTrie<[u32; 2], RuleValue> = LpmTrie::with_max_entries(2 * SOURCES_MAX, 0);
#[map]
static RULES_V6: LpmTrie<[u32; 5], RuleValue> = LpmTrie::with_max_entries(2 * SOURCES_MAX, 0);

#[map]
static CLOSED: Array<Ports> = Array::with_max_entries(CLOSED_MAX, 0);

/// Whether no rule in force is about a port.
#[inline(always)]
pub(crate) fn is_closed(role: u8, protocol: Protocol, port: u16) -> bool {
    let Some(ports) = CLOSED.get(closed_place(policy().is_second(), role, protocol)) else { return false };
    let (word, bit) = port_bit(port);
    ports.get(usize::from(word)).is_some_and(|word| word & bit != 0)
}

/// What holds now.
#[inline(always)]
pub(crate) fn policy() -> Policy {
    Policy::from_word(maps::setting(Setting::Policy))
}

/// What the rules in force say, for one address of the other side.
#[inline(always)]
pub(crate) fn find(key: RuleKey, family: Family, address: &[u32; 4]) -> Option<RuleValue> {
    let value = listed(key)?;
    match value.set() {
        Some(set) => of_address(set, family, address),
        None => Some(value),
    }
}

/// What stands at a key; the answer or the set that has it.
#[inline(always)]
pub(crate) fn listed(key: RuleKey) -> Option<RuleValue> {
    let key = key.in_generation(policy().is_second());
    // SAFETY: a value is one aligned word, and a generation in force is not written.
    unsafe { RULES.get(key) }.copied()
}

/// The answer of a set.
#[inline(always)]
pub(crate) fn of_address(set: u32, family: Family, address: &[u32; 4]) -> Option<RuleValue> {
    match family {
        Family::V4 => RULES_V4.get(Key::new(SET_BITS + 32, set_key_v4(set, address[0]))),
        Family::V6 => RULES_V6.get(Key::new(SET_BITS + 128, set_key_v6(set, *address))),
    }
    .copied()
}
