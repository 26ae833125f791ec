//! The kernel side, seen from the daemon: the policy for ports, the program that enforces it, what it counts.
//!
//! `rules` says what may come in and why, `egress` what the machine itself may contact, both with the published
//! port tables (`config::presets`); `policy` makes of them what the kernel's tables hold, and
//! `generations` writes it there beside what is in force; `confirm` takes back what nobody confirms; `loader` brings
//! the program into the kernel and onto the interfaces, `watch` puts it back where others take it off; `maps` writes
//! its tables and reads its counters, `carry` brings bans to a table of another size; `flows` admits the flows of
//! sessions; `links` says by which devices forwarded packets leave, `bonds` what bonds consist of and `vlans` which VLANs have roles of their own, as
//! `netlink` hears it from the kernel; `events` reads what was dropped, one by one. Nothing here decides about a packet:
//! `portcullis-ebpf-common` does, in the kernel and in `portcullis ports test` alike.

mod bonds;
mod carry;
mod confirm;
pub mod egress;
pub mod events;
mod flood;
mod flows;
pub mod forward;
mod generations;
pub mod judge;
mod links;
pub mod loader;
mod maps;
mod netlink;
mod outgoing;
pub mod policy;
pub mod rules;
pub mod steering;
mod vlans;
mod watch;

pub use confirm::Start;
pub use flood::FloodState;
pub use flows::{FlowPair, FlowRow, FlowUse, Flows, Half};
pub use forward::{FlowEnd, ForwardedFlow};
pub use loader::{Filtered, Hold, Kernel, XdpError};
pub use maps::{BanRow, MapUse};
pub use outgoing::Outgoing;
pub use vlans::Vlan;
pub(crate) use vlans::mute;
pub use watch::Condition;

/// The object for the kernel, where this build has one.
#[cfg(kernel_side)]
const OBJECT: Option<&[u8]> =
    Some(aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/portcullis-ebpf.o")));
#[cfg(not(kernel_side))]
const OBJECT: Option<&[u8]> = None;

/// What the build has of the kernel side: `built` or `absent`.
pub const BUILD: &str = if OBJECT.is_some() { "built" } else { "absent" };
