//! The decisions of the gateway.
//!
//! This crate gets values and the time, and returns commands. It opens no socket, reads no clock, starts no
//! thread and writes no log: `gateway` does what is decided here. After each `handle_*`, drain `poll_command`.

#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    warn(clippy::indexing_slicing, clippy::wildcard_enum_match_arm, clippy::arithmetic_side_effects)
)]

pub mod answer;
pub mod balance;
pub mod command;
pub mod deny;
pub mod limits;
pub mod penalty;
pub mod policy;
pub mod profile;
pub mod quota;
pub mod session;
pub mod ticket_store;
pub mod tunnel;
