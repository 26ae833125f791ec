//! TLS at the edge: certificates and what servers are configured with. Records are not handled here.

pub mod certs;
mod inspect;
mod pem;
mod sni;
