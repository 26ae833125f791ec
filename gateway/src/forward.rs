//! `forward` listeners: which server each new flow goes to, and which servers are usable.
//!
//! [`Service`] is one listener as it is now: a table of Maglev hashing over its usable servers, and what else the
//! kernel side needs to forward its flows alone. [`Balancer`] makes a new one whenever a check, an operator or a
//! reload changes something; [`Balancers`] holds all of them. User space chooses by the same table and the same hash
//! as the kernel does (`portcullis_ebpf_common::maglev`). A flow that has a server keeps it: neither drain nor a
//! failed check nor a reload touches it.
//!
//! The kernel side follows [`Balancers::subscribe`], writes what [`Balancers::services`] says, and tells by
//! [`Balancers::set_path`] which listeners it has taken and by [`Balancer::set_kernel_flows`] how they do.

mod check;
mod connect;
mod status;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use ipnet::IpNet;
use portcullis_core::balance::health::{Health, State, Thresholds};
use portcullis_core::balance::{self, Candidate};
use portcullis_core::limits::DIAL_ADDRESSES_MAX;
use portcullis_ebpf_common::{Addresses, Ports, maglev};
use tokio::sync::watch as channel;
use tokio::task::AbortHandle;

use crate::config::{DataPath, ForwardConfig, ListenerConfig, ServerConfig};
use crate::metrics;
use crate::sync::lock;

pub use check::{CheckError, Checker};
pub(crate) use connect::connect;
pub use connect::source_towards;

/// One `forward` listener as it is now.
#[derive(Clone, Debug)]
pub struct Service {
    pub listener: Arc<str>,
    pub listen: Vec<SocketAddr>,
    /// Source prefixes of clients.
    pub allow_from: Vec<IpNet>,
    pub data_path: DataPath,
    /// Why it cannot be forwarded in the kernel, where that is known from the configuration alone.
    pub user_only: Option<&'static str>,
    /// All servers, the unusable ones too.
    pub servers: Vec<Server>,
    /// For each of [`maglev::SLOTS`] slots the place of a server in `servers`, or [`maglev::NO_SERVER`].
    pub table: Arc<[u16]>,
    pub idle_timeout: Duration,
    /// Configured own addresses towards the servers; see [`Service::source_towards`].
    pub source: Vec<IpAddr>,
    /// Own ports towards the servers, for the kernel.
    pub source_ports: RangeInclusive<u16>,
}

/// A server of a service.
#[derive(Clone, Debug)]
pub struct Server {
    pub name: Arc<str>,
    pub address: SocketAddr,
    pub weight: u16,
    pub state: State,
    /// An operator lets it take no new flows.
    pub drained: bool,
}

impl Server {
    /// Whether new flows may go there.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.weight > 0 && !self.drained && self.state.is_usable()
    }
}

impl Service {
    /// The servers for a new flow, the best first: one slot of the table decides, further ones are tried when it
    /// does not answer.
    #[must_use]
    pub fn choose(&self, client: SocketAddr, local: SocketAddr) -> Vec<SocketAddr> {
        let slot = usize::try_from(maglev::slot(flow_hash(client, local))).unwrap_or(0);
        let order = balance::in_order(&self.table, slot, DIAL_ADDRESSES_MAX);
        order.into_iter().filter_map(|index| Some(self.servers.get(usize::from(index))?.address)).collect()
    }

    /// The own address with which flows reach a server: the configured one of its family, else that of the
    /// interface which routes there.
    ///
    /// # Errors
    /// When nothing routes there.
    pub fn source_towards(&self, server: IpAddr) -> std::io::Result<IpAddr> {
        let configured = self.source.iter().find(|source| source.is_ipv4() == server.is_ipv4());
        configured.copied().map_or_else(|| source_towards(server), Ok)
    }
}

/// The hash of a flow as the kernel computes it from its packets.
#[must_use]
pub fn flow_hash(client: SocketAddr, local: SocketAddr) -> u32 {
    let addresses = match (client.ip().to_canonical(), local.ip().to_canonical()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => Addresses::v4(source.octets(), destination.octets()),
        (source, destination) => {
            let v6 = |ip: IpAddr| match ip {
                IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
                IpAddr::V6(v6) => v6.octets(),
            };
            Addresses::v6(v6(source), v6(destination))
        }
    };
    maglev::flow_hash(&addresses, Ports { source: client.port(), destination: local.port() })
}

/// Where the new flows of a listener run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Path {
    Kernel,
    /// Why not in the kernel, in words.
    User(String),
}

impl Path {
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::User(_) => "user",
        }
    }
}

/// Why `forward` listeners cannot work as configured.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    #[error("listener `{listener}`: the checks of its servers: {reason}")]
    Check { listener: String, reason: String },
    #[error(
        "listener `{listener}` is to forward in the kernel, which is not possible: {reason}; set `data_path` to \
         \"auto\" or \"user\""
    )]
    NoKernel { listener: String, reason: String },
}

/// What is known of one server.
#[derive(Debug)]
struct Known {
    config: ServerConfig,
    health: Health,
    last: Option<LastCheck>,
    checks: u64,
    failures: u64,
    kernel_flows: u64,
}

/// The last check of a server.
#[derive(Debug)]
struct LastCheck {
    at: Instant,
    took: Duration,
    error: Option<String>,
}

impl Known {
    fn new(config: &ServerConfig, forward: &ForwardConfig) -> Self {
        let unchecked = Thresholds { rise: 1, fall: 1 };
        let thresholds = forward.health.as_ref().map_or(unchecked, |health| health.thresholds);
        Self {
            config: config.clone(),
            health: Health::new(thresholds),
            last: None,
            checks: 0,
            failures: 0,
            kernel_flows: 0,
        }
    }
}

#[derive(Debug)]
struct Inner {
    listener: Arc<ListenerConfig>,
    servers: Vec<Known>,
    /// Names of servers that an operator drained.
    drained: BTreeSet<String>,
    path: Path,
}

/// Chooses the servers of one listener. The choice itself takes no lock.
pub struct Balancer {
    name: Arc<str>,
    current: ArcSwap<Service>,
    inner: Mutex<Inner>,
    changed: channel::Sender<u64>,
    redialed: ::metrics::Counter,
}

impl fmt::Debug for Balancer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Balancer").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Balancer {
    fn new(listener: &Arc<ListenerConfig>, forward: &ForwardConfig, changed: channel::Sender<u64>) -> Self {
        let servers = forward.servers.iter().map(|server| Known::new(server, forward)).collect();
        let path = configured_path(listener, forward);
        let inner = Inner { listener: Arc::clone(listener), servers, drained: BTreeSet::new(), path };
        let name: Arc<str> = listener.name.as_str().into();
        let current = ArcSwap::from_pointee(service(&name, &inner, forward));
        let redialed = metrics::forward_redialed(&listener.name);
        Self { name, current, inner: Mutex::new(inner), changed, redialed }
    }

    /// The listener as it is now.
    #[must_use]
    pub fn service(&self) -> Arc<Service> {
        self.current.load_full()
    }

    /// A flow went to another server than the one that was chosen for it.
    pub(crate) fn note_redialed(&self) {
        self.redialed.increment(1);
    }

    /// Live flows of one server that the kernel forwards.
    pub fn set_kernel_flows(&self, server: SocketAddr, flows: u64) {
        let mut inner = lock(&self.inner);
        if let Some(known) = inner.servers.iter_mut().find(|known| known.config.address == server) {
            known.kernel_flows = flows;
        }
    }

    /// Takes over a new configuration. Servers that stay keep what is known of them.
    fn reconfigure(&self, listener: &Arc<ListenerConfig>, forward: &ForwardConfig) {
        let mut inner = lock(&self.inner);
        let same_checks = inner.listener.forward.as_ref().map(|old| &old.health) == Some(&forward.health);
        let mut old = std::mem::take(&mut inner.servers);
        for server in &forward.servers {
            let place = old.iter().position(|known| known.config.address == server.address);
            let known = match place.map(|place| old.swap_remove(place)) {
                Some(known) if same_checks => Known { config: server.clone(), ..known },
                Some(Known { checks, failures, kernel_flows, .. }) => {
                    Known { checks, failures, kernel_flows, ..Known::new(server, forward) }
                }
                None => Known::new(server, forward),
            };
            inner.servers.push(known);
        }
        inner.drained.retain(|name| forward.servers.iter().any(|server| server.name == *name));
        let path = configured_path(listener, forward);
        if inner.path != Path::Kernel || service(&self.name, &inner, forward).user_only.is_some() {
            inner.path = path;
        }
        inner.listener = Arc::clone(listener);
        self.publish(&inner);
    }

    /// A check came back.
    fn note_check(&self, server: SocketAddr, took: Duration, result: Result<(), CheckError>) {
        let mut inner = lock(&self.inner);
        let name = &self.name;
        let Some(known) = inner.servers.iter_mut().find(|known| known.config.address == server) else {
            return;
        };
        known.checks = known.checks.saturating_add(1);
        let error = result.err();
        let changed = known.health.handle_result(error.is_none());
        if let Some(error) = &error {
            known.failures = known.failures.saturating_add(1);
            metrics::forward_check_failed(name, &known.config.name, error.label());
        }
        let error = error.map(|error| error.to_string());
        let (label, address) = (&known.config.name, known.config.address);
        match (changed, &error) {
            (Some(State::Down), Some(error)) => {
                tracing::warn!(listener = %name, server = label, %address, error, "a server is down");
            }
            (Some(_), _) => tracing::info!(listener = %name, server = label, %address, "a server is up"),
            (None, _) => {}
        }
        known.last = Some(LastCheck { at: Instant::now(), took, error });
        if changed.is_some() {
            self.publish(&inner);
            if !self.current.load().servers.iter().any(Server::is_usable) {
                tracing::error!(listener = %name, "no server is left; connections are closed until one is up");
            }
        }
    }

    /// Lets a server take no new flows, or again. `None`: it has no server of that name; else whether that is new.
    fn set_drained(&self, server: &str, drained: bool) -> Option<bool> {
        let mut inner = lock(&self.inner);
        inner.servers.iter().find(|known| known.config.name == server)?;
        let is_new =
            if drained { inner.drained.insert(server.to_owned()) } else { inner.drained.remove(server) };
        if is_new {
            self.publish(&inner);
        }
        Some(is_new)
    }

    fn set_path(&self, path: Path) {
        let mut inner = lock(&self.inner);
        if inner.path == path {
            return;
        }
        match &path {
            Path::Kernel => tracing::info!(listener = %self.name, "flows are forwarded in the kernel"),
            Path::User(reason) => {
                tracing::warn!(listener = %self.name, reason, "flows are forwarded in user space");
            }
        }
        inner.path = path;
    }

    fn publish(&self, inner: &Inner) {
        if let Some(forward) = &inner.listener.forward {
            self.current.store(Arc::new(service(&self.name, inner, forward)));
            self.changed.send_modify(|version| *version = version.wrapping_add(1));
        }
    }
}

/// What a listener is, from all that is known of it.
fn service(name: &Arc<str>, inner: &Inner, forward: &ForwardConfig) -> Service {
    let servers: Vec<Server> = inner
        .servers
        .iter()
        .map(|known| Server {
            name: known.config.name.as_str().into(),
            address: known.config.address,
            weight: known.config.weight,
            state: known.health.state(),
            drained: inner.drained.contains(&known.config.name),
        })
        .collect();
    let identities: Vec<String> = servers.iter().map(|server| server.address.to_string()).collect();
    let candidates: Vec<Candidate<'_>> = servers
        .iter()
        .zip(&identities)
        .map(|(server, identity)| Candidate {
            identity: identity.as_bytes(),
            weight: if server.is_usable() { server.weight } else { 0 },
        })
        .collect();
    let slots = usize::try_from(maglev::SLOTS).unwrap_or(usize::MAX);
    Service {
        listener: Arc::clone(name),
        listen: inner.listener.listen.clone(),
        allow_from: inner.listener.allow_from.clone(),
        data_path: forward.data_path,
        user_only: user_only(&inner.listener, forward),
        table: balance::table(slots, &candidates).into(),
        servers,
        idle_timeout: forward.idle_timeout,
        source: forward.source.clone(),
        source_ports: forward.source_ports.clone(),
    }
}

/// Why the kernel could not forward that in any case.
fn user_only(listener: &ListenerConfig, forward: &ForwardConfig) -> Option<&'static str> {
    let crosses = |listen: &SocketAddr| {
        forward.servers.iter().any(|server| server.address.is_ipv4() != listen.is_ipv4())
    };
    if forward.data_path == DataPath::User {
        Some("as configured")
    } else if listener.listen.iter().any(crosses) {
        Some("a server is of another address family than the listener")
    } else if listener.listen.iter().any(|listen| listen.ip().is_loopback()) {
        Some("it listens on a loopback address")
    } else {
        None
    }
}

fn configured_path(listener: &ListenerConfig, forward: &ForwardConfig) -> Path {
    Path::User(user_only(listener, forward).unwrap_or("the kernel side has not taken it").to_owned())
}

/// All `forward` listeners of the daemon.
#[derive(Debug)]
pub struct Balancers {
    all: Mutex<BTreeMap<String, Arc<Balancer>>>,
    checks: Mutex<Vec<AbortHandle>>,
    changed: channel::Sender<u64>,
}

impl Default for Balancers {
    fn default() -> Self {
        Self { all: Mutex::default(), checks: Mutex::default(), changed: channel::Sender::new(0) }
    }
}

/// A configuration that can be put in place without failing.
#[derive(Debug)]
pub struct Prepared(Vec<PreparedListener>);

#[derive(Debug)]
struct PreparedListener {
    balancer: Arc<Balancer>,
    listener: Arc<ListenerConfig>,
    checker: Option<Checker>,
}

impl Prepared {
    /// The balancer of a listener.
    #[must_use]
    pub fn get(&self, listener: &str) -> Option<Arc<Balancer>> {
        self.0.iter().find(|row| *row.balancer.name == *listener).map(|row| Arc::clone(&row.balancer))
    }
}

impl Balancers {
    /// Gets everything ready that these listeners need, whatever their kind; nothing changes yet.
    ///
    /// # Errors
    /// When a check cannot be made as it is configured.
    pub fn prepare(&self, listeners: &[Arc<ListenerConfig>]) -> Result<Prepared, ForwardError> {
        let all = lock(&self.all);
        let mut prepared = Vec::new();
        for listener in listeners {
            let Some(forward) = &listener.forward else { continue };
            let failed = |reason| ForwardError::Check { listener: listener.name.clone(), reason };
            let checker = forward.health.as_ref().map(Checker::new).transpose().map_err(failed)?;
            let new = || Arc::new(Balancer::new(listener, forward, self.changed.clone()));
            let balancer = all.get(&listener.name).cloned().unwrap_or_else(new);
            prepared.push(PreparedListener { balancer, listener: Arc::clone(listener), checker });
        }
        Ok(Prepared(prepared))
    }

    /// Puts a configuration in place and starts its checks; those of the old one end. To be called on the control
    /// plane's runtime.
    pub fn install(&self, prepared: Prepared) {
        let mut all = BTreeMap::new();
        let mut checks = Vec::new();
        for PreparedListener { balancer, listener, checker } in prepared.0 {
            let Some(forward) = &listener.forward else { continue };
            balancer.reconfigure(&listener, forward);
            if let (Some(checker), Some(health)) = (checker, &forward.health) {
                checks.extend(watch::spawn(&balancer, &Arc::new(checker), health, forward));
            }
            all.insert(listener.name.clone(), balancer);
        }
        *lock(&self.all) = all;
        for old in std::mem::replace(&mut *lock(&self.checks), checks) {
            old.abort();
        }
        // Listeners may have gone, too.
        self.changed.send_modify(|version| *version = version.wrapping_add(1));
    }

    /// Fails for a listener that is to run in the kernel and does not.
    ///
    /// # Errors
    /// [`ForwardError::NoKernel`]
    pub fn ensure_paths(&self) -> Result<(), ForwardError> {
        for balancer in self.all() {
            let inner = lock(&balancer.inner);
            let wants = inner.listener.forward.as_ref().is_some_and(|it| it.data_path == DataPath::Xdp);
            match &inner.path {
                Path::User(reason) if wants => {
                    let (listener, reason) = (balancer.name.to_string(), reason.clone());
                    return Err(ForwardError::NoKernel { listener, reason });
                }
                Path::User(reason) => {
                    tracing::info!(listener = %balancer.name, reason, "flows are forwarded in user space");
                }
                Path::Kernel => {}
            }
        }
        Ok(())
    }

    #[must_use]
    pub fn get(&self, listener: &str) -> Option<Arc<Balancer>> {
        lock(&self.all).get(listener).cloned()
    }

    /// Every listener as it is now, by name.
    #[must_use]
    pub fn services(&self) -> Vec<Arc<Service>> {
        self.all().iter().map(|balancer| balancer.service()).collect()
    }

    /// Tells whenever [`Balancers::services`] may have changed.
    #[must_use]
    pub fn subscribe(&self) -> channel::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Says where the new flows of a listener run from now on; a change is logged.
    pub fn set_path(&self, listener: &str, path: Path) {
        if let Some(balancer) = self.get(listener) {
            balancer.set_path(path);
        }
    }

    /// Lets the servers of that name take no new flows, or again; of one listener or of all. Says which changed.
    ///
    /// # Errors
    /// When there is no such server.
    pub fn set_drained(
        &self,
        listener: Option<&str>,
        server: &str,
        drained: bool,
    ) -> Result<Vec<Arc<str>>, NoSuchServer> {
        let mut found = Vec::new();
        for balancer in self.all() {
            if listener.is_none_or(|listener| *balancer.name == *listener)
                && balancer.set_drained(server, drained).is_some()
            {
                found.push(Arc::clone(&balancer.name));
            }
        }
        if found.is_empty() { Err(NoSuchServer) } else { Ok(found) }
    }

    fn all(&self) -> Vec<Arc<Balancer>> {
        lock(&self.all).values().cloned().collect()
    }
}

/// No `forward` listener has a server of that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoSuchServer;

impl fmt::Display for NoSuchServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("there is no server of that name; `portcullis forward status` lists them")
    }
}

impl std::error::Error for NoSuchServer {}
