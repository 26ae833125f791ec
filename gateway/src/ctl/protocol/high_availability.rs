//! Answers about high availability.

use serde::{Deserialize, Serialize};

use crate::ha::peer::Taken;

/// Answer to `high-availability`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HaStatus {
    /// `master`, `backup`, `fault` or `stopped`.
    pub state: String,
    /// RFC 3339, UTC.
    pub since: String,
    /// How often the state has changed since the daemon started.
    pub changes: u64,
    /// What keepalived was told of this appliance: `serves`, `weak` or `faulty`.
    pub standing: String,
    /// Why not `serves`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    pub interface: String,
    pub router_id: u8,
    pub priority: u8,
    pub address: String,
    pub peer: String,
    pub virtual_addresses: Vec<HaAddress>,
    /// What the peer knows this appliance by, SHA-256: `peer_sha256` there.
    pub fingerprint: String,
    /// Whether configurations are given and taken.
    pub sync: bool,
    /// When both had the same configuration for the last time, RFC 3339, UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_common_since: Option<String>,
}

/// One address that the two appliances share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HaAddress {
    pub address: String,
    pub interface: String,
    /// Whether this machine has it now.
    pub here: bool,
}

/// How to push.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PushOrder {
    /// Only say what would change at the peer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// Replace what was changed there since both were the same.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub comment: String,
}

/// Answer to `config-push`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pushed {
    pub peer: String,
    /// It would have been taken back there, and was confirmed over a new connection.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub confirmed: bool,
    #[serde(flatten)]
    pub taken: Taken,
}
