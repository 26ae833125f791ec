//! TLS at the edge: certificates and what servers are configured with. Records are not handled here.

mod inspect;
mod pem;
mod sni;

pub mod certs;
pub mod stream;
pub(crate) mod verify;
