//! The gateway: it does what `portcullis-core` decides.

#![forbid(unsafe_code)]

pub mod authn;
pub mod cli;
pub mod config;
pub mod ctl;
pub mod exit;
pub mod log;
pub mod metrics;
pub mod tls;
pub mod web;
