//! TLS at the edge and towards servers: certificates, what both are configured with, and handshakes. Records after the handshake are
//! the relay's (`relay::record`).

mod inspect;
pub(crate) mod pem;
mod sni;

pub mod certs;
pub mod client;
pub mod connection;
pub mod stream;
pub(crate) mod verify;
