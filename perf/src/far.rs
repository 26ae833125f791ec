//! `delay`: what a delay of 50 ms changes, with the delaying relay in front of each contender and in front of none.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::bench::{Bench, Lane, Plan, Way};
use crate::compare::{Better, Figure, Series, Table, interleave};
use crate::delay::{Delay, WINDOW_BYTES};
use crate::load::connection::Entry;
use crate::load::echo::{self, MIX, Mix};
use crate::load::{Target, Timing, bulk, setup};
use crate::peers::{Job, Kind};
use crate::stats::float;

const ROUND_TRIP: Duration = Duration::from_millis(50);
/// Few, so that the delaying relay's threads are not what limits.
const FAR: Mix = Mix { active: 20, gap: Duration::from_millis(50), sizes: (256, 1_228), ..MIX };

/// What one contender came to in one slice.
struct Sample {
    logon_ms: f64,
    message_ms: f64,
    megabytes_per_second: f64,
}

pub(crate) fn run(plan: Plan, progress: &mut dyn Write) -> Result<Vec<Figure>> {
    let rounds = plan.rounds;
    let mut bench = Bench::start(plan, progress)?;
    let kinds =
        [Kind::Portcullis, Kind::Haproxy, Kind::HaproxyNewest, Kind::Nginx].map(|kind| (kind, Way::Tls));
    let mut lanes = bench.lineup(&kinds, Job::Bulk, progress)?;
    let series = interleave(&mut lanes, rounds, progress, "with 50 ms of delay", |lane| {
        let sample = sample(&bench, lane)?;
        bench.settle()?;
        Ok(sample)
    })?;
    let window = f64::from(u32::try_from(WINDOW_BYTES >> 20)?);
    let bulk = format!("bytes of 8 sessions down, windows of {window:.0} MiB");
    Ok(vec![
        figure(
            "delay-logon",
            "a session from its first packet to its end",
            "ms",
            Better::Lower,
            &series,
            |s| s.logon_ms,
        ),
        figure("delay-message", "messages there and back, p50", "ms", Better::Lower, &series, |s| {
            s.message_ms
        }),
        figure("delay-bulk", &bulk, "MB per second", Better::Higher, &series, |s| s.megabytes_per_second),
    ])
}

fn figure(
    id: &str,
    title: &str,
    unit: &'static str,
    better: Better,
    series: &Series<Sample>,
    of: fn(&Sample) -> f64,
) -> Figure {
    let mean = |samples: &[Sample]| {
        samples.iter().map(of).sum::<f64>() / f64::from(u32::try_from(samples.len()).unwrap_or(u32::MAX))
    };
    Table::of(&format!("with 50 ms of delay: {title}"), unit, better, series, mean).figure(id)
}

fn sample(bench: &Bench, lane: &mut Lane) -> Result<Sample> {
    let Entry::Tls(address) = lane.entry else { anyhow::bail!("only TLS is measured with delay") };
    let far = Delay::start(address, ROUND_TRIP)?;
    let label = lane.label.clone();
    let (door, meter) = lane.contender()?.door_and_meter();
    door.prepare(Duration::from_millis(100))?;
    let near = door.address();
    let far_door = Delay::start(near, ROUND_TRIP)?;
    door.lead_to(far_door.address);
    let logon = setup::once(door, &bench.clients.cheap);
    door.lead_to(near);
    let (clients, backend) = (&bench.clients, &bench.backend);
    let target =
        Target { label: &label, entry: Entry::Tls(far.address), clients, backend, meter, probe: None };
    let timing = Timing { warm_up: ROUND_TRIP * 6, length: Duration::from_secs(1) };
    let messages = echo::run(&target, FAR, timing)?;
    bench.settle()?;
    let bytes = bulk::down(&target, timing)?;
    Ok(Sample {
        logon_ms: logon?.as_secs_f64() * 1e3,
        message_ms: messages.latency.context("no message came back")?.p50 / 1e3,
        megabytes_per_second: float(bytes.units) / bytes.wall_seconds / 1e6,
    })
}
