//! `portcullisd`: start and stop, straight down.
//!
//! The main thread runs the control plane; front and relay threads do the rest. Nothing listens before all of the
//! configuration has been used: a gateway that starts is a gateway that works.

mod assemble;
mod commit;
mod options;
mod reload;
mod stop;
mod tasks;

use std::process::ExitCode;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use portcullis_core::session::Table;
use tokio::sync::{mpsc, watch};

use crate::audit::Audit;
use crate::bans::Bans;
use crate::check;
use crate::config::{self, Config, Severity};
use crate::ctl;
use crate::ctl::services::{Bench, Services};
use crate::exit::Exit;
use crate::front::{self, Front};
use crate::log;
use crate::metrics;
use crate::orders::{Orders, Request};
use crate::relay::{self, EngineKind, EngineWanted, Worker};
use crate::settings;
use crate::state::State;
use crate::store::{Store, trial};
use crate::xdp::steering::Cores;
use crate::xdp::{self, Kernel};
use assemble::{Assembled, Sockets};
use options::Options;
use reload::Reloader;
use stop::Order;

/// Runs the daemon; the whole of `main`.
#[must_use]
pub fn main() -> ExitCode {
    let options = Options::read();
    let log = match log::init_early() {
        Ok(log) => log,
        Err(error) => return options.fail(Exit::Internal, &error.to_string()),
    };
    let exit = match options.configuration() {
        Ok((config, _)) if options.check => options.report(&check::check(&config)),
        Ok((config, text)) => {
            let start = trial::to_start_with(&config.path, &config.server.state_dir, text);
            run(&options, config, start, log.clone())
        }
        Err(error) => match options.of_other_version() {
            Some((config, start)) => run(&options, config, start, log.clone()),
            None => options.fail(Exit::Config, &error),
        },
    };
    log.flush();
    exit
}

fn run(options: &Options, config: Config, start: trial::Start, log: log::Control) -> ExitCode {
    let config = match &start.reverted {
        Some(_) => match config::parse(&start.text, &config.path) {
            Ok(config) => config,
            Err(error) => return options.fail(Exit::Config, &error.to_string()),
        },
        None => config,
    };
    if let Err(error) = settings::ask_at_start(&config.path, start.reverted.is_some()) {
        tracing::error!(%error, "the system cannot be asked to follow the settings");
    }
    for finding in check::check(&config) {
        match finding.severity {
            // What cannot be used at all stops the start below. An expired certificate does not: some clients may
            // be set to go on, and a gateway that stays down after a power cut helps nobody.
            Severity::Error => tracing::error!("{finding}"),
            Severity::Warning => tracing::warn!("{finding}"),
            Severity::Info => tracing::info!("{finding}"),
        }
    }
    if let Err(error) = log.reconfigure(&config.log) {
        return options.fail(Exit::Config, &error.to_string());
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            return options.fail(Exit::Internal, &format!("cannot start the control plane: {error}"));
        }
    };
    match runtime.block_on(serve(options, config, start, log)) {
        Ok(()) => Exit::Ok.into(),
        Err(error) => options.fail(Exit::Unavailable, &format!("{error:#}")),
    }
}

/// What the filter starts with, and the rest with it: a trial of its rules may have been taken back.
fn start_of(config: Config) -> (xdp::Start, Config) {
    let filter = xdp::Start::of(config);
    let config = filter.config.clone();
    (filter, config)
}

async fn serve(
    options: &Options,
    config: Config,
    start: trial::Start,
    log: log::Control,
) -> anyhow::Result<()> {
    let (filter, config) = start_of(config);
    assemble::warn_of_narrow_limits(&config, assemble::raise_descriptor_limit());
    let metrics = metrics::install()?;
    let parts = Assembled::new(&config, &metrics)?;
    let cores = Cores::plan(&config);
    let mut sockets = Sockets::bind(&config, &parts.listeners, &cores)?;

    let kernel = Arc::new(Kernel::start(&filter, &cores).context("packets cannot be filtered")?);
    let bans = Arc::new(Bans::open(&config, Arc::clone(&kernel)));
    tasks::take_forwards(&kernel, &parts.balancers);
    parts.balancers.ensure_paths()?;
    let sessions = Arc::new(std::sync::Mutex::new(Table::new(assemble::session_seed())));
    let context = Arc::new(relay::Context::new(Arc::clone(&sessions), kernel.flows()));
    let (asks, inbox) = mpsc::channel(portcullis_core::limits::CONTROL_QUEUE);
    let (orders, mut requests) = Orders::channel();
    let (drain, draining) = watch::channel(false);
    let (workers, relays, engine) = start_relays(&config.server, &context, &cores)?;
    let front = Arc::new(Front {
        gate: Arc::default(),
        bans: Arc::clone(&bans),
        pool: Arc::clone(&parts.pool),
        asks,
        relay: Arc::clone(&context),
        workers,
        cores,
        draining: draining.clone(),
        state: State::default(),
        setting_up: 0.into(),
        challenges: Arc::clone(&parts.acme.challenges),
    });
    let services = Arc::new(Services {
        config: Arc::new(ArcSwap::from_pointee(config.clone())),
        store: Store::open(&config.path, &config.server.state_dir, start).into(),
        candidates: std::sync::Mutex::default(),
        audit: Arc::new(Audit::new(&config.server.state_dir)),
        sessions,
        gate: Arc::clone(&front.gate),
        pool: Arc::clone(&parts.pool),
        authority: parts.authority.clone(),
        metrics,
        kernel,
        bans,
        balancers: Arc::clone(&parts.balancers),
        bench: Bench::new(&config.server.state_dir, Arc::clone(&parts.resolver)),
        ha: Arc::default(),
        acme: Arc::clone(&parts.acme),
        log: log.clone(),
        syslog: Arc::default(),
        orders,
        last_reload: std::sync::Mutex::default(),
        state: front.state.clone(),
        workers: config.server.workers,
        relay_engine: engine,
        relay: Arc::clone(&context),
        started: Instant::now(),
        started_at: SystemTime::now(),
    });
    tasks::spawn(&services, &parts, &config, &mut sockets, inbox, draining);
    let fronts = front::spawn_all(&front, sockets.listeners)?;
    become_ready(options, &config, &services);

    let mut reloader = Reloader::new(config, parts, Arc::clone(&services), log);
    let mut signals = stop::Signals::new()?;
    let most = obey(&mut reloader, &mut signals, &mut requests).await;
    services.state.set_draining();
    services.ha.leave("draining");
    stop::drain(&drain, &context, front, fronts, relays, &mut signals, most).await;
    clean_up(&services).await;
    Ok(())
}

/// Everything works: says so to all who wait for it.
fn become_ready(options: &Options, config: &Config, services: &Services) {
    services.metrics.set_started(services.started_at);
    services.metrics.set_certificates(assemble::certificate_expiry(&config.certificates));
    services.state.set_ready();
    services.note_ready();
    if let Err(error) = services.ha.apply(config.high_availability.as_ref()) {
        tracing::error!("high availability: {error}");
    }
    stop::notify_ready();
    say_ready(config);
    options.announce(config);
}

/// Does what signals and the control socket ask for, until the daemon is to stop; returns how long it may drain.
async fn obey(
    reloader: &mut Reloader,
    signals: &mut stop::Signals,
    requests: &mut mpsc::Receiver<Request>,
) -> Duration {
    let services = reloader.services();
    loop {
        tokio::select! {
            order = signals.next() => match order {
                Order::Stop => return reloader.drain_timeout(),
                Order::Reload => reloader.on_signal(),
            },
            Some(request) = requests.recv() => {
                let done = reloader.carry_out(request.what, &request.origin);
                // Who asked may have gone; it has happened all the same.
                request.reply.send(done).ok();
            }
            () = reloader.certificates_due() => reloader.check_certificates(),
            () = reverting(&services) => reloader.revert(),
        }
    }
}

/// What is left to do when nobody is served any more.
async fn clean_up(services: &Services) {
    services.kernel.stop_cookies();
    if let Err(error) = services.bans.save().await {
        tracing::error!(%error, "bans are not kept for the next start");
    }
    ctl::server::remove(&services.config.load().control.socket);
}

/// Until something is taken back that nobody has confirmed; forever when nothing waits.
async fn reverting(services: &Services) {
    match services.reverts_at() {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

fn start_relays(
    server: &config::Server,
    context: &Arc<relay::Context>,
    cores: &Cores,
) -> anyhow::Result<(Vec<Worker>, Vec<JoinHandle<()>>, EngineKind)> {
    let (mut workers, mut threads) = (Vec::new(), Vec::new());
    let mut engine = EngineKind::IoUring;
    for index in 0..server.workers {
        let wanted = EngineWanted { choice: server.relay_engine, gather: server.relay_gather };
        let spawned = relay::spawn(index, Arc::clone(context), cores.clone(), wanted);
        let (worker, thread, kind) = spawned.context("the relay cannot start")?;
        workers.push(worker);
        threads.push(thread);
        if kind == EngineKind::Epoll {
            engine = kind;
        }
    }
    Ok((workers, threads, engine))
}

fn say_ready(config: &Config) {
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        config = %config.path.display(),
        listeners = config.listeners.len(),
        workers = config.server.workers,
        "ready"
    );
}
