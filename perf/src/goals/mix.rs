//! G2: what a gateway's usual sessions cost, and how many one process holds.

use std::io::Write;
use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use super::{OURS, Outcome, Promised, beside, everybody_and_prompt, names, rivals};
use crate::bench::{Bench, Way};
use crate::compare::{Better, Table, interleave};
use crate::goal::Promise;
use crate::load::Slice;
use crate::load::echo::{self, Mix};
use crate::load::hold::Hold;
use crate::peers::{Job, Kind};
use crate::shares::{Offer, judge};
use crate::stats::float;

pub(super) const GOALS: [Promised; 2] = [
    Promised::at_most("G2", "CPU of the session mix per 1,000 sessions, ours / best", 0.45, 0.6),
    Promised {
        id: "G2-held",
        title: "  live sessions in one process of ours",
        promise: Promise::AtLeast(9_500.0),
        gate: None,
    },
];

/// 60 % active with 20 messages a second both ways, 40 % that only keep alive (Citrix CTX114670, and the issue); as many
/// as the load can offer with one core.
const SESSIONS: Mix = Mix {
    active: 990,
    gap: Duration::from_millis(50),
    sizes: (256, 1_228),
    idle: 660,
    idle_gap: Duration::from_secs(5),
};
/// What the descriptors of one process allow: two each, and some for itself.
pub(super) const HELD: usize = 9_500;

pub(super) fn run(bench: &mut Bench, progress: &mut dyn Write) -> Result<Outcome> {
    let kinds = everybody_and_prompt(bench);
    let mut lanes = bench.lineup(&kinds, Job::Sessions, progress)?;
    let timing = bench.plan.timing();
    let series = interleave(&mut lanes, bench.plan.rounds, progress, "session mix", |lane| {
        let slice = echo::run(&bench.target(lane), SESSIONS, timing)?;
        bench.settle()?;
        Ok(slice)
    })?;
    let title = "cores per 1,000 sessions, 60 % active with 20 messages a second";
    let table = Table::of(title, "cores", Better::Lower, &series, cores);
    let verdict = judge("session mix", &series, Offer::Rate);
    let rivals = rivals(&lanes);
    let [usual, prompt] =
        [Promised::against, beside].map(|goal| goal(GOALS[0], &table, &names(&rivals), &verdict));
    drop(lanes);
    let held = hold(bench, progress);
    let held = match held {
        Ok(count) => GOALS[1].found(&[float(u64::try_from(count)?)]),
        Err(error) => GOALS[1].missing(&format!("{error:#}")),
    };
    let figures = vec![table.figure("G2")];
    Ok(Outcome { raw: json!(series), figures, goals: vec![usual, prompt, held], lines: verdict.lines })
}

/// How many sessions of one process of ours answer while all are open.
fn hold(bench: &mut Bench, progress: &mut dyn Write) -> Result<usize> {
    let lanes = bench.lineup(&[(Kind::Portcullis, Way::Tls)], Job::Sessions, progress)?;
    let mut alive = 0;
    for lane in &lanes {
        let mut hold = Hold::new(lane.entry);
        let grown = hold.grow(&bench.clients, HELD);
        alive = hold.alive();
        writeln!(progress, "session mix: {alive} of {} sessions of {OURS} are live", hold.count())?;
        if let Err(error) = grown {
            writeln!(progress, "! session mix: no more sessions: {error:#}; {}", lane.log_tail())?;
        }
    }
    drop(lanes);
    bench.settle()?;
    Ok(alive)
}

/// Of all sessions of the mix, scaled to a thousand.
fn cores(slices: &[Slice]) -> f64 {
    let sum = |of: fn(&Slice) -> f64| slices.iter().map(of).sum::<f64>();
    let sessions = float(u64::try_from(SESSIONS.active + SESSIONS.idle).unwrap_or(1));
    sum(|slice| slice.contender_cpu_seconds) / sum(|slice| slice.wall_seconds) * 1_000.0 / sessions
}
