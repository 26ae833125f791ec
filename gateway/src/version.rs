//! What `--version` says.

/// Version, and the state of the kernel side: a build without it says so.
pub const LONG: &str = concat!(env!("CARGO_PKG_VERSION"), " (kernel side: absent)");
