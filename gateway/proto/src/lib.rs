//! Wire formats of the gateway: bytes to values and back.
//!
//! This crate knows no policy, no clock, no socket and no operating system. A parser over a stream is two
//! functions: `frame_len(&[u8]) -> Result<Option<usize>, Malformed>` says how long the next frame is (`None`:
//! more bytes are needed), `parse` reads exactly that frame, so "needs more" never mixes with "is wrong".

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod error;
pub mod host_port;
pub mod socks5;
pub mod ticket;

pub use error::Malformed;
