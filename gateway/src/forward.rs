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

mod balancer;
mod check;
mod connect;
mod service;
mod status;
mod watch;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use tokio::sync::watch as channel;
use tokio::task::AbortHandle;

use crate::config::{DataPath, ListenerConfig};
use crate::sync::lock;

pub use balancer::Balancer;
pub use check::{CheckError, Checker};
pub(crate) use connect::connect;
pub use connect::source_towards;
pub use service::{Server, Service, flow_hash};
pub use status::{ForwardServer, ForwardStatus, KernelTotals};

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

/// All `forward` listeners of the daemon.
#[derive(Debug)]
pub struct Balancers {
    /// Whether the daemon was started with `[xdp]`.
    has_xdp: bool,
    all: Mutex<BTreeMap<String, Arc<Balancer>>>,
    checks: Mutex<Vec<AbortHandle>>,
    changed: channel::Sender<u64>,
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
    /// None yet. `has_xdp`: whether the daemon filters interfaces, without which nothing is forwarded in the kernel.
    #[must_use]
    pub fn new(has_xdp: bool) -> Self {
        Self { has_xdp, all: Mutex::default(), checks: Mutex::default(), changed: channel::Sender::new(0) }
    }

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
            let new = || Arc::new(Balancer::new(listener, forward, self.has_xdp, self.changed.clone()));
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

    /// Where the new flows of a listener run.
    #[must_use]
    pub fn path(&self, listener: &str) -> Option<Path> {
        self.get(listener).map(|balancer| lock(&balancer.inner).path.clone())
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

#[cfg(test)]
mod tests;
