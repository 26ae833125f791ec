//! What relay workers run on, and how.

use std::fmt;
use std::time::Duration;

use super::duration;

/// What the file asks for, in `[server] relay_engine`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineChoice {
    /// io_uring, or epoll where that cannot be had.
    #[default]
    Auto,
    IoUring,
    Epoll,
}

impl EngineChoice {
    pub const ALL: [Self; 3] = [Self::Auto, Self::IoUring, Self::Epoll];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::IoUring => "io_uring",
            Self::Epoll => "epoll",
        }
    }
}

/// When a relay worker that has just worked leaves what arrives for a while, in `[server] relay_gather`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gather {
    /// While it is busy.
    #[default]
    Adaptive,
    /// Always, for that long. Zero: never.
    Always(Duration),
}

impl Gather {
    pub const ADAPTIVE: &str = "adaptive";
}

impl fmt::Display for Gather {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Adaptive => f.write_str(Self::ADAPTIVE),
            Self::Always(time) => f.write_str(&duration::format(*time)),
        }
    }
}
