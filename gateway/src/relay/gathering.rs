//! When a worker gathers, which is to leave what arrives for a while and handle it together: while it is busy with small
//! pieces, as network cards moderate their interrupts (`adaptive-rx` of ethtool(8)), or as the configuration says.

use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

use crate::config::Gather;

/// For how long a busy worker gathers.
const TIME: Duration = Duration::from_millis(1);
/// How busy a worker must be to begin, in percent of a processor, and how little so to leave off. Gathering takes up to
/// two fifths of the work away, and that must not make it leave off.
const BEGINS: u32 = 35;
const LEAVES_OFF: u32 = 20;
/// So often a worker looks how busy it was.
const WINDOW: Duration = Duration::from_millis(100);
/// Larger pieces, in the mean of a turn, are of a transfer, which gathering would only make slower.
const SMALL_BYTES: usize = 4_096;

#[derive(Debug)]
pub(super) struct Gathering {
    wanted: Gather,
    is_busy: bool,
    /// When this window began, and what the thread had used of a processor by then.
    window: Option<(Instant, Duration)>,
    /// What has come in this turn.
    pieces: usize,
    bytes: usize,
    has_begun: bool,
}

impl Gathering {
    pub(super) fn new(wanted: Gather) -> Self {
        Self { wanted, is_busy: false, window: None, pieces: 0, bytes: 0, has_begun: false }
    }

    /// A piece has come.
    pub(super) fn count(&mut self, bytes: usize) {
        self.pieces = self.pieces.saturating_add(1);
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// A session has begun. More are likely to come, and somebody waits for what it has to say first.
    pub(super) fn begin(&mut self) {
        self.has_begun = true;
    }

    /// For how long the wait after this turn may gather.
    pub(super) fn after_turn(&mut self, now: Instant, used: impl FnOnce() -> Duration) -> Duration {
        let (pieces, bytes) = (std::mem::take(&mut self.pieces), std::mem::take(&mut self.bytes));
        let time = match self.wanted {
            Gather::Always(time) => time,
            Gather::Adaptive => {
                self.look(now, used);
                if self.is_busy { TIME } else { Duration::ZERO }
            }
        };
        let are_small = pieces > 0 && bytes <= pieces.saturating_mul(SMALL_BYTES);
        let has_begun = std::mem::take(&mut self.has_begun);
        if are_small && !has_begun { time } else { Duration::ZERO }
    }

    /// Looks how busy the thread was, if it is time.
    fn look(&mut self, now: Instant, used: impl FnOnce() -> Duration) {
        let Some((began, before)) = self.window else {
            self.window = Some((now, used()));
            return;
        };
        let passed = now.saturating_duration_since(began);
        if passed < WINDOW {
            return;
        }
        let used = used();
        let of_processor = if self.is_busy { LEAVES_OFF } else { BEGINS };
        self.is_busy = used.saturating_sub(before).saturating_mul(100) >= passed.saturating_mul(of_processor);
        self.window = Some((now, used));
    }
}

/// What this thread has used of a processor so far.
pub(super) fn thread_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIECE: usize = 700;

    /// Lets windows pass in which so many percent of a processor were used; for how long the last turn gathers.
    fn pass(
        gathering: &mut Gathering,
        at: &mut (Instant, Duration),
        percents: &[u32],
        bytes: usize,
    ) -> Duration {
        let mut time = Duration::ZERO;
        for percent in percents {
            at.0 += WINDOW;
            at.1 += WINDOW * *percent / 100;
            gathering.count(bytes);
            time = gathering.after_turn(at.0, || at.1);
        }
        time
    }

    #[test]
    fn a_worker_begins_when_it_is_busy_and_leaves_off_when_it_is_quiet() {
        let mut at = (Instant::now(), Duration::ZERO);
        let mut gathering = Gathering::new(Gather::Adaptive);
        assert_eq!(pass(&mut gathering, &mut at, &[90], PIECE), Duration::ZERO, "nothing is known yet");
        assert_eq!(pass(&mut gathering, &mut at, &[34], PIECE), Duration::ZERO);
        assert_eq!(pass(&mut gathering, &mut at, &[35], PIECE), TIME);
        assert_eq!(pass(&mut gathering, &mut at, &[21], PIECE), TIME);
        assert_eq!(pass(&mut gathering, &mut at, &[19], PIECE), Duration::ZERO);
        assert_eq!(pass(&mut gathering, &mut at, &[34], PIECE), Duration::ZERO);
    }

    #[test]
    fn transfers_new_sessions_and_turns_without_bytes_are_not_followed_by_gathering() {
        for wanted in [Gather::Adaptive, Gather::Always(TIME)] {
            let mut at = (Instant::now(), Duration::ZERO);
            let mut gathering = Gathering::new(wanted);
            pass(&mut gathering, &mut at, &[90, 90], PIECE);
            assert_eq!(pass(&mut gathering, &mut at, &[90], SMALL_BYTES + 1), Duration::ZERO);
            assert_eq!(pass(&mut gathering, &mut at, &[90], SMALL_BYTES), TIME);
            gathering.begin();
            assert_eq!(pass(&mut gathering, &mut at, &[90], PIECE), Duration::ZERO);
            assert_eq!(pass(&mut gathering, &mut at, &[90], PIECE), TIME);
            assert_eq!(gathering.after_turn(at.0, || at.1), Duration::ZERO);
        }
    }

    #[test]
    fn what_the_configuration_says_holds_however_busy_a_worker_is() {
        let mut at = (Instant::now(), Duration::ZERO);
        let [never, always] = [Duration::ZERO, Duration::from_millis(2)]
            .map(|time| (time, Gathering::new(Gather::Always(time))));
        for (time, mut gathering) in [never, always] {
            assert_eq!(pass(&mut gathering, &mut at, &[0], PIECE), time);
            assert_eq!(pass(&mut gathering, &mut at, &[100], PIECE), time);
        }
    }

    #[test]
    fn the_time_that_a_thread_used_grows_with_its_work() {
        let before = thread_time();
        while thread_time() == before {
            std::hint::black_box([0_u8; 4_096]);
        }
    }
}
