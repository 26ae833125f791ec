//! `portcullisd`: start and stop, straight down.
//!
//! The main thread runs the control plane; front and relay threads do the rest. Nothing listens before all of the
//! configuration has been used: a gateway that starts is a gateway that works.

mod assemble;
mod options;
mod reload;
mod stop;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use portcullis_core::session::Table;
use tokio::sync::{Semaphore, mpsc, watch};

use crate::config::{self, Config, Severity};
use crate::control_plane::{self, WebAsk};
use crate::ctl;
use crate::exit::Exit;
use crate::front::{self, Front};
use crate::log;
use crate::metrics;
use crate::metrics::http::Page;
use crate::relay;
use crate::sta;
use crate::web;
use assemble::Assembled;
use options::Options;
use stop::Order;

/// Reload requests that may wait.
const RELOAD_QUEUE: usize = 8;
/// Web connections that may wait to be served.
const WEB_QUEUE: usize = 256;
/// Web connections that are served at once.
const WEB_CONNECTIONS_MAX: usize = 1024;

/// Runs the daemon; the whole of `main`.
#[must_use]
pub fn main() -> ExitCode {
    let options = Options::read();
    let log = match log::init_early() {
        Ok(log) => log,
        Err(error) => return options.fail(Exit::Internal, &error.to_string()),
    };
    let exit = match options.configuration() {
        Ok(config) if options.check => options.report(&config::check(&config)),
        Ok(config) => run(&options, config, log.clone()),
        Err(error) => options.fail(Exit::Config, &error),
    };
    log.flush();
    exit
}

fn run(options: &Options, config: Config, log: log::Control) -> ExitCode {
    for finding in config::check(&config) {
        match finding.severity {
            Severity::Error => return options.fail(Exit::Config, &finding.to_string()),
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
    match runtime.block_on(serve(options, config, log)) {
        Ok(()) => Exit::Ok.into(),
        Err(error) => options.fail(Exit::Unavailable, &format!("{error:#}")),
    }
}

async fn serve(options: &Options, config: Config, log: log::Control) -> anyhow::Result<()> {
    let descriptors = assemble::raise_descriptor_limit();
    assemble::warn_of_narrow_limits(&config, descriptors);
    let metrics = metrics::install()?;
    let parts = Assembled::new(&config, &metrics)?;
    let control_socket = ctl::server::bind(&config.control.socket)?;
    let metrics_socket = assemble::bind_metrics(&config)?;
    let sta_sockets = assemble::bind_sta_server(&config)?;
    let mut bound = assemble::bind_listeners(&config, &parts.listeners)?;

    let sessions = Arc::new(std::sync::Mutex::new(Table::new(assemble::session_seed())));
    let context = Arc::new(relay::Context { sessions: Arc::clone(&sessions), cut: false.into() });
    let gate: Arc<front::gate::Gate> = Arc::default();
    let (asks, inbox) = mpsc::channel(portcullis_core::limits::CONTROL_QUEUE);
    let (web, web_inbox) = mpsc::channel(WEB_QUEUE);
    let (reload, mut reload_requests) = mpsc::channel(RELOAD_QUEUE);
    let (drain, draining) = watch::channel(false);
    let state = crate::state::State::default();

    let mut relays = Vec::new();
    let mut workers = Vec::new();
    for index in 0..config.server.workers {
        let (worker, thread) = relay::spawn(index, Arc::clone(&context))?;
        workers.push(worker);
        relays.push(thread);
    }
    let front = Arc::new(Front {
        gate: Arc::clone(&gate),
        asks,
        relay: Arc::clone(&context),
        workers,
        draining: draining.clone(),
        setting_up: 0.into(),
    });
    let services = ctl::services::Services {
        config: Arc::new(ArcSwap::from_pointee(config.clone())),
        sessions: Arc::clone(&sessions),
        gate,
        pool: Arc::clone(&parts.pool),
        authority: parts.authority.clone(),
        metrics: metrics.clone(),
        log: log.clone(),
        reload,
        last_reload: std::sync::Mutex::default(),
        state: state.clone(),
        workers: config.server.workers,
        started: std::time::Instant::now(),
        started_at: SystemTime::now(),
    };
    let services = Arc::new(services);
    metrics.set_certificates(assemble::certificate_expiry(&config.certificates));

    // --- The control plane: each part is a task of this thread. ---
    let asked = control_plane::Services {
        pool: Arc::clone(&parts.pool),
        resolver: Arc::clone(&parts.resolver),
        users: Arc::clone(&parts.users),
        web,
    };
    tokio::spawn(control_plane::run(asked, inbox));
    tokio::spawn(serve_web(web_inbox, Arc::clone(&services)));
    let pool = Arc::clone(&parts.pool);
    tokio::spawn(async move { pool.run_health().await });
    let answering = Arc::clone(&services);
    tokio::spawn(ctl::server::serve(control_socket, ctl::server::Bounds::default(), move |command| {
        let services = Arc::clone(&answering);
        async move { services.answer(command).await }
    }));
    if let Some(socket) = metrics_socket {
        let services = Arc::clone(&services);
        tokio::spawn(metrics::http::serve(socket, move |page| match page {
            Page::Metrics => Ok(services.render_metrics()),
            Page::Health => Ok("ok\n".to_owned()),
            Page::Ready => services.ready().map(|()| "ready\n".to_owned()),
        }));
    }
    if let (Some(server), Some(authority)) = (&config.sta_server, &parts.authority) {
        let serving = sta::server::serve(
            server.clone(),
            parts.sta_server_tls.clone(),
            Arc::clone(authority),
            sta_sockets,
            draining,
        );
        tokio::spawn(async move {
            if let Err(error) = serving.await {
                tracing::error!(%error, "the ticket authority stopped");
            }
        });
    }

    let mut fronts = Vec::new();
    for index in 0..config.server.workers {
        let sockets = bound.pop().unwrap_or_default();
        fronts.push(front::spawn(index, Arc::clone(&front), sockets)?);
    }
    state.set_ready();
    stop::notify_ready();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        config = %config.path.display(),
        listeners = config.listeners.len(),
        workers = config.server.workers,
        "ready"
    );
    options.announce(&config);

    let mut reloader = reload::Reloader::new(config, parts, Arc::clone(&services), log);
    let mut signals = stop::Signals::new()?;
    let drain_timeout = loop {
        tokio::select! {
            order = signals.next() => match order {
                Order::Stop => break reloader.drain_timeout(),
                Order::Reload => reloader.on_signal(),
            },
            Some(reply) = reload_requests.recv() => {
                // Who asked may have gone; the reload has happened all the same.
                reply.send(reloader.reload()).ok();
            }
            () = reloader.certificates_due() => reloader.check_certificates(),
        }
    };
    state.set_draining();
    stop::drain(&drain, &context, front, fronts, relays, &mut signals, drain_timeout).await;
    ctl::server::remove(&services.config.load().control.socket);
    Ok(())
}

/// Serves the web connections that front threads hand over.
async fn serve_web(mut inbox: mpsc::Receiver<WebAsk>, services: Arc<ctl::services::Services>) {
    let places = Arc::new(Semaphore::new(WEB_CONNECTIONS_MAX));
    while let Some(WebAsk { stream, client, listener, sni }) = inbox.recv().await {
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            tracing::debug!(%client, "a web connection was closed: too many are open");
            continue;
        };
        let stream = stream.set_nonblocking(true).and_then(|()| tokio::net::UnixStream::from_std(stream));
        let Ok(stream) = stream else { continue };
        let services = Arc::clone(&services);
        tokio::spawn(async move {
            let meta = web::WebMeta { client, listener, sni };
            web::serve_connection(stream, meta, move || services.ready().is_ok()).await;
            drop(place);
        });
    }
}
