//! G6: how long messages of live sessions take while a thousand others log on every second.
//!
//! The storm comes from a thread of its own that everything else on its CPU preempts, the back end included, so that the
//! load generator's own handshakes do not look like the contender's delay.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow};
use serde::Serialize;
use serde_json::json;

use super::{OURS, Outcome, Promised};
use crate::bench::{Bench, Lane, Way};
use crate::compare::{Better, Series, Table, interleave};
use crate::cpu;
use crate::goal::Promise;
use crate::load::echo::{self, Load, MIX, Mix};
use crate::load::setup::{self, Storm};
use crate::load::{Slice, Target, Timing};
use crate::peers::{Job, Kind};
use crate::shares::{Offer, judge};
use crate::stats::float;

pub(super) const GOALS: [Promised; 2] = [
    Promised::at_most("G6", "p99 under 1,000 logons a second / quiet, ours", 1.5, 2.5),
    Promised {
        id: "G6-haproxy",
        title: "  p99 under the same storm, ours / best HAProxy",
        promise: Promise::AtMost(0.25),
        gate: None,
    },
];

const LOGONS_PER_SECOND: u32 = 1_000;
/// The storm that came must be this much of the one that was ordered.
const OFFERED_MIN: f64 = 0.95;
const LIVE: Mix = Mix { active: 200, gap: Duration::from_millis(50), sizes: (256, 1_228), ..MIX };

/// The same live sessions in quiet and in the storm.
#[derive(Clone, Debug, Serialize)]
struct Weather {
    quiet: Slice,
    storm: Slice,
    logons: Storm,
}

pub(super) fn run(bench: &mut Bench, progress: &mut dyn Write) -> Result<Outcome> {
    let kinds = [Kind::Portcullis, Kind::Haproxy, Kind::HaproxyNewest].map(|kind| (kind, Way::Tls));
    let mut lanes = bench.lineup(&kinds, Job::Sessions, progress)?;
    let timing = Timing { length: bench.plan.timing().length * 2, ..bench.plan.timing() };
    let series = interleave(&mut lanes, bench.plan.rounds, progress, "storm", |lane| {
        let weather = slice(bench, lane, timing)?;
        bench.settle()?;
        Ok(weather)
    })?;
    let mut outcome = Outcome::default();
    let quiet =
        Table::of("p99 of live sessions, quiet", "µs", Better::Lower, &series, |all| p99(all, |w| &w.quiet));
    let title = "p99 of live sessions under 1,000 logons a second";
    let storm = Table::of(title, "µs", Better::Lower, &series, |all| p99(all, |w| &w.storm));
    let pairs = storm.values(OURS).into_iter().zip(quiet.values(OURS));
    let ratios: Vec<f64> = pairs.map(|(storm, quiet)| storm / quiet).collect();
    let stormy = Series {
        labels: series.labels.clone(),
        rounds: map(&series.rounds, |weather| weather.storm.clone()),
    };
    let verdict = judge("storm", &stormy, Offer::Rate);
    outcome.lines.extend(verdict.lines);
    let mut invalid = verdict.invalid;
    for label in &series.labels {
        let logons: Vec<&Storm> = series.of(label).into_iter().map(|weather| &weather.logons).collect();
        let (offered, done) = rates(&logons);
        outcome.lines.push(format!(
            "  storm: {label} was offered {offered:.0} logons a second and completed {done:.0}"
        ));
        if offered < OFFERED_MIN * f64::from(LOGONS_PER_SECOND) {
            invalid
                .get_or_insert_with(|| format!("only {offered:.0} logons a second were offered to {label}"));
        }
    }
    let haproxys = [Kind::Haproxy.label(), Kind::HaproxyNewest.label()];
    outcome.goals.push(GOALS[0].found(&ratios).unless(invalid.clone()));
    outcome.goals.push(GOALS[1].found(&storm.ratios(OURS, &haproxys)).unless(invalid));
    outcome.figures = vec![quiet.figure("G6-quiet"), storm.figure("G6")];
    outcome.raw = json!(series);
    Ok(outcome)
}

fn slice(bench: &Bench, lane: &mut Lane, timing: Timing) -> Result<Weather> {
    let (label, entry) = (lane.label.clone(), lane.entry);
    let (door, meter) = lane.contender()?.door_and_meter();
    let (clients, backend) = (&bench.clients, &bench.backend);
    let target = Target { label: &label, entry, clients, backend, meter, probe: None };
    door.prepare(timing.whole())?;
    let mut load = Load::start(entry, clients, LIVE)?;
    let quiet = hurried(|| echo::run_open(&mut load, &target, timing))?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        // A thread inherits how its maker is scheduled: this one is made before its maker hurries.
        let storm = scope.spawn(|| {
            cpu::give_way();
            setup::storm(door, &clients.cheap, LOGONS_PER_SECOND, &stop)
        });
        let slice = hurried(|| echo::run_open(&mut load, &target, timing));
        stop.store(true, Ordering::Relaxed);
        let logons = storm.join().map_err(|_| anyhow!("the thread of the storm has panicked"))??;
        Ok(Weather { quiet, storm: slice?, logons })
    })
}

fn hurried<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    let hurries = cpu::hurry();
    let done = work();
    if hurries {
        cpu::relax();
    }
    done
}

fn map<A, B>(rounds: &[Vec<Vec<A>>], of: impl Fn(&A) -> B) -> Vec<Vec<Vec<B>>> {
    let slices = |slices: &Vec<A>| slices.iter().map(&of).collect();
    rounds.iter().map(|round| round.iter().map(slices).collect()).collect()
}

fn p99(all: &[Weather], of: fn(&Weather) -> &Slice) -> f64 {
    let slices: Vec<&Slice> = all.iter().map(of).collect();
    super::latency::mean(&slices, |latency| latency.p99)
}

/// Offered and completed logons a second.
fn rates(storms: &[&Storm]) -> (f64, f64) {
    let (mut seconds, mut offered, mut done) = (0.0, 0, 0);
    for storm in storms {
        seconds += storm.seconds;
        offered += storm.due - storm.missed;
        done += storm.done;
    }
    (float(offered) / seconds, float(done) / seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logons_that_could_not_begin_were_not_offered() {
        let storm = Storm { seconds: 2.0, due: 2_000, done: 1_800, missed: 100 };
        let (offered, done) = rates(&[&storm, &storm]);
        assert!((offered - 950.0).abs() < 1e-9 && (done - 900.0).abs() < 1e-9);
    }
}
