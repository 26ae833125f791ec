//! The kernel side, seen from the daemon: the policy for ports, the program that enforces it, what it counts.
//!
//! `rules` says what may come in and why; `presets` are the published port tables that rules can be taken from;
//! `loader` brings the program into the kernel and onto the interfaces; `maps` writes its tables and reads its
//! counters. Nothing here decides about a packet: `portcullis-ebpf-common` does, in the kernel and in
//! `portcullis ports test` alike.

mod flood;
pub mod forward;
pub mod loader;
mod maps;
pub mod presets;
pub mod rules;
pub mod steering;

pub use flood::FloodState;
pub use forward::{FlowEnd, ForwardedFlow};
pub use loader::{Kernel, XdpError};
pub use maps::BanRow;

/// Where programs and bans are pinned unless the configuration says otherwise.
pub const PINS_DEFAULT: &str = "/sys/fs/bpf/portcullis";

/// The object for the kernel, where this build has one.
#[cfg(kernel_side)]
const OBJECT: Option<&[u8]> =
    Some(aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/portcullis-ebpf.o")));
#[cfg(not(kernel_side))]
const OBJECT: Option<&[u8]> = None;

/// What the build has of the kernel side: `built` or `absent`.
pub const BUILD: &str = if OBJECT.is_some() { "built" } else { "absent" };
