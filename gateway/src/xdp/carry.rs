//! Bans and forwarded flows outlive the daemon in pinned tables, whose size cannot change. When the configuration asks
//! for another size they move to a new table. What the program that is still in force counts meanwhile is lost, and so
//! is a forwarded flow that begins in that moment.

use std::path::Path;

use aya::maps::{HashMap, LpmTrie, Map, MapData, MapError};
use ipnet::IpNet;
use portcullis_ebpf_common::forward::FORWARD_WORDS;
use portcullis_ebpf_common::tables::{BANS_V4, BANS_V6, Ban, FORWARDS};

use super::XdpError;
use super::forward::Forwarder;
use super::loader::pins;
use super::maps::{Maps, prefix};
use crate::config::XdpSizes;

/// What is on its way to another table.
#[derive(Debug, Default)]
pub(super) struct Carried {
    bans: Vec<(IpNet, Ban)>,
    flows: Vec<([u64; 5], [u64; FORWARD_WORDS])>,
}

impl Carried {
    /// Takes entries out of pinned tables of another size, and unpins these. The program that is in force keeps its own
    /// until the next one takes its place.
    pub(super) fn from(directory: &Path, sizes: &XdpSizes) -> Result<Self, XdpError> {
        let mut carried = Self::default();
        for (name, size) in [(BANS_V4, sizes.bans), (BANS_V6, sizes.bans), (FORWARDS, sizes.forwards)] {
            let path = directory.join(name);
            if !path.exists() {
                continue;
            }
            let map = MapData::from_pin(&path)?;
            if map.info()?.max_entries() == size {
                continue;
            }
            let map = Map::from_map_data(map)?;
            match name {
                BANS_V4 => read::<[u8; 4]>(map, &mut carried.bans)?,
                BANS_V6 => read::<[u8; 16]>(map, &mut carried.bans)?,
                _ => {
                    let map: HashMap<_, [u64; 5], [u64; FORWARD_WORDS]> = HashMap::try_from(map)?;
                    // What ends while it is read is over.
                    carried.flows.extend(map.iter().flatten());
                }
            }
            pins::remove(&path)?;
        }
        Ok(carried)
    }

    /// Puts all into the new tables. A smaller one may not have room.
    pub(super) fn into(self, maps: &mut Maps, forwarder: &mut Forwarder) {
        let all = self.bans.len().saturating_add(self.flows.len());
        let bans = self.bans.into_iter().filter(|(prefix, ban)| maps.put(*prefix, *ban).is_ok()).count();
        let flows = self.flows.into_iter().filter(|(key, flow)| forwarder.put(*key, *flow).is_ok()).count();
        let lost = all.saturating_sub(bans).saturating_sub(flows);
        if lost > 0 {
            tracing::warn!(lost, "bans or forwarded flows had no place in a smaller table");
        }
    }
}

fn read<A: aya::Pod + Into<std::net::IpAddr>>(
    map: Map,
    into: &mut Vec<(IpNet, Ban)>,
) -> Result<(), MapError> {
    let map: LpmTrie<_, A, [u8; 8]> = LpmTrie::try_from(map)?;
    for entry in map.iter() {
        let (key, ban) = entry?;
        into.extend(prefix(key.data().into(), key.prefix_len()).map(|prefix| (prefix, Ban::from_bytes(ban))));
    }
    Ok(())
}
