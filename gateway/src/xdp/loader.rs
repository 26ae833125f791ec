//! Brings the program into the kernel and onto the interfaces, and takes it off.
//!
//! The link of each interface is pinned on the BPF file system, so that filtering stays in force when the daemon
//! ends. A daemon that starts puts its program in the place of the pinned one in one step: there is no moment
//! without a filter. Rules and counters belong to a program and begin anew; bans are pinned and stay.

use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use aya::programs::Xdp;
use aya::{Ebpf, EbpfLoader};
use ipnet::IpNet;
use nix::net::if_::if_nametoindex;
use portcullis_ebpf_common::Cause;
use portcullis_ebpf_common::tables::{CPUS, Cookies, Interface, PROGRAM, Role, Setting};

use super::flood::{self, Defence, FloodState};
use super::forward::{ForwardedFlow, Forwarder, Swept};
use super::maps::{self, BanRow, Maps};
use super::rules::Table;
use super::steering::{Cores, Reason};
use super::{BUILD, OBJECT};
use crate::config::{Config, XdpInterface};
use crate::forward::{self, Service};
use crate::sync::lock;

mod attach;
mod error;
mod pins;

pub use attach::Mode;
pub use error::XdpError;
pub use pins::detach;

/// The range of ports that clients of this machine get, for IPv4 and IPv6.
const CLIENT_PORTS: &str = "/proc/sys/net/ipv4/ip_local_port_range";
/// The kernel's default of that range.
const CLIENT_PORTS_DEFAULT: (u16, u16) = (32_768, 60_999);

/// One filtered interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filtered {
    pub name: String,
    pub role: Role,
    pub mode: Mode,
    index: u32,
    slot: u8,
    pin: PathBuf,
}

impl Filtered {
    /// Whether the filter is in force still: an administrator may have detached it, or the interface be gone.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        self.pin.exists() && if_nametoindex(self.name.as_str()) == Ok(self.index)
    }
}

/// The kernel side of a running daemon.
#[derive(Debug, Default)]
pub struct Kernel {
    active: Option<Active>,
}

#[derive(Debug)]
struct Active {
    interfaces: Vec<Filtered>,
    rules: usize,
    maps: Mutex<Maps>,
    defence: Mutex<Defence>,
    cores: Cores,
    forwarder: Mutex<Forwarder>,
    /// Its program is the one that the pinned links hold.
    _program: Ebpf,
}

impl Kernel {
    /// Filters as the configuration says; without `[xdp]` not at all.
    ///
    /// # Errors
    /// Everything that keeps an interface from being filtered as it should be.
    pub fn start(config: &Config, cores: &Cores) -> Result<Self, XdpError> {
        let Some(xdp) = &config.xdp else {
            pins::warn_of_leftovers();
            return Ok(Self::default());
        };
        let entries = Table::new(config, xdp).entries().map_err(XdpError::Rules)?;
        let object = OBJECT.ok_or(XdpError::Absent)?;
        pins::prepare(&xdp.pins)?;
        let mut loader = EbpfLoader::new();
        loader.default_map_pin_directory(&xdp.pins).map_max_entries(CPUS, cores.most());
        let mut ebpf = loader.load(object)?;
        let ports = client_ports();
        let mut indexed = Vec::new();
        for (slot, interface) in (0..).zip(&xdp.interfaces) {
            let index = if_nametoindex(interface.name.as_str())
                .map_err(|_| XdpError::NoInterface(interface.name.clone()))?;
            indexed.push((index, Interface::new(slot, interface.role, ports)));
        }
        let mut maps = Maps::fill(&mut ebpf, &indexed, &entries)?;
        maps::queue(&mut ebpf, cores)?;
        maps.set_budgets(&xdp.flood)?;
        let defence = Defence::new(&xdp.flood, &config.server.state_dir);
        maps.set_cookies(defence.cookies())?;
        let forwarder = Forwarder::new(&mut ebpf)?;
        if forwarder.has_flows() {
            maps.set(Setting::Forward, 1)?;
        }
        let program = ebpf.program_mut(PROGRAM).ok_or(XdpError::Object(PROGRAM))?;
        let program: &mut Xdp = program.try_into()?;
        program.load()?;
        let mut interfaces = Vec::new();
        for (interface, (index, value)) in xdp.interfaces.iter().zip(indexed) {
            let (mode, pin) = attach::enforce(program, xdp, interface, index)?;
            let XdpInterface { name, role } = interface.clone();
            tracing::info!(
                interface = name,
                role = role.as_str(),
                mode = mode.as_str(),
                "packets are filtered"
            );
            interfaces.push(Filtered { name, role, mode, index, slot: value.slot(), pin });
        }
        pins::remove_others(&xdp.pins, &interfaces)?;
        tracing::info!(on = cores.is_on(), reason = %cores.reason, "steering of sessions to their processors");
        let (rules, maps, cores) = (entries.len(), Mutex::new(maps), cores.clone());
        let (defence, forwarder) = (Mutex::new(defence), Mutex::new(forwarder));
        let active = Active { interfaces, rules, maps, defence, cores, forwarder, _program: ebpf };
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
        for (interface, cause) in
            active.interfaces.iter().flat_map(|interface| flood::OVER.map(|cause| (interface, cause)))
        {
            over = over.wrapping_add(maps.count(interface.slot, cause)?);
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
    pub fn interfaces(&self) -> &[Filtered] {
        self.active.as_ref().map(|active| active.interfaces.as_slice()).unwrap_or_default()
    }

    /// Entries of the table of rules.
    #[must_use]
    pub fn rules(&self) -> usize {
        self.active.as_ref().map_or(0, |active| active.rules)
    }

    /// Packets by interface and cause, those that were counted at all.
    ///
    /// # Errors
    /// When the counters cannot be read.
    pub fn counts(&self) -> Result<Vec<(String, Cause, u64)>, XdpError> {
        let Some(active) = &self.active else { return Ok(Vec::new()) };
        let maps = lock(&active.maps);
        let mut counts = Vec::new();
        for interface in &active.interfaces {
            for cause in Cause::ALL {
                counts.push((interface.name.clone(), *cause, maps.count(interface.slot, *cause)?));
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
        let generic = active.interfaces.iter().any(|interface| interface.mode == Mode::Generic);
        let refused = generic.then_some("an interface is filtered behind its driver (generic mode)");
        let paths = lock(&active.forwarder).write(services, refused);
        if paths.iter().any(|(_, path)| *path == forward::Path::Kernel) {
            lock(&active.maps).set(Setting::Forward, 1)?;
        }
        Ok(paths)
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

pub(crate) fn client_ports() -> (u16, u16) {
    let read = || {
        let text = fs::read_to_string(CLIENT_PORTS).ok()?;
        let mut ports = text.split_whitespace().map(str::parse::<u16>);
        Some((ports.next()?.ok()?, ports.next()?.ok()?))
    };
    read().unwrap_or(CLIENT_PORTS_DEFAULT)
}
