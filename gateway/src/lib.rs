//! The gateway: it does what `portcullis-core` decides.

#![forbid(unsafe_code)]

pub mod ctl;
pub mod exit;
