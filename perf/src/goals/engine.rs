//! G11: what the runtime takes: small messages without TLS through our loop, and through the same relay on tokio and on
//! tokio-uring; and how many messages one system call serves. Ours has `relay_gather` here, which is what serves several;
//! what the default comes to is shown beside.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context as _, Result};
use portcullis_tests::gateway::Metrics;
use serde_json::json;

use super::messages::yields;
use super::{GATHERING, OURS, Outcome, Promised};
use crate::bench::{Bench, Lane, Way};
use crate::compare::{Better, Table, interleave};
use crate::goal::Promise;
use crate::load::echo::{self, MIX, Mix};
use crate::load::{Slice, Target, hold};
use crate::peers::{Job, Kind};
use crate::shares::{Offer, judge};
use crate::stats::float;

pub(super) const GOALS: [Promised; 3] = [
    Promised::at_least("G11", "plain messages per CPU second, ours / tokio", 1.3, 1.1),
    Promised::at_least("G11-uring", "  ours / tokio-uring", 1.6, 1.1),
    Promised {
        id: "G11-enters",
        title: "  system calls of our loop per relayed message",
        promise: Promise::AtMost(0.125),
        gate: None,
    },
];

/// 10,000 messages a second, as in the goal; each is relayed there and back.
const SMALL: Mix = Mix { gap: Duration::from_millis(20), sizes: (256, 1_228), ..MIX };
/// The gateway's count of the times that its relay workers entered the kernel.
const ENTERS: &str = "portcullis_relay_enters_total";

pub(super) fn run(bench: &mut Bench, progress: &mut dyn Write) -> Result<Outcome> {
    let mut kinds = vec![Kind::PortcullisGathering, Kind::Portcullis, Kind::Tokio, Kind::TokioUring];
    if !bench.plan.quick {
        kinds.extend([Kind::Haproxy, Kind::HaproxyNewest, Kind::Nginx]);
    }
    let kinds: Vec<_> = kinds.into_iter().map(|kind| (kind, Way::Plain)).collect();
    let mut lanes = bench.lineup(&kinds, Job::Bulk, progress)?;
    let gathering = |lane: &Lane| lane.kind == Some(Kind::PortcullisGathering);
    let ours = lanes.iter().find(|lane| gathering(lane));
    let metrics = ours.and_then(|lane| lane.contender.as_ref()?.metrics);
    let enters = || -> Result<u64> {
        let (_, page) = hold::scrape(metrics.context("no metrics")?)?;
        let count =
            Metrics(page).sum(ENTERS, &[]).with_context(|| format!("the gateway counts no {ENTERS}"))?;
        // A count of less than 2^53 is whole.
        Ok(format!("{count:.0}").parse()?)
    };
    let counted = enters();
    let probe: &dyn Fn() -> Result<u64> = &enters;
    let timing = bench.plan.timing();
    let series = interleave(&mut lanes, bench.plan.rounds, progress, "plain messages", |lane| {
        let probe = (gathering(lane) && counted.is_ok()).then_some(probe);
        let slice = echo::run(&Target { probe, ..bench.target(lane) }, SMALL, timing)?;
        bench.settle()?;
        Ok(slice)
    })?;
    let title = "messages of 256 to 1,228 bytes without TLS, there and back";
    let table = Table::of(title, "per CPU second", Better::Higher, &series, yields);
    let per_message = Table::of("system calls", "per message", Better::Lower, &series, calls);
    let verdict = judge("plain messages", &series, Offer::Rate);
    let calls = match counted {
        Ok(_) => GOALS[2].found(&per_message.values(GATHERING)),
        Err(error) => GOALS[2].missing(&format!("{error:#}")),
    };
    let usual = Promised::shown(GOALS[0].id, "  ours that gathers only while busy / tokio");
    let goals = vec![
        GOALS[0].of(GATHERING, &table, &[Kind::Tokio.label()], &verdict),
        usual.of(OURS, &table, &[Kind::Tokio.label()], &verdict),
        GOALS[1].of(GATHERING, &table, &[Kind::TokioUring.label()], &verdict),
        calls,
    ];
    Ok(Outcome { raw: json!(series), figures: vec![table.figure("G11")], goals, lines: verdict.lines })
}

/// Entries into the kernel by relayed messages, of which each round trip is two.
fn calls(slices: &[Slice]) -> f64 {
    let counts: Option<u64> = slices.iter().map(|slice| slice.probed).sum();
    let messages: u64 = slices.iter().map(|slice| slice.units * 2).sum();
    counts.map_or(f64::NAN, |counts| float(counts) / float(messages))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_trip_is_two_relayed_messages() {
        let slice = Slice { units: 400, probed: Some(100), ..Slice::default() };
        assert!((calls(&[slice.clone(), slice]) - 0.125).abs() < 1e-9);
        assert!(!calls(&[Slice::default()]).is_finite());
    }
}
