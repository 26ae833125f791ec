//! How the gateway does, check by check and in numbers, everything about it in one file, and a shell for those who need more.

use serde::{Deserialize, Serialize};

/// How the gateway does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Whether it should get new clients, as `/readyz` says.
    pub ready: bool,
    /// The same of what is in this machine's hands: ticket authorities may be down. It decides whether an update stays.
    pub own: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    pub checks: Vec<Check>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    pub name: String,
    pub state: CheckState,
    pub detail: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub remedy: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CheckState {
    Good,
    Doubtful,
    Bad,
}

/// What support wants to know, packed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SupportBundle {
    pub name: String,
    /// tar, compressed with gzip, in base64.
    pub data: String,
    pub sha256: String,
    /// What is in it.
    pub files: Vec<String>,
    /// What could not be had, and why.
    pub missing: Vec<String>,
}

/// Answer to `metrics`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetricsText {
    /// Prometheus text format 0.0.4.
    pub text: String,
}

/// Why a Unix shell is needed, and for how long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShellOrder {
    pub reason: String,
    /// Half an hour where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u64>,
}

/// What opens it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShellGranted {
    /// For the system, which waits at `socket`. It serves once, within seconds, and the caller alone.
    pub ticket: String,
    pub socket: String,
    pub seconds: u64,
    /// RFC 3339, UTC.
    pub until: String,
}

impl std::fmt::Debug for ShellGranted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShellGranted").field("until", &self.until).finish_non_exhaustive()
    }
}
