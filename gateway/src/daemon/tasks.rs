//! The tasks of the control plane: each part runs by itself on the main thread's runtime.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::MissedTickBehavior;

use super::assemble::{Assembled, Sockets};
use crate::config::Config;
use crate::control_plane::{self, Ask, WebAsk};
use crate::ctl;
use crate::ctl::services::Services;
use crate::metrics;
use crate::metrics::http::Page;
use crate::sta;
use crate::web;
use crate::xdp::Kernel;

/// Web connections that may wait to be served.
const WEB_QUEUE: usize = 256;
/// Web connections that are served at once.
const WEB_CONNECTIONS_MAX: usize = 1024;
/// How often samples of histograms move to their buckets when nobody scrapes.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);
/// How soon a filter is put back that others have taken off.
const WATCH_EVERY: Duration = Duration::from_secs(2);

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
    tokio::spawn(control_plane::run(answering, asks));
    tokio::spawn(serve_web(web_inbox, Arc::clone(services)));
    let pool = Arc::clone(&parts.pool);
    tokio::spawn(async move { pool.run_health().await });
    tokio::spawn(upkeep(Arc::clone(services)));
    tokio::spawn(watch_filter(Arc::clone(&services.kernel)));
    let kernel = Arc::clone(&services.kernel);
    tokio::spawn(async move { kernel.read_events().await });
    if let Some(socket) = sockets.control.take() {
        let services = Arc::clone(services);
        tokio::spawn(ctl::server::serve(socket, ctl::server::Bounds::default(), move |command| {
            let services = Arc::clone(&services);
            async move { services.answer(command).await }
        }));
    }
    if let Some(socket) = sockets.metrics.take() {
        let services = Arc::clone(services);
        tokio::spawn(metrics::http::serve(socket, move |page| match page {
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

/// Samples of histograms move to their buckets, and bans that have ended go.
async fn upkeep(services: Arc<Services>) {
    let mut interval = tokio::time::interval(UPKEEP_EVERY);
    loop {
        interval.tick().await;
        services.metrics.run_upkeep();
        if let Err(error) = services.kernel.bans() {
            tracing::debug!(%error, "the bans cannot be looked through");
        }
    }
}

/// Puts the filter back where others take it off.
async fn watch_filter(kernel: Arc<Kernel>) {
    let mut interval = tokio::time::interval(WATCH_EVERY);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let kernel = Arc::clone(&kernel);
        // A driver may take its time to attach.
        if tokio::task::spawn_blocking(move || kernel.watch()).await.is_err() {
            tracing::error!("the filter was not looked after");
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
