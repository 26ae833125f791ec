//! Answers about the kernel side.

use serde::{Deserialize, Serialize};

/// Answer to `xdp-status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct XdpStatus {
    /// As `ebpf` in `status`.
    pub state: String,
    pub interfaces: Vec<XdpInterfaceStatus>,
    /// Single ports in the table of rules.
    pub rules: usize,
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
    /// `pass` or `drop`.
    pub verdict: String,
    pub reason: String,
    pub packets: u64,
    /// The reason in words.
    pub about: String,
}
