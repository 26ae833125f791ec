//! Metrics for Prometheus: what is counted, how it is shown, and the listener that serves it.
//!
//! Counters and histograms live in the recorder of the `metrics` crate. Gauges are read where the truth is, each
//! time somebody looks: see [`Snapshot`]. Names and meanings are in [`names`] and in `gateway/docs/METRICS.md`.

pub mod acme;
pub mod appliance;
pub mod forward;
pub mod ha;
pub mod http;
pub mod names;
mod node;
mod process;
mod record;
mod server_tls;
pub mod syslog;
mod text;
pub mod xdp;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use ::metrics::Unit;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use names::{Family, Kind};
pub use record::{
    ConnectionGuard, HandshakeFailure, HandshakeGuard, Listener, Stage, ban, bans_exist,
    forward_check_failed, forward_redialed, offence, refused, sta_request, ticket_issued, ticket_redeemed,
};
use record::{Ledger, Totals};
pub use server_tls::ServerTlsFailure;

use crate::sync::lock;
use crate::version::COMMIT;

/// Bounds of the histograms' buckets in seconds: from a resumed handshake on a local network to a dial that
/// times out.
const BUCKETS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Why metrics could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    #[error("the buckets of a histogram are wrong: {0}")]
    Buckets(#[from] metrics_exporter_prometheus::BuildError),
    #[error("metrics were set up twice")]
    Twice,
}

/// Makes listeners' metrics and renders everything. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    recorder: PrometheusHandle,
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle").finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Shared {
    totals: Arc<Totals>,
    /// Bounded by the listeners that were ever configured.
    ledgers: Mutex<BTreeMap<String, Arc<Ledger>>>,
    certificates: Mutex<Vec<(String, SystemTime)>>,
    reload: Mutex<Option<(bool, SystemTime)>>,
    started: Mutex<Option<SystemTime>>,
}

/// What `render` needs to be told, because others own it.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Live sessions by listener and protocol.
    pub sessions: BTreeMap<(String, &'static str), usize>,
    /// Bytes up and down of live sessions by listener.
    pub bytes: BTreeMap<String, (u64, u64)>,
    /// Ticket authorities and whether they are up.
    pub stas: Vec<(String, bool)>,
    /// `None` when the gateway is no authority.
    pub tickets_live: Option<usize>,
    /// Name, use (where it is counted) and bound of each limit.
    pub limits: Vec<(&'static str, Option<usize>, usize)>,
    /// State of the kernel side.
    pub ebpf: String,
    /// Bans in force by origin.
    pub bans: Vec<(&'static str, usize)>,
    /// The `forward` listeners.
    pub forwards: Vec<forward::Fact>,
    /// What the kernel side counts.
    pub xdp: xdp::Facts,
    /// The certificates that come by ACME.
    pub acme: Vec<acme::Fact>,
    /// Where a syslog server is configured.
    pub syslog: Option<syslog::Fact>,
    pub appliance: appliance::Facts,
    pub log_lines_lost: u64,
    /// Directories whose file systems matter, each with a name for it.
    pub directories: Vec<(&'static str, PathBuf)>,
    pub relay_workers: usize,
    /// What the workers run on.
    pub relay_engine: &'static str,
    /// How often workers on io_uring have entered the kernel.
    pub relay_enters: Option<u64>,
    /// `None` where the appliance is alone.
    pub ha: Option<ha::Fact>,
}

/// Sets the process's recorder, once.
///
/// # Errors
/// [`MetricsError::Twice`]
pub fn install() -> Result<Handle, MetricsError> {
    let (recorder, handle) = build()?;
    ::metrics::set_global_recorder(recorder).map_err(|_| MetricsError::Twice)?;
    describe();
    Ok(handle)
}

/// A recorder that is not yet anybody's, and its handle; [`describe`] is up to the caller.
///
/// # Errors
/// Never, as long as there are buckets.
pub fn build() -> Result<(PrometheusRecorder, Handle), MetricsError> {
    let seconds = Matcher::Suffix("_seconds".into());
    let builder = PrometheusBuilder::new().set_buckets_for_metric(seconds, &BUCKETS)?;
    let recorder = builder.build_recorder();
    let handle = Handle { recorder: recorder.handle(), shared: Arc::default() };
    Ok((recorder, handle))
}

/// Tells the current recorder what each metric means.
pub fn describe() {
    for Family { name, kind, help, .. } in names::all() {
        let unit = if name.contains("_seconds") {
            Unit::Seconds
        } else if name.contains("_bytes") {
            Unit::Bytes
        } else {
            Unit::Count
        };
        match kind {
            Kind::Counter => ::metrics::describe_counter!(name, unit, help),
            Kind::Gauge => ::metrics::describe_gauge!(name, unit, help),
            Kind::Histogram => ::metrics::describe_histogram!(name, unit, help),
        }
    }
}

impl Handle {
    /// The metrics of a listener; the same ones when it is asked for again.
    #[must_use]
    pub fn listener(&self, name: &str) -> Listener {
        let ledger = Arc::clone(lock(&self.shared.ledgers).entry(name.to_owned()).or_default());
        Listener::new(name, ledger, Arc::clone(&self.shared.totals))
    }

    /// Open connections of one listener.
    #[must_use]
    pub fn connections_of(&self, listener: &str) -> usize {
        lock(&self.shared.ledgers)
            .get(listener)
            .map_or(0, |ledger| ledger.connections.load(Ordering::Relaxed))
    }

    /// Open connections of all listeners.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.totals.connections.load(Ordering::Relaxed)
    }

    /// TLS handshakes in flight.
    #[must_use]
    pub fn handshakes(&self) -> usize {
        self.shared.totals.handshakes.load(Ordering::Relaxed)
    }

    /// When certificates expire; replaces what was said before.
    pub fn set_certificates(&self, not_after: Vec<(String, SystemTime)>) {
        *lock(&self.shared.certificates) = not_after;
    }

    /// How loading the configuration went. A failure keeps the time of the last success.
    pub fn set_reload(&self, ok: bool, now: SystemTime) {
        let mut reload = lock(&self.shared.reload);
        let at = match *reload {
            Some((_, before)) if !ok => before,
            _ => now,
        };
        *reload = Some((ok, at));
    }

    /// When the daemon started.
    pub fn set_started(&self, at: SystemTime) {
        *lock(&self.shared.started) = Some(at);
    }

    /// Moves samples of histograms to their buckets, so that memory stays bounded when nobody scrapes; to be
    /// called every few seconds.
    pub fn run_upkeep(&self) {
        self.recorder.run_upkeep();
    }

    /// Everything in the Prometheus text format, ordered by name.
    #[must_use]
    pub fn render(&self, snapshot: &Snapshot) -> String {
        let mut writer = text::Writer::default();
        let build = [env!("CARGO_PKG_VERSION"), COMMIT, snapshot.ebpf.as_str()].map(str::to_owned).to_vec();
        writer.family(names::BUILD_INFO, [(build, 1)]);
        self.render_sessions(snapshot, &mut writer);
        self.render_process(&mut writer);
        let up = |up: bool| u8::from(up);
        let stas = snapshot.stas.iter().map(|(name, is_up)| (vec![name.clone()], up(*is_up)));
        writer.family(names::STA_UP, stas);
        writer.single(names::TICKETS_LIVE, snapshot.tickets_live);
        let limits = || snapshot.limits.iter();
        writer.family(
            names::LIMIT_CURRENT,
            limits().filter_map(|(name, current, _)| Some((vec![(*name).to_owned()], (*current)?))),
        );
        writer.family(names::LIMIT_MAX, limits().map(|(name, _, max)| (vec![(*name).to_owned()], *max)));
        let certificates = lock(&self.shared.certificates).clone();
        let expiry = certificates.into_iter().map(|(name, at)| (vec![name], unix_seconds(at)));
        writer.family(names::CERTIFICATE_NOT_AFTER, expiry);
        let reload = *lock(&self.shared.reload);
        writer.single(names::RELOAD_SUCCESS, reload.map(|(ok, _)| up(ok)));
        writer.single(names::RELOAD_TIMESTAMP, reload.map(|(_, at)| unix_seconds(at)));
        let bans = snapshot.bans.iter().map(|(origin, count)| (vec![(*origin).to_owned()], *count));
        writer.family(names::BANS, bans);
        writer.single(names::LOG_LINES_LOST, Some(snapshot.log_lines_lost));
        writer.single(names::RELAY_WORKERS, Some(snapshot.relay_workers));
        writer.family(names::RELAY_ENGINE, [(vec![snapshot.relay_engine.to_owned()], 1)]);
        writer.single(names::RELAY_ENTERS, snapshot.relay_enters);
        ha::render(snapshot.ha.as_ref(), &mut writer);
        forward::render(&snapshot.forwards, &mut writer);
        xdp::render(&snapshot.xdp, &mut writer);
        acme::render(&snapshot.acme, &mut writer);
        syslog::render(snapshot.syslog.as_ref(), &mut writer);
        appliance::render(&snapshot.appliance, &mut writer);
        node::render(&snapshot.directories, &mut writer);
        text::merged(&self.recorder.render(), &writer.finish())
    }

    fn render_sessions(&self, snapshot: &Snapshot, writer: &mut text::Writer) {
        let ledgers = lock(&self.shared.ledgers).clone();
        let open = ledgers
            .iter()
            .map(|(name, ledger)| (vec![name.clone()], ledger.connections.load(Ordering::Relaxed)));
        writer.family(names::CONNECTIONS_ACTIVE, open);
        let sessions = snapshot
            .sessions
            .iter()
            .map(|((listener, protocol), count)| (vec![listener.clone(), (*protocol).to_owned()], *count));
        writer.family(names::SESSIONS_ACTIVE, sessions);
        let bytes = ledgers.iter().flat_map(|(name, ledger)| {
            let (live_up, live_down) = snapshot.bytes.get(name).copied().unwrap_or_default();
            let up = never_falling(&ledger.shown_up, live_up, &ledger.ended_up);
            let down = never_falling(&ledger.shown_down, live_down, &ledger.ended_down);
            [(vec![name.clone(), "up".into()], up), (vec![name.clone(), "down".into()], down)]
        });
        writer.family(names::SESSION_BYTES, bytes);
    }

    fn render_process(&self, writer: &mut text::Writer) {
        writer.single(names::START_TIME, lock(&self.shared.started).map(unix_seconds));
        writer.single(names::OPEN_DESCRIPTORS, process::open_descriptors());
        writer.single(names::MAX_DESCRIPTORS, process::max_descriptors());
        writer.single(names::RESIDENT_BYTES, process::resident_bytes());
        let cpu = process::cpu_microseconds();
        let seconds = cpu.map(|all| format!("{}.{:06}", all / 1_000_000, all % 1_000_000));
        writer.single(names::CPU_SECONDS, seconds);
    }
}

/// A session that left the table and is not yet in the ledger must not make a counter fall.
fn never_falling(shown: &AtomicU64, live: u64, ended: &AtomicU64) -> u64 {
    let now = live.saturating_add(ended.load(Ordering::Relaxed));
    shown.fetch_max(now, Ordering::Relaxed).max(now)
}

fn unix_seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests;
