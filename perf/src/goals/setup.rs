//! G4: sessions set up per CPU second: full TLS 1.3 handshakes, and resumed ones of TLS 1.2. Ours redeem a ticket and
//! are decided on, theirs are bare TLS and a connection.

use std::io::Write;

use anyhow::Result;
use serde_json::json;

use super::messages::yields;
use super::{Outcome, Promised, everybody, names, rivals};
use crate::bench::Bench;
use crate::compare::{Better, Table, interleave};
use crate::load::{Target, setup};
use crate::peers::Job;
use crate::shares::{Offer, judge};

pub(super) const GOALS: [Promised; 2] = [
    Promised::at_least(
        "G4",
        "sessions set up per CPU second, full TLS 1.3, ours with ticket / best",
        2.0,
        1.5,
    ),
    Promised::at_least("G4-resumed", "the same, TLS 1.2 resumed", 1.5, 1.5),
];

pub(super) fn run(bench: &mut Bench, progress: &mut dyn Write) -> Result<Outcome> {
    let kinds = everybody(bench);
    let mut lanes = bench.lineup(&kinds, Job::Sessions, progress)?;
    let (timing, rounds) = (bench.plan.timing(), bench.plan.rounds);
    let mut outcome = Outcome::default();
    let mut raw = serde_json::Map::new();
    let titles = ["sessions set up, full handshakes of TLS 1.3", "sessions set up, resumed ones of TLS 1.2"];
    for ((promised, title), resumed) in GOALS.into_iter().zip(titles).zip([false, true]) {
        let what = if resumed { "logons, resumed" } else { "logons" };
        let series = interleave(&mut lanes, rounds, progress, what, |lane| {
            let (label, entry) = (lane.label.clone(), lane.entry);
            let (door, meter) = lane.contender()?.door_and_meter();
            let (clients, backend) = (&bench.clients, &bench.backend);
            let target = Target { label: &label, entry, clients, backend, meter, probe: None };
            let slice = setup::run(&target, door, resumed, timing)?;
            bench.settle()?;
            Ok(slice)
        })?;
        let table = Table::of(title, "per CPU second", Better::Higher, &series, yields);
        let verdict = judge(what, &series, Offer::Everything);
        outcome.goals.push(promised.against(&table, &names(&rivals(&lanes)), &verdict));
        outcome.figures.push(table.figure(promised.id));
        outcome.lines.extend(verdict.lines);
        raw.insert(if resumed { "resumed" } else { "full" }.into(), json!(series));
    }
    outcome.raw = raw.into();
    Ok(outcome)
}
