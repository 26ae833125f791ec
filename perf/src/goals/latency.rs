//! G7: what a gateway adds to a message's way at 30 % load, paired in each round with the way that has no gateway.

use std::io::Write;

use anyhow::Result;
use serde_json::json;

use super::messages::cost;
use super::{OURS, Outcome, Promised, names, rivals};
use crate::bench::{Bench, Way};
use crate::compare::{Better, Table, interleave};
use crate::goal::Promise;
use crate::load::echo::{self, MIX, Mix};
use crate::load::{Latency, Slice, Timing};
use crate::peers::{Job, Kind};
use crate::shares::{Offer, judge};

pub(super) const GOALS: [Promised; 3] = [
    Promised::at_most("G7", "added latency at 30 % load, p50, ours / best", 0.7, 1.0),
    Promised { id: "G7-p99", title: "  p99, ours / best", promise: Promise::AtMost(1.0), gate: None },
    Promised { id: "G7-p99-ms", title: "  p99 of ours, in ms", promise: Promise::AtMost(1.0), gate: None },
];

/// The share of a core that HAProxy 2.6 shall use, which sets the rate for all.
const LOAD: f64 = 0.30;
/// Messages a second, whatever the calibration says.
const RATES: (f64, f64) = (2_000.0, 10_000.0);
const DIRECT: &str = "direct";

pub(super) fn run(bench: &mut Bench, progress: &mut dyn Write) -> Result<Outcome> {
    let kinds = [Kind::Portcullis, Kind::Haproxy, Kind::HaproxyNewest, Kind::Nginx, Kind::Hitch];
    let mut lanes = bench.lineup(&kinds.map(|kind| (kind, Way::Tls)), Job::Sessions, progress)?;
    let timing = Timing { length: bench.plan.timing().length * 3 / 2, ..bench.plan.timing() };
    let first = lanes.iter().find(|lane| lane.kind == Some(Kind::Haproxy)).or_else(|| lanes.first());
    let mut rate = RATES.0;
    if let Some(lane) = first {
        let slice = echo::run(&bench.target(lane), MIX, bench.plan.timing())?;
        bench.settle()?;
        rate = (LOAD * 1e6 / cost(&[slice])).clamp(RATES.0, RATES.1);
        writeln!(
            progress,
            "latency: {rate:.0} messages a second are {:.0} % of a core of {}",
            LOAD * 100.0,
            lane.label
        )?;
    }
    let connections = f64::from(u32::try_from(MIX.active)?);
    let gap = std::time::Duration::from_secs_f64(connections / rate);
    let mix = Mix { gap, sizes: (256, 1_228), ..MIX };
    lanes.insert(0, bench.direct());
    let series = interleave(&mut lanes, bench.plan.rounds, progress, "latency", |lane| {
        let slice = echo::run(&bench.target(lane), mix, timing)?;
        bench.settle()?;
        Ok(slice)
    })?;
    let table = |title, of: fn(&Latency) -> f64| {
        let figure = |slices: &[Slice]| mean(&slices.iter().collect::<Vec<_>>(), of);
        Table::of(title, "µs", Better::Lower, &series, figure).minus(DIRECT)
    };
    let p50 = table("added latency, p50", |latency| latency.p50);
    let p99 = table("added latency, p99", |latency| latency.p99);
    let verdict = judge("latency", &series, Offer::Rate);
    let cpu = Table::of("CPU per message there and back at that load", "µs", Better::Lower, &series, cost);
    let rivals = rivals(&lanes);
    let milliseconds: Vec<f64> = p99.values(OURS).iter().map(|micros| micros / 1e3).collect();
    let goals = vec![
        GOALS[0].against(&p50, &names(&rivals), &verdict),
        Promised::shown(GOALS[0].id, "  CPU per message at that load, ours / best").of(
            OURS,
            &cpu,
            &names(&rivals),
            &verdict,
        ),
        GOALS[1].against(&p99, &names(&rivals), &verdict),
        GOALS[2].found(&milliseconds).unless(verdict.invalid.clone()),
    ];
    let figures = vec![p50.figure("G7"), p99.figure("G7-p99"), cpu.figure("G7-cpu")];
    let raw = json!({"messages_per_second": rate, "series": series});
    Ok(Outcome { raw, figures, goals, lines: verdict.lines })
}

/// The mean of a quantile over some slices. A histogram of all would say the same of equally long ones, nearly.
pub(super) fn mean(slices: &[&Slice], of: impl Fn(&Latency) -> f64) -> f64 {
    let found: Vec<f64> = slices.iter().filter_map(|slice| slice.latency.as_ref().map(&of)).collect();
    found.iter().sum::<f64>() / f64::from(u32::try_from(found.len()).unwrap_or(u32::MAX))
}
