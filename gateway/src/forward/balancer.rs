//! What is known of one listener's servers, and the service that follows from it.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use portcullis_core::balance::health::{Health, State, Thresholds};
use portcullis_core::balance::{self, Candidate};
use portcullis_ebpf_common::maglev;
use tokio::sync::watch;

use super::KernelTotals;
use super::{CheckError, Path, Server, Service};
use crate::config::{DataPath, ForwardConfig, ListenerConfig, ServerConfig};
use crate::metrics;
use crate::sync::lock;

/// What is known of one server.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) config: ServerConfig,
    pub(super) health: Health,
    pub(super) last: Option<LastCheck>,
    pub(super) checks: u64,
    pub(super) failures: u64,
    /// Flows that the kernel forwards, and those that it has forwarded.
    pub(super) kernel_live: KernelTotals,
    pub(super) kernel_ended: KernelTotals,
}

/// The last check of a server.
#[derive(Debug)]
pub(super) struct LastCheck {
    pub(super) at: Instant,
    pub(super) took: Duration,
    pub(super) error: Option<String>,
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
            kernel_live: KernelTotals::default(),
            kernel_ended: KernelTotals::default(),
        }
    }
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) listener: Arc<ListenerConfig>,
    pub(super) servers: Vec<Known>,
    /// Names of servers that an operator drained.
    pub(super) drained: BTreeSet<String>,
    pub(super) path: Path,
    pub(super) has_xdp: bool,
}

/// Chooses the servers of one listener. The choice itself takes no lock.
pub struct Balancer {
    pub(super) name: Arc<str>,
    current: ArcSwap<Service>,
    pub(super) inner: Mutex<Inner>,
    changed: watch::Sender<u64>,
    redialed: ::metrics::Counter,
}

impl fmt::Debug for Balancer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Balancer").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Balancer {
    pub(super) fn new(
        listener: &Arc<ListenerConfig>,
        forward: &ForwardConfig,
        has_xdp: bool,
        changed: watch::Sender<u64>,
    ) -> Self {
        let servers = forward.servers.iter().map(|server| Known::new(server, forward)).collect();
        let path = configured_path(has_xdp, listener, forward);
        let inner =
            Inner { listener: Arc::clone(listener), servers, drained: BTreeSet::new(), path, has_xdp };
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
    pub fn set_kernel_flows(&self, server: SocketAddr, live: KernelTotals) {
        let mut inner = lock(&self.inner);
        if let Some(known) = inner.servers.iter_mut().find(|known| known.config.address == server) {
            known.kernel_live = live;
        }
    }

    /// A flow that the kernel forwarded has ended.
    pub fn note_kernel_flow(&self, server: SocketAddr, flow: KernelTotals) {
        let mut inner = lock(&self.inner);
        if let Some(known) = inner.servers.iter_mut().find(|known| known.config.address == server) {
            known.kernel_ended = known.kernel_ended.plus(flow);
        }
    }

    /// Takes over a new configuration. Servers that stay keep what is known of them.
    pub(super) fn reconfigure(&self, listener: &Arc<ListenerConfig>, forward: &ForwardConfig) {
        let mut inner = lock(&self.inner);
        let same_checks = inner.listener.forward.as_ref().map(|old| &old.health) == Some(&forward.health);
        let mut old = std::mem::take(&mut inner.servers);
        for server in &forward.servers {
            let place = old.iter().position(|known| known.config.address == server.address);
            let known = match place.map(|place| old.swap_remove(place)) {
                Some(known) if same_checks => Known { config: server.clone(), ..known },
                Some(Known { checks, failures, kernel_live, kernel_ended, .. }) => {
                    Known { checks, failures, kernel_live, kernel_ended, ..Known::new(server, forward) }
                }
                None => Known::new(server, forward),
            };
            inner.servers.push(known);
        }
        inner.drained.retain(|name| forward.servers.iter().any(|server| server.name == *name));
        let path = configured_path(inner.has_xdp, listener, forward);
        if inner.path != Path::Kernel || user_only(inner.has_xdp, listener, forward).is_some() {
            inner.path = path;
        }
        inner.listener = Arc::clone(listener);
        self.publish(&inner);
    }

    /// A check came back.
    pub(super) fn note_check(&self, server: SocketAddr, took: Duration, result: Result<(), CheckError>) {
        let mut inner = lock(&self.inner);
        let name = &self.name;
        let Some(known) = inner.servers.iter_mut().find(|known| known.config.address == server) else {
            return;
        };
        known.checks = known.checks.saturating_add(1);
        let error = result.err();
        // What this machine lacks is no server's fault.
        let is_ours = matches!(error, Some(CheckError::Exhausted(_)));
        let changed = if is_ours { None } else { known.health.handle_result(error.is_none()) };
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
    pub(super) fn set_drained(&self, server: &str, drained: bool) -> Option<bool> {
        let mut inner = lock(&self.inner);
        inner.servers.iter().find(|known| known.config.name == server)?;
        let is_new =
            if drained { inner.drained.insert(server.to_owned()) } else { inner.drained.remove(server) };
        if is_new {
            self.publish(&inner);
        }
        Some(is_new)
    }

    pub(super) fn set_path(&self, path: Path) {
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
        user_only: user_only(inner.has_xdp, &inner.listener, forward),
        table: balance::table(slots, &candidates).into(),
        servers,
        idle_timeout: forward.idle_timeout,
        source: forward.source.clone(),
        source_ports: forward.source_ports.clone(),
    }
}

/// Why the kernel could not forward that in any case.
fn user_only(has_xdp: bool, listener: &ListenerConfig, forward: &ForwardConfig) -> Option<&'static str> {
    let crosses = |listen: &SocketAddr| {
        forward.servers.iter().any(|server| server.address.is_ipv4() != listen.is_ipv4())
    };
    if forward.data_path == DataPath::User {
        Some("as configured")
    } else if listener.listen.iter().any(crosses) {
        Some("a server is of another address family than the listener")
    } else if listener.listen.iter().any(|listen| listen.ip().is_loopback()) {
        Some("it listens on a loopback address")
    } else if listener.listen.iter().any(|listen| listen.port() == 0) {
        Some("its port is another one at each start")
    } else if !has_xdp {
        Some("no interface is filtered: there is no [xdp]")
    } else {
        None
    }
}

fn configured_path(has_xdp: bool, listener: &ListenerConfig, forward: &ForwardConfig) -> Path {
    Path::User(user_only(has_xdp, listener, forward).unwrap_or("the kernel side has not taken it").to_owned())
}
