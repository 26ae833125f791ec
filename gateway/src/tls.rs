//! TLS at the edge and towards servers: certificates, what both are configured with, handshakes, and the records after them.

mod inspect;
pub(crate) mod pem;
mod sni;

pub mod certs;
pub mod client;
pub mod codec;
pub mod connection;
pub mod record;
pub mod stream;
pub(crate) mod verify;
