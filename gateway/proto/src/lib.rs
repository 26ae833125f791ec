//! Wire formats of the gateway: bytes to values and back.
//!
//! This crate knows no policy, no clock, no socket and no operating system. A parser over a stream is two
//! functions: `frame_len(&[u8]) -> Result<Option<usize>, Malformed>` says how long the next frame is (`None`:
//! more bytes are needed), `parse` reads exactly that frame, so "needs more" never mixes with "is wrong".

#![no_std]
#![forbid(unsafe_code)]
#![warn(clippy::wildcard_enum_match_arm)]
#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects, clippy::indexing_slicing))]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod cgp;
pub mod error;
pub mod host_port;
pub mod http_connect;
pub mod http_head;
pub mod ica_file;
pub mod reader;
pub mod sniff;
pub mod socks5;
pub mod sta;
pub mod ticket;
pub mod websocket;
mod xml;

pub use error::Malformed;
