//! Packets in a file.

use serde::{Deserialize, Serialize};

/// Packets of one capture.
pub const CAPTURE_PACKETS_MAX: u32 = 1_000_000;
/// Seconds of one capture.
pub const CAPTURE_SECONDS_MAX: u32 = 3600;

/// What to capture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaptureOrder {
    /// All of them where none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// Such as `host 192.0.2.7 and tcp port 443`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    #[serde(default = "default_packets")]
    pub packets: u32,
    #[serde(default = "default_seconds")]
    pub seconds: u32,
}

/// One capture.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureRow {
    pub name: String,
    /// `running`, `done`, or `failed`.
    pub state: String,
    /// Why it ended.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Of captures of this daemon's life; 0 for earlier ones.
    pub packets: u64,
    /// Packets that came faster than they were written.
    pub lost: u64,
    /// Of the file.
    pub bytes: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
}

/// A piece of a capture's file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapturePart {
    /// In base64; empty where nothing has come yet.
    pub data: String,
    /// Ask for it next.
    pub next: u64,
    /// This was the last.
    pub end: bool,
    pub capture: CaptureRow,
}

fn default_packets() -> u32 {
    10_000
}

fn default_seconds() -> u32 {
    60
}
