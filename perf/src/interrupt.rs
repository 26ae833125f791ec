//! Ctrl-C and SIGTERM end a measurement in good order, so that no contender outlives it.
//!
//! Contenders are in process groups of their own, where a terminal's Ctrl-C does not reach them.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{SigSet, Signal};

static ASKED: AtomicBool = AtomicBool::new(false);

/// Takes both signals away from their default action. To be called before other threads are started, which inherit
/// that; the standard library gives child processes an empty mask again.
pub(crate) fn watch() -> Result<()> {
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
    signals.thread_block().context("block signals")?;
    let wait = move || {
        if signals.wait().is_ok() {
            ASKED.store(true, Ordering::Relaxed);
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(wait).context("start a thread for signals")?;
    Ok(())
}

/// Fails once somebody has asked for the end.
pub(crate) fn check() -> Result<()> {
    ensure!(!ASKED.load(Ordering::Relaxed), "interrupted");
    Ok(())
}
