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
    /// The programs for what leaves: `attached`, `detached` or `lost: …`, as last seen. Absent while nothing that leaves
    /// is judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress_condition: Option<String>,
    /// How often one of them had to be put back.
    #[serde(default)]
    pub egress_repairs: u64,
    /// A changed policy is taken back after that time, unless it is confirmed. Absent when nothing waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reverts_in_seconds: Option<u64>,
    pub bans: usize,
    /// Absent where nothing is filtered.
    #[serde(default)]
    pub flows: Option<XdpFlowUse>,
    /// How full each table is.
    #[serde(default)]
    pub maps: Vec<XdpMap>,
    #[serde(default)]
    pub events: Option<XdpEventUse>,
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
    /// `edge`, `farm` or `mgmt`; `none` where only VLANs of it have roles.
    pub role: String,
    /// Of a VLAN: the interface that carries it, at which the filter sits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan_of: Option<String>,
    /// The numbers of its tags there, from the outside in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub vlan: Vec<u16>,
    /// `driver` or `generic`.
    pub mode: String,
    /// Why there, for people.
    #[serde(default)]
    pub mode_reason: String,
    /// Whether the filter is in force still.
    pub attached: bool,
    /// `attached`, `renamed to …`, `detached`, `gone`, or `lost: …`, as last seen.
    #[serde(default)]
    pub condition: String,
    /// How often the filter had to be put back.
    #[serde(default)]
    pub repairs: u64,
}

/// How full the flow table is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct XdpFlowUse {
    pub listed: usize,
    pub most: u32,
    /// Live flows without a place in it.
    pub unlisted: usize,
    /// Flows that found no place since the daemon started.
    pub unlisted_total: u64,
}

/// How full a table is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct XdpMap {
    pub name: String,
    /// Absent where that cannot be asked.
    pub entries: Option<usize>,
    pub most: u32,
}

/// Drop events since the daemon started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct XdpEventUse {
    pub kept: u64,
    /// Those that found the ring full.
    pub lost: u64,
}

/// Packets of one interface that passed or were dropped for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct XdpCount {
    pub interface: String,
    /// `in`, or `out` for what leaves.
    #[serde(default)]
    pub direction: String,
    /// `pass`, `drop` or `answer`.
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
