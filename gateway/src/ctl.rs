//! The control socket: how operators and scripts talk to the daemon. `gateway/docs/CONTROL.md` is its document.

pub mod claim;
pub mod client;
pub mod protocol;
pub mod server;
pub mod services;
