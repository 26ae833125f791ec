//! Signals, the service manager, and an orderly end.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{Instant, interval, timeout_at};

use crate::front::Front;
use crate::relay::Context;
use crate::sync::lock;

/// How often a drain looks whether the last session has ended.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// SIGTERM or SIGINT.
    Stop,
    /// SIGHUP.
    Reload,
}

/// The signals that the daemon heeds.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// The next order; it may be dropped without losing one.
    pub(super) async fn next(&mut self) -> Order {
        tokio::select! {
            _ = self.terminate.recv() => Order::Stop,
            _ = self.interrupt.recv() => Order::Stop,
            _ = self.hang_up.recv() => Order::Reload,
        }
    }

    /// The next order to stop.
    async fn stop(&mut self) {
        while self.next().await != Order::Stop {}
    }
}

pub(super) fn notify_ready() {
    // Without a service manager there is nobody to tell.
    sd_notify::notify(&[NotifyState::Ready]).ok();
}

/// Tells the service manager that the control plane still does its turns, where a watchdog wants to know (systemd.service(5),
/// `WatchdogSec=`): one that hangs is ended and started again, and the packet filter stays in force meanwhile.
pub(super) async fn keep_watchdog_quiet() {
    let Some(most) = sd_notify::watchdog_enabled().filter(|most| !most.is_zero()) else { return };
    let mut turns = interval(most / 3);
    loop {
        turns.tick().await;
        sd_notify::notify(&[NotifyState::Watchdog]).ok();
    }
}

/// Stops accepting, lets sessions finish until `most` has passed or a second signal comes, ends the rest.
pub(super) async fn drain(
    drain: &watch::Sender<bool>,
    context: &Context,
    front: Arc<Front>,
    fronts: Vec<JoinHandle<()>>,
    relays: Vec<JoinHandle<()>>,
    signals: &mut Signals,
    most: Duration,
) {
    sd_notify::notify(&[NotifyState::Stopping]).ok();
    drain.send_replace(true);
    let sessions = lock(&context.sessions).len();
    tracing::info!(sessions, timeout_seconds = most.as_secs(), "draining");
    let finished = async {
        let mut look = interval(LOOK_EVERY);
        loop {
            look.tick().await;
            if front.setting_up.load(Ordering::Relaxed) == 0 && lock(&context.sessions).is_empty() {
                return;
            }
        }
    };
    tokio::select! {
        drained = timeout_at(Instant::now() + most, finished) => {
            if drained.is_err() {
                tracing::warn!(sessions = lock(&context.sessions).len(), "time is up, ending the rest");
            }
        }
        () = signals.stop() => tracing::warn!(sessions = lock(&context.sessions).len(), "told to stop at once"),
    }
    context.cut();
    // The workers' queues close when the last front thread and this reference are gone.
    drop(front);
    let joined = tokio::task::spawn_blocking(move || {
        for thread in fronts.into_iter().chain(relays) {
            if thread.join().is_err() {
                tracing::error!("a thread ended by a panic");
            }
        }
    });
    if joined.await.is_err() {
        tracing::error!("waiting for the threads failed");
    }
    tracing::info!("stopped");
}
