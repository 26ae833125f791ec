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
    /// `null` where no interface is filtered.
    pub flood: Option<XdpFlood>,
    /// `null` where no interface is filtered.
    pub steering: Option<XdpSteering>,
    /// Packets since the daemon started, those of a cause that was counted at all.
    pub packets: Vec<XdpCount>,
}

/// How the flood defence stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct XdpFlood {
    /// Since when more connections are begun than the budget allows; `null` without pressure.
    pub pressure_since: Option<String>,
    /// Whether SYNs over the budget are answered with cookies.
    pub cookies: bool,
}

/// Whether packets are brought to the processor that handles their session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct XdpSteering {
    pub on: bool,
    /// Why, or why not.
    pub reason: String,
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
    /// `pass`, `drop` or `answer`.
    pub verdict: String,
    pub reason: String,
    pub packets: u64,
    /// The reason in words.
    pub about: String,
}
