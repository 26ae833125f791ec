//! Requests and answers about secrets. No answer holds one.

use serde::{Deserialize, Serialize};

use super::SecretText;

/// A secret to be kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretOrder {
    pub name: String,
    /// One line.
    pub value: SecretText,
}

/// One row of `secret-list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretRow {
    pub name: String,
    /// RFC 3339, UTC.
    pub since: String,
    /// Whether the configuration in force names it.
    pub used: bool,
    /// `credential` or `file`, as the page's `key`; absent where that key is not here: it must be set again.
    pub sealed_by: Option<String>,
}

/// Answer to `secret-list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretPage {
    /// Where the key is from: `credential` (systemd's, bound to the machine) or `file` (beside the secrets).
    pub key: String,
    pub secrets: Vec<SecretRow>,
}
