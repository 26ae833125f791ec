//! Forwarding in the kernel: which `forward` listeners the program takes over, its tables of them, and the end of
//! flows.
//!
//! The daemon decides servers and shares (`crate::forward`); here they become tables. A listener has two tables, of
//! which one is in use while the other is written, so that no packet sees half of one. Flows live in the kernel
//! alone: they are pinned and go on when the daemon ends; a daemon that runs looks through them, and removes those
//! that have ended.

use std::collections::{BTreeMap, HashMap as Index, HashSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aya::Ebpf;
use aya::maps::{Array, HashMap, MapData, MapError};
use portcullis_ebpf_common::forward::{
    FINISHED, FORWARD_WORDS, FROM_SERVER, Forward, LISTENERS_MAX, RESET, SERVERS_EACH, Service as Entry,
    WORDS_EACH, to_word,
};
use portcullis_ebpf_common::{Addresses, FlowKey, Ports, Protocol, tables};

use super::XdpError;
use super::links::{self, Links};
use super::maps::{COUNTED_MAX, now, take};

use crate::config::DataPath;
use crate::forward::{KernelTotals, Path, Service};

/// How long a flow stays after both sides have finished, for what is still on its way.
const CLOSED: Duration = Duration::from_secs(10);
/// How long one side may go on alone.
const HALF_CLOSED: Duration = Duration::from_secs(300);
/// For flows of listeners that are no more.
const IDLE: Duration = Duration::from_secs(2 * 3600);
/// How often the kernel is made to look for servers' link addresses again.
const NUDGE_EVERY: Duration = Duration::from_secs(30);
/// A port on which nobody answers, RFC 863; a datagram there makes the kernel ask for a server's link address.
const DISCARD: u16 = 9;

/// A forwarded flow as it is now, or as it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardedFlow {
    /// `None`: that listener is no more.
    pub listener: Option<Arc<str>>,
    pub client: SocketAddr,
    /// The service's address.
    pub local: SocketAddr,
    /// Our own address towards the server.
    pub source: SocketAddr,
    pub server: SocketAddr,
    /// From the client.
    pub packets_up: u64,
    pub bytes_up: u64,
    pub packets_down: u64,
    pub bytes_down: u64,
    pub age: Duration,
    pub idle: Duration,
    state: u64,
    key: FlowKey,
}

impl From<&ForwardedFlow> for KernelTotals {
    fn from(flow: &ForwardedFlow) -> Self {
        Self {
            flows: 1,
            packets_up: flow.packets_up,
            bytes_up: flow.bytes_up,
            packets_down: flow.packets_down,
            bytes_down: flow.bytes_down,
        }
    }
}

/// Why a flow is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowEnd {
    Closed,
    Reset,
    Idle,
}

impl FlowEnd {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Reset => "reset",
            Self::Idle => "idle",
        }
    }
}

impl ForwardedFlow {
    /// `open`, `closing` (one side has finished or both have) or `reset`.
    #[must_use]
    pub fn state(&self) -> &'static str {
        if self.state & RESET != 0 {
            "reset"
        } else if self.state & (FINISHED | SERVER_FINISHED) != 0 {
            "closing"
        } else {
            "open"
        }
    }

    /// Why it is over, if it is.
    fn end(&self, idle: Duration) -> Option<FlowEnd> {
        let has = |bits| self.state & bits == bits;
        if has(RESET) && self.idle > CLOSED {
            Some(FlowEnd::Reset)
        } else if has(BOTH_FINISHED) && self.idle > CLOSED {
            Some(FlowEnd::Closed)
        } else if self.state & (FINISHED | SERVER_FINISHED) != 0 && self.idle > HALF_CLOSED.min(idle)
            || self.idle > idle
        {
            Some(FlowEnd::Idle)
        } else {
            None
        }
    }
}

/// The server's own end, beside that of the client in one word.
const SERVER_FINISHED: u64 = 1 << 32;
const BOTH_FINISHED: u64 = FINISHED | SERVER_FINISHED;

/// What a look through the flows found.
#[derive(Debug, Default)]
pub struct Swept {
    /// Those that were over and are removed.
    pub ended: Vec<(ForwardedFlow, FlowEnd)>,
    /// The others, by listener and server.
    pub live: Index<(Arc<str>, SocketAddr), KernelTotals>,
}

/// What the daemon keeps of the tables for forwarding.
pub(super) struct Forwarder {
    services: HashMap<MapData, [u64; 5], [u64; 2]>,
    slots: Array<MapData, u64>,
    servers: Array<MapData, [u64; 5]>,
    flows: HashMap<MapData, [u64; 5], [u64; FORWARD_WORDS]>,
    /// What stands in `services`.
    written: HashSet<FlowKey>,
    listeners: BTreeMap<Arc<str>, Listener>,
    /// Where servers are, and when their link addresses were asked for.
    nudged: (Vec<SocketAddr>, Instant),
}

#[derive(Clone, Debug)]
struct Listener {
    number: u16,
    /// The one in use.
    table: u32,
    idle: Duration,
    /// Its addresses, by which flows of an earlier daemon find it, too.
    keys: Vec<FlowKey>,
}

impl fmt::Debug for Forwarder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forwarder").field("listeners", &self.listeners).finish_non_exhaustive()
    }
}

impl Forwarder {
    pub(super) fn new(ebpf: &mut Ebpf) -> Result<Self, XdpError> {
        Ok(Self {
            services: HashMap::try_from(take(ebpf, tables::SERVICES)?)?,
            slots: Array::try_from(take(ebpf, tables::SLOTS)?)?,
            servers: Array::try_from(take(ebpf, tables::SERVERS)?)?,
            flows: HashMap::try_from(take(ebpf, tables::FORWARDS)?)?,
            written: HashSet::new(),
            listeners: BTreeMap::new(),
            nudged: (Vec::new(), Instant::now()),
        })
    }

    /// Entries of the table of flows, two for each.
    pub(super) fn entries(&self) -> usize {
        self.flows.keys().take(COUNTED_MAX).count()
    }

    /// Puts an entry of an earlier daemon's table into this one's.
    pub(super) fn put(&mut self, key: [u64; 5], flow: [u64; FORWARD_WORDS]) -> Result<(), MapError> {
        self.flows.insert(key, flow, 0)
    }

    /// Whether flows of an earlier daemon are there.
    pub(super) fn has_flows(&self) -> bool {
        self.flows.keys().next().is_some()
    }

    /// Takes these listeners over as they are now, and gives back those that are not among them. `refused` is why
    /// the kernel side can take none that may also run in user space, `links` the devices by which frames can leave.
    /// Returns where each runs, and whether one would run here if there were a way to its servers.
    pub(super) fn write(
        &mut self,
        services: &[Arc<Service>],
        links: &Links,
        refused: Option<&'static str>,
    ) -> (Vec<(String, Path)>, bool) {
        let (mut paths, mut waits) = (Vec::new(), false);
        let mut keep = HashSet::new();
        for service in services {
            let forced = service.data_path == DataPath::Xdp;
            let path = match (service.user_only, refused.filter(|_| !forced)) {
                (Some(reason), _) | (None, Some(reason)) => Path::User(reason.to_owned()),
                (None, None) => match self.write_service(service, links) {
                    Ok(keys) => {
                        keep.extend(keys);
                        Path::Kernel
                    }
                    Err(reason) => {
                        waits = true;
                        Path::User(reason)
                    }
                },
            };
            paths.push((service.listener.to_string(), path));
        }
        for gone in self.written.difference(&keep) {
            // Whatever else cannot be removed has gone already.
            self.services.remove(&gone.to_words()).ok();
        }
        self.written = keep;
        let servers = services.iter().flat_map(|service| service.servers.iter().map(|server| server.address));
        self.nudged.0 = servers.collect();
        (paths, waits)
    }

    fn write_service(&mut self, service: &Service, links: &Links) -> Result<Vec<FlowKey>, String> {
        links::allow_routes()?;
        let mut listener = self.listener(service)?;
        let failed = |error: MapError| format!("its tables cannot be written: {error}");
        let first = listener.table * SERVERS_EACH;
        for (place, server) in (first..).zip(&service.servers) {
            let source = service
                .source_towards(server.address.ip())
                .map_err(|error| format!("nothing routes to {}: {error}", server.address))?;
            links.check_way(server.address.ip())?;
            nudge(server.address);
            let key = key_of(SocketAddr::new(source, 0), server.address);
            self.servers.set(place, key.to_words(), 0).map_err(failed)?;
        }
        let words = service.table.chunks(4).map(to_word);
        for (place, word) in (listener.table * WORDS_EACH..).zip(words) {
            self.slots.set(place, word, 0).map_err(failed)?;
        }
        let (first_port, last_port) = (*service.source_ports.start(), *service.source_ports.end());
        let entry = Entry {
            table: listener.table,
            listener: listener.number,
            first_port,
            ports: u32::from(last_port.saturating_sub(first_port)) + 1,
            // Who insists on the kernel gets no flow that is not forwarded there.
            fallback: u32::from(service.data_path != DataPath::Xdp),
        };
        let mut keys = Vec::new();
        for at in concrete(&service.listen)? {
            let nobody = SocketAddr::new(if at.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() }, 0);
            let key = key_of(nobody, at);
            self.services.insert(key.to_words(), entry.to_words(), 0).map_err(failed)?;
            keys.push(key);
        }
        listener.keys.clone_from(&keys);
        self.listeners.insert(Arc::clone(&service.listener), listener);
        Ok(keys)
    }

    /// The listener's number, and the table of its two that is not in use.
    fn listener(&self, service: &Service) -> Result<Listener, String> {
        let idle = service.idle_timeout;
        if let Some(known) = self.listeners.get(&service.listener) {
            return Ok(Listener { table: known.table ^ 1, idle, ..known.clone() });
        }
        let taken: HashSet<u16> = self.listeners.values().map(|listener| listener.number).collect();
        let numbers = 0..u16::try_from(LISTENERS_MAX).unwrap_or(u16::MAX);
        let number = numbers.into_iter().find(|number| !taken.contains(number));
        let number =
            number.ok_or_else(|| format!("the kernel side has tables for {LISTENERS_MAX} listeners"))?;
        Ok(Listener { number, table: u32::from(number) * 2, idle, keys: Vec::new() })
    }

    /// The flows that are open, those first that have been so longest. What changes meanwhile may be missed.
    pub(super) fn flows(&self) -> Result<Vec<ForwardedFlow>, MapError> {
        let now = now();
        let mut directions = Index::new();
        for entry in self.flows.iter() {
            // A key that has gone meanwhile ends the walk; the next one finds the rest.
            let Ok((key, value)) = entry else { break };
            directions.insert(FlowKey::from_words(key), Forward::from_words(value));
        }
        let mut flows: Vec<ForwardedFlow> = directions
            .iter()
            .filter(|(_, forward)| !forward.has(FROM_SERVER))
            .filter_map(|(key, forward)| joined(*key, forward, directions.get(&forward.out.reversed())?, now))
            .map(|flow| ForwardedFlow { listener: self.listener_of(&flow).map(|(name, _)| name), ..flow })
            .collect();
        flows.sort_by_key(|flow| (std::cmp::Reverse(flow.age), flow.client));
        Ok(flows)
    }

    /// Name and idle timeout of the listener whose flow it is.
    fn listener_of(&self, flow: &ForwardedFlow) -> Option<(Arc<str>, Duration)> {
        let key = flow.key.service();
        let found = self.listeners.iter().find(|(_, listener)| listener.keys.contains(&key));
        found.map(|(name, listener)| (Arc::clone(name), listener.idle))
    }

    /// The kernel forgets link addresses that only the program uses.
    fn nudge_all(&mut self) {
        if self.nudged.1.elapsed() >= NUDGE_EVERY {
            self.nudged.1 = Instant::now();
            self.nudged.0.iter().copied().for_each(nudge);
        }
    }

    /// Removes the flows that are over, and returns them. The others are counted by server.
    pub(super) fn sweep(&mut self) -> Result<Swept, MapError> {
        self.nudge_all();
        let Swept { mut ended, mut live } = Swept::default();
        for flow in self.flows()? {
            let idle = self.listener_of(&flow).map_or(IDLE, |(_, idle)| idle);
            let Some(end) = flow.end(idle) else {
                if let Some(listener) = &flow.listener {
                    let totals: &mut KernelTotals =
                        live.entry((Arc::clone(listener), flow.server)).or_default();
                    *totals = totals.plus(KernelTotals::from(&flow));
                }
                continue;
            };
            let reverse = key_of(flow.server, flow.source);
            for key in [flow.key, reverse] {
                self.flows.remove(&key.to_words()).ok();
            }
            ended.push((flow, end));
        }
        Ok(Swept { ended, live })
    }
}

/// Both directions of a flow in one.
fn joined(key: FlowKey, up: &Forward, down: &Forward, now: u64) -> Option<ForwardedFlow> {
    let (client, local) = ends(&key)?;
    let (source, server) = ends(&up.out)?;
    let since = |then: u64| Duration::from_nanos(now.saturating_sub(then));
    let finished = if down.has(FINISHED) { SERVER_FINISHED } else { 0 };
    Some(ForwardedFlow {
        listener: None,
        client,
        local,
        source,
        server,
        packets_up: up.packets,
        bytes_up: up.bytes,
        packets_down: down.packets,
        bytes_down: down.bytes,
        age: since(up.since),
        idle: since(up.seen.max(down.seen)),
        state: up.state | (down.state & RESET) | finished,
        key,
    })
}

fn ends(key: &FlowKey) -> Option<(SocketAddr, SocketAddr)> {
    let (addresses, _, ports) = key.parts()?;
    let source = SocketAddr::new(addresses.source_ip(), ports.source);
    Some((source, SocketAddr::new(addresses.destination_ip(), ports.destination)))
}

/// The key of what `source` sends to `destination`; both are of one family.
fn key_of(source: SocketAddr, destination: SocketAddr) -> FlowKey {
    let addresses = match (source.ip(), destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => Addresses::v4(source.octets(), destination.octets()),
        (source, destination) => {
            let v6 = |ip: IpAddr| match ip {
                IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
                IpAddr::V6(v6) => v6.octets(),
            };
            Addresses::v6(v6(source), v6(destination))
        }
    };
    let ports = Ports { source: source.port(), destination: destination.port() };
    FlowKey::new(&addresses, Protocol::Tcp, ports)
}

/// The addresses that a listener really has: an unspecified one stands for all of this machine's.
fn concrete(listen: &[SocketAddr]) -> Result<Vec<SocketAddr>, String> {
    let mut all = Vec::new();
    for at in listen {
        if !at.ip().is_unspecified() {
            all.push(*at);
            continue;
        }
        let own = crate::config::own_addresses().map_err(|error| format!("own addresses: {error}"))?;
        let same = own.into_iter().filter(|ip| ip.is_ipv4() == at.is_ipv4() && !ip.is_loopback());
        all.extend(same.map(|ip| SocketAddr::new(ip, at.port())));
    }
    let most = usize::try_from(portcullis_ebpf_common::forward::SERVICES_MAX).unwrap_or(usize::MAX);
    if all.len() > most { Err(format!("it has more than {most} addresses")) } else { Ok(all) }
}

/// Makes the kernel learn the server's link address, which the program only looks up.
fn nudge(server: SocketAddr) {
    let any: SocketAddr = if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    // Whoever cannot be reached fails its checks; here nothing depends on it.
    if let Ok(socket) = UdpSocket::bind(any) {
        socket.send_to(&[0], SocketAddr::new(server.ip(), DISCARD)).ok();
    }
}

/// How long to wait until the next sweep: sweeping takes a fiftieth of the time at most.
#[must_use]
pub fn pause_after(began: Instant) -> Duration {
    (began.elapsed() * 50).clamp(Duration::from_secs(1), Duration::from_secs(60))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(state: u64, idle: Duration) -> ForwardedFlow {
        let at = |port| SocketAddr::from(([192, 0, 2, 1], port));
        ForwardedFlow {
            client: at(1),
            local: at(2),
            source: at(3),
            server: at(4),
            packets_up: 0,
            bytes_up: 0,
            packets_down: 0,
            bytes_down: 0,
            age: idle,
            idle,
            listener: None,
            state,
            key: FlowKey::NONE,
        }
    }

    #[test]
    fn a_flow_ends_when_both_sides_have_finished_or_one_has_reset_or_nobody_speaks() {
        let idle = Duration::from_secs(3600);
        let end = |state, seconds| flow(state, Duration::from_secs(seconds)).end(idle);
        assert_eq!(end(0, 3600), None);
        assert_eq!(end(0, 3601), Some(FlowEnd::Idle));
        assert_eq!(end(BOTH_FINISHED, 10), None);
        assert_eq!(end(BOTH_FINISHED, 11), Some(FlowEnd::Closed));
        assert_eq!(end(RESET, 11), Some(FlowEnd::Reset));
        assert_eq!(end(FINISHED, 300), None);
        assert_eq!(end(SERVER_FINISHED, 301), Some(FlowEnd::Idle));
    }

    #[test]
    fn a_key_names_both_ends() {
        for (source, destination) in
            [("192.0.2.1:7", "198.51.100.1:443"), ("[2001:db8::1]:7", "[2001:db8::2]:443")]
        {
            let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
            assert_eq!(ends(&key_of(source, destination)), Some((source, destination)));
        }
    }
}
