//! When sessions are to be looked at: a wheel of lists, one turn of which is the horizon.
//!
//! A session is in the wheel from its beginning to its end, mostly once. Activity does not move it: when its time
//! comes, it is looked at, and put in again for when it would be due by then. So a byte that moves costs nothing here,
//! and an entry is right when its tick is the one that the session remembers, else it is left over.

use std::time::{Duration, Instant};

/// How exact ends are.
const TICK: Duration = Duration::from_millis(100);
/// The horizon, in ticks: 51 seconds.
const SLOTS: usize = 512;
const WORD_BITS: usize = 64;

/// A session to be looked at, by its key and the tick for which it was put in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) key: u32,
    pub(super) tick: u64,
}

/// The wheel.
#[derive(Debug)]
pub(super) struct Wheel {
    start: Instant,
    /// The first tick whose slot has not been emptied.
    next: u64,
    slots: Vec<Vec<Entry>>,
    /// A bit for each slot that is not empty.
    filled: [u64; SLOTS / WORD_BITS],
}

impl Wheel {
    pub(super) fn new(now: Instant) -> Self {
        Self { start: now, next: 0, slots: vec![Vec::new(); SLOTS], filled: [0; SLOTS / WORD_BITS] }
    }

    /// The tick by which `due` has passed, or the horizon's if that is nearer.
    pub(super) fn tick_of(&self, due: Instant) -> u64 {
        let since = due.saturating_duration_since(self.start).as_millis();
        let tick = since.div_ceil(TICK.as_millis());
        let horizon = self.next.saturating_add(SLOTS.saturating_sub(1).try_into().unwrap_or(u64::MAX));
        u64::try_from(tick).unwrap_or(u64::MAX).clamp(self.next, horizon)
    }

    /// Puts a session in for a tick that came from [`Self::tick_of`] since time last went on.
    pub(super) fn put(&mut self, entry: Entry) {
        let at = slot_of(entry.tick);
        if let Some(slot) = self.slots.get_mut(at) {
            slot.push(entry);
        }
        if let Some(word) = self.filled.get_mut(at / WORD_BITS) {
            *word |= 1 << (at % WORD_BITS);
        }
    }

    /// How long until something is due; `None`: the wheel is empty.
    pub(super) fn until_next(&self, now: Instant) -> Option<Duration> {
        let tick = self.first_filled(SLOTS)?;
        Some(self.time_of(tick).saturating_duration_since(now))
    }

    /// Takes one entry that is due at `now`.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<Entry> {
        let elapsed = now.saturating_duration_since(self.start).as_millis() / TICK.as_millis();
        let elapsed = u64::try_from(elapsed).unwrap_or(u64::MAX);
        while self.next <= elapsed {
            let passed = elapsed.saturating_sub(self.next).saturating_add(1);
            let span = usize::try_from(passed).unwrap_or(SLOTS).min(SLOTS);
            let Some(tick) = self.first_filled(span) else {
                self.next = elapsed.saturating_add(1);
                return None;
            };
            self.next = tick;
            let at = slot_of(tick);
            let slot = self.slots.get_mut(at)?;
            if let Some(entry) = slot.pop() {
                return Some(entry);
            }
            if let Some(word) = self.filled.get_mut(at / WORD_BITS) {
                *word &= !(1 << (at % WORD_BITS));
            }
            self.next = tick.saturating_add(1);
        }
        None
    }

    fn time_of(&self, tick: u64) -> Instant {
        let ticks = u32::try_from(tick).unwrap_or(u32::MAX);
        self.start + TICK.saturating_mul(ticks)
    }

    /// The first of the next `span` ticks whose slot is marked as filled.
    fn first_filled(&self, span: usize) -> Option<u64> {
        let first = slot_of(self.next);
        let mut ahead = 0;
        while ahead < span {
            let at = first.wrapping_add(ahead) % SLOTS;
            let word = self.filled.get(at / WORD_BITS).copied().unwrap_or_default() >> (at % WORD_BITS);
            if word != 0 {
                let zeros = usize::try_from(word.trailing_zeros()).unwrap_or(WORD_BITS);
                let found = ahead.saturating_add(zeros);
                return (found < span)
                    .then(|| self.next.saturating_add(found.try_into().unwrap_or(u64::MAX)));
            }
            ahead = ahead.saturating_add(WORD_BITS.saturating_sub(at % WORD_BITS));
        }
        None
    }
}

fn slot_of(tick: u64) -> usize {
    usize::try_from(tick % u64::try_from(SLOTS).unwrap_or(1)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(wheel: &mut Wheel, now: Instant) -> Vec<u32> {
        let mut keys: Vec<u32> = std::iter::from_fn(|| wheel.pop_due(now)).map(|entry| entry.key).collect();
        keys.sort_unstable();
        keys
    }

    fn put(wheel: &mut Wheel, key: u32, at: Instant) -> u64 {
        let tick = wheel.tick_of(at);
        wheel.put(Entry { key, tick });
        tick
    }

    #[test]
    fn an_entry_comes_out_when_its_time_has_passed_and_not_before() {
        let start = Instant::now();
        let mut wheel = Wheel::new(start);
        assert_eq!(wheel.until_next(start), None);
        put(&mut wheel, 1, start + Duration::from_millis(250));
        put(&mut wheel, 2, start + Duration::from_secs(5));
        assert_eq!(wheel.until_next(start), Some(Duration::from_millis(300)));
        assert!(due(&mut wheel, start + Duration::from_millis(299)).is_empty());
        assert_eq!(due(&mut wheel, start + Duration::from_millis(300)), [1]);
        assert!(due(&mut wheel, start + Duration::from_millis(4_999)).is_empty());
        assert_eq!(due(&mut wheel, start + Duration::from_millis(5_000)), [2]);
        assert_eq!(wheel.until_next(start), None);
    }

    #[test]
    fn what_is_due_beyond_the_horizon_comes_out_at_the_horizon() {
        let start = Instant::now();
        let mut wheel = Wheel::new(start);
        let far = start + Duration::from_hours(2);
        put(&mut wheel, 7, far);
        let horizon = start + Duration::from_millis(51_100);
        assert_eq!(due(&mut wheel, horizon), [7]);
        put(&mut wheel, 7, far);
        assert!(due(&mut wheel, horizon + Duration::from_secs(51)).is_empty());
        assert_eq!(due(&mut wheel, horizon + Duration::from_secs(52)), [7]);
    }

    #[test]
    fn a_wheel_that_was_not_looked_at_for_long_loses_nothing() {
        let start = Instant::now();
        let mut wheel = Wheel::new(start);
        for key in 0..1_000 {
            put(&mut wheel, key, start + Duration::from_millis(u64::from(key) * 50));
        }
        assert_eq!(due(&mut wheel, start + Duration::from_hours(1)).len(), 1_000);
        let now = start + Duration::from_hours(1);
        put(&mut wheel, 3, now);
        assert_eq!(due(&mut wheel, now + Duration::from_millis(100)), [3]);
    }

    #[test]
    fn time_that_has_passed_already_is_due_with_the_next_tick() {
        let start = Instant::now();
        let mut wheel = Wheel::new(start);
        assert!(due(&mut wheel, start + Duration::from_secs(10)).is_empty());
        put(&mut wheel, 1, start);
        assert_eq!(due(&mut wheel, start + Duration::from_millis(10_100)), [1]);
    }
}
