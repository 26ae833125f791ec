//! The log: the journal's lines, or those of the daemon's own file.

use super::tools::on_a_thread;
use super::{Outcome, Services};
use crate::ctl::protocol::{ErrorCode, Failure, LOG_LINES_MAX, LogPage, LogQuery};
use crate::tools::journal::{self, NoJournal, Wanted};
use crate::tools::log_file;

/// Lines that are answered unless somebody wants another number.
const LINES_DEFAULT: usize = 100;

impl Services {
    pub(super) async fn read_log(&self, query: LogQuery) -> Outcome<LogPage> {
        let _place = self.bench.place()?;
        self.log_page(query).await
    }

    /// The same for who has a place already.
    pub(super) async fn log_page(&self, query: LogQuery) -> Outcome<LogPage> {
        let lines = query.lines.unwrap_or(LINES_DEFAULT).min(LOG_LINES_MAX);
        let priority = query.level.as_deref().map(priority).transpose()?;
        if query.all && query.unit.is_some() {
            return Err(Failure::bad_request("give `unit` or `all`, not both"));
        }
        let own_file = self.config.load().log.file.clone();
        if let (Some(path), false, None) = (own_file, query.all, &query.unit) {
            return on_a_thread(move || {
                let (after, level) = (query.after.as_deref(), query.level.as_deref());
                let page = log_file::read(&path, after, query.since_unix, level, lines);
                page.map_err(|error| {
                    let text = format!("cannot read the log file {}: {error}", path.display());
                    Failure::new(ErrorCode::Unavailable, text)
                })
            })
            .await;
        }
        let unit = match (query.all, query.unit) {
            (true, _) => None,
            (false, Some(unit)) => Some(unit),
            (false, None) => Some(journal::own_unit().ok_or_else(nowhere)?),
        };
        let wanted = Wanted { after: query.after, since_unix: query.since_unix, lines, unit, priority };
        journal::read(&wanted).await.map_err(|why| match why {
            NoJournal::Malformed(what) => Failure::bad_request(what),
            NoJournal::Unavailable(text) => Failure::new(ErrorCode::Unavailable, text),
        })
    }
}

/// syslog(3)
fn priority(level: &str) -> Outcome<u8> {
    match level {
        "error" => Ok(3),
        "warn" => Ok(4),
        "info" => Ok(6),
        "debug" => Ok(7),
        _ => Err(Failure::bad_request("the level is one of error, warn, info and debug")),
    }
}

fn nowhere() -> Failure {
    let text = "the gateway writes its log to standard error and no unit of systemd takes it: set `[log] file` in the \
                configuration, or read it where whoever started the gateway keeps it";
    Failure::new(ErrorCode::Unavailable, text)
}
