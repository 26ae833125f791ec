//! The rules in the kernel's tables, two generations of them: the one in force, and the one before it or after it.

use std::fmt;

use aya::Ebpf;
use aya::maps::lpm_trie::Key;
use aya::maps::{Array, HashMap, LpmTrie, MapData, MapError};
use ipnet::IpNet;
use portcullis_ebpf_common::Protocol;
use portcullis_ebpf_common::rules::{
    Ports, RuleKey, RuleValue, SET_BITS, closed_place, port_bit, set_key_v4, set_key_v6,
};
use portcullis_ebpf_common::tables::{self, PORT_WORDS, Role};

use super::XdpError;
use super::maps::take;
use super::policy::{Compiled, Policy};

pub(super) struct Generations {
    rules: HashMap<MapData, [u8; 4], u64>,
    /// What no rule is about, by which most of a flood is known without a look at the rules.
    closed: Array<MapData, Ports>,
    sources_v4: LpmTrie<MapData, [u32; 2], u64>,
    sources_v6: LpmTrie<MapData, [u32; 5], u64>,
    /// Whether the second one is in force.
    second: bool,
    /// What stands in the tables of each, perhaps in part, and the word that puts it in force.
    written: [(Compiled, u64); 2],
}

impl fmt::Debug for Generations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generations").field("second", &self.second).finish_non_exhaustive()
    }
}

impl Generations {
    pub(super) fn new(ebpf: &mut Ebpf) -> Result<Self, XdpError> {
        Ok(Self {
            rules: HashMap::try_from(take(ebpf, tables::RULES)?)?,
            closed: Array::try_from(take(ebpf, tables::CLOSED)?)?,
            sources_v4: LpmTrie::try_from(take(ebpf, tables::RULES_V4)?)?,
            sources_v6: LpmTrie::try_from(take(ebpf, tables::RULES_V6)?)?,
            // So that the first one is written.
            second: true,
            written: Default::default(),
        })
    }

    /// Writes a policy beside the one in force and returns the word that puts it in force.
    pub(super) fn write(&mut self, policy: &Policy) -> Result<u64, MapError> {
        let second = !self.second;
        let (old, _) = std::mem::take(self.slot(second));
        self.remove(&old, second)?;
        let word = policy.word(second);
        // Before it is written: what is written in part has to be removed the next time.
        *self.slot(second) = (policy.entries.clone(), word);
        for ((set, prefix), value) in &policy.entries.sources {
            let set = numbered(*set, second);
            match prefix {
                IpNet::V4(v4) => self.sources_v4.insert(&key_v4(set, *v4), value.to_word(), 0)?,
                IpNet::V6(v6) => self.sources_v6.insert(&key_v6(set, *v6), value.to_word(), 0)?,
            }
        }
        for (key, value) in &policy.entries.rules {
            let value = match value.set() {
                Some(set) => RuleValue::by_address(numbered(set, second)),
                None => *value,
            };
            self.rules.insert(of(*key, second), value.to_word(), 0)?;
        }
        for (role, protocol) in Role::ALL.iter().flat_map(|role| Protocol::ALL.map(|one| (*role, one))) {
            let place = closed_place(second, role.to_byte(), protocol);
            self.closed.set(place, closed(&policy.entries, role, protocol), 0)?;
        }
        Ok(word)
    }

    /// The word that puts the other generation in force.
    pub(super) fn other(&self) -> u64 {
        let [(_, first), (_, second)] = &self.written;
        if self.second { *first } else { *second }
    }

    /// The other one is in force now.
    pub(super) fn changed(&mut self) {
        self.second = !self.second;
    }

    fn slot(&mut self, second: bool) -> &mut (Compiled, u64) {
        let [a, b] = &mut self.written;
        if second { b } else { a }
    }

    /// What is not there need not be removed.
    fn remove(&mut self, old: &Compiled, second: bool) -> Result<(), MapError> {
        for key in old.rules.keys() {
            absent_is_fine(self.rules.remove(&of(*key, second)))?;
        }
        for (set, prefix) in old.sources.keys() {
            let set = numbered(*set, second);
            absent_is_fine(match prefix {
                IpNet::V4(v4) => self.sources_v4.remove(&key_v4(set, *v4)),
                IpNet::V6(v6) => self.sources_v6.remove(&key_v6(set, *v6)),
            })?;
        }
        Ok(())
    }
}

/// The ports of a role and protocol that no rule is about.
fn closed(entries: &Compiled, role: Role, protocol: Protocol) -> Ports {
    let mut ports = [u64::MAX; PORT_WORDS];
    let of_role = entries.rules.keys().filter_map(|key| key.port_of(role, protocol));
    for (word, bit) in of_role.map(port_bit) {
        if let Some(word) = ports.get_mut(usize::from(word)) {
            *word &= !bit;
        }
    }
    ports
}

fn of(key: RuleKey, second: bool) -> [u8; 4] {
    key.in_generation(second).to_bytes()
}

/// Sets of the two generations have different numbers.
fn numbered(set: u32, second: bool) -> u32 {
    set.saturating_mul(2).saturating_add(u32::from(second))
}

fn key_v4(set: u32, prefix: ipnet::Ipv4Net) -> Key<[u32; 2]> {
    let address = u32::from_ne_bytes(prefix.addr().octets());
    Key::new(SET_BITS + u32::from(prefix.prefix_len()), set_key_v4(set, address))
}

fn key_v6(set: u32, prefix: ipnet::Ipv6Net) -> Key<[u32; 5]> {
    let mut address = [0; 4];
    for (word, bytes) in address.iter_mut().zip(prefix.addr().octets().chunks_exact(4)) {
        *word = <[u8; 4]>::try_from(bytes).map_or(0, u32::from_ne_bytes);
    }
    Key::new(SET_BITS + u32::from(prefix.prefix_len()), set_key_v6(set, address))
}

fn absent_is_fine(removed: Result<(), MapError>) -> Result<(), MapError> {
    match removed {
        Err(MapError::SyscallError(error)) if error.io_error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(MapError::KeyNotFound | MapError::ElementNotFound) => Ok(()),
        removed => removed,
    }
}
