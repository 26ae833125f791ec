//! The ring under the relay workers.
//!
//! All unsafe code of user space lives here, behind a surface without any: sockets go in, events and chunks of bytes
//! come out. The crate decides nothing, knows no protocol and no session.

mod buffer;
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
pub use event::{Event, SEND_CHUNKS, Socket, Stop, Token};
pub use pool::Pool;
pub use ring::Ring;
pub use settings::{Settings, Unsupported};
pub use waker::Waker;
