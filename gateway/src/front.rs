//! Setting connections up: accept, TLS handshake, first bytes, ticket, dial; then the session goes to its relay.
//!
//! One thread per core with an ordinary epoll runtime. Everything here must be able to stop half-way (deadlines,
//! ambiguous first bytes, the hand-over itself), and an operation on io_uring cannot be taken back
//! without losing what it read; set-up is bound by cryptography, not by system calls. What is decided is decided
//! by `portcullis_core::tunnel`; this module only does.

mod accept;
mod conn;
mod dial;
mod server_tls;

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use arc_swap::ArcSwap;
use ipnet::IpNet;
use portcullis_core::profile::Profile;
use rustls::ServerConfig;
use tokio::sync::{mpsc, watch};

use crate::acme::challenge::Challenges;
use crate::bans::Bans;
use crate::control_plane::Ask;
use crate::forward::Balancer;
use crate::gate::Gate;
use crate::metrics;
use crate::relay::{Context, Worker};
use crate::sta::pool::Pool;
use crate::state::State;
use crate::tls::client::ServerTls;
use crate::xdp::steering::Cores;

/// What a reload may change of a listener; connections keep what they began with.
#[derive(Debug)]
pub struct Service {
    pub profile: Arc<Profile>,
    pub tls: Option<Arc<ServerConfig>>,
    /// TLS towards the servers.
    pub server_tls: Option<ServerTls>,
    pub stas: Arc<[String]>,
    pub users: Option<String>,
    pub allow_from: Vec<IpNet>,
    /// Chooses the servers of a `forward` listener.
    pub balancer: Option<Arc<Balancer>>,
    /// Own addresses towards servers; where there is none of a family, the system chooses.
    pub source: Vec<IpAddr>,
}

impl Service {
    fn admits(&self, source: IpAddr) -> bool {
        let source = source.to_canonical();
        self.allow_from.iter().any(|prefix| prefix.contains(&source))
    }
}

/// A listener and its current service.
#[derive(Debug)]
pub struct Listener {
    pub name: Arc<str>,
    pub metrics: metrics::Listener,
    pub service: ArcSwap<Service>,
}

/// What every front thread needs of the rest of the daemon.
#[derive(Debug)]
pub struct Front {
    pub gate: Arc<Gate>,
    pub bans: Arc<Bans>,
    pub pool: Arc<Pool>,
    pub asks: mpsc::Sender<Ask>,
    pub relay: Arc<Context>,
    pub workers: Vec<Worker>,
    /// Which processor handles the sessions of a thread.
    pub cores: Cores,
    /// `true` once the daemon drains: nothing new is accepted.
    pub draining: watch::Receiver<bool>,
    /// Whether an operator lets nothing new in.
    pub state: State,
    /// Connections that are being set up; the drain waits for them.
    pub setting_up: AtomicUsize,
    /// Names that are being proven to an issuer of certificates.
    pub challenges: Arc<Challenges>,
}

/// A bound socket of one listener, for one thread.
#[derive(Debug)]
pub struct Bound {
    pub listener: Arc<Listener>,
    pub socket: std::net::TcpListener,
}

/// Starts a front thread for each set of listeners; it serves them until the drain.
///
/// # Errors
/// When a thread cannot be started.
pub fn spawn_all(front: &Arc<Front>, listeners: Vec<Vec<Bound>>) -> io::Result<Vec<JoinHandle<()>>> {
    let listeners = listeners.into_iter().enumerate();
    listeners.map(|(index, bound)| spawn(index, Arc::clone(front), bound)).collect()
}

fn spawn(index: usize, front: Arc<Front>, bound: Vec<Bound>) -> io::Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name(format!("front-{index}")).spawn(move || {
        front.cores.pin_front(index);
        give_way();
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, accept::run(index, front, bound));
    })
}

/// How much nicer the calling thread is than the relay's. Where sessions want a processor to the last they get three
/// quarters of it and the set-up of others gets one, however many want in (see sched(7)).
const NICENESS: i32 = 5;

/// Lets live sessions go before the set-up of others, which costs a thousand times as much as a message.
fn give_way() {
    if let Err(error) = rustix::process::nice(NICENESS) {
        tracing::warn!(%error, "logons may delay live sessions: their thread cannot take a lower priority");
    }
}

/// Counts a connection while it is being set up.
struct SettingUp<'a>(&'a AtomicUsize);

impl<'a> SettingUp<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for SettingUp<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
