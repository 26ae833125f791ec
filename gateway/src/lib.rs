//! The gateway: it does what `portcullis-core` decides.

#![forbid(unsafe_code)]

pub mod authn;
pub mod config;
pub mod control_plane;
pub mod ctl;
pub mod dns;
pub mod exit;
pub mod log;
pub mod metrics;
pub mod sta;
pub mod tls;
pub mod web;
