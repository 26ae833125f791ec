//! What `--version` says.

/// Version, and whether this build has a kernel side: one without it says so.
#[cfg(kernel_side)]
pub const LONG: &str = concat!(env!("CARGO_PKG_VERSION"), " (kernel side: built)");
/// Version, and whether this build has a kernel side: one without it says so.
#[cfg(not(kernel_side))]
pub const LONG: &str = concat!(env!("CARGO_PKG_VERSION"), " (kernel side: absent)");
