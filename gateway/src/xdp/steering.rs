//! Steering: which processor handles a session, and whether packets are sent there.
//!
//! Front and relay threads of the same number run on the same processor, and the packets of an admitted session, of
//! both its halves, are redirected to it by a cpumap where the network card did not bring them there itself. XDP sees
//! ciphertext and cannot look into a session: it steers what the flow table says.
//!
//! `auto` steers only where that can help: on several processors, with real network cards, in the driver. Virtual
//! interfaces hand packets over on the processor of the sender, and behind the driver a packet has cost already what
//! steering would spread. Where the card or the kernel steers flows itself (as many receive queues as processors,
//! and receive flow steering on), it does so better, by where the reader of a socket runs.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use portcullis_ebpf_common::tables::Role;

use crate::config::{Config, Steering, XdpMode};

/// Packets that may wait for a processor; the kernel hands them over in bulks of eight and drops what does not fit.
pub(super) const QUEUE: u32 = 2_048;
const INTERFACES: &str = "/sys/class/net";
/// VLANs in one another.
const VLANS_MAX: usize = 2;
const FLOW_ENTRIES: &str = "/proc/sys/net/core/rps_sock_flow_entries";

/// Why packets are steered or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reason {
    #[default]
    NotConfigured,
    Asked,
    Useful,
    OneProcessor,
    Generic,
    Virtual,
    OwnQueues,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotConfigured => "not configured",
            Self::Asked => "configured",
            Self::Useful => "several processors, and no flow steering of the network card's own",
            Self::OneProcessor => "there is one processor",
            Self::Generic => "the filter runs behind the driver",
            Self::Virtual => "an interface is virtual",
            Self::OwnQueues => "the network card's queues or the kernel steer flows themselves",
        })
    }
}

/// The processors of sessions; none where packets are not steered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cores {
    processors: Vec<u16>,
    /// Whether a listener's sockets take the connections that begin on their own processor.
    spread: bool,
    /// Those of the relay's workers, where there is one worker for each.
    relay: Vec<u16>,
    pub reason: Reason,
}

impl Cores {
    /// Decides by the configuration and by what the machine's interfaces are.
    #[must_use]
    pub fn plan(config: &Config) -> Self {
        let processors = processors();
        let is_one_each = processors.len() > 1 && processors.len() == config.server.workers;
        let relay = if is_one_each { processors.clone() } else { Vec::new() };
        let Some(xdp) = &config.xdp else { return Self { relay, ..Self::default() } };
        let cards: Vec<Card> = xdp
            .interfaces
            .iter()
            .filter(|interface| interface.role != Role::Mgmt)
            .map(|interface| Card::read(Path::new(INTERFACES), &interface.name))
            .collect();
        let flow_steering = read_number(Path::new(FLOW_ENTRIES)) > 0;
        let (steered, reason) = decide(xdp.steering, xdp.mode, processors.len(), &cards, flow_steering);
        let spread = cards.iter().all(|card| card.queues >= processors.len());
        let processors = if steered { processors } else { Vec::new() };
        Self { processors, spread: spread && steered, relay, reason }
    }

    #[must_use]
    pub fn is_on(&self) -> bool {
        !self.processors.is_empty()
    }

    /// The processor of the front and relay threads of that number, and so of their sessions.
    #[must_use]
    pub fn owner(&self, index: usize) -> Option<u16> {
        self.processors.get(index.checked_rem(self.processors.len())?).copied()
    }

    /// The processor whose connections the listening sockets of that front thread take, where the network card
    /// spreads them. Where it does not, all of them would begin on one processor.
    #[must_use]
    pub fn accepts_from(&self, index: usize) -> Option<u16> {
        self.owner(index).filter(|_| self.spread)
    }

    /// Binds the calling front thread to its processor, if it has one.
    pub fn pin_front(&self, index: usize) {
        self.owner(index).into_iter().for_each(pin);
    }

    /// Binds the calling worker to its processor. With one worker for each that holds without steering too: its
    /// sessions' memory stays near. With fewer the system knows better where there is room.
    pub fn pin_relay(&self, index: usize) {
        self.owner(index).or_else(|| self.relay.get(index).copied()).into_iter().for_each(pin);
    }

    /// Whether packets that come in by an interface which took another's place are steered. Where the machine's
    /// interfaces decided, a virtual one's are not: frames between virtual Ethernet devices can have unfinished
    /// checksums, with which they would not survive the way to another processor.
    pub(super) fn steers(&self, interface: &str) -> bool {
        self.reason != Reason::Useful || !Card::read(Path::new(INTERFACES), interface).is_virtual
    }

    /// How many processors a table by their numbers has room for.
    pub(super) fn most(&self) -> u32 {
        self.processors.iter().max().map_or(1, |most| u32::from(*most) + 1)
    }

    pub(super) fn processors(&self) -> &[u16] {
        &self.processors
    }
}

/// Binds the calling thread to a processor.
fn pin(processor: u16) {
    let mut set = CpuSet::new();
    let pinned = set.set(processor.into()).and_then(|()| sched_setaffinity(Pid::from_raw(0), &set));
    if let Err(error) = pinned {
        tracing::warn!(%error, processor, "a thread cannot be bound to its processor");
    }
}

/// A network interface, as far as steering depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Card {
    is_virtual: bool,
    queues: usize,
    /// Whether every queue has a table of flows.
    has_flows: bool,
}

/// What carries a VLAN, at whatever depth: a VLAN has no queues of its own.
fn carrier(mut interface: PathBuf) -> PathBuf {
    for _ in 0..VLANS_MAX {
        let kind = fs::read_to_string(interface.join("uevent")).unwrap_or_default();
        let entries = fs::read_dir(&interface).into_iter().flatten().flatten();
        let lower = entries
            .map(|entry| entry.path())
            .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("lower_")));
        match lower.filter(|_| kind.lines().any(|line| line == "DEVTYPE=vlan")) {
            Some(lower) => interface = lower,
            None => break,
        }
    }
    interface
}

impl Card {
    fn read(interfaces: &Path, name: &str) -> Self {
        let directory = carrier(interfaces.join(name));
        let queues: Vec<_> = fs::read_dir(directory.join("queues"))
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with("rx-"))
            .collect();
        let has_flows = queues.iter().all(|queue| read_number(&queue.path().join("rps_flow_cnt")) > 0);
        Self {
            is_virtual: !directory.join("device").exists(),
            queues: queues.len(),
            has_flows: has_flows && !queues.is_empty(),
        }
    }
}

fn decide(
    steering: Steering,
    mode: XdpMode,
    processors: usize,
    cards: &[Card],
    flow_steering: bool,
) -> (bool, Reason) {
    let own_queues = |card: &Card| card.has_flows && card.queues >= processors;
    match steering {
        Steering::Off => (false, Reason::NotConfigured),
        Steering::On => (true, Reason::Asked),
        Steering::Auto if processors < 2 => (false, Reason::OneProcessor),
        Steering::Auto if mode == XdpMode::Generic => (false, Reason::Generic),
        Steering::Auto if cards.iter().any(|card| card.is_virtual) => (false, Reason::Virtual),
        Steering::Auto if flow_steering && cards.iter().all(own_queues) => (false, Reason::OwnQueues),
        Steering::Auto => (true, Reason::Useful),
    }
}

/// Those that this process may run on.
pub(super) fn processors() -> Vec<u16> {
    let Ok(set) = sched_getaffinity(Pid::from_raw(0)) else { return vec![0] };
    let allowed = (0..CpuSet::count()).filter(|processor| set.is_set(*processor) == Ok(true));
    allowed.filter_map(|processor| u16::try_from(processor).ok()).collect()
}

/// 0 where there is no number.
fn read_number(path: &Path) -> u64 {
    fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CARD: Card = Card { is_virtual: false, queues: 4, has_flows: false };

    #[test]
    fn packets_are_steered_only_where_that_can_help() {
        let auto = |processors, card: Card, flows| {
            decide(Steering::Auto, XdpMode::Auto, processors, &[CARD, card], flows).1
        };
        let flows = Card { has_flows: true, ..CARD };
        assert_eq!(auto(4, CARD, false), Reason::Useful);
        assert_eq!(auto(1, CARD, false), Reason::OneProcessor);
        assert_eq!(auto(4, Card { is_virtual: true, ..CARD }, false), Reason::Virtual);
        assert_eq!(auto(4, flows, true), Reason::Useful, "one of two cards leaves flows where they come in");
        let cards = |card| decide(Steering::Auto, XdpMode::Auto, 4, &[card, card], true);
        assert_eq!(cards(flows), (false, Reason::OwnQueues));
        assert_eq!(cards(Card { queues: 2, ..flows }), (true, Reason::Useful));
        let generic = decide(Steering::Auto, XdpMode::Generic, 4, &[CARD], false);
        assert_eq!(generic, (false, Reason::Generic));
        assert!(decide(Steering::On, XdpMode::Generic, 1, &[], true).0);
        assert!(!decide(Steering::Off, XdpMode::Auto, 4, &[CARD], false).0);
    }

    #[test]
    fn threads_of_one_number_share_a_processor_and_more_threads_begin_again() {
        let cores = Cores { processors: vec![2, 5], spread: false, relay: Vec::new(), reason: Reason::Asked };
        assert_eq!([0, 1, 2].map(|index| cores.owner(index)), [Some(2), Some(5), Some(2)]);
        assert_eq!(cores.accepts_from(1), None);
        assert_eq!(Cores { spread: true, ..cores }.accepts_from(1), Some(5));
        assert_eq!(Cores::default().owner(0), None);
    }

    #[test]
    fn an_interface_is_what_its_directory_says() {
        let directory = tempfile::tempdir().unwrap();
        let queue = |queue: &str, flows: &str| {
            let path = directory.path().join("eth0/queues").join(queue);
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join("rps_flow_cnt"), flows).unwrap();
        };
        queue("rx-0", "2048\n");
        queue("rx-1", "2048\n");
        queue("tx-0", "0\n");
        let card = Card { is_virtual: true, queues: 2, has_flows: true };
        assert_eq!(Card::read(directory.path(), "eth0"), card);
        fs::create_dir(directory.path().join("eth0/device")).unwrap();
        queue("rx-1", "0\n");
        let card = Card { is_virtual: false, queues: 2, has_flows: false };
        assert_eq!(Card::read(directory.path(), "eth0"), card);
        let absent = Card { is_virtual: true, queues: 0, has_flows: false };
        assert_eq!(Card::read(directory.path(), "eth1"), absent);
    }
}
