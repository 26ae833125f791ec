//! G12: what metrics cost while 9,500 sessions are open.
//!
//! Windows without and with scrapes, ten a second so that they can be told from noise; the promise is for one a second.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use portcullis_tests::wait;
use serde::Serialize;
use serde_json::json;

use super::mix::HELD;
use super::{Outcome, Promised};
use crate::bench::{Bench, Lane, Way};
use crate::compare::{Bar, Better, Figure};
use crate::goal::Promise;
use crate::load::hold::{self, Hold};
use crate::peers::{Job, Kind};
use crate::stats;

pub(super) const GOALS: [Promised; 2] = [
    Promised::at_most("G12", "CPU for one scrape a second with 9,500 sessions, %", 1.0, 3.0),
    Promised { id: "G12-ms", title: "  time of a scrape, ms", promise: Promise::AtMost(5.0), gate: None },
];

const GAP: Duration = Duration::from_millis(100);

/// One window without scrapes and one with.
#[derive(Clone, Debug, Serialize)]
struct Pair {
    sessions: usize,
    seconds: f64,
    quiet_cpu_seconds: f64,
    scraped_cpu_seconds: f64,
    scrape_seconds: Vec<f64>,
}

impl Pair {
    /// Percent of a core for one scrape a second.
    fn percent(&self) -> f64 {
        let scrapes = f64::from(u32::try_from(self.scrape_seconds.len()).unwrap_or(u32::MAX));
        (self.scraped_cpu_seconds - self.quiet_cpu_seconds).max(0.0) / scrapes * 100.0
    }
}

pub(super) fn run(bench: &mut Bench, progress: &mut dyn Write) -> Result<Outcome> {
    let lanes = bench.lineup(&[(Kind::Portcullis, Way::Tls)], Job::Sessions, progress)?;
    let lane = lanes.first().context("our own daemon does not run")?;
    let mut sessions = Hold::new(lane.entry);
    if let Err(error) = sessions.grow(&bench.clients, HELD) {
        writeln!(progress, "! scrape: only {} sessions: {error:#}", sessions.count())?;
    }
    let window = bench.plan.timing().length * 2;
    let mut pairs = Vec::new();
    for round in 1..=bench.plan.rounds {
        pairs.push(pair(lane, sessions.count(), window)?);
        writeln!(progress, "scrape: round {round} of {}", bench.plan.rounds)?;
    }
    let percents: Vec<f64> = pairs.iter().map(Pair::percent).collect();
    let all: Vec<f64> = pairs.iter().flat_map(|pair| &pair.scrape_seconds).map(|s| s * 1e3).collect();
    let invalid = (sessions.count() < HELD).then(|| format!("only {} sessions were open", sessions.count()));
    drop((sessions, lanes));
    bench.settle()?;
    let goals = vec![GOALS[0].found(&percents).unless(invalid.clone()), GOALS[1].found(&all).unless(invalid)];
    let bar =
        |label: &str, values: &[f64]| Some(Bar { label: label.into(), value: stats::estimate(values)? });
    let figure = Figure {
        id: "G12".into(),
        title: "time of a scrape with 9,500 sessions".into(),
        unit: "ms".into(),
        better: Better::Lower,
        bars: bar("portcullis", &all).into_iter().collect(),
    };
    Ok(Outcome { raw: json!(pairs), figures: vec![figure], goals, lines: Vec::new() })
}

fn pair(lane: &Lane, sessions: usize, window: Duration) -> Result<Pair> {
    let metrics = lane.contender.as_ref().and_then(|contender| contender.metrics).context("no metrics")?;
    let read = || lane.meter().read();
    let pass = |until: Instant| wait::until(window * 2, "time to pass", || Instant::now() >= until);
    let (begin, before) = (Instant::now(), read()?);
    pass(begin + window)?;
    let (middle, between) = (Instant::now(), read()?);
    let (mut scrape_seconds, mut next) = (Vec::new(), middle);
    while next < middle + window {
        pass(next)?;
        let (time, _) = hold::scrape(metrics)?;
        scrape_seconds.push(time.as_secs_f64());
        next += GAP;
    }
    pass(middle + window)?;
    let after = read()?;
    // Both windows as long as the first, which is as long as it was asked for, or a little more.
    Ok(Pair {
        sessions,
        seconds: window.as_secs_f64(),
        quiet_cpu_seconds: (between - before).as_secs_f64(),
        scraped_cpu_seconds: (after - between).as_secs_f64(),
        scrape_seconds,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrape_costs_what_the_scraped_window_costs_more() {
        let pair = Pair {
            sessions: 1,
            seconds: 1.0,
            quiet_cpu_seconds: 0.010,
            scraped_cpu_seconds: 0.050,
            scrape_seconds: vec![0.001; 10],
        };
        assert!((pair.percent() - 0.4).abs() < 1e-9);
    }
}
