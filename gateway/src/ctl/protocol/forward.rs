//! Answers about `forward` listeners.

use serde::{Deserialize, Serialize};

/// One `forward` listener, an element of the answer to `forward-status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ForwardStatus {
    pub listener: String,
    pub listen: Vec<String>,
    /// As configured: `auto`, `xdp` or `user`.
    pub data_path: String,
    /// Where new flows run: `kernel` or `user`.
    pub path: String,
    /// Why not in the kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_reason: Option<String>,
    /// How servers are checked: `none`, `tcp`, `tls`, `http` or `https`.
    pub check: String,
    pub servers: Vec<ForwardServer>,
}

/// A server of a `forward` listener.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ForwardServer {
    pub name: String,
    pub address: String,
    /// As configured.
    pub weight: u16,
    /// `up`, `down`, or `unknown` before the first check and without checks.
    pub state: String,
    /// An operator lets it take no new flows.
    pub drained: bool,
    /// Its part of new flows, in percent.
    pub share: f64,
    /// Live flows, in user space and in the kernel.
    pub flows: u64,
    /// Of flows in the kernel, live and ended, since the daemon started.
    #[serde(default)]
    pub kernel: KernelTotals,
    pub checks: u64,
    pub failures: u64,
    /// What the last check found, where it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_check_age_ms: Option<u64>,
    /// How long the last check took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<f64>,
}

/// A server by its name: of one listener, or of every one that has a server of that name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerRef {
    pub server: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listener: Option<String>,
}

/// What the kernel has forwarded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelTotals {
    pub flows: u64,
    pub packets_up: u64,
    pub bytes_up: u64,
    pub packets_down: u64,
    pub bytes_down: u64,
}

/// Which flows that the kernel forwards are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForwardFlowFilter {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listener: Option<String>,
    /// The server's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// At most 5,000, which is what there are without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

/// The answer to `forward-flows`: those first that have been open longest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForwardFlowPage {
    /// How many match, shown or not.
    pub matched: usize,
    pub flows: Vec<ForwardFlow>,
}

/// A flow that the kernel forwards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForwardFlow {
    /// Absent when the configuration has it no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listener: Option<String>,
    /// The server's name; its address when the configuration has it no more.
    pub server: String,
    pub client: String,
    /// Where the client came.
    pub local: String,
    /// Own address towards the server.
    pub source: String,
    /// The server's address.
    pub address: String,
    /// `open`, `closing` or `reset`.
    pub state: String,
    pub packets_up: u64,
    pub bytes_up: u64,
    pub packets_down: u64,
    pub bytes_down: u64,
    pub age_ms: u64,
    pub idle_ms: u64,
}
