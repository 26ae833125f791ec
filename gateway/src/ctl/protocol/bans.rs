//! Requests and answers about bans.

use serde::{Deserialize, Serialize};

/// Which bans to list; members combine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BanFilter {
    /// Those that hold for some of this address or prefix.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Only bans behind that of this prefix.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

/// A ban to be made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BanOrder {
    pub prefix: String,
    pub seconds: u64,
    /// Why, for whoever lists it later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// A prefix that may not come in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BanRow {
    pub prefix: String,
    /// `hand`, `automatic` or `found` (in the kernel at the start, of unknown origin).
    pub origin: String,
    /// What an automatic ban is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// How many of these it took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offences: Option<u32>,
    /// Automatic bans of the prefix shortly before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repeats: Option<u32>,
    /// What an operator said about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// RFC 3339, UTC.
    pub since: String,
    /// RFC 3339, UTC.
    pub until: String,
    pub seconds_left: u64,
    /// Whether the kernel side drops its packets; listeners refuse it in any case.
    pub in_kernel: bool,
}

/// Answer to `bans-clear`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cleared {
    pub cleared: usize,
}
