//! One way to take a lock.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Takes the lock, even when a panic elsewhere has poisoned it: what stands behind locks here is bookkeeping that is
/// whole between any two statements, and one broken connection must not break all others.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
