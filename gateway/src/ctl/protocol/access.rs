//! What may be asked about who may log in.

use serde::{Deserialize, Serialize};

pub use crate::access::{Change as AccessChange, User as AccessUser};

/// A change of who may log in, for which the sender waits at the system's own socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessOrder {
    /// 32 hexadecimal digits, drawn by the sender: by it the system finds what is granted.
    pub ticket: String,
    pub change: AccessChange,
}

/// Answer to `access-change`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessChanged {
    /// For people.
    pub told: String,
}

/// One user of the appliance in the answer to `access-list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessRow {
    pub user: AccessUser,
    pub role: String,
    pub keys: Vec<AccessKey>,
    /// Since when there is a password for the console (RFC 3339); absent without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_since: Option<String>,
}

/// One public key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessKey {
    /// As `ssh-keygen -l` has it.
    pub fingerprint: String,
    pub kind: String,
    /// `null` where that is not known.
    pub bits: Option<usize>,
    pub comment: String,
    /// When a command has added it (RFC 3339); absent for what the machine was told at its first boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub added: Option<String>,
    /// Options stand before it, as the first boot was told.
    pub options: bool,
}
