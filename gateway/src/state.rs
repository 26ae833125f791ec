//! Whether the daemon is starting, ready, drained by an operator, or draining because it is to end: one word that status,
//! readiness, listeners and the drain share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

const STARTING: u8 = 0;
const READY: u8 = 1;
const DRAINING: u8 = 2;
const DRAINED: u8 = 3;

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

    /// An operator lets it take nothing new, or again. Whether it was the other before or is so now: nothing can be said
    /// to a daemon that starts or ends.
    pub(crate) fn set_drained(&self, drained: bool) -> bool {
        let (from, to) = if drained { (READY, DRAINED) } else { (DRAINED, READY) };
        match self.0.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => true,
            Err(state) => state == to,
        }
    }

    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.0.load(Ordering::Relaxed) == DRAINED
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
            DRAINED => "drained",
            _ => "draining",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_ready_can_be_drained_and_nothing_takes_an_end_back() {
        let state = State::default();
        assert!(!state.set_drained(true));
        state.set_ready();
        assert!(
            state.set_drained(true) && state.set_drained(true) && state.is_drained() && !state.is_ready()
        );
        assert!(state.set_drained(false) && state.is_ready());
        state.set_draining();
        assert!(!state.set_drained(false) && !state.set_drained(true));
        assert_eq!(state.as_str(), "draining");
    }
}
