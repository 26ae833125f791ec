//! Answers about bans.

use std::time::{Duration, Instant};

use portcullis_core::penalty::Offence;
use portcullis_core::penalty::list::{Ban, Origin};

use super::{Outcome, Services, prefix};
use crate::bans::Refusal;
use crate::ctl::protocol::{BANS_PER_ANSWER, BanFilter, BanOrder, BanRow, Cleared, ErrorCode, Failure};
use crate::log;

/// Longest ban: a longer one is a rule of a firewall, and should be written down.
const BAN_MAX: Duration = Duration::from_hours(24 * 365);
/// Longest note.
const NOTE_MAX_BYTES: usize = 200;

impl Services {
    pub(super) fn bans(&self, filter: &BanFilter) -> Outcome<Vec<BanRow>> {
        let source = filter.source.as_deref().map(prefix).transpose()?;
        let after = filter.after.as_deref().map(prefix).transpose()?;
        let wanted = |ban: &Ban| {
            source.is_none_or(|source| ban.prefix.contains(&source) || source.contains(&ban.prefix))
        };
        Ok(self.bans.list(after, BANS_PER_ANSWER, wanted).iter().map(row).collect())
    }

    pub(super) fn ban(&self, order: BanOrder) -> Outcome<BanRow> {
        let prefix = prefix(&order.prefix)?.trunc();
        let time = Duration::from_secs(order.seconds);
        if prefix.prefix_len() == 0 {
            return Err(Failure::bad_request("a ban of everybody is none; close the listener instead"));
        }
        if time.is_zero() || time > BAN_MAX {
            return Err(Failure::bad_request("a ban lasts from 1 second to 365 days"));
        }
        let illegal = |note: &String| note.len() > NOTE_MAX_BYTES || note.chars().any(char::is_control);
        if order.note.as_ref().is_some_and(illegal) {
            let words = format!("a note is one line of at most {NOTE_MAX_BYTES} bytes");
            return Err(Failure::bad_request(words));
        }
        let note = order.note.filter(|note| !note.is_empty());
        match self.bans.add(prefix, time, note) {
            Ok(ban) => Ok(row(&ban)),
            Err(refusal @ Refusal::Full(_)) => {
                let words = format!("{refusal}; `portcullis bans remove` makes room");
                Err(Failure::new(ErrorCode::Unavailable, words))
            }
            Err(refusal) => Err(Failure::new(ErrorCode::Refused, refusal.to_string())),
        }
    }

    pub(super) fn unban(&self, text: &str) -> Outcome<BanRow> {
        let prefix = prefix(text)?.trunc();
        let lifted = self.bans.remove(prefix);
        let none = || Failure::new(ErrorCode::NotFound, format!("{prefix} is not banned"));
        lifted.as_ref().map(row).ok_or_else(none)
    }

    pub(super) fn clear_bans(&self, automatic_only: bool) -> Cleared {
        Cleared { cleared: self.bans.clear(automatic_only) }
    }
}

fn row(ban: &Ban) -> BanRow {
    let (kind, offences, repeats, note) = match &ban.origin {
        Origin::Automatic { offence, offences, repeats } => {
            (Some(*offence), Some(*offences), Some(*repeats), None)
        }
        Origin::Hand { note } => (None, None, None, note.clone()),
        Origin::Found => (None, None, None, None),
    };
    BanRow {
        prefix: ban.prefix.to_string(),
        origin: ban.origin.label().to_owned(),
        kind: kind.map(Offence::label).map(str::to_owned),
        offences,
        repeats,
        note,
        since: log::rfc3339(ban.since),
        until: log::rfc3339(ban.until),
        seconds_left: ban.end.saturating_duration_since(Instant::now()).as_secs(),
        in_kernel: ban.in_kernel,
    }
}
