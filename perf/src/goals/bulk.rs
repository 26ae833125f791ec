//! G3: bytes per CPU second through TLS, each direction.

use std::io::Write;

use anyhow::Result;
use serde_json::json;

use super::messages::yields;
use super::{Outcome, Promised, everybody, names, rivals};
use crate::bench::Bench;
use crate::compare::{Better, Table, interleave};
use crate::load::{Slice, bulk};
use crate::peers::Job;
use crate::shares::{Offer, judge};

pub(super) const GOALS: [Promised; 2] = [
    Promised::at_least("G3-down", "TLS relay bytes per CPU second, down, ours / best", 2.0, 1.6),
    Promised::at_least("G3-up", "TLS relay bytes per CPU second, up, ours / best", 2.0, 1.6),
];

pub(super) fn run(bench: &mut Bench, progress: &mut dyn Write) -> Result<Outcome> {
    let kinds = everybody(bench);
    let mut lanes = bench.lineup(&kinds, Job::Bulk, progress)?;
    let (timing, rounds) = (bench.plan.timing(), bench.plan.rounds);
    let mut outcome = Outcome::default();
    let mut raw = serde_json::Map::new();
    for (promised, name) in GOALS.into_iter().zip(["down", "up"]) {
        let what = format!("bytes {name}");
        let series = interleave(&mut lanes, rounds, progress, &what, |lane| {
            let target = bench.target(lane);
            let slice = if name == "down" { bulk::down(&target, timing) } else { bulk::up(&target, timing) }?;
            bench.settle()?;
            Ok(slice)
        })?;
        let title = format!("bytes through TLS, {name}");
        let table = Table::of(&title, "MB per CPU second", Better::Higher, &series, megabytes);
        let verdict = judge(&what, &series, Offer::Everything);
        outcome.goals.push(promised.against(&table, &names(&rivals(&lanes)), &verdict));
        outcome.figures.push(table.figure(promised.id));
        outcome.lines.extend(verdict.lines);
        raw.insert(name.into(), json!(series));
    }
    outcome.raw = raw.into();
    Ok(outcome)
}

pub(super) fn megabytes(slices: &[Slice]) -> f64 {
    yields(slices) / 1e6
}
