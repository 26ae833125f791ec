//! Answers about `forward` listeners.

use serde::{Deserialize, Serialize};

/// A server by its name: of one listener, or of every one that has a server of that name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerRef {
    pub server: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listener: Option<String>,
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
