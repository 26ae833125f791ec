//! What the kernel thinks of the machine's clock: nothing to do with the ring, but no safe interface exists, and this
//! crate is where unsafe code lives.

use std::io;
use std::mem::MaybeUninit;

/// The state of the clock, adjtimex(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// Whether something keeps it synchronised.
    pub synchronised: bool,
    /// How far it is off at most.
    pub max_error_microseconds: u64,
}

impl Clock {
    /// Asks the kernel. Changes nothing and needs no privilege; filters of system calls often deny it all the same.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn now() -> io::Result<Self> {
        // SAFETY: `timex` is a struct of integers, for which zero bytes are values.
        let mut timex: libc::timex = unsafe { MaybeUninit::zeroed().assume_init() };
        // SAFETY: the pointer is to a `timex` of ours; `modes` is 0, so the kernel only fills it.
        let state = unsafe { libc::adjtimex(&raw mut timex) };
        if state < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            synchronised: state != libc::TIME_ERROR,
            max_error_microseconds: u64::try_from(timex.maxerror).unwrap_or(0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_of_its_clock_or_says_why_not() {
        match Clock::now() {
            // The kernel counts up to 16 seconds and calls the clock unsynchronised from there.
            Ok(clock) => assert!(clock.max_error_microseconds <= 16_000_000, "{clock:?}"),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::PermissionDenied),
        }
    }
}
