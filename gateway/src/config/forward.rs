//! What a `forward` listener has that others have not: servers, their checks, and where flows run.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use portcullis_core::balance::health::Thresholds;

/// The servers of a `forward` listener and how flows get there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardConfig {
    pub servers: Vec<ServerConfig>,
    /// `None`: servers are not checked and always used.
    pub health: Option<HealthConfig>,
    pub data_path: DataPath,
    /// A flow in which no byte moves for that long ends.
    pub idle_timeout: Duration,
    /// Own addresses towards the servers, at most one of each family; where there is none, that of the interface
    /// which routes there.
    pub source: Vec<IpAddr>,
    /// Own ports towards the servers for flows that the kernel forwards.
    pub source_ports: RangeInclusive<u16>,
}

impl ForwardConfig {
    /// The configured own address towards a server of that family.
    #[must_use]
    pub fn source_towards(&self, server: IpAddr) -> Option<IpAddr> {
        self.source.iter().copied().find(|source| source.is_ipv4() == server.is_ipv4())
    }
}

/// One server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerConfig {
    /// Unique within its listener.
    pub name: String,
    pub address: SocketAddr,
    /// 0: it takes no new flows.
    pub weight: u16,
}

/// Where flows are forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataPath {
    /// In the kernel where that is possible, else in user space.
    Auto,
    /// In the kernel, or the daemon does not start.
    Xdp,
    /// In user space.
    User,
}

impl DataPath {
    pub const ALL: [Self; 3] = [Self::Auto, Self::Xdp, Self::User];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Xdp => "xdp",
            Self::User => "user",
        }
    }
}

/// How servers are checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthConfig {
    pub check: Check,
    pub interval: Duration,
    /// Of one check, from the first packet to the verdict.
    pub timeout: Duration,
    pub thresholds: Thresholds,
}

/// What a server must do to be good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// Accept a connection.
    Tcp,
    /// Complete a TLS handshake.
    Tls(CheckTls),
    /// Answer a GET with an expected status.
    Http { path: String, expect: RangeInclusive<u16>, host: Option<String>, tls: Option<CheckTls> },
}

impl Check {
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls(_) => "tls",
            Self::Http { tls: None, .. } => "http",
            Self::Http { tls: Some(_), .. } => "https",
        }
    }

    #[must_use]
    pub fn tls(&self) -> Option<&CheckTls> {
        match self {
            Self::Tls(tls) | Self::Http { tls: Some(tls), .. } => Some(tls),
            Self::Tcp | Self::Http { tls: None, .. } => None,
        }
    }
}

/// TLS of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckTls {
    /// The name that is asked for and must be in the certificate; the server's address where absent.
    pub server_name: Option<String>,
    pub trust: CheckTrust,
}

/// Whether the certificate of a checked server matters. A check sends no secret, so any will do unless the operator
/// wants to notice a wrong one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckTrust {
    Any,
    Ca(PathBuf),
    /// SHA-256 of the server's certificate (DER).
    Pin([u8; 32]),
}
