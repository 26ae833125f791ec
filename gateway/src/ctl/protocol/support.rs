//! How the gateway does, check by check, and everything about it in one file.

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
