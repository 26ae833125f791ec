//! Whether the daemon is starting, ready or draining: one word that status, readiness and the drain share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

const STARTING: u8 = 0;
const READY: u8 = 1;
const DRAINING: u8 = 2;

/// The daemon's state; clones share it.
#[derive(Clone, Debug, Default)]
pub struct State(Arc<AtomicU8>);

impl State {
    pub(crate) fn set_ready(&self) {
        self.0.store(READY, Ordering::Relaxed);
    }

    pub(crate) fn set_draining(&self) {
        self.0.store(DRAINING, Ordering::Relaxed);
    }

    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.0.load(Ordering::Relaxed) == READY
    }

    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self.0.load(Ordering::Relaxed) {
            STARTING => "starting",
            READY => "ready",
            _ => "draining",
        }
    }
}
