//! The two queues between here and the kernel: operations go in, completions come out.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, cqueue, squeue};

/// With `gather`, so many events are enough to come back at once.
const GATHER_EVENTS: u32 = 64;
/// No wait is longer: the kernel's clock has an end.
const TIMEOUT_MAX: Duration = Duration::from_secs(86_400);
/// A call that has more to submit than fits comes back so often at most; the rest goes with the next `wait`.
const ROUNDS_MAX: usize = 64;

/// The ring as the kernel knows it. Every operation in it has `FIXED_FILE`: the restrictions demand it.
pub(crate) struct Queue {
    ring: IoUring,
    /// Operations that found the submission queue full, in order. At most five of each socket.
    waiting: VecDeque<squeue::Entry>,
    gather: Duration,
    enters: u64,
}

impl Queue {
    pub(crate) fn new(ring: IoUring) -> Self {
        Self { ring, waiting: VecDeque::new(), gather: Duration::ZERO, enters: 0 }
    }

    pub(crate) fn can_gather(&self) -> bool {
        self.ring.params().is_feature_min_timeout()
    }

    pub(crate) fn set_gather(&mut self, time: Duration) {
        self.gather = if self.can_gather() { time } else { Duration::ZERO };
    }

    /// How often the kernel was called.
    pub(crate) fn enters(&self) -> u64 {
        self.enters
    }

    /// Puts an operation into the queue; the kernel sees it with the next call, and all operations in this order.
    ///
    /// # Safety
    ///
    /// What the operation points to must be valid, and left alone, until its completion was popped.
    pub(crate) unsafe fn push(&mut self, entry: squeue::Entry) {
        let entry = entry.flags(squeue::Flags::FIXED_FILE);
        if self.waiting.is_empty() && self.offer(&entry) {
            return;
        }
        if self.waiting.is_empty() && self.call(0, EnterFlags::empty(), None).is_ok() && self.offer(&entry) {
            return;
        }
        self.waiting.push_back(entry);
    }

    /// Whether there was a place.
    fn offer(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: the caller of `Queue::push` has promised what is asked for here.
        unsafe { self.ring.submission().push(entry) }.is_ok()
    }

    /// Fills the submission queue with what waits; whether nothing waits any more.
    fn refill(&mut self) -> bool {
        while let Some(entry) = self.waiting.pop_front() {
            if !self.offer(&entry) {
                self.waiting.push_front(entry);
                return false;
            }
        }
        true
    }

    /// Submits everything, runs what the kernel has put off, and waits for a completion if `wait` is set.
    pub(crate) fn enter(&mut self, wait: bool, timeout: Option<Duration>) -> io::Result<()> {
        for _ in 0..ROUNDS_MAX {
            if self.refill() {
                break;
            }
            tolerate(self.call(0, EnterFlags::GETEVENTS, None))?;
        }
        let wait = wait && self.ring.completion().is_empty();
        if !wait {
            return tolerate(self.call(0, EnterFlags::GETEVENTS, None));
        }
        let want = if self.gather.is_zero() { 1 } else { GATHER_EVENTS };
        let timespec = timeout.map(|timeout| Timespec::from(timeout.min(TIMEOUT_MAX)));
        let mut arguments = SubmitArgs::new();
        if !self.gather.is_zero() {
            arguments = arguments.min_wait_usec(u32::try_from(self.gather.as_micros()).unwrap_or(u32::MAX));
        }
        if let Some(timespec) = &timespec {
            arguments = arguments.timespec(timespec);
        }
        let plain = timespec.is_none() && self.gather.is_zero();
        tolerate(self.call(want, EnterFlags::GETEVENTS, (!plain).then_some(&arguments)))
    }

    fn call(
        &mut self,
        want: u32,
        flags: EnterFlags,
        arguments: Option<&SubmitArgs<'_, '_>>,
    ) -> io::Result<usize> {
        let count = u32::try_from(self.ring.submission().len()).unwrap_or(u32::MAX);
        let flags = if arguments.is_some() { flags | EnterFlags::EXT_ARG } else { flags };
        self.enters = self.enters.wrapping_add(1);
        // SAFETY: the flags say what `arguments` is, it lives until the call returns, and whoever pushed the operations
        // has promised that what they point to is valid.
        unsafe { self.ring.submitter().enter(count, want, flags.bits(), arguments) }
    }

    pub(crate) fn pop(&mut self) -> Option<cqueue::Entry> {
        self.ring.completion().next()
    }

    /// Puts a descriptor into the table of the ring, or takes it out (-1).
    pub(crate) fn update_file(&self, place: u32, descriptor: RawFd) -> io::Result<()> {
        self.ring.submitter().register_files_update(place, &[descriptor]).map(drop)
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("waiting", &self.waiting.len()).finish_non_exhaustive()
    }
}

/// An elapsed timeout and a signal are no failures, nor is a kernel that first wants completions to be taken.
fn tolerate(result: io::Result<usize>) -> io::Result<()> {
    match result {
        Ok(_) => Ok(()),
        Err(error) => match error.raw_os_error() {
            Some(libc::ETIME | libc::EINTR | libc::EBUSY) => Ok(()),
            _ => Err(error),
        },
    }
}
