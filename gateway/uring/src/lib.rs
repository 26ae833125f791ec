//! The ring under the relay workers.
//!
//! All unsafe code of user space lives here, behind a surface without any: sockets go in, events and chunks of bytes
//! come out. The crate decides nothing, knows no protocol and no session, logs nothing and starts no thread. The types
//! ([`Chunk`], [`Pool`], [`Event`], [`Socket`], [`Waker`]) serve other engines as well.
//!
//! ```
//! use portcullis_uring::{Class, Event, Ring, Settings, Token};
//! # use std::io::{Read as _, Write as _};
//! # let (ours, mut peer) = std::os::unix::net::UnixStream::pair()?;
//! # let settings = Settings { sockets: 8, ..Settings::default() };
//! let mut ring = Ring::new(&settings)?;
//! let socket = ring.add(ours.into())?;
//! ring.receive(socket, Class::Client, Token::new(1));
//! peer.write_all(b"echo")?;
//! let mut sent = false;
//! while !sent {
//!     ring.wait(None)?;
//!     while let Some(event) = ring.next() {
//!         match event {
//!             Event::Received { chunk, .. } => ring.send(socket, [chunk], Token::new(2)),
//!             Event::Sent { result, .. } => sent = result.is_ok(),
//!             _ => {}
//!         }
//!     }
//! }
//! # let mut bytes = [0; 4];
//! # peer.read_exact(&mut bytes)?;
//! # assert_eq!(&bytes, b"echo");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # The ring
//!
//! - One thread: `SINGLE_ISSUER` and `DEFER_TASKRUN`. The kernel works only inside of [`Ring::wait`], so nothing
//!   interrupts the worker, and who does not wait gets nothing. Linux 6.1 is the oldest that can do it all.
//! - [`Ring::wait`] is one `io_uring_enter`: buffers go back, operations are submitted, deferred work runs, and it sleeps
//!   if there is no event. The kernel (6.13 and newer) runs about 20 arrivals in one call; the rest comes with the next.
//! - Receiving is one operation for the life of a stream (multishot), and a buffer is taken when bytes are there, not
//!   before: an idle socket costs none. The kernel has a few dozen buffers of each class at a time, those that were used
//!   last, and gets more when they were not enough; [`Stop::NoBuffer`] comes only when chunks hold them all.
//! - A send is one operation (`MSG_WAITALL`) that ends when all is taken. A small one is tried at once first
//!   ([`Settings::send_at_once`]).
//! - It is built disabled, given its tables, restricted to five operations on descriptors of its own table, then enabled:
//!   whoever gets hold of the ring can open, connect or read nothing else by it.
//! - A full submission queue is submitted; a full completion queue is kept by the kernel. Nothing is lost, nothing fails.
//!
//! # Why it is sound
//!
//! - A buffer is free, in a chunk, or with the kernel, never two of these (`pool`, `group`). No reference to its bytes
//!   exists while the kernel has it, and a chunk comes into being by the completion that ends that.
//! - What is sent stays in a parcel at one address until its completion (`parcel`, `table`), also when the socket is
//!   closed or the operation cancelled.
//! - A label comes back with each completion (`label`); a place of the table is used again only when nothing of its last
//!   use is in flight, so no completion is taken for another's.
//! - A ring that is dropped cancels everything and waits for the last completion. If that does not come in a second, its
//!   memory stays for good.

mod buffer;
mod clock;
mod complete;
mod event;
mod group;
mod label;
mod parcel;
mod pool;
mod queue;
mod ring;
mod settings;
mod setup;
mod table;
mod waker;

pub use buffer::{Chunk, Class, Geometry};
pub use clock::Clock;
pub use event::{Event, SEND_CHUNKS, Socket, Stop, Token};
pub use pool::Pool;
pub use ring::Ring;
pub use settings::{Settings, Unsupported};
pub use waker::Waker;
