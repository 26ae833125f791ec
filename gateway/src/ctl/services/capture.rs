//! Captures: begun, ended, listed, read piece by piece, removed.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::tools::within;
use super::{Outcome, Services};
use crate::ctl::protocol::{
    CAPTURE_PACKETS_MAX, CAPTURE_SECONDS_MAX, CaptureOrder, CapturePart, CaptureRow, ErrorCode, Failure,
};
use crate::tools::capture::CaptureError;

/// How long who reads waits for more, and how often it is looked for.
const READ_WAIT: Duration = Duration::from_millis(500);
const READ_LOOKS: u32 = 5;

impl Services {
    pub(super) fn start_capture(&self, order: CaptureOrder) -> Outcome<CaptureRow> {
        within("packets", order.packets, &(1..=CAPTURE_PACKETS_MAX))?;
        within("seconds", order.seconds, &(1..=CAPTURE_SECONDS_MAX))?;
        self.bench.captures.start(order).map_err(failure)
    }

    pub(super) fn stop_capture(&self, name: Option<&str>) -> Outcome<CaptureRow> {
        self.bench.captures.stop(name).map_err(failure)
    }

    pub(super) fn delete_capture(&self, name: &str) -> Outcome<CaptureRow> {
        self.bench.captures.delete(name).map_err(failure)
    }

    pub(super) async fn read_capture(&self, name: &str, offset: u64) -> Outcome<CapturePart> {
        let mut looks = 0;
        loop {
            let (bytes, capture) = self.bench.captures.read(name, offset).map_err(failure)?;
            let running = capture.state == "running";
            looks += 1;
            if bytes.is_empty() && running && looks < READ_LOOKS {
                tokio::time::sleep(READ_WAIT / READ_LOOKS).await;
                continue;
            }
            let next = offset.saturating_add(u64::try_from(bytes.len()).unwrap_or(0));
            let end = !running && next >= capture.bytes;
            return Ok(CapturePart { data: STANDARD.encode(bytes), next, end, capture });
        }
    }
}

fn failure(error: CaptureError) -> Failure {
    let code = match &error {
        CaptureError::Filter(_) => ErrorCode::BadRequest,
        CaptureError::Interface(_) | CaptureError::Unknown(_) => ErrorCode::NotFound,
        CaptureError::NotEthernet(_) | CaptureError::Busy(_) | CaptureError::NotPermitted => {
            ErrorCode::Unavailable
        }
        CaptureError::Io { .. } => ErrorCode::Internal,
    };
    Failure::new(code, error.to_string())
}
