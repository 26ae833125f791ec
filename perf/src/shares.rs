//! How the CPUs' time was spent while contenders were measured, and what that makes of the figures.

use serde::Serialize;

use crate::compare::Series;
use crate::load::Slice;
use crate::stats::float;

/// Above this share of its own CPU the load may be what limits.
const LOAD_LIMIT: f64 = 0.90;
/// An idle share of the contender's CPU above which the load, not the contender, was the limit.
const IDLE_LIMIT: f64 = 0.10;
/// Missed messages above this share make a latency worthless and a cost doubtful.
const MISSED_LIMIT: f64 = 0.01;
/// Time of others, as a share of one CPU, above which the machine was not quiet.
const OTHERS_LIMIT: f64 = 0.10;

/// What a load offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offer {
    /// As much as a contender takes: contender or load is the limit.
    Everything,
    /// The same to all.
    Rate,
}

/// Shares of one CPU's time.
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
    /// Of the messages that were due, those that were not sent.
    pub(crate) missed: f64,
}

impl Shares {
    pub(crate) fn of<'a>(slices: impl IntoIterator<Item = &'a Slice>) -> Self {
        let (mut wall, mut busy, mut sum) = (0.0, 0.0, Self::default());
        let (mut units, mut missed) = (0, 0);
        for slice in slices {
            wall += slice.wall_seconds;
            busy += slice.machine_busy_seconds;
            sum.contender += slice.contender_cpu_seconds;
            sum.idle += slice.contender_idle_seconds;
            sum.load += slice.load_cpu_seconds;
            sum.stolen += slice.machine_stolen_seconds;
            units += slice.units;
            missed += slice.missed;
        }
        Self {
            contender: sum.contender / wall,
            idle: sum.idle / wall,
            load: sum.load / wall,
            // Ticks are coarser than the other two: nothing is not to look like less than nothing.
            others: ((busy - sum.contender - sum.load) / wall).max(0.0),
            stolen: sum.stolen / wall,
            missed: float(missed) / float(units + missed).max(1.0),
        }
    }

    /// Why the figure says more of the load than of the contender, if it does.
    pub(crate) fn limited(&self, offer: Offer) -> bool {
        self.load >= LOAD_LIMIT && (offer == Offer::Rate || self.idle > IDLE_LIMIT)
    }
}

/// What the shares of all contenders of a measure come to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Verdict {
    /// Lines for the report.
    pub(crate) lines: Vec<String>,
    /// Why the whole comparison is worthless, if it is.
    pub(crate) invalid: Option<String>,
    /// The worst disturbance by others.
    pub(crate) others: f64,
    pub(crate) stolen: f64,
}

/// Judges a series; `what` names it in the lines.
pub(crate) fn judge(what: &str, series: &Series<Slice>, offer: Offer) -> Verdict {
    let mut verdict = Verdict::default();
    for label in &series.labels {
        let slices = series.of(label);
        if slices.is_empty() {
            continue;
        }
        let shares = Shares::of(slices);
        verdict.others = verdict.others.max(shares.others);
        verdict.stolen = verdict.stolen.max(shares.stolen);
        let [own, load, idle] = [shares.contender, shares.load, shares.idle].map(|share| share * 100.0);
        verdict
            .lines
            .push(format!("  {what}: {label} used {own:.0} % of its CPU, the load {load:.0} % of its own"));
        if shares.limited(offer) {
            let reason =
                format!("with {label} the load was the limit ({load:.0} % of its CPU; {idle:.0} % idle)");
            verdict.lines.push(format!("! {what}: {reason}"));
            verdict.invalid.get_or_insert(reason);
        }
        if shares.missed > MISSED_LIMIT {
            let missed = shares.missed * 100.0;
            let reason = format!("{label} did not keep up: {missed:.0} % of the messages were not sent");
            verdict.lines.push(format!("! {what}: {reason}"));
        }
    }
    if verdict.others.max(verdict.stolen) > OTHERS_LIMIT {
        let (others, stolen) = (verdict.others * 100.0, verdict.stolen * 100.0);
        verdict.lines.push(format!(
            "! {what}: the machine was not quiet: others used up to {others:.0} % of a CPU, the hypervisor \
             {stolen:.0} %; repeat on a quiet one before you quote anything"
        ));
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(slice: Slice) -> Series<Slice> {
        Series { labels: vec![String::from("us")], rounds: vec![vec![vec![slice.clone(), slice]]] }
    }

    fn slice(contender: f64, load: f64) -> Slice {
        Slice {
            units: 900,
            wall_seconds: 1.0,
            contender_cpu_seconds: contender,
            contender_idle_seconds: 1.0 - contender,
            load_cpu_seconds: load,
            machine_busy_seconds: contender + load,
            ..Slice::default()
        }
    }

    #[test]
    fn a_load_at_its_limit_makes_a_comparison_invalid() {
        let limited = judge("bytes", &series(slice(0.6, 0.97)), Offer::Everything);
        assert!(limited.invalid.unwrap().contains("the load was the limit"));
        assert!(judge("bytes", &series(slice(0.99, 0.97)), Offer::Everything).invalid.is_none());
        assert!(judge("bytes", &series(slice(0.6, 0.5)), Offer::Everything).invalid.is_none());
    }

    #[test]
    fn at_a_fixed_rate_a_busy_load_is_always_a_limit() {
        assert!(judge("echo", &series(slice(0.3, 0.95)), Offer::Rate).invalid.is_some());
        assert!(judge("echo", &series(slice(0.3, 0.5)), Offer::Rate).invalid.is_none());
    }

    #[test]
    fn missed_messages_and_other_programs_are_owned_up_to() {
        let mut late = slice(0.3, 0.3);
        late.missed = 100;
        late.machine_busy_seconds += 0.5;
        let lines = judge("echo", &series(late), Offer::Rate).lines.join("\n");
        assert!(lines.contains("10 % of the messages were not sent"), "{lines}");
        assert!(lines.contains("others used up to 50 % of a CPU"), "{lines}");
    }
}
