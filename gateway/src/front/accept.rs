//! Accepting: the allow list, the bans, the limits, then one task per connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use portcullis_core::deny::Deny;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::{Bound, Front, Listener, SettingUp, conn};
use crate::gate::is_exhausted;

/// How long to wait when the system has no descriptor left: until some session ends.
const EXHAUSTED_WAIT: Duration = Duration::from_millis(50);

pub(super) async fn run(index: usize, front: Arc<Front>, bound: Vec<Bound>) {
    let accepting: Vec<_> = bound
        .into_iter()
        .map(|bound| tokio::task::spawn_local(listen(index, Arc::clone(&front), bound)))
        .collect();
    for listener in accepting {
        if let Err(error) = listener.await {
            tracing::error!(%error, "a listener stopped; restart the daemon");
        }
    }
    // What is being set up may become a session yet, until the drain's time is up.
    let mut poll = tokio::time::interval(EXHAUSTED_WAIT);
    while front.setting_up.load(Ordering::Relaxed) > 0 && !front.relay.is_cut() {
        poll.tick().await;
    }
}

async fn listen(index: usize, front: Arc<Front>, bound: Bound) {
    let Bound { listener, socket } = bound;
    let socket = match TcpListener::from_std(socket) {
        Ok(socket) => socket,
        Err(error) => {
            tracing::error!(listener = %listener.name, %error, "cannot listen");
            return;
        }
    };
    let mut draining = front.draining.clone();

    loop {
        let accepted = tokio::select! {
            biased;
            () = drained(&mut draining) => return,
            accepted = socket.accept() => accepted,
        };
        match accepted {
            Ok((stream, source)) => accept(index, &front, &listener, stream, source),
            Err(error) if is_exhausted(&error) => {
                listener.metrics.refused(Deny::Overloaded);
                tokio::time::sleep(EXHAUSTED_WAIT).await;
            }
            // The client was gone before it was accepted.
            Err(error) => tracing::debug!(listener = %listener.name, %error, "accept failed"),
        }
    }
}

async fn drained(draining: &mut watch::Receiver<bool>) {
    // An error says that the daemon is gone, which is as good a reason to stop.
    draining.wait_for(|draining| *draining).await.ok();
}

fn accept(index: usize, front: &Arc<Front>, listener: &Arc<Listener>, stream: TcpStream, source: SocketAddr) {
    let service = listener.service.load_full();
    let limits = &service.profile.limits;
    let admitted = if !service.admits(source.ip()) {
        Err(Deny::SourceForbidden)
    } else if front.bans.refuses(source.ip()) {
        Err(Deny::Banned)
    } else if front.state.is_drained() {
        Err(Deny::Draining)
    } else {
        front.gate.connection(&listener.metrics, source.ip(), limits)
    };
    let pass = match admitted {
        Ok(pass) => pass,
        Err(reason) => {
            listener.metrics.refused(reason);
            tracing::debug!(listener = %listener.name, %source, reason = reason.label(), "connection refused");
            return;
        }
    };
    let (front, listener) = (Arc::clone(front), Arc::clone(listener));
    tokio::task::spawn_local(async move {
        let setting_up = SettingUp::new(&front.setting_up);
        conn::serve(index, &front, &listener, &service, stream, source, pass).await;
        drop(setting_up);
    });
}
