//! The gateway: it does what `portcullis-core` decides.

#![forbid(unsafe_code)]

pub mod access;
pub mod acme;
pub mod answer;
pub mod audit;
pub mod authn;
pub mod bans;
pub mod certificates;
pub mod check;
pub mod cli;
pub mod config;
pub mod control_plane;
pub mod ctl;
pub mod daemon;
pub mod disk;
pub mod dns;
pub mod exit;
pub mod forward;
pub mod front;
pub mod gate;
pub mod ha;
pub mod lab;
pub mod log;
pub mod metrics;
pub mod orders;
pub mod relay;
pub mod role;
pub mod secret_text;
pub mod secrets;
pub mod settings;
pub mod sockets;
pub mod sta;
pub mod state;
pub mod store;
pub mod support_shell;
mod sync;
pub mod syslog;
pub mod tls;
pub mod tools;
pub mod update;
pub mod version;
pub mod web;
pub mod xdp;
