//! Bans outlive the daemon in a pinned table, whose size cannot change. When the configuration asks for another size
//! they move to a new table.

use std::path::Path;

use aya::maps::{LpmTrie, Map, MapData, MapError};
use ipnet::IpNet;
use portcullis_ebpf_common::tables::{BANS_V4, BANS_V6, Ban};

use super::XdpError;
use super::loader::pins;
use super::maps::{Maps, prefix};

/// Bans on their way to another table.
#[derive(Debug, Default)]
pub(super) struct Carried(Vec<(IpNet, Ban)>);

impl Carried {
    /// Takes the bans out of pinned tables of another size, and unpins these. The program that is in force keeps its
    /// own until the next one takes its place.
    pub(super) fn from(directory: &Path, size: u32) -> Result<Self, XdpError> {
        let mut carried = Vec::new();
        for name in [BANS_V4, BANS_V6] {
            let path = directory.join(name);
            if !path.exists() {
                continue;
            }
            let map = MapData::from_pin(&path)?;
            if map.info()?.max_entries() == size {
                continue;
            }
            let map = Map::from_map_data(map)?;
            if name == BANS_V4 {
                read::<[u8; 4]>(map, &mut carried)?;
            } else {
                read::<[u8; 16]>(map, &mut carried)?;
            }
            pins::remove(&path)?;
        }
        Ok(Self(carried))
    }

    /// Puts them into the new tables. A smaller one may not have room for all.
    pub(super) fn into(self, maps: &mut Maps) {
        let all = self.0.len();
        let kept = self.0.into_iter().filter(|(prefix, ban)| maps.put(*prefix, *ban).is_ok()).count();
        if kept < all {
            tracing::warn!(lost = all.saturating_sub(kept), "bans had no place in a smaller table");
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
