//! How large a ring is, and why there may be none.

/// Sizes of a ring; the default fits one relay worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Places for operations between two calls of `wait`; more are submitted at once. Rounded up to a power of two.
    pub entries: u32,
    /// Places for completions, as a multiple of `entries`. More are kept by the kernel, at a price.
    pub completions_per_entry: u32,
    /// The most sockets at a time, the ones being closed included.
    pub sockets: u32,
    /// Buffers of [`Class::Client`](crate::Class::Client). Untouched ones cost no memory.
    pub client_buffers: u16,
    /// Buffers of [`Class::Server`](crate::Class::Server).
    pub server_buffers: u16,
    /// Whether `send` tries a message of up to 4 KiB by a system call of its own first, and leaves to the ring what does
    /// not fit. It needs no operation, no completion and no second `wait` to hear of it, and leaves earlier: it costs
    /// less where system calls are cheap.
    pub send_at_once: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            entries: 1024,
            completions_per_entry: 4,
            sockets: 65_536,
            client_buffers: 1024,
            server_buffers: 512,
            send_at_once: true,
        }
    }
}

/// No ring can be had here. Says what is missing and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("io_uring cannot be used: {missing}; {remedy}")]
pub struct Unsupported {
    missing: String,
    remedy: String,
}

impl Unsupported {
    pub(crate) fn new(missing: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { missing: missing.into(), remedy: remedy.into() }
    }

    /// What the kernel does not have, forbids or refused.
    #[must_use]
    pub fn missing(&self) -> &str {
        &self.missing
    }

    /// What an operator can do about it.
    #[must_use]
    pub fn remedy(&self) -> &str {
        &self.remedy
    }
}
