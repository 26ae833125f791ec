//! Answer to `status`.

use serde::{Deserialize, Serialize};

/// Answer to `gateway-drain`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drained {
    /// `drained`, or `ready` again.
    pub state: String,
    /// That live.
    pub sessions: usize,
}

/// Answer to `status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    /// `starting`, `ready` or `draining`.
    pub state: String,
    pub pid: u32,
    pub uptime_seconds: u64,
    /// RFC 3339, UTC.
    pub started: String,
    pub workers: usize,
    pub listeners: Vec<ListenerStatus>,
    pub sessions: Use,
    pub connections: Use,
    pub handshakes: Use,
    pub stas: StaSummary,
    /// Absent when the gateway is no ticket authority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority: Option<AuthorityStatus>,
    pub config: ConfigStatus,
    /// The kernel side: `absent` or `built`, or where it filters `attached (driver)`, `attached (generic)`,
    /// `attached in part (…)` or `detached`.
    pub ebpf: String,
    /// What carries relayed bytes: `io_uring` or `epoll`.
    pub relay_engine: String,
    /// `master`, `backup`, `fault` or `stopped`; absent where it is not configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub high_availability: Option<String>,
    pub log_level: String,
    pub log_lines_lost: u64,
}

/// How much of a limit is in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Use {
    pub current: usize,
    pub limit: usize,
}

/// One listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerStatus {
    pub name: String,
    pub kind: String,
    pub listen: Vec<String>,
    pub tls: bool,
    /// TLS towards the servers and how they are recognised: `public`, `ca`, `pin` or `unverified`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_tls: Option<String>,
    /// Where new flows of a `forward` listener run: `kernel` or `user`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Accepted connections that are open now.
    pub connections: usize,
    pub sessions: usize,
}

/// How the ticket authorities do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StaSummary {
    pub total: usize,
    pub up: usize,
}

/// The gateway's own ticket authority.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorityStatus {
    pub id: String,
    pub tickets: Use,
}

/// Where the configuration is and how the last reload went.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigStatus {
    pub path: String,
    /// Absent until the first reload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_reload: Option<ReloadStatus>,
}

/// The last reload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadStatus {
    /// RFC 3339, UTC.
    pub at: String,
    pub ok: bool,
    /// What was wrong, or empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
    /// What waits for a restart.
    #[serde(default)]
    pub restart: Vec<String>,
}
