//! G10: bytes without TLS per CPU second, against HAProxy that copies and HAProxy that splices.
//!
//! All get the same bytes at a rate that the load generator can make: as fast as it goes, one that splices would wait
//! for the load.

use std::io::Write;

use anyhow::Result;
use serde_json::json;

use super::bulk::megabytes;
use super::{Outcome, Promised, names};
use crate::bench::{Bench, Lane, Way};
use crate::compare::{Better, Table, interleave};
use crate::goal::Promise;
use crate::load::bulk;
use crate::peers::{Job, Kind};
use crate::shares::{Offer, judge};

const fn copying(id: &'static str, title: &'static str) -> Promised {
    Promised { id, title, promise: Promise::AtLeast(3.0), gate: None }
}

pub(super) const GOALS: [Promised; 4] = [
    copying("G10-down", "plain bytes per CPU second, down, ours / best HAProxy copying"),
    Promised::at_least("G10-splice-down", "  ours / best HAProxy with splice-auto", 2.0, 1.3),
    copying("G10-up", "plain bytes per CPU second, up, ours / best HAProxy copying"),
    Promised::at_least("G10-splice-up", "  ours / best HAProxy with splice-auto", 2.0, 1.3),
];

pub(super) fn run(bench: &mut Bench, progress: &mut dyn Write) -> Result<Outcome> {
    let mut kinds = vec![(Kind::Portcullis, Way::Splice)];
    for kind in [Kind::Haproxy, Kind::HaproxyNewest] {
        kinds.extend([(kind, Way::Plain), (kind, Way::Splice)]);
    }
    if !bench.plan.quick {
        kinds.extend([(Kind::Nginx, Way::Plain), (Kind::Tokio, Way::Plain), (Kind::TokioUring, Way::Plain)]);
    }
    let mut lanes = bench.lineup(&kinds, Job::Bulk, progress)?;
    let (timing, rounds) = (bench.plan.timing(), bench.plan.rounds);
    let of_haproxy = |lanes: &[Lane], splice: bool| -> Vec<String> {
        let haproxys = lanes.iter().filter(|lane| lane.kind.is_some_and(Kind::is_haproxy));
        let labels = haproxys.map(|lane| lane.label.clone());
        labels.filter(|label| label.ends_with("-splice") == splice).collect()
    };
    let mut outcome = Outcome::default();
    let mut raw = serde_json::Map::new();
    for (promised, name) in GOALS.chunks(2).zip(["down", "up"]) {
        let what = format!("plain bytes {name}");
        let series = interleave(&mut lanes, rounds, progress, &what, |lane| {
            let target = bench.target(lane);
            let slice = match name {
                "down" => bulk::plain_down(&target, timing),
                _ => bulk::plain_up(&target, timing),
            }?;
            bench.settle()?;
            Ok(slice)
        })?;
        let title = format!("bytes without TLS, {name}");
        let table = Table::of(&title, "MB per CPU second", Better::Higher, &series, megabytes);
        let verdict = judge(&what, &series, Offer::Rate);
        for (promised, splice) in promised.iter().zip([false, true]) {
            let rivals = of_haproxy(&lanes, splice);
            outcome.goals.push(promised.against(&table, &names(&rivals), &verdict));
        }
        outcome.figures.push(table.figure(&format!("G10-{name}")));
        outcome.lines.extend(verdict.lines);
        raw.insert(name.into(), json!(series));
    }
    outcome.raw = raw.into();
    Ok(outcome)
}
