//! Flows and dropped packets, one by one.

use serde::{Deserialize, Serialize};

/// Which flows; members combine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FlowFilter {
    /// Id of a session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// Address or prefix of the client or server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// `edge` or `farm`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub half: Option<String>,
    pub order: FlowOrder,
    /// At most so many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

/// What comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FlowOrder {
    #[default]
    Session,
    /// Most bytes.
    Bytes,
    /// The latest packet.
    Recent,
}

/// Answer to `xdp-flows`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct XdpFlowPage {
    #[serde(flatten)]
    pub usage: super::XdpFlowUse,
    /// Flows that the filter lets through, shown or not.
    pub matched: usize,
    pub flows: Vec<XdpFlow>,
}

/// What comes in of one half of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct XdpFlow {
    pub session: String,
    /// `edge`: from the client; `farm`: from the server.
    pub half: String,
    pub peer: String,
    pub local: String,
    /// The processor that owns it, where packets are steered.
    pub owner: Option<u16>,
    /// `false`: the table has no place for it, and nothing is counted.
    pub listed: bool,
    pub packets: u64,
    /// Bytes behind the TCP header, those that were sent again included.
    pub bytes: u64,
    /// Since its last packet, or its admission.
    pub quiet_ms: u64,
}

/// Answer to `xdp-events`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct XdpEventPage {
    /// Oldest first.
    pub events: Vec<XdpEvent>,
    /// Ask with this as `after` for what comes next.
    pub next: u64,
    /// Events after `after` that are kept no longer.
    pub missed: u64,
}

/// A packet that was dropped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct XdpEvent {
    pub number: u64,
    /// RFC 3339, UTC.
    pub time: String,
    pub interface: String,
    pub reason: String,
    /// Absent for what is not IP.
    pub source: Option<String>,
    pub destination: Option<String>,
    /// `tcp`, `udp`, `icmp`, `icmpv6`, or a number.
    pub protocol: Option<String>,
    /// Absent where there is none.
    pub source_port: Option<u16>,
    pub destination_port: Option<u16>,
    /// Bytes of the frame.
    pub length: u32,
    /// Under load a sample is shown: how many packets this one stands for.
    pub stands_for: u64,
}
