//! G5: user memory per idle session: the slope of Pss over the number of sessions, after one message on each.

use std::io::Write;

use anyhow::Result;
use portcullis_tests::wait;
use serde::Serialize;
use serde_json::json;

use super::{OURS, Outcome, Promised, everybody};
use crate::bench::{Bench, Lane};
use crate::compare::{Better, Series, Table};
use crate::goal::Promise;
use crate::interrupt;
use crate::load::PATIENCE;
use crate::load::hold::Hold;
use crate::peers::{Job, Kind};

pub(super) const GOALS: [Promised; 2] = [
    Promised::at_most("G5", "user memory per idle session, ours / best HAProxy", 0.25, 0.6),
    Promised { id: "G5-kb", title: "  ours, in KB", promise: Promise::AtMost(4.0), gate: None },
];

/// At these numbers of sessions memory is read.
const COUNTS: [usize; 3] = [500, 2_000, 5_000];
/// Memory is not the machine's mood: fewer rounds say as much.
const ROUNDS_MAX: u32 = 5;
/// Equal readings in a row that make memory count as settled.
const STEADY: u32 = 20;

/// Memory of one contender at one number of sessions.
#[derive(Clone, Copy, Debug, Serialize)]
struct Point {
    sessions: usize,
    bytes: f64,
}

pub(super) fn run(bench: &mut Bench, progress: &mut dyn Write) -> Result<Outcome> {
    let counts = if bench.plan.quick { COUNTS.get(..2).unwrap_or(&COUNTS) } else { &COUNTS };
    let kinds = everybody(bench);
    let labels = kinds.iter().map(|(kind, _)| String::from(kind.label())).collect();
    let mut series = Series { labels, rounds: Vec::new() };
    let rounds = bench.plan.rounds.min(if bench.plan.quick { 2 } else { ROUNDS_MAX });
    for round in 1..=rounds {
        let mut row = Vec::new();
        for kind in &kinds {
            interrupt::check()?;
            // Each starts anew, because allocators keep what they once had.
            let mut lanes = bench.lineup(&[*kind], Job::Sessions, progress)?;
            let found = lanes.first_mut().map(|lane| points(bench, lane, counts));
            match found.transpose() {
                Ok(points) => row.push(points.into_iter().collect::<Vec<_>>()),
                Err(error) if kind.0 == Kind::Portcullis => return Err(error),
                Err(error) => {
                    writeln!(progress, "memory: {} is out: {error:#}", kind.0.label())?;
                    row.push(Vec::new());
                }
            }
            drop(lanes);
            bench.settle()?;
        }
        series.rounds.push(row);
        writeln!(progress, "memory: round {round} of {rounds}")?;
    }
    let kilobytes = |points: &[Vec<Point>]| points.first().map_or(f64::NAN, |points| slope(points) / 1024.0);
    let table = Table::of("user memory per idle session", "KB", Better::Lower, &series, kilobytes);
    let [ratio, absolute] = GOALS;
    let haproxys = [Kind::Haproxy.label(), Kind::HaproxyNewest.label()];
    let goals = vec![ratio.found(&table.ratios(OURS, &haproxys)), absolute.found(&table.values(OURS))];
    Ok(Outcome { raw: json!(series), figures: vec![table.figure("G5")], goals, lines: Vec::new() })
}

fn points(bench: &Bench, lane: &mut Lane, counts: &[usize]) -> Result<Vec<Point>> {
    let mut hold = Hold::new(lane.entry);
    let mut points = Vec::new();
    for count in counts {
        hold.grow(&bench.clients, *count)?;
        points.push(Point { sessions: *count, bytes: settled(lane)? });
    }
    Ok(points)
}

/// Memory once it no longer changes.
fn settled(lane: &mut Lane) -> Result<f64> {
    let contender = lane.contender()?;
    let (mut last, mut steady) = (0.0_f64, 0);
    wait::attempt(PATIENCE, "memory to settle", || {
        let now = contender.memory()?;
        steady = if (now - last).abs() < 4096.0 { steady + 1 } else { 0 };
        last = now;
        Ok::<_, anyhow::Error>((steady >= STEADY).then_some(now))
    })
}

/// Bytes per session, by least squares.
fn slope(points: &[Point]) -> f64 {
    let count = |point: &Point| f64::from(u32::try_from(point.sessions).unwrap_or(u32::MAX));
    let length = f64::from(u32::try_from(points.len()).unwrap_or(u32::MAX));
    let mean_count = points.iter().map(count).sum::<f64>() / length;
    let mean_bytes = points.iter().map(|point| point.bytes).sum::<f64>() / length;
    let (mut above, mut below) = (0.0, 0.0);
    for point in points {
        above += (count(point) - mean_count) * (point.bytes - mean_bytes);
        below += (count(point) - mean_count).powi(2);
    }
    above / below
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slope_leaves_out_what_is_there_without_sessions() {
        let points = [(500, 10_500_000.0), (2_000, 12_000_000.0), (5_000, 15_000_000.0)]
            .map(|(sessions, bytes)| Point { sessions, bytes });
        assert!((slope(&points) - 1_000.0).abs() < 1e-6);
        assert!((slope(&points[..2]) - 1_000.0).abs() < 1e-6);
        assert!(!slope(&points[..1]).is_finite());
    }
}
