//! The program's tables: user space writes interfaces, rules and bans, and reads the counters.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::Duration;

use aya::Ebpf;
use aya::maps::lpm_trie::Key;
use aya::maps::{Array, CpuMap, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, RingBuf};
use ipnet::IpNet;
use nix::time::{ClockId, clock_gettime};
use portcullis_ebpf_common::Cause;
use portcullis_ebpf_common::event::{SAMPLER_WORDS, Sampler, ring_bytes};
use portcullis_ebpf_common::tables::{
    self, Ban, Cookies, DIAL_SLOT, EGRESS_SLOT, Interface, NEAR_INTERFACES_MAX, NO_SLOT, Setting,
};

use super::XdpError;
use super::generations::Generations;
use super::policy::Policy;
use super::steering::{self, Cores};
use super::vlans::Place;
use crate::config::{FloodConfig, XdpSizes};

/// A prefix that is banned, and for how much longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BanRow {
    pub prefix: IpNet,
    pub left: Duration,
}

impl XdpSizes {
    /// What each table gets, as the kernel wants it.
    pub(super) fn entries(&self) -> [(&'static str, u32); 6] {
        [
            (tables::FLOWS, self.flows),
            (tables::FORWARDS, self.forwards),
            (tables::FRAGMENTS, self.fragments),
            (tables::BANS_V4, self.bans),
            (tables::BANS_V6, self.bans),
            (tables::EVENTS, ring_bytes(self.events)),
        ]
    }
}

/// How full a table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapUse {
    pub name: &'static str,
    /// `None` where that cannot be asked.
    pub entries: Option<usize>,
    pub most: u32,
}

/// Entries that are counted one by one when somebody asks how many there are.
pub(super) const COUNTED_MAX: usize = 65_536;

/// What the daemon keeps of the program's tables.
pub(super) struct Maps {
    bans_v4: LpmTrie<MapData, [u8; 4], [u8; 8]>,
    bans_v6: LpmTrie<MapData, [u8; 16], [u8; 8]>,
    counters: PerCpuArray<MapData, u64>,
    samplers: PerCpuArray<MapData, [u64; SAMPLER_WORDS]>,
    fragments: HashMap<MapData, [u64; 5], u64>,
    /// Until somebody reads it.
    ring: Option<RingBuf<MapData>>,
    /// By which pinned maps are pinned again.
    pinned: Vec<(&'static str, MapData)>,
    settings: Array<MapData, u64>,
    generations: Generations,
}

impl fmt::Debug for Maps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Maps").finish_non_exhaustive()
    }
}

impl Maps {
    /// Fills the tables and keeps those that change later.
    pub(super) fn fill(ebpf: &mut Ebpf, places: &[Place], policy: &Policy) -> Result<Self, XdpError> {
        for place in places.iter().filter(|place| place.vlan.is_none()) {
            for index in std::iter::once(&place.index).chain(&place.ports) {
                assign(ebpf, *index, place.value)?;
            }
        }
        let pinned = [tables::BANS_V4, tables::BANS_V6].map(|name| Ok((name, again(borrow(ebpf, name)?)?)));
        let mut maps = Self {
            bans_v4: LpmTrie::try_from(take(ebpf, tables::BANS_V4)?)?,
            bans_v6: LpmTrie::try_from(take(ebpf, tables::BANS_V6)?)?,
            counters: PerCpuArray::try_from(take(ebpf, tables::COUNTERS)?)?,
            settings: Array::try_from(take(ebpf, tables::SETTINGS)?)?,
            generations: Generations::new(ebpf)?,
            samplers: PerCpuArray::try_from(take(ebpf, tables::SAMPLERS)?)?,
            fragments: HashMap::try_from(take(ebpf, tables::FRAGMENTS)?)?,
            ring: Some(RingBuf::try_from(take(ebpf, tables::EVENTS)?)?),
            pinned: pinned.into_iter().collect::<Result<_, XdpError>>()?,
        };
        maps.apply(policy)?;
        // Bans of an earlier daemon hold still.
        maps.bans()?;
        Ok(maps)
    }

    pub(super) fn set(&mut self, setting: Setting, value: u64) -> Result<(), MapError> {
        self.settings.set(setting.index(), value, 0)
    }

    /// Puts a policy in force in one step; the one before stays beside it.
    pub(super) fn apply(&mut self, policy: &Policy) -> Result<(), MapError> {
        let word = self.generations.write(policy)?;
        self.set(Setting::Policy, word)?;
        self.generations.changed();
        Ok(())
    }

    /// Puts the policy before in force again.
    pub(super) fn take_back(&mut self) -> Result<(), MapError> {
        self.set(Setting::Policy, self.generations.other())?;
        self.generations.changed();
        Ok(())
    }

    /// What left by an interface, or would have.
    pub(super) fn count_out(&self, slot: u8, cause: Cause) -> Result<u64, MapError> {
        self.count(slot.saturating_add(EGRESS_SLOT), cause)
    }

    /// What the daemon's own sockets were to contact.
    pub(super) fn count_dialed(&self, cause: Cause) -> Result<u64, MapError> {
        self.count(DIAL_SLOT, cause)
    }

    /// The ring of drop events, once.
    pub(super) fn take_ring(&mut self) -> Option<RingBuf<MapData>> {
        self.ring.take()
    }

    /// Pins again what somebody has unpinned; it would end with the daemon otherwise.
    pub(super) fn keep_pins(&self, pins: &Path) -> Result<(), XdpError> {
        for (name, map) in &self.pinned {
            let path = pins.join(name);
            if !path.exists() {
                super::loader::pins::prepare(pins)?;
                map.pin(&path).map_err(|error| MapError::PinError { name: Some((*name).into()), error })?;
                tracing::warn!(pin = %path.display(), "a pin of the bans was gone; it is back");
            }
        }
        Ok(())
    }

    /// How full the tables are that are written here or by the program.
    pub(super) fn uses(&mut self, sizes: &XdpSizes) -> Result<Vec<MapUse>, MapError> {
        let bans = self.bans()?;
        let v4 = bans.iter().filter(|ban| matches!(ban.prefix, IpNet::V4(_))).count();
        let fragments = self.fragments.keys().take(COUNTED_MAX).count();
        let entries = |name, entries: usize, most| MapUse { name, entries: Some(entries), most };
        Ok(vec![
            entries(tables::BANS_V4, v4, sizes.bans),
            entries(tables::BANS_V6, bans.len().saturating_sub(v4), sizes.bans),
            entries(tables::FRAGMENTS, fragments, sizes.fragments),
            MapUse { name: tables::EVENTS, entries: None, most: sizes.events },
        ])
    }

    /// Drop events that found a place in the ring, and those that did not.
    pub(super) fn event_counts(&self) -> Result<(u64, u64), MapError> {
        let samplers = self.samplers.get(&0, 0)?;
        let sum = |sum: (u64, u64), words: &[u64; SAMPLER_WORDS]| {
            let sampler = Sampler::from_words(*words);
            (sum.0.wrapping_add(sampler.kept), sum.1.wrapping_add(sampler.lost))
        };
        Ok(samplers.iter().fold((0, 0), sum))
    }

    /// Tells the program its budgets; those of all together are divided among processors.
    pub(super) fn set_budgets(&mut self, flood: &FloodConfig) -> Result<(), MapError> {
        let processors = u32::try_from(steering::processors().len()).unwrap_or(u32::MAX).max(1);
        let share = |total: u32| u64::from((total / processors).max(1));
        self.set(Setting::SynSource, flood.syn_per_source.into())?;
        self.set(Setting::SynTotal, share(flood.syn_total))?;
        self.set(Setting::Icmp, share(flood.icmp_total))
    }

    pub(super) fn set_cookies(&mut self, cookies: Cookies) -> Result<(), MapError> {
        self.set(Setting::Cookies, cookies.to_word())
    }

    /// Packets of one interface for one cause, all processors together.
    pub(super) fn count(&self, slot: u8, cause: Cause) -> Result<u64, MapError> {
        let values = self.counters.get(&tables::counter(slot, cause.index()), 0)?;
        Ok(values.iter().fold(0, |sum, value| sum.wrapping_add(*value)))
    }

    /// Packets of interfaces without a role.
    pub(super) fn count_without_role(&self) -> Result<u64, MapError> {
        self.count(NO_SLOT, Cause::NoRole)
    }

    pub(super) fn ban(&mut self, prefix: IpNet, time: Duration) -> Result<(), MapError> {
        let end = now().saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
        self.put(prefix, Ban::until(end))
    }

    pub(super) fn put(&mut self, prefix: IpNet, ban: Ban) -> Result<(), MapError> {
        // Until the next look at all of them it is enough that there is one.
        self.set(Setting::Bans, 1)?;
        match prefix.trunc() {
            IpNet::V4(v4) => self.bans_v4.insert(&key_v4(v4), ban.to_bytes(), 0),
            IpNet::V6(v6) => self.bans_v6.insert(&key_v6(v6), ban.to_bytes(), 0),
        }
    }

    /// Whether there was such a ban.
    pub(super) fn unban(&mut self, prefix: IpNet) -> Result<bool, MapError> {
        let removed = match prefix.trunc() {
            IpNet::V4(v4) => self.bans_v4.remove(&key_v4(v4)),
            IpNet::V6(v6) => self.bans_v6.remove(&key_v6(v6)),
        };
        match removed {
            Ok(()) => Ok(true),
            Err(MapError::SyscallError(error)) if error.io_error.kind() == std::io::ErrorKind::NotFound => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// The bans in force, and removes those that have ended: an ended one would hide a wider one.
    pub(super) fn bans(&mut self) -> Result<Vec<BanRow>, MapError> {
        let mut all = Vec::new();
        for entry in self.bans_v4.iter() {
            let (key, end) = entry?;
            let address = Ipv4Addr::from(key.data());
            all.push((prefix(address.into(), key.prefix_len()), Ban::from_bytes(end).ends()));
        }
        for entry in self.bans_v6.iter() {
            let (key, end) = entry?;
            let address = Ipv6Addr::from(key.data());
            all.push((prefix(address.into(), key.prefix_len()), Ban::from_bytes(end).ends()));
        }
        let now = now();
        let mut bans = Vec::new();
        for (prefix, end) in all {
            let Some(prefix) = prefix else { continue };
            match end.checked_sub(now) {
                Some(left) if left > 0 => bans.push(BanRow { prefix, left: Duration::from_nanos(left) }),
                _ => drop(self.unban(prefix)?),
            }
        }
        self.set(Setting::Bans, u64::try_from(bans.len()).unwrap_or(u64::MAX))?;
        bans.sort_by_key(|ban| ban.prefix);
        Ok(bans)
    }
}

/// Gives each processor of sessions a queue. One that gets none keeps its packets where they come in.
pub(super) fn queue(ebpf: &mut Ebpf, cores: &Cores) -> Result<(), XdpError> {
    let mut queues = CpuMap::try_from(borrow(ebpf, tables::CPUS)?)?;
    for processor in cores.processors() {
        if let Err(error) = queues.set((*processor).into(), steering::QUEUE, None, 0) {
            tracing::warn!(processor, %error, "packets cannot be steered to a processor");
        }
    }
    Ok(())
}

/// Gives an interface its role, where the program looks for it. These tables stay with the object.
pub(super) fn assign(ebpf: &mut Ebpf, index: u32, interface: Interface) -> Result<(), XdpError> {
    let mut table: HashMap<_, [u8; 4], [u8; 8]> = HashMap::try_from(borrow(ebpf, tables::INTERFACES)?)?;
    table.insert(index.to_be_bytes(), interface.to_bytes(), 0)?;
    set_near(ebpf, index, interface.to_bytes())
}

/// Takes it away again. That it is gone already is as good.
pub(super) fn withdraw(ebpf: &mut Ebpf, index: u32) -> Result<(), XdpError> {
    set_near(ebpf, index, [0; 8])?;
    let mut table: HashMap<_, [u8; 4], [u8; 8]> = HashMap::try_from(borrow(ebpf, tables::INTERFACES)?)?;
    table.remove(&index.to_be_bytes()).ok();
    Ok(())
}

fn set_near(ebpf: &mut Ebpf, index: u32, value: [u8; 8]) -> Result<(), XdpError> {
    if index < NEAR_INTERFACES_MAX {
        let mut near: Array<_, [u8; 8]> = Array::try_from(borrow(ebpf, tables::NEAR_INTERFACES)?)?;
        near.set(index, value, 0)?;
    }
    Ok(())
}

fn borrow<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Map, XdpError> {
    ebpf.map_mut(name).ok_or(XdpError::Object(name))
}

pub(super) fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, XdpError> {
    ebpf.take_map(name).ok_or(XdpError::Object(name))
}

/// Another descriptor of the same map.
fn again(map: &Map) -> Result<MapData, XdpError> {
    let Map::LpmTrie(map) = map else { return Err(XdpError::Object("LPM trie")) };
    let failed = |io_error| MapError::IoError(io_error);
    Ok(MapData::from_fd(map.fd().as_fd().try_clone_to_owned().map_err(failed)?)?)
}

fn key_v4(prefix: ipnet::Ipv4Net) -> Key<[u8; 4]> {
    Key::new(prefix.prefix_len().into(), prefix.addr().octets())
}

fn key_v6(prefix: ipnet::Ipv6Net) -> Key<[u8; 16]> {
    Key::new(prefix.prefix_len().into(), prefix.addr().octets())
}

pub(super) fn prefix(address: IpAddr, length: u32) -> Option<IpNet> {
    IpNet::new(address, u8::try_from(length).ok()?).ok()
}

/// Nanoseconds of the clock that `bpf_ktime_get_ns` reads; it does not fail for this clock.
pub(super) fn now() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}
