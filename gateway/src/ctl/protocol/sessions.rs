//! Which sessions a request is about.

use serde::{Deserialize, Serialize};

/// Which sessions to list; members combine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SessionFilter {
    /// User name, without regard to case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Address or prefix of the client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The sessions that ended lately instead of the live ones.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub ended: bool,
    /// Only sessions with an id above this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

/// Which sessions to end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KillWhich {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
    /// Takes their tickets back, too: those of our own authority for the same users.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub revoke: bool,
}

/// Answer to `session-kill`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Killed {
    /// Sessions that were told to end.
    pub killed: usize,
    /// Tickets that were taken back; absent where nobody asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<usize>,
}
