//! TLS of a listener towards the servers: how they are recognised.

use std::path::PathBuf;

use super::TlsFloor;

/// TLS towards the servers of one listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerTlsConfig {
    pub trust: ServerTrust,
    /// The name that is asked for and must be in the certificate; where absent that of the ticket, the request or
    /// the target, or the address that is dialed.
    pub server_name: Option<String>,
    pub min_tls: TlsFloor,
    /// Name of the certificate that is shown to servers which ask for one.
    pub certificate: Option<String>,
}

/// How a server proves who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerTrust {
    PublicRoots,
    Ca(PathBuf),
    /// SHA-256 of the server's certificate (DER).
    Pin([u8; 32]),
    /// It need not.
    Anyone,
}

impl ServerTrust {
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::PublicRoots => "public",
            Self::Ca(_) => "ca",
            Self::Pin(_) => "pin",
            Self::Anyone => "unverified",
        }
    }
}
