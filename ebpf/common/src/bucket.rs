//! A token bucket in one word, so that a processor can take from it by a single compare-and-swap.
//!
//! The word is the time at which the bucket is full again, in nanoseconds of the monotonic clock (the "virtual
//! scheduling" form of the generic cell rate algorithm, ITU-T I.371 annex A). A word of 0 is a full bucket.

/// Nanoseconds of a second.
const SECOND: u64 = 1_000_000_000;

/// How much passes: so many a second, and at most one second's worth at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    interval: u64,
}

impl Rate {
    /// A rate of 0 lets one pass when nothing has passed for a second, as a rate of 1 does: no rate is a drop, which
    /// a rule says in its own words.
    #[must_use]
    #[inline(always)]
    pub const fn per_second(rate: u32) -> Self {
        let interval = if rate == 0 { SECOND } else { SECOND / wide(rate) };
        Self { interval }
    }

    /// What becomes of the bucket when one more passes now; `None` when it may not.
    #[must_use]
    #[inline(always)]
    pub const fn take(self, full_at: u64, now: u64) -> Option<u64> {
        // What lies further ahead than a bucket can be empty is of another clock or another rate: a full bucket.
        let full_at = if full_at > now && full_at - now <= 2 * SECOND { full_at } else { now };
        let next = full_at + self.interval;
        if next - now <= SECOND { Some(next) } else { None }
    }
}

#[allow(clippy::as_conversions, reason = "From is not const, and every u32 fits a u64")]
const fn wide(rate: u32) -> u64 {
    rate as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn burst(rate: Rate, word: &mut u64, now: u64) -> u32 {
        let mut passed = 0;
        while let Some(next) = rate.take(*word, now) {
            (*word, passed) = (next, passed + 1);
        }
        passed
    }

    #[test]
    fn a_second_s_worth_passes_at_once_and_then_one_by_one() {
        let (rate, mut word, now) = (Rate::per_second(100), 0, 77 * SECOND);
        assert_eq!(burst(rate, &mut word, now), 100);
        assert_eq!(burst(rate, &mut word, now + SECOND / 100 - 1), 0);
        assert_eq!(burst(rate, &mut word, now + SECOND / 100), 1);
        assert_eq!(burst(rate, &mut word, now + 3 * SECOND), 100);
    }

    #[test]
    fn a_clock_that_starts_again_fills_the_bucket() {
        let rate = Rate::per_second(5);
        let mut ahead = 900 * SECOND;
        assert_eq!(burst(rate, &mut ahead, SECOND), 5);
        let mut far = u64::MAX;
        assert_eq!(burst(rate, &mut far, SECOND), 5);
    }

    proptest! {
        /// In whatever rhythm packets come, no time span sees more than its share and one second's worth.
        #[test]
        fn no_span_passes_more_than_its_share(
            per_second in 1..2_000_u32,
            gaps in proptest::collection::vec(0..SECOND / 50, 1..400),
        ) {
            let rate = Rate::per_second(per_second);
            let (mut word, mut now, mut passed) = (0, SECOND, 0_u64);
            for gap in gaps {
                now += gap;
                if let Some(next) = rate.take(word, now) {
                    (word, passed) = (next, passed + 1);
                }
            }
            // The interval is rounded down: one in a thousand more, at these rates.
            let share = (now - SECOND) * u64::from(per_second) / SECOND;
            prop_assert!(passed <= share + share / 1_000 + u64::from(per_second) + 1, "{} of {}", passed, share);
        }
    }
}
