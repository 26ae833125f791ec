//! Waiting for a condition with a deadline. The only place of the tests that pauses a thread.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Long enough for any healthy step on a busy machine with two cores.
pub const PATIENCE: Duration = Duration::from_secs(30);

const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Makes every wait of this process fail from now on, so that everything unwinds and its guards clean up.
pub fn interrupt() {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// Whether [`interrupt`] was called.
#[must_use]
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Waits until `condition` holds.
///
/// # Errors
/// Says what was awaited, and for how long, when the time is over.
pub fn until(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) -> Result<()> {
    value(limit, what, || condition().then_some(()))
}

/// Waits until `find` returns a value.
///
/// # Errors
/// Says what was awaited, and for how long, when the time is over.
pub fn value<T>(limit: Duration, what: &str, mut find: impl FnMut() -> Option<T>) -> Result<T> {
    let found = attempt(limit, what, || Ok::<_, std::convert::Infallible>(find()));
    found.map_err(|error| anyhow::anyhow!("{error}"))
}

/// Waits until `find` returns a value, and stops at once when it fails.
///
/// # Errors
/// The error of `find`, or what was awaited, and for how long, when the time is over.
pub fn attempt<T, E: std::fmt::Display>(
    limit: Duration,
    what: &str,
    mut find: impl FnMut() -> Result<Option<T>, E>,
) -> Result<T> {
    uninterrupted(limit, what, || {
        if interrupted() {
            bail!("interrupted");
        }
        find().map_err(|error| anyhow::anyhow!("{error:#}"))
    })
}

/// Like [`attempt`], for cleaning up: goes on after an interruption.
///
/// # Errors
/// As [`attempt`].
pub fn uninterrupted<T, E: std::fmt::Display>(
    limit: Duration,
    what: &str,
    mut find: impl FnMut() -> Result<Option<T>, E>,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    let mut pause = FIRST_PAUSE;
    loop {
        match find() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => {}
            Err(error) => bail!("while waiting for {what}: {error:#}"),
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            bail!("waited {:.1} s for {what}", limit.as_secs_f64());
        }
        thread::sleep(pause.min(left));
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_says_what_was_awaited() {
        let error = until(Duration::from_millis(5), "the moon", || false).unwrap_err();
        assert!(error.to_string().contains("the moon"), "{error}");
    }

    #[test]
    fn a_condition_that_holds_is_not_waited_for() {
        until(Duration::ZERO, "nothing", || true).unwrap();
    }
}
