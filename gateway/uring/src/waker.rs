//! How another thread gets an engine out of its wait.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::EventfdFlags;

/// Wakes one engine, from any thread. Several calls before the engine looks are one event and one system call.
///
/// The engine watches [`Waker::as_fd`] for being readable, edge-triggered (so that nothing needs to be read), and calls
/// [`Waker::seen`] before it hands out the event. Order of use: put the message where the engine's thread finds it,
/// then `wake`; the engine's thread looks for messages after the event.
#[derive(Clone, Debug)]
pub struct Waker {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    descriptor: OwnedFd,
    /// The engine was told and has not looked yet.
    pending: AtomicBool,
}

impl Waker {
    /// For engines: a waker that nobody watches yet.
    pub fn new() -> io::Result<Self> {
        let descriptor = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { shared: Arc::new(Shared { descriptor, pending: AtomicBool::new(false) }) })
    }

    pub fn wake(&self) {
        // The exchange carries what this thread wrote before to the thread that calls `seen`.
        if self.shared.pending.swap(true, Ordering::AcqRel) {
            return;
        }
        // It can fail only when the counter is full, after 2^64 calls, and then the engine was told anyway.
        let written = rustix::io::write(&self.shared.descriptor, &1_u64.to_ne_bytes());
        debug_assert!(written.is_ok(), "the descriptor is open and of 64 bits");
    }

    /// For engines: the next `wake` is a new event.
    pub fn seen(&self) {
        self.shared.pending.swap(false, Ordering::AcqRel);
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.descriptor.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counter(waker: &Waker) -> Option<u64> {
        let mut bytes = [0; 8];
        rustix::io::read(waker, &mut bytes).ok().map(|_| u64::from_ne_bytes(bytes))
    }

    #[test]
    fn many_calls_before_the_engine_looks_are_one_event() {
        let waker = Waker::new().unwrap();
        waker.wake();
        waker.clone().wake();
        assert_eq!(counter(&waker), Some(1));
        waker.wake();
        assert_eq!(counter(&waker), None);
        waker.seen();
        waker.wake();
        assert_eq!(counter(&waker), Some(1));
    }

    #[test]
    fn a_waker_goes_to_any_thread() {
        fn anywhere<T: Send + Sync + Clone + 'static>(_: T) {}
        anywhere(Waker::new().unwrap());
    }
}
