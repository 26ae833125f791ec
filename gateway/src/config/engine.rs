//! What relay workers run on.

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
