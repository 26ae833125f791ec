//! The ring under the relay workers.
//!
//! All unsafe code of user space lives here, behind a surface without any: sockets go in, events and chunks of bytes
//! come out. The crate decides nothing, knows no protocol and no session.

mod buffer;
mod event;
mod pool;
mod settings;
mod waker;

pub use buffer::{Chunk, Class, Geometry};
pub use event::{Event, SEND_CHUNKS, Socket, Stop, Token};
pub use pool::Pool;
pub use settings::{Settings, Unsupported};
pub use waker::Waker;
