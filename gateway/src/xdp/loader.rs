//! Brings the program into the kernel and onto the interfaces, and takes it off.
//!
//! The link of each interface is pinned on the BPF file system, so that filtering stays in force when the daemon
//! ends. A daemon that starts puts its program in the place of the pinned one in one step: there is no moment
//! without a filter. Rules and counters belong to a program and begin anew; bans are pinned and stay.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use aya::maps::MapError;
use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::xdp::{XdpLink, XdpLinkId};
use aya::programs::{ProgramError, Xdp, XdpMode as AyaMode};
use aya::{Ebpf, EbpfError, EbpfLoader};
use ipnet::IpNet;
use nix::net::if_::if_nametoindex;
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use portcullis_ebpf_common::Cause;
use portcullis_ebpf_common::tables::{BANS_V4, BANS_V6, Interface, PROGRAM, Role};

use super::maps::{BanRow, Maps};
use super::rules::Table;
use super::{BUILD, OBJECT};
use crate::config::{Config, XdpConfig, XdpInterface, XdpMode};
use crate::sync::lock;

/// Names of pinned links begin with that; mode and interface follow.
const LINK: &str = "link-";
/// The range of ports that clients of this machine get, for IPv4 and IPv6.
const CLIENT_PORTS: &str = "/proc/sys/net/ipv4/ip_local_port_range";
/// The kernel's default of that range.
const CLIENT_PORTS_DEFAULT: (u16, u16) = (32_768, 60_999);

/// Why packets are not filtered.
#[derive(Debug, thiserror::Error)]
pub enum XdpError {
    #[error("this build has no kernel side; build it with `cargo xtask ebpf`, or leave out [xdp]")]
    Absent,
    #[error("`{0}` is missing in the built kernel side; build it again with `cargo xtask ebpf`")]
    Object(&'static str),
    #[error("{}: not a directory on a BPF file system; `mount -t bpf bpf /sys/fs/bpf` mounts one", .0.display())]
    NoBpfFs(PathBuf),
    #[error("there is no interface `{0}` on this machine; `ip link` lists them")]
    NoInterface(String),
    #[error("{0}")]
    Rules(String),
    #[error("{}: {reason}", .path.display())]
    Pin { path: PathBuf, reason: io::Error },
    #[error(
        "the kernel refuses the program; the daemon needs root, or the capabilities CAP_BPF, CAP_NET_ADMIN and \
         CAP_PERFMON"
    )]
    Load(#[from] EbpfError),
    #[error("a table of the program cannot be used")]
    Map(#[from] MapError),
    #[error("the program cannot be loaded")]
    Program(#[from] ProgramError),
    #[error("interface `{interface}`: the program cannot be attached")]
    Attach { interface: String, source: ProgramError },
    #[error("interface `{interface}`: the program cannot be pinned: {reason}")]
    Link { interface: String, reason: String },
}

/// The mode in which a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Driver,
    Generic,
}

impl Mode {
    const ALL: [Self; 2] = [Self::Driver, Self::Generic];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Driver => "driver",
            Self::Generic => "generic",
        }
    }

    fn flags(self) -> AyaMode {
        match self {
            Self::Driver => AyaMode::Driver,
            Self::Generic => AyaMode::Skb,
        }
    }
}

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
    /// Its program is the one that the pinned links hold.
    _program: Ebpf,
}

impl Kernel {
    /// Filters as the configuration says; without `[xdp]` not at all.
    ///
    /// # Errors
    /// Everything that keeps an interface from being filtered as it should be.
    pub fn start(config: &Config) -> Result<Self, XdpError> {
        let Some(xdp) = &config.xdp else {
            warn_of_leftovers();
            return Ok(Self::default());
        };
        let entries = Table::new(config, xdp).entries().map_err(XdpError::Rules)?;
        let object = OBJECT.ok_or(XdpError::Absent)?;
        prepare(&xdp.pins)?;
        let mut ebpf = EbpfLoader::new().default_map_pin_directory(&xdp.pins).load(object)?;
        let ports = client_ports();
        let mut indexed = Vec::new();
        for (slot, interface) in (0..).zip(&xdp.interfaces) {
            let index = if_nametoindex(interface.name.as_str())
                .map_err(|_| XdpError::NoInterface(interface.name.clone()))?;
            indexed.push((index, Interface::new(slot, interface.role, ports)));
        }
        let maps = Maps::fill(&mut ebpf, &indexed, &entries)?;
        let program = ebpf.program_mut(PROGRAM).ok_or(XdpError::Object(PROGRAM))?;
        let program: &mut Xdp = program.try_into()?;
        program.load()?;
        let mut interfaces = Vec::new();
        for (interface, (index, value)) in xdp.interfaces.iter().zip(indexed) {
            let (mode, pin) = enforce(program, xdp, interface, index)?;
            let XdpInterface { name, role } = interface.clone();
            tracing::info!(
                interface = name,
                role = role.as_str(),
                mode = mode.as_str(),
                "packets are filtered"
            );
            interfaces.push(Filtered { name, role, mode, index, slot: value.slot(), pin });
        }
        remove_others(&xdp.pins, &interfaces)?;
        let (rules, maps) = (entries.len(), Mutex::new(maps));
        Ok(Self { active: Some(Active { interfaces, rules, maps, _program: ebpf }) })
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

/// Takes every program of ours off its interface and forgets the bans; needs no daemon. Returns what was detached.
///
/// # Errors
/// The pin that cannot be removed.
pub fn detach(pins: &Path) -> Result<Vec<String>, XdpError> {
    let mut detached = Vec::new();
    for (name, path) in entries(pins)? {
        // Whatever else is in the directory is somebody else's, above all when it is the wrong directory.
        let interface = interface_of_pin(&name).map(|(_, interface)| interface);
        if interface.is_some() || [BANS_V4, BANS_V6].contains(&name.as_str()) {
            remove(&path)?;
        }
        detached.extend(interface);
    }
    detached.sort();
    Ok(detached)
}

fn enforce(
    program: &mut Xdp,
    xdp: &XdpConfig,
    interface: &XdpInterface,
    index: u32,
) -> Result<(Mode, PathBuf), XdpError> {
    let modes: &[Mode] = match xdp.mode {
        XdpMode::Auto => &Mode::ALL,
        XdpMode::Driver => &[Mode::Driver],
        XdpMode::Generic => &[Mode::Generic],
    };
    for mode in Mode::ALL {
        let pin = pin_path(&xdp.pins, mode, &interface.name);
        if !pin.exists() {
            continue;
        }
        if modes.contains(&mode) && replace(program, &pin) {
            return Ok((mode, pin));
        }
        // Another mode is wanted, or the link's interface has gone; its name may be another interface's now.
        remove(&pin)?;
    }
    let mut refused = None;
    for mode in modes {
        match program.attach_to_if_index(index, mode.flags()) {
            Ok(id) => {
                if let Some(error) = &refused {
                    tracing::warn!(
                        interface = interface.name,
                        error = %chain(error),
                        "the driver cannot run the filter; it runs behind the driver, which costs more"
                    );
                }
                let pin = pin_path(&xdp.pins, *mode, &interface.name);
                return pinned(program, id, &pin)
                    .map(|()| (*mode, pin))
                    .map_err(|reason| XdpError::Link { interface: interface.name.clone(), reason });
            }
            Err(error) => refused = Some(error),
        }
    }
    let source = refused.unwrap_or(ProgramError::NotLoaded);
    Err(XdpError::Attach { interface: interface.name.clone(), source })
}

/// Puts the program in the place of the one that a pinned link holds, in one step.
fn replace(program: &mut Xdp, pin: &Path) -> bool {
    let replaced = PinnedLink::from_pin(pin).and_then(|link| XdpLink::try_from(FdLink::from(link)));
    match replaced.map(|link| program.attach_to_link(link)) {
        Ok(Ok(id)) => {
            // Ours is one of two references to the link; the pin keeps the other.
            drop(program.take_link(id));
            true
        }
        Ok(Err(error)) => {
            tracing::warn!(pin = %pin.display(), error = %chain(&error), "a pinned filter is stale");
            false
        }
        Err(error) => {
            tracing::warn!(pin = %pin.display(), error = %chain(&error), "a pinned filter is stale");
            false
        }
    }
}

fn pinned(program: &mut Xdp, id: XdpLinkId, pin: &Path) -> Result<(), String> {
    let link = program.take_link(id).map_err(|error| chain(&error))?;
    let link: FdLink = link.try_into().map_err(|error: LinkError| {
        format!("{}; a kernel with BPF links for XDP is needed (5.9 or later)", chain(&error))
    })?;
    link.pin(pin).map(drop).map_err(|error| chain(&error))
}

fn prepare(pins: &Path) -> Result<(), XdpError> {
    let no = || XdpError::NoBpfFs(pins.to_owned());
    fs::create_dir_all(pins).map_err(|_| no())?;
    let found = statfs(pins).map_err(|_| no())?;
    if found.filesystem_type() == BPF_FS_MAGIC { Ok(()) } else { Err(no()) }
}

/// Interfaces that are filtered no longer.
fn remove_others(pins: &Path, interfaces: &[Filtered]) -> Result<(), XdpError> {
    for (name, path) in entries(pins)? {
        let Some((_, interface)) = interface_of_pin(&name) else { continue };
        if interfaces.iter().all(|filtered| filtered.pin != path) {
            remove(&path)?;
            tracing::info!(interface, "packets are not filtered any more");
        }
    }
    Ok(())
}

fn warn_of_leftovers() {
    let pins = entries(Path::new(super::PINS_DEFAULT)).unwrap_or_default();
    let left: Vec<String> = pins.iter().filter_map(|(name, _)| Some(interface_of_pin(name)?.1)).collect();
    if !left.is_empty() {
        tracing::warn!(
            interfaces = left.join(" "),
            "filters of an earlier configuration are in force; `portcullis xdp detach` takes them off"
        );
    }
}

/// A dot is not allowed in names on the BPF file system, and a colon not in those of interfaces.
fn pin_path(pins: &Path, mode: Mode, interface: &str) -> PathBuf {
    pins.join(format!("{LINK}{}-{}", mode.as_str(), interface.replace('.', ":")))
}

fn interface_of_pin(name: &str) -> Option<(Mode, String)> {
    let rest = name.strip_prefix(LINK)?;
    Mode::ALL.into_iter().find_map(|mode| {
        let interface = rest.strip_prefix(mode.as_str())?.strip_prefix('-')?;
        Some((mode, interface.replace(':', ".")))
    })
}

/// Names and paths in a directory; none when there is no such directory.
fn entries(pins: &Path) -> Result<Vec<(String, PathBuf)>, XdpError> {
    let failed = |reason| XdpError::Pin { path: pins.to_owned(), reason };
    let listing = match fs::read_dir(pins) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listing => listing.map_err(failed)?,
    };
    listing
        .map(|entry| {
            let entry = entry.map_err(failed)?;
            Ok((entry.file_name().to_string_lossy().into_owned(), entry.path()))
        })
        .collect()
}

fn remove(path: &Path) -> Result<(), XdpError> {
    fs::remove_file(path).map_err(|reason| XdpError::Pin { path: path.to_owned(), reason })
}

pub(crate) fn client_ports() -> (u16, u16) {
    let read = || {
        let text = fs::read_to_string(CLIENT_PORTS).ok()?;
        let mut ports = text.split_whitespace().map(str::parse::<u16>);
        Some((ports.next()?.ok()?, ports.next()?.ok()?))
    };
    read().unwrap_or(CLIENT_PORTS_DEFAULT)
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_pins_lead_back_to_their_interfaces() {
        for (mode, interface) in
            [(Mode::Driver, "eth0"), (Mode::Generic, "eth0.100"), (Mode::Driver, "a-b.c")]
        {
            let pin = pin_path(Path::new("/x"), mode, interface);
            let name = pin.file_name().unwrap().to_str().unwrap();
            assert!(!name.contains('.'));
            assert_eq!(interface_of_pin(name), Some((mode, interface.to_owned())));
        }
        assert_eq!(interface_of_pin("BANS_V4"), None);
    }

    #[test]
    fn detaching_leaves_alone_what_is_not_ours() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["passwd", "BANS_V4", "link-driver-eth0", "link-other", "RULES"] {
            fs::write(directory.path().join(name), "").unwrap();
        }
        assert_eq!(detach(directory.path()).unwrap(), ["eth0"]);
        let mut left: Vec<String> =
            entries(directory.path()).unwrap().into_iter().map(|(name, _)| name).collect();
        left.sort();
        assert_eq!(left, ["RULES", "link-other", "passwd"]);
        assert!(detach(Path::new("/nonexistent/pins")).unwrap().is_empty());
    }
}
