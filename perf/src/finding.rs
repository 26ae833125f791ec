//! What one measure came to: the ratio, what it is worth, and what makes it doubtful.

use serde::Serialize;

use crate::load::Slice;
use crate::measure::{Measure, Round};
use crate::stats::{self, Estimate, float};

/// An idle share of the contender's CPU above which the load, not the contender, was the limit.
const IDLE_LIMIT: f64 = 0.10;
/// Missed messages above this share make an echo measurement doubtful.
const MISSED_LIMIT: f64 = 0.01;
/// A quotient of the contenders' CPU shares above which others have taken more from one than from the other.
const UNEVEN_LIMIT: f64 = 1.2;
/// With fewer rounds the smallest and the largest ratio enclose the true median with less than 90 % certainty.
const ROUNDS_MIN: usize = 5;

/// How time was spent while one contender was measured, as shares of one CPU's time.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Shares {
    pub(crate) contender: f64,
    /// The contender's CPU had nothing to do.
    pub(crate) idle: f64,
    /// Load generator and back end, on the other CPU.
    pub(crate) load: f64,
    /// The machine's busy time that is neither: the kernel's threads, and whatever else ran.
    pub(crate) others: f64,
    /// Taken by the hypervisor.
    pub(crate) stolen: f64,
}

impl Shares {
    fn of<'a>(slices: impl Iterator<Item = &'a Slice>) -> Self {
        let (mut wall, mut busy, mut sum) = (0.0, 0.0, Self::default());
        for slice in slices {
            wall += slice.wall_seconds;
            busy += slice.machine_busy_seconds;
            sum.contender += slice.contender_cpu_seconds;
            sum.idle += slice.contender_idle_seconds;
            sum.load += slice.load_cpu_seconds;
            sum.stolen += slice.machine_stolen_seconds;
        }
        Self {
            contender: sum.contender / wall,
            idle: sum.idle / wall,
            load: sum.load / wall,
            // Ticks are coarser than the other two: nothing is not to look like less than nothing.
            others: ((busy - sum.contender - sum.load) / wall).max(0.0),
            stolen: sum.stolen / wall,
        }
    }
}

/// What one measure came to.
#[derive(Debug, Serialize)]
pub(crate) struct Finding {
    pub(crate) id: &'static str,
    pub(crate) title: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) higher_is_better: bool,
    /// Medians over the rounds.
    pub(crate) ours: f64,
    pub(crate) theirs: f64,
    /// Of the per-round ratios ours by theirs.
    pub(crate) ratio: Estimate,
    pub(crate) verdict: &'static str,
    /// Ours, theirs.
    pub(crate) shares: [Shares; 2],
    pub(crate) doubts: Vec<String>,
    pub(crate) rounds: Vec<Round>,
}

impl Finding {
    /// `None` without a round.
    pub(crate) fn new(measure: Measure, rounds: Vec<Round>, labels: [&str; 2]) -> Option<Self> {
        let median = |side: fn(&Round) -> &[Slice; 2]| {
            stats::median(&rounds.iter().map(|round| measure.figure(side(round))).collect::<Vec<_>>())
        };
        let (ours, theirs) = (median(|round| &round.ours)?, median(|round| &round.theirs)?);
        let ratios: Vec<f64> = rounds.iter().map(|round| round.ratio(measure)).collect();
        let ratio = stats::estimate(&ratios)?;
        let slices = |side: fn(&Round) -> &[Slice; 2]| rounds.iter().flat_map(side);
        let shares = [Shares::of(slices(|round| &round.ours)), Shares::of(slices(|round| &round.theirs))];
        let missed = [missed(slices(|round| &round.ours)), missed(slices(|round| &round.theirs))];
        let each = labels.iter().zip(shares).zip(missed);
        let mut doubts: Vec<String> =
            each.flat_map(|((label, shares), missed)| doubt(measure, label, shares, missed)).collect();
        doubts.extend(uneven(measure, labels, shares));
        Some(Self {
            id: measure.id(),
            title: measure.title(),
            unit: measure.unit(),
            higher_is_better: measure.higher_is_better(),
            ours,
            theirs,
            ratio,
            verdict: verdict(measure, ratio, rounds.len()),
            shares,
            doubts,
            rounds,
        })
    }
}

/// The share of messages that were due but not sent.
fn missed<'a>(slices: impl Iterator<Item = &'a Slice>) -> f64 {
    let (units, missed) = slices.fold((0, 0), |(units, missed), s| (units + s.units, missed + s.missed));
    float(missed) / float(units + missed).max(1.0)
}

/// A difference only counts when the whole interval lies on one side of one.
fn verdict(measure: Measure, ratio: Estimate, rounds: usize) -> &'static str {
    let (more, less) = if measure.higher_is_better() { ("better", "worse") } else { ("worse", "better") };
    if rounds < ROUNDS_MIN {
        "too few rounds"
    } else if ratio.low > 1.0 {
        more
    } else if ratio.high < 1.0 {
        less
    } else {
        "no difference"
    }
}

fn doubt(measure: Measure, label: &str, shares: Shares, missed: f64) -> Vec<String> {
    let mut doubts = Vec::new();
    if measure.saturates() && shares.idle > IDLE_LIMIT {
        doubts.push(format!(
            "{label} left its CPU idle for {:.0} % of the time while the load used {:.0} % of its own: \
             the load may have been the limit",
            shares.idle * 100.0,
            shares.load * 100.0
        ));
    }
    if missed > MISSED_LIMIT {
        doubts
            .push(format!("{label} did not keep up: {:.0} % of the messages were not sent", missed * 100.0));
    }
    doubts
}

/// Two contenders that both want a whole CPU should get the same of it. Whoever gets less runs with colder caches,
/// so that the ratio favours the other.
fn uneven(measure: Measure, labels: [&str; 2], shares: [Shares; 2]) -> Option<String> {
    let [first, second] = shares;
    let wanted_all = measure.saturates() && first.idle.max(second.idle) <= IDLE_LIMIT;
    let quotient = first.contender.max(second.contender) / first.contender.min(second.contender);
    (wanted_all && quotient > UNEVEN_LIMIT).then(|| {
        format!(
            "others left {:.0} % of the CPU to {} and {:.0} % to {}: the ratio favours who got more",
            first.contender * 100.0,
            labels[0],
            second.contender * 100.0,
            labels[1]
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::{rounds, slice};

    fn find(measure: Measure, rounds: Vec<Round>) -> Finding {
        Finding::new(measure, rounds, ["us", "them"]).unwrap()
    }

    #[test]
    fn a_loss_is_called_one_in_both_directions() {
        assert_eq!(find(Measure::Down, rounds(1.0, 0.95, 0.5)).verdict, "worse");
        assert_eq!(find(Measure::Echo, rounds(0.5, 0.25, 0.5)).verdict, "worse");
        assert_eq!(find(Measure::Down, rounds(0.95, 1.0, 0.5)).verdict, "better");
        assert_eq!(find(Measure::Echo, rounds(0.25, 0.5, 0.5)).verdict, "better");
    }

    #[test]
    fn an_interval_around_one_is_no_difference() {
        let mut series = rounds(0.95, 1.0, 0.5);
        series.extend(rounds(1.0, 0.95, 0.5));
        assert_eq!(find(Measure::Up, series).verdict, "no difference");
    }

    #[test]
    fn few_rounds_allow_no_verdict() {
        let mut series = rounds(0.5, 1.0, 0.5);
        series.truncate(4);
        assert_eq!(find(Measure::Up, series).verdict, "too few rounds");
        assert!(Finding::new(Measure::Up, Vec::new(), ["us", "them"]).is_none());
    }

    #[test]
    fn a_load_generator_at_its_limit_is_owned_up_to() {
        let limited = find(Measure::Down, rounds(0.6, 1.0, 0.97));
        let expected = "us left its CPU idle for 40 % of the time while the load used 97 % of its own: \
                        the load may have been the limit";
        assert_eq!(limited.doubts, [expected]);
        assert!(find(Measure::Down, rounds(1.0, 1.0, 0.5)).doubts.is_empty());
    }

    #[test]
    fn a_cpu_that_others_shared_unevenly_raises_a_doubt() {
        let mut series = rounds(0.9, 0.4, 0.5);
        for slice in series.iter_mut().flat_map(|round| round.ours.iter_mut().chain(&mut round.theirs)) {
            slice.contender_idle_seconds = 0.0;
        }
        let expected = "others left 90 % of the CPU to us and 40 % to them: the ratio favours who got more";
        assert_eq!(find(Measure::Setup, series.clone()).doubts, [expected]);
        assert!(find(Measure::Echo, series).doubts.is_empty());
    }

    #[test]
    fn a_fixed_rate_may_leave_a_contender_idle() {
        assert!(find(Measure::Echo, rounds(0.3, 0.3, 0.5)).doubts.is_empty());
    }

    #[test]
    fn messages_that_were_not_sent_raise_a_doubt() {
        let late = Slice { missed: 100, ..slice(900, 1.0, 0.5) };
        let series =
            vec![Round { ours: [late.clone(), late], theirs: [slice(1, 1.0, 0.5), slice(1, 1.0, 0.5)] }];
        assert_eq!(
            find(Measure::Echo, series).doubts,
            ["us did not keep up: 10 % of the messages were not sent"]
        );
    }
}
