//! Lines of the log.

use serde::{Deserialize, Serialize};

/// Lines of one answer.
pub const LOG_LINES_MAX: usize = 5000;

/// Which lines; members combine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogQuery {
    /// Only what came behind this place, as an earlier answer names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// Only what came since then, in seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since_unix: Option<u64>,
    /// How many, the newest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lines: Option<usize>,
    /// Of this unit of the system instead of the gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// Of the whole system.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
    /// `error`, `warn`, `info` or `debug`, and what is worse.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level: Option<String>,
}

/// Answer to `log-level`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLevel {
    pub level: String,
}
