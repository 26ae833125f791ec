//! G1: what a small message costs, both directions, on TLS sessions.

use std::io::Write;
use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use super::latency::mean;
use super::{OURS, Outcome, Promised, beside, everybody_and_prompt, names, rivals};
use crate::bench::Bench;
use crate::compare::{Better, Table, interleave};
use crate::load::Slice;
use crate::load::echo::{self, MIX, Mix};
use crate::peers::Job;
use crate::shares::{Offer, judge};
use crate::stats::float;

pub(super) const GOALS: [Promised; 1] =
    [Promised::at_most("G1", "CPU per small TLS message, ours / best", 0.45, 0.65)];

/// Messages of a remote desktop, 22,000 a second on 200 sessions: what one costs matters where little of a core is left,
/// and more the load cannot offer with one of its own. What they cost at 30 % load is shown with the latency there.
const SMALL: Mix = Mix { gap: Duration::from_millis(9), sizes: (256, 1_228), ..MIX };

pub(super) fn run(bench: &mut Bench, progress: &mut dyn Write) -> Result<Outcome> {
    let kinds = everybody_and_prompt(bench);
    let mut lanes = bench.lineup(&kinds, Job::Bulk, progress)?;
    let timing = bench.plan.timing();
    let series = interleave(&mut lanes, bench.plan.rounds, progress, "messages", |lane| {
        let slice = echo::run(&bench.target(lane), SMALL, timing)?;
        bench.settle()?;
        Ok(slice)
    })?;
    let title = "CPU per message of 256 to 1,228 bytes through TLS, there and back";
    let table = Table::of(title, "µs", Better::Lower, &series, cost);
    let verdict = judge("messages", &series, Offer::Rate);
    let rivals = rivals(&lanes);
    // The price of gathering: the whole way there and back.
    let p50 = |slices: &[Slice]| mean(&slices.iter().collect::<Vec<_>>(), |latency| latency.p50);
    let p50 = Table::of("latency of these messages, p50", "µs", Better::Lower, &series, p50);
    let (rivals, id) = (names(&rivals), GOALS[0].id);
    let goals = vec![
        GOALS[0].against(&table, &rivals, &verdict),
        beside(GOALS[0], &table, &rivals, &verdict),
        Promised::shown(id, "  latency of these messages, p50, ours / best")
            .of(OURS, &p50, &rivals, &verdict),
    ];
    let figures = vec![table.figure(id), p50.figure("G1-p50")];
    Ok(Outcome { raw: json!(series), figures, goals, lines: verdict.lines })
}

/// CPU microseconds of the contender per unit.
pub(super) fn cost(slices: &[Slice]) -> f64 {
    let cpu: f64 = slices.iter().map(|slice| slice.contender_cpu_seconds).sum();
    cpu * 1e6 / float(slices.iter().map(|slice| slice.units).sum())
}

/// Units per CPU second of the contender.
pub(super) fn yields(slices: &[Slice]) -> f64 {
    1e6 / cost(slices)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_per_second_of_cpu_and_not_of_the_clock() {
        let slice = |units, contender_cpu_seconds| Slice {
            units,
            contender_cpu_seconds,
            wall_seconds: 9.0,
            ..Slice::default()
        };
        let slices = [slice(3_000, 0.25), slice(7_000, 0.25)];
        assert!((cost(&slices) - 50.0).abs() < 1e-9);
        assert!((yields(&slices) - 20_000.0).abs() < 1e-6);
    }
}
