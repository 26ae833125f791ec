//! Answers about the kernel side.

use serde::{Deserialize, Serialize};

use crate::xdp::policy::RuleRow;

/// Answer to `xdp-status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct XdpStatus {
    /// As `ebpf` in `status`.
    pub state: String,
    pub interfaces: Vec<XdpInterfaceStatus>,
    /// Single ports in the table of rules.
    pub rules: usize,
    /// `off`, `martians` or `full`.
    #[serde(default)]
    pub bogons: String,
    /// `open` or `closed`.
    #[serde(default)]
    pub egress: String,
    /// A changed policy is taken back after that time, unless it is confirmed. Absent when nothing waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reverts_in_seconds: Option<u64>,
    pub bans: usize,
    /// Packets since the daemon started, those of a cause that was counted at all.
    pub packets: Vec<XdpCount>,
}

/// One filtered interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct XdpInterfaceStatus {
    pub name: String,
    /// `edge`, `farm` or `mgmt`.
    pub role: String,
    /// `driver` or `generic`.
    pub mode: String,
    /// Whether the filter is in force still.
    pub attached: bool,
}

/// Packets of one interface that passed or were dropped for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct XdpCount {
    pub interface: String,
    /// `in`, or `out` for what leaves.
    #[serde(default)]
    pub direction: String,
    /// `pass` or `drop`.
    pub verdict: String,
    pub reason: String,
    pub packets: u64,
    /// The reason in words.
    pub about: String,
}

/// Answer to `xdp-rules`: the policy in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct XdpRules {
    /// `off`, `martians` or `full`.
    pub bogons: String,
    /// `open` or `closed`.
    pub egress: String,
    /// The first one that matches decides.
    pub rules: Vec<RuleRow>,
}

/// Answer to `reload-confirm`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirmed {
    pub confirmed: bool,
}
