//! Brings the program into the kernel and onto the interfaces, and takes it off.
//!
//! The link of each interface is pinned on the BPF file system, so that filtering stays in force when the daemon
//! ends. A daemon that starts puts its program in the place of the pinned one in one step: there is no moment
//! without a filter. Rules and counters belong to a program and begin anew; bans are pinned and stay.

use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use aya::programs::Xdp;
use aya::{Ebpf, EbpfLoader};
use ipnet::IpNet;
use nix::net::if_::if_nametoindex;
use portcullis_ebpf_common::Cause;
use portcullis_ebpf_common::tables::{
    CPUS, Cookies, FLOWS, FORWARDS, Interface, PROGRAM, RULES, RULES_MAX, Role, Setting,
};
use ring::rand::{SecureRandom as _, SystemRandom};

use super::carry::Carried;
use super::confirm::{Running, Start};
use super::events::Events;
use super::flood::{self, Defence, FloodState};
use super::flows::Flows;
use super::forward::{ForwardedFlow, Forwarder, Swept};
use super::links::Links;
use super::maps::{self, BanRow, MapUse, Maps};
use super::outgoing::Outgoing;
use super::policy::{Policy, rule_rows};
use super::steering::{Cores, Reason};
use super::vlans::{self, Vlan, Vlans};
use super::watch::Condition;
use super::{BUILD, OBJECT, outgoing};
use crate::config::XdpConfig;
use crate::forward::{self, Service};
use crate::metrics::{self, xdp::Facts};
use crate::sync::lock;

pub(super) mod attach;
mod change;
pub(super) mod error;
pub(super) mod pins;

pub use attach::Mode;
pub use change::Hold;
use change::State;
pub use error::XdpError;
pub(super) use error::chain;
pub use pins::detach;

/// The range of ports that clients of this machine get, for IPv4 and IPv6.
const CLIENT_PORTS: &str = "/proc/sys/net/ipv4/ip_local_port_range";
/// The kernel's default of that range.
const CLIENT_PORTS_DEFAULT: (u16, u16) = (32_768, 60_999);

/// One filtered interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filtered {
    pub name: String,
    /// `None`: it carries VLANs with roles of their own, and what has no tag is nobody's.
    pub role: Option<Role>,
    /// `None` for what the program is attached to.
    pub vlan: Option<Vlan>,
    /// Of a bond: by what frames come in.
    pub(super) ports: Vec<u32>,
    pub mode: Mode,
    pub mode_reason: String,
    pub(super) index: u32,
    pub(super) value: Interface,
    pub(super) pin: PathBuf,
    /// As it was found when it was last looked at.
    pub condition: Condition,
    /// How often the filter had to be put back.
    pub repairs: u64,
}

impl Filtered {
    /// Whether the filter is in force still: an administrator may have detached it, or the interface be gone.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        let has_name = || if_nametoindex(self.name.as_str()) == Ok(self.index);
        self.pin.exists()
            && match &self.condition {
                Condition::Attached => has_name(),
                Condition::Renamed(_) => true,
                Condition::Detached | Condition::Gone | Condition::Lost(_) => false,
            }
    }

    /// The place of its counters.
    pub(crate) fn slot(&self) -> u8 {
        self.value.slot()
    }
}

/// The kernel side of a running daemon.
#[derive(Debug, Default)]
pub struct Kernel {
    pub(super) active: Option<Active>,
}

#[derive(Debug)]
pub(super) struct Active {
    pub(super) config: XdpConfig,
    pub(super) interfaces: Mutex<Vec<Filtered>>,
    policy: Mutex<State>,
    pub(super) maps: Mutex<Maps>,
    defence: Mutex<Defence>,
    pub(super) cores: Cores,
    forwarder: Mutex<Forwarder>,
    links: Mutex<Links>,
    pub(super) vlans: Mutex<Vlans>,
    /// Whether a listener has no way into the kernel now and may have one later.
    waits_for_ways: AtomicBool,
    flows: Flows,
    pub(super) events: Events,
    pub(super) outgoing: Mutex<Outgoing>,
    /// Its program is the one that the pinned links hold.
    pub(super) ebpf: Mutex<Ebpf>,
}

/// The object with tables as large as the configuration wants them.
fn load(object: &[u8], xdp: &XdpConfig, cores: &Cores) -> Result<Ebpf, XdpError> {
    let mut loader = EbpfLoader::new();
    loader.default_map_pin_directory(&xdp.pins);
    for (map, entries) in xdp.sizes.entries() {
        loader.map_max_entries(map, entries);
    }
    loader.map_max_entries(CPUS, cores.most());
    Ok(loader.load(object)?)
}

impl Kernel {
    /// Filters as the configuration says; without `[xdp]` not at all.
    ///
    /// # Errors
    /// Everything that keeps an interface from being filtered as it should be.
    pub fn start(start: &Start, cores: &Cores) -> Result<Self, XdpError> {
        let config = &start.config;
        let Some(xdp) = &config.xdp else {
            pins::warn_of_leftovers();
            return Ok(Self::default());
        };
        start.forget_others();
        let policy = Policy::new(config, xdp).map_err(XdpError::Rules)?;
        let object = OBJECT.ok_or(XdpError::Absent)?;
        pins::prepare(&xdp.pins)?;
        let carried = Carried::from(&xdp.pins, &xdp.sizes)?;
        let mut ebpf = load(object, xdp, cores)?;
        let places = vlans::find_places(&xdp.interfaces)?;
        let mut maps = Maps::fill(&mut ebpf, &places, &policy)?;
        let vlans = Vlans::fill(&mut ebpf, &places)?;
        maps::queue(&mut ebpf, cores)?;
        maps.set_budgets(&xdp.flood)?;
        let defence = Defence::new(&xdp.flood, &config.server.state_dir);
        maps.set_cookies(defence.cookies())?;
        let mut forwarder = Forwarder::new(&mut ebpf)?;
        carried.into(&mut maps, &mut forwarder);
        if forwarder.has_flows() {
            maps.set(Setting::Forward, 1)?;
        }
        maps.set(Setting::Seed, seed())?;
        maps.set(Setting::EventRate, xdp.event_rate.into())?;
        let links = Links::new(&mut ebpf)?;
        let flows = Flows::of(&mut ebpf, xdp.sizes.flows)?;
        program(&mut ebpf)?.load()?;
        // First what leaves: where that cannot be judged nothing has been changed yet.
        if policy.has_egress {
            let at = places.iter().filter(|place| place.vlan.is_none()).map(|place| place.name.clone());
            outgoing::attach(&mut ebpf, xdp, &at.collect::<Vec<_>>())?;
        } else {
            outgoing::remove_all(&xdp.pins)?;
        }
        let filtered = attach::all(program(&mut ebpf)?, xdp, places);
        let interfaces = filtered.inspect_err(|_| drop(outgoing::remove_all(&xdp.pins)))?;
        pins::remove_others(&xdp.pins, &interfaces)?;
        let state = State {
            running: Running {
                xdp: xdp.clone(),
                rows: rule_rows(config, xdp),
                entries: policy.entries.rules.len(),
            },
            pending: None,
            confirmed: start.text.clone(),
            state_dir: config.server.state_dir.clone(),
        };
        // Whoever detached has had the time until now.
        pins::unmark_detached(&xdp.pins);
        let active = Active {
            config: xdp.clone(),
            interfaces: Mutex::new(interfaces),
            policy: Mutex::new(state),
            maps: Mutex::new(maps),
            defence: Mutex::new(defence),
            cores: cores.clone(),
            forwarder: Mutex::new(forwarder),
            links: Mutex::new(links),
            vlans: Mutex::new(vlans),
            waits_for_ways: AtomicBool::new(false),
            flows,
            events: Events::default(),
            outgoing: Mutex::new(Outgoing {
                condition: policy.has_egress.then_some(Condition::Attached),
                repairs: 0,
            }),
            ebpf: Mutex::new(ebpf),
        };
        tracing::info!(on = cores.is_on(), reason = %cores.reason, "steering of sessions to their processors");
        Ok(Self { active: Some(active) })
    }

    /// Looks whether there is pressure, and switches SYN cookies; called several times a second.
    ///
    /// # Errors
    /// When the counters cannot be read or the setting cannot be written.
    pub fn look_after_flood(&self) -> Result<(), XdpError> {
        let Some(active) = &self.active else { return Ok(()) };
        let mut maps = lock(&active.maps);
        let mut over = 0_u64;
        for interface in lock(&active.interfaces).iter() {
            for cause in flood::OVER {
                over = over.wrapping_add(maps.count(interface.slot(), cause)?);
            }
        }
        match lock(&active.defence).look(over) {
            Some(cookies) => Ok(maps.set_cookies(cookies)?),
            None => Ok(()),
        }
    }

    /// Ends the use of SYN cookies, because nobody will listen.
    pub fn stop_cookies(&self) {
        let Some(active) = &self.active else { return };
        lock(&active.defence).stop();
        if let Err(error) = lock(&active.maps).set_cookies(Cookies::Off) {
            tracing::warn!(%error, "SYN cookies cannot be switched off");
        }
    }

    /// `None` without a kernel side.
    pub fn flood(&self) -> Option<FloodState> {
        self.active.as_ref().map(|active| lock(&active.defence).state())
    }

    /// Whether packets are steered, and why. `None` without a kernel side.
    pub fn steering(&self) -> Option<(bool, Reason)> {
        self.active.as_ref().map(|active| (active.cores.is_on(), active.cores.reason))
    }

    #[must_use]
    pub fn interfaces(&self) -> Vec<Filtered> {
        self.active.as_ref().map(|active| lock(&active.interfaces).clone()).unwrap_or_default()
    }

    /// How the programs for what leaves were found last.
    #[must_use]
    pub fn outgoing(&self) -> Outgoing {
        self.active.as_ref().map(|active| lock(&active.outgoing).clone()).unwrap_or_default()
    }

    /// Reads drop events as long as it is polled; without a kernel side there are none.
    pub async fn read_events(&self) {
        let Some(active) = &self.active else { return };
        let Some(ring) = lock(&active.maps).take_ring() else { return };
        if let Err(error) = active.events.read(ring).await {
            tracing::error!(%error, "drop events cannot be read; they are counted all the same");
        }
    }

    /// The last drop events. `None` without a kernel side.
    #[must_use]
    pub fn events(&self) -> Option<&Events> {
        self.active.as_ref().map(|active| &active.events)
    }

    /// How full the tables are.
    ///
    /// # Errors
    /// When a table cannot be read.
    pub fn map_use(&self) -> Result<Vec<MapUse>, XdpError> {
        let Some(active) = &self.active else { return Ok(Vec::new()) };
        let mut uses = lock(&active.maps).uses(&active.config.sizes)?;
        let flows = active.flows.usage().unwrap_or_default();
        uses.push(MapUse { name: FLOWS, entries: Some(flows.listed), most: flows.most });
        uses.push(MapUse {
            name: RULES,
            entries: Some(lock(&active.policy).running.entries),
            most: RULES_MAX,
        });
        uses.push(lock(&active.links).usage());
        let forwards = lock(&active.forwarder).entries();
        uses.push(MapUse { name: FORWARDS, entries: Some(forwards), most: active.config.sizes.forwards });
        uses.sort_by_key(|map| map.name);
        Ok(uses)
    }

    /// Everything for the metrics; what cannot be read is absent.
    #[must_use]
    pub fn facts(&self) -> Facts {
        let interfaces = self.interfaces().into_iter().map(|interface| metrics::xdp::Interface {
            mode: interface.mode.as_str(),
            attached: interface.is_attached(),
            repairs: interface.repairs,
            name: interface.name,
        });
        let maps = self.map_use().unwrap_or_default();
        Facts {
            packets: self.counts().unwrap_or_default(),
            packets_out: self.counts_out().unwrap_or_default(),
            interfaces: interfaces.collect(),
            maps: maps.into_iter().map(|map| (map.name, map.entries, map.most)).collect(),
            flood: self.flood().map(|state| (state.pressure_since.is_some(), state.cookies)),
            steering: self.steering().map(|(on, _)| on),
            flows_unlisted: self.flows().usage().map(|usage| usage.unlisted_total),
            events: self.event_counts().ok().flatten(),
        }
    }

    /// Drop events that reached the daemon's ring, and those that found it full.
    ///
    /// # Errors
    /// When the counters cannot be read.
    pub fn event_counts(&self) -> Result<Option<(u64, u64)>, XdpError> {
        self.active.as_ref().map(|active| Ok(lock(&active.maps).event_counts()?)).transpose()
    }

    /// Admits the flows of sessions.
    #[must_use]
    pub fn flows(&self) -> Flows {
        self.active.as_ref().map(|active| active.flows.clone()).unwrap_or_default()
    }

    /// Entries of the table of rules.
    #[must_use]
    pub fn rules(&self) -> usize {
        self.active.as_ref().map_or(0, |active| lock(&active.policy).running.entries)
    }

    /// What left by interface and cause, or would have; the daemon's own sockets are named `cgroup`.
    ///
    /// # Errors
    /// When the counters cannot be read.
    pub fn counts_out(&self) -> Result<Vec<(String, Cause, u64)>, XdpError> {
        let Some(active) = &self.active else { return Ok(Vec::new()) };
        let maps = lock(&active.maps);
        let mut counts = Vec::new();
        for cause in Cause::ALL {
            for interface in lock(&active.interfaces).iter() {
                counts.push((interface.name.clone(), *cause, maps.count_out(interface.slot(), *cause)?));
            }
            counts.push(("cgroup".to_owned(), *cause, maps.count_dialed(*cause)?));
        }
        counts.retain(|(_, _, packets)| *packets > 0);
        Ok(counts)
    }

    /// Packets by interface and cause, those that were counted at all.
    ///
    /// # Errors
    /// When the counters cannot be read.
    pub fn counts(&self) -> Result<Vec<(String, Cause, u64)>, XdpError> {
        let Some(active) = &self.active else { return Ok(Vec::new()) };
        let maps = lock(&active.maps);
        let mut counts = Vec::new();
        for interface in lock(&active.interfaces).iter() {
            for cause in Cause::ALL {
                counts.push((interface.name.clone(), *cause, maps.count(interface.slot(), *cause)?));
            }
        }
        counts.push(("-".to_owned(), Cause::NoRole, maps.count_without_role()?));
        counts.retain(|(_, cause, packets)| *packets > 0 || *cause == Cause::NoRule);
        Ok(counts)
    }

    /// Takes `forward` listeners over as they are now, and says where each runs.
    ///
    /// # Errors
    /// When the program cannot be told.
    pub fn forward(&self, services: &[Arc<Service>]) -> Result<Vec<(String, forward::Path)>, XdpError> {
        let Some(active) = &self.active else { return Ok(Vec::new()) };
        let generic = lock(&active.interfaces).iter().any(|interface| interface.mode == Mode::Generic);
        let refused = generic.then_some("an interface is filtered behind its driver (generic mode)");
        self.follow_links()?;
        let (paths, waits) = lock(&active.forwarder).write(services, &lock(&active.links), refused);
        active.waits_for_ways.store(waits, Ordering::Relaxed);
        if paths.iter().any(|(_, path)| *path == forward::Path::Kernel) {
            lock(&active.maps).set(Setting::Forward, 1)?;
        }
        Ok(paths)
    }

    /// Tells the program by which devices its frames can leave. Whether that has changed, or a listener waits for its
    /// route.
    pub(super) fn follow_links(&self) -> Result<bool, XdpError> {
        let Some(active) = &self.active else { return Ok(false) };
        let filtered: Vec<u32> = lock(&active.interfaces)
            .iter()
            .filter(|interface| interface.vlan.is_none())
            .map(|interface| interface.index)
            .collect();
        let mut links = lock(&active.links);
        let changed = links.follow(&filtered)?;
        if changed {
            let tagged = links.tagged();
            if tagged > 0
                && let Err(reason) = super::links::allow_routes()
            {
                tracing::warn!(
                    reason,
                    "answers of the filter may leave without the VLAN tags that a card took off"
                );
            }
            lock(&active.maps).set(Setting::Tags, tagged)?;
        }
        Ok(changed || active.waits_for_ways.load(Ordering::Relaxed))
    }

    /// The flows that the program forwards now.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub fn forwarded_flows(&self) -> Result<Vec<ForwardedFlow>, XdpError> {
        self.active.as_ref().map_or(Ok(Vec::new()), |active| Ok(lock(&active.forwarder).flows()?))
    }

    /// Removes the forwarded flows that are over and returns them; the others are counted by server.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub fn sweep_forwards(&self) -> Result<Swept, XdpError> {
        self.active.as_ref().map_or(Ok(Swept::default()), |active| Ok(lock(&active.forwarder).sweep()?))
    }

    /// The bans in force. `None` without a kernel side.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub fn bans(&self) -> Result<Option<Vec<BanRow>>, XdpError> {
        self.active.as_ref().map(|active| Ok(lock(&active.maps).bans()?)).transpose()
    }

    /// Drops what comes from `prefix` on every interface but those of administrators. `None` without a kernel side.
    ///
    /// # Errors
    /// When the table is full.
    pub fn ban(&self, prefix: IpNet, time: std::time::Duration) -> Result<Option<()>, XdpError> {
        self.active.as_ref().map(|active| Ok(lock(&active.maps).ban(prefix, time)?)).transpose()
    }

    /// Whether there was such a ban. `None` without a kernel side.
    ///
    /// # Errors
    /// When the table cannot be written.
    pub fn unban(&self, prefix: IpNet) -> Result<Option<bool>, XdpError> {
        self.active.as_ref().map(|active| Ok(lock(&active.maps).unban(prefix)?)).transpose()
    }
}

/// `absent`, `built`, or `attached` with its mode; `detached` where it should be attached and is not.
impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let interfaces = self.interfaces();
        let attached = interfaces.iter().filter(|interface| interface.is_attached()).count();
        let generic = interfaces.iter().any(|interface| interface.mode == Mode::Generic);
        match (interfaces.len(), attached) {
            (0, _) => f.write_str(BUILD),
            (_, 0) => f.write_str("detached"),
            (all, some) if some < all => write!(f, "attached in part ({some} of {all} interfaces)"),
            _ if generic => f.write_str("attached (generic)"),
            _ => f.write_str("attached (driver)"),
        }
    }
}

/// The program of the object.
pub(super) fn program(ebpf: &mut Ebpf) -> Result<&mut Xdp, XdpError> {
    Ok(ebpf.program_mut(PROGRAM).ok_or(XdpError::Object(PROGRAM))?.try_into()?)
}

/// A number that nobody else knows. Without one it can be foreseen which sources share a budget, which keeps nobody
/// from filtering.
fn seed() -> u64 {
    let mut bytes = [0; 8];
    match SystemRandom::new().fill(&mut bytes) {
        Ok(()) => u64::from_ne_bytes(bytes),
        Err(_unspecified) => 0,
    }
}

pub(crate) fn client_ports() -> (u16, u16) {
    let read = || {
        let text = fs::read_to_string(CLIENT_PORTS).ok()?;
        let mut ports = text.split_whitespace().map(str::parse::<u16>);
        Some((ports.next()?.ok()?, ports.next()?.ok()?))
    };
    read().unwrap_or(CLIENT_PORTS_DEFAULT)
}
