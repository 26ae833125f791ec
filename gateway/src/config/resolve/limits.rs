//! `[limits]`: the defaults are core's, the bounds are here.

use std::ops::RangeInclusive;
use std::time::Duration;

use portcullis_core::limits::Limits;

use super::Resolver;
use crate::config::file;

/// More than any machine has descriptors for.
const CONNECTIONS_MAX: usize = 1_000_000;
/// Below this a slow line can fail; above the other bound a dead peer holds its place for too long.
const WAIT_MIN: Duration = Duration::from_millis(100);
const WAIT_MAX: Duration = Duration::from_mins(5);

/// Months would do no harm, but a value like that is a slip of the unit.
pub(super) const IDLE_BOUNDS: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_hours(30 * 24);

impl Resolver<'_> {
    pub(super) fn limits(&mut self, typed: file::Limits) -> Limits {
        let default = Limits::default();
        let mut count = |key, typed, default| self.number(key, typed, default, 1..=CONNECTIONS_MAX);
        let limits = Limits {
            connections: count("connections", typed.connections, default.connections),
            connections_per_source: count(
                "connections_per_source",
                typed.connections_per_source,
                default.connections_per_source,
            ),
            handshakes: count("handshakes", typed.handshakes, default.handshakes),
            handshakes_per_source: count(
                "handshakes_per_source",
                typed.handshakes_per_source,
                default.handshakes_per_source,
            ),
            sessions: count("sessions", typed.sessions, default.sessions),
            sessions_per_source: count(
                "sessions_per_source",
                typed.sessions_per_source,
                default.sessions_per_source,
            ),
            sessions_per_user: count("sessions_per_user", typed.sessions_per_user, default.sessions_per_user),
            ..default
        };
        let mut wait = |key, typed, default| self.duration(key, typed, default, WAIT_MIN..=WAIT_MAX);
        Limits {
            handshake_timeout: wait("handshake_timeout", typed.handshake_timeout, limits.handshake_timeout),
            first_bytes_timeout: wait(
                "first_bytes_timeout",
                typed.first_bytes_timeout,
                limits.first_bytes_timeout,
            ),
            redeem_timeout: wait("redeem_timeout", typed.redeem_timeout, limits.redeem_timeout),
            dial_timeout: wait("dial_timeout", typed.dial_timeout, limits.dial_timeout),
            idle_timeout: self.duration("idle_timeout", typed.idle_timeout, limits.idle_timeout, IDLE_BOUNDS),
            ..limits
        }
    }
}
