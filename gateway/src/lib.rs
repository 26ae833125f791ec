//! The gateway: it does what `portcullis-core` decides.

#![forbid(unsafe_code)]

pub mod authn;
pub mod config;
pub mod tls;
