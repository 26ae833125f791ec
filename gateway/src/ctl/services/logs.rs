//! What is logged.

use super::{Outcome, Services};
use crate::ctl::protocol::{Failure, LogLevel};

impl Services {
    pub(super) fn log_level(&self, level: Option<&str>) -> Outcome<LogLevel> {
        if let Some(level) = level {
            let known = ["error", "warn", "info", "debug", "trace"].contains(&level);
            let parsed = level.parse().ok().filter(|_| known);
            let Some(parsed) = parsed else {
                return Err(Failure::bad_request("the level is one of error, warn, info, debug and trace"));
            };
            self.log.set_level(parsed);
            tracing::info!(level, "the log level was changed by an operator");
        }
        Ok(LogLevel { level: self.log.level() })
    }
}
