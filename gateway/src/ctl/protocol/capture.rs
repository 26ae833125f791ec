//! Packets in a file.

use serde::{Deserialize, Serialize};

use super::CaptureRow;

/// Packets of one capture.
pub const CAPTURE_PACKETS_MAX: u32 = 1_000_000;
/// Seconds of one capture.
pub const CAPTURE_SECONDS_MAX: u32 = 3600;

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
