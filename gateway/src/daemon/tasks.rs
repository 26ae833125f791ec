//! The tasks of the control plane: each part runs by itself on the main thread's runtime.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::MissedTickBehavior;

use super::assemble::{Assembled, Sockets};
use super::stop;
use crate::acme;
use crate::config::Config;
use crate::control_plane::{self, Ask, WebAsk};
use crate::ctl;
use crate::ctl::services::Services;
use crate::forward::Balancers;
use crate::forward::KernelTotals;
use crate::ha::peer;
use crate::metrics;
use crate::metrics::http::Page;
use crate::sta;
use crate::support_shell;
use crate::syslog;
use crate::web;
use crate::xdp::Kernel;
use crate::xdp::forward::{Swept, pause_after};

/// Web connections that may wait to be served.
const WEB_QUEUE: usize = 256;
/// Web connections that are served at once.
const WEB_CONNECTIONS_MAX: usize = 1024;
/// How often samples of histograms move to their buckets when nobody scrapes.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);
/// How soon a filter is put back that others have taken off.
const WATCH_EVERY: Duration = Duration::from_secs(2);
/// How soon a change of this appliance's standing is noticed, or of keepalived's state.
const KEEPALIVED_EVERY: Duration = Duration::from_millis(250);
/// How soon a changed peer is served, and how soon it is tried again where that failed.
const PEER_EVERY: Duration = Duration::from_secs(1);
const PEER_AGAIN: Duration = Duration::from_secs(10);
/// How soon pressure is noticed; until then SYNs over the budget are dropped, and clients send them again.
const FLOOD_EVERY: Duration = Duration::from_millis(100);

/// Starts all of them; they end with the runtime. The sockets they serve are taken out of `sockets`.
pub(super) fn spawn(
    services: &Arc<Services>,
    parts: &Assembled,
    config: &Config,
    sockets: &mut Sockets,
    asks: mpsc::Receiver<Ask>,
    draining: watch::Receiver<bool>,
) {
    let (web, web_inbox) = mpsc::channel(WEB_QUEUE);
    let answering = control_plane::Services {
        pool: Arc::clone(&parts.pool),
        resolver: Arc::clone(&parts.resolver),
        users: Arc::clone(&parts.users),
        web,
    };
    tokio::spawn(stop::keep_watchdog_quiet());
    tokio::spawn(control_plane::run(answering, asks));
    tokio::spawn(serve_web(web_inbox, Arc::clone(services)));
    let pool = Arc::clone(&parts.pool);
    tokio::spawn(async move { pool.run_health().await });
    let keeper = acme::Keeper {
        acme: Arc::clone(&services.acme),
        config: Arc::clone(&services.config),
        audit: Arc::clone(&services.audit),
        orders: services.orders.clone(),
    };
    tokio::spawn(keeper.run());
    let sender = syslog::Sender {
        config: Arc::clone(&services.config),
        report: Arc::clone(&services.syslog),
        resolver: Arc::clone(&parts.resolver),
    };
    tokio::spawn(sender.run());
    let (shells, audit) = (Arc::clone(&services.bench.shells), Arc::clone(&services.audit));
    tokio::spawn(support_shell::watch::run(shells, audit));
    tokio::spawn(upkeep(Arc::clone(services)));
    tokio::spawn(watch_for_floods(Arc::clone(services)));
    tokio::spawn(follow_keepalived(Arc::clone(services)));
    tokio::spawn(answer_peer(Arc::clone(services)));
    tokio::spawn(follow_forwards(Arc::clone(services)));
    tokio::spawn(sweep_forwards(Arc::clone(services)));
    let bans = Arc::clone(&services.bans);
    tokio::spawn(async move { bans.run().await });
    tokio::spawn(watch_filter(Arc::clone(services)));
    let kernel = Arc::clone(&services.kernel);
    tokio::spawn(async move { kernel.read_events().await });
    if let Some(socket) = sockets.control.take() {
        let services = Arc::clone(services);
        tokio::spawn(ctl::server::serve(socket, ctl::server::Bounds::default(), move |caller, command| {
            let services = Arc::clone(&services);
            async move { services.answer(caller, command).await }
        }));
    }
    if let Some(socket) = sockets.metrics.take() {
        let services = Arc::clone(services);
        let access = Arc::clone(&parts.metrics_access);
        tokio::spawn(metrics::http::serve(socket, access, move |page| match page {
            Page::Metrics => Ok(services.render_metrics()),
            Page::Health => Ok("ok\n".to_owned()),
            Page::Ready => services.ready().map(|()| "ready\n".to_owned()),
        }));
    }
    if let (Some(server), Some(authority)) = (&config.sta_server, &parts.authority) {
        let (server, tls, authority) = (server.clone(), parts.sta_server_tls.clone(), Arc::clone(authority));
        let serving = sta::server::serve(server, tls, authority, std::mem::take(&mut sockets.sta), draining);
        tokio::spawn(async move {
            if let Err(error) = serving.await {
                tracing::error!(%error, "the ticket authority stopped");
            }
        });
    }
}

/// Samples of histograms move to their buckets.
async fn upkeep(services: Arc<Services>) {
    let mut interval = tokio::time::interval(UPKEEP_EVERY);
    loop {
        interval.tick().await;
        services.metrics.run_upkeep();
    }
}

/// What keepalived says, and what it is told.
async fn follow_keepalived(services: Arc<Services>) {
    let mut interval = tokio::time::interval(KEEPALIVED_EVERY);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        services.look_at_ha();
    }
}

/// Serves the other of two appliances, wherever the configuration says at the time.
async fn answer_peer(services: Arc<Services>) {
    let configured = || services.config.load().high_availability.as_ref().and_then(|ha| ha.node.sync.clone());
    let mut interval = tokio::time::interval(PEER_EVERY);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let Some(sync) = configured() else { continue };
        let changed = async {
            let mut look = tokio::time::interval(PEER_EVERY);
            while configured().as_ref() == Some(&sync) {
                look.tick().await;
            }
        };
        let serving = async {
            let identity = services.identity().map_err(std::io::Error::other)?;
            let services = Arc::clone(&services);
            let answer = move |from, request| {
                let services = Arc::clone(&services);
                async move { services.answer_peer(from, request).await }
            };
            peer::serve(&identity, &sync, answer).await
        };
        tokio::select! {
            () = changed => {}
            Err(error) = serving => {
                tracing::error!(%error, at = %sync.listen, "the peer cannot be served");
                tokio::time::sleep(PEER_AGAIN).await;
            }
        }
    }
}

/// Puts the filter back where others take it off, and follows the devices by which forwarded packets leave.
async fn watch_filter(services: Arc<Services>) {
    let mut interval = tokio::time::interval(WATCH_EVERY);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let kernel = Arc::clone(&services.kernel);
        // A driver may take its time to attach.
        match tokio::task::spawn_blocking(move || kernel.watch()).await {
            Ok(true) => take_forwards(&services.kernel, &services.balancers),
            Ok(false) => {}
            Err(_panicked) => tracing::error!("the filter was not looked after"),
        }
    }
}

/// Switches SYN cookies. A look is a few reads of counters.
async fn watch_for_floods(services: Arc<Services>) {
    if services.kernel.interfaces().is_empty() {
        return;
    }
    let mut interval = tokio::time::interval(FLOOD_EVERY);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failed = false;
    loop {
        interval.tick().await;
        match services.kernel.look_after_flood() {
            Ok(()) => failed = false,
            Err(error) => {
                // Once, not ten times a second.
                if !failed {
                    tracing::error!(%error, "the flood defence does not see its counters");
                }
                failed = true;
            }
        }
    }
}

/// Serves the web connections that front threads hand over.
async fn serve_web(mut inbox: mpsc::Receiver<WebAsk>, services: Arc<Services>) {
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

/// The kernel side learns of every change of `forward` listeners.
async fn follow_forwards(services: Arc<Services>) {
    let mut changed = services.balancers.subscribe();
    while changed.changed().await.is_ok() {
        take_forwards(&services.kernel, &services.balancers);
    }
}

/// Lets the kernel side take the `forward` listeners that it can take, as they are now.
pub(super) fn take_forwards(kernel: &Kernel, balancers: &Balancers) {
    match kernel.forward(&balancers.services()) {
        Ok(paths) => {
            for (listener, path) in paths {
                balancers.set_path(&listener, path);
            }
        }
        Err(error) => tracing::error!(%error, "the kernel side cannot be told of forward listeners"),
    }
}

/// Forwarded flows that are over leave the kernel's table, each with a line in the log.
async fn sweep_forwards(services: Arc<Services>) {
    loop {
        let began = Instant::now();
        let kernel = Arc::clone(&services.kernel);
        // A look through a full table takes a while; the control plane goes on meanwhile.
        match tokio::task::spawn_blocking(move || kernel.sweep_forwards()).await {
            Ok(Ok(swept)) => note_forwards(&services.balancers, swept),
            Ok(Err(error)) => tracing::warn!(%error, "the forwarded flows cannot be looked through"),
            Err(error) => tracing::error!(%error, "the look through the forwarded flows ended early"),
        }
        tokio::time::sleep(pause_after(began)).await;
    }
}

fn note_forwards(balancers: &Balancers, swept: Swept) {
    for (flow, end) in swept.ended {
        if let Some(balancer) = flow.listener.as_ref().and_then(|listener| balancers.get(listener)) {
            balancer.note_kernel_flow(flow.server, KernelTotals::from(&flow));
        }
        tracing::info!(
            target: "session",
            listener = flow.listener.as_deref().unwrap_or("-"),
            client = %flow.client,
            local = %flow.local,
            server = %flow.server,
            bytes_up = flow.bytes_up,
            bytes_down = flow.bytes_down,
            seconds = flow.age.as_secs(),
            reason = end.as_str(),
            "a flow that was forwarded in the kernel ended"
        );
    }
    for service in balancers.services() {
        let Some(balancer) = balancers.get(&service.listener) else { continue };
        for server in &service.servers {
            let live = swept.live.get(&(Arc::clone(&service.listener), server.address));
            balancer.set_kernel_flows(server.address, live.copied().unwrap_or_default());
        }
    }
}
