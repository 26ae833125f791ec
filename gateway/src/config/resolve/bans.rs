//! `[bans]`: the defaults are core's, the bounds are here.

use std::time::Duration;

use portcullis_core::penalty::{Rules, Threshold};

use super::Resolver;
use crate::config::BansConfig;
use crate::config::duration;
use crate::config::file;
use crate::config::reader::Located;

/// Whoever wants more than that wants none: 0 says so.
const COUNT_MAX: usize = 1_000_000;
/// Longer than a day is a grudge; shorter than a second nobody comes twice.
const WITHIN_MIN: Duration = Duration::from_secs(1);
const WITHIN_MAX: Duration = Duration::from_hours(24);
const TIME_MAX: Duration = Duration::from_hours(24 * 365);

impl Resolver<'_> {
    pub(super) fn bans(&mut self, Located { value: typed, at }: Located<file::Bans>) -> BansConfig {
        let default = Rules::default();
        let mut threshold = |key, typed, default| self.threshold(key, typed, default);
        let bad_tickets = threshold("bad_tickets", typed.bad_tickets, default.bad_tickets);
        let failed_logins = threshold("failed_logins", typed.failed_logins, default.failed_logins);
        let broken_handshakes =
            threshold("broken_handshakes", typed.broken_handshakes, default.broken_handshakes);
        let violations = threshold("violations", typed.violations, default.violations);
        let most_at = typed.ban_time_most.as_ref().map_or(at, |typed| typed.at);
        let mut time = |key, typed, default| self.duration(key, typed, default, WITHIN_MIN..=TIME_MAX);
        let ban_time = time("ban_time", typed.ban_time, default.ban_time);
        let ban_time_most = time("ban_time_most", typed.ban_time_most, default.ban_time_most.max(ban_time));
        if ban_time_most < ban_time {
            self.problems
                .add(most_at, format!("`ban_time_most` is {}", duration::format(ban_time_most)))
                .expected(format!("at least `ban_time`, which is {}", duration::format(ban_time)));
        }
        let mut length = |key, typed, default: u8, bounds| {
            let length = self.number(key, typed, default.into(), bounds);
            u8::try_from(length).unwrap_or(default)
        };
        let ipv4_prefix = length("ipv4_prefix", typed.ipv4_prefix, default.ipv4_prefix, 16..=32);
        let ipv6_prefix = length("ipv6_prefix", typed.ipv6_prefix, default.ipv6_prefix, 32..=128);
        let rules = Rules {
            bad_tickets,
            failed_logins,
            broken_handshakes,
            violations,
            ban_time,
            ban_time_most,
            ipv4_prefix,
            ipv6_prefix,
        };
        BansConfig { rules, allow: self.prefixes("allow", typed.allow) }
    }

    fn threshold(
        &mut self,
        key: &str,
        typed: Option<Located<file::Threshold>>,
        default: Threshold,
    ) -> Threshold {
        let Some(Located { value: typed, at }) = typed else { return default };
        let expected = "how many offences are enough, or 0 for never";
        self.required(typed.count.as_ref(), at, &format!("`{key}`"), "count", expected);
        let standing = usize::try_from(default.count).unwrap_or(COUNT_MAX);
        let count = self.number("count", typed.count, standing, 0..=COUNT_MAX);
        Threshold {
            count: u32::try_from(count).unwrap_or(default.count),
            within: self.duration("within", typed.within, default.within, WITHIN_MIN..=WITHIN_MAX),
        }
    }
}
