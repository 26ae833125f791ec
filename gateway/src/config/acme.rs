//! Certificates by ACME (RFC 8555): whom they come from, for which names, and how these are proven.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use portcullis_proto::host_port::HostPort;
use zeroize::Zeroizing;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcmeConfig {
    /// The directory's URL, https.
    pub directory: String,
    /// Where that is.
    pub server: HostPort,
    /// `mailto:` URLs.
    pub contact: Vec<String>,
    /// Who signs the server's certificate; the public authorities where absent.
    pub ca: Option<PathBuf>,
    pub challenge: AcmeChallenge,
    /// Of `http-01`, while a name is being proven.
    pub http_listen: Vec<SocketAddr>,
    /// Before the end of a certificate; never more than a third of its life.
    pub renew_before: Duration,
    /// Ties the account to one that exists outside of ACME (RFC 8555 §7.3.4).
    pub external_account: Option<ExternalAccount>,
    pub certificates: Vec<AcmeCertificate>,
}

/// How a name is proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcmeChallenge {
    /// A page at port 80 (RFC 8555 §8.3).
    Http01,
    /// A handshake at port 443 (RFC 8737).
    TlsAlpn01,
}

impl AcmeChallenge {
    pub const ALL: [Self; 2] = [Self::TlsAlpn01, Self::Http01];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http01 => "http-01",
            Self::TlsAlpn01 => "tls-alpn-01",
        }
    }
}

/// A certificate that is got and renewed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcmeCertificate {
    /// That of its `[[certificate]]`.
    pub name: String,
    /// Host names.
    pub names: Vec<String>,
}

/// An account elsewhere. Its key is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct ExternalAccount {
    pub id: String,
    /// As its issuer writes it: base64url.
    pub key: Zeroizing<String>,
}

impl fmt::Debug for ExternalAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExternalAccount").field("id", &self.id).finish_non_exhaustive()
    }
}
