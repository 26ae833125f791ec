//! The goals: what was promised of the relay, each measured side by side with what one would use instead.
//!
//! A goal is kept only when the whole 95 % interval keeps it. What could not be measured is reported as not kept, and
//! losses look like wins.

mod bulk;
mod engine;
mod latency;
mod memory;
mod messages;
mod mix;
mod plain;
mod scrape;
mod setup;
mod storm;

use std::io::Write;
use std::time::Instant;

use anyhow::Result;
use clap::ValueEnum;
use serde_json::Value;

use crate::bench::{Bench, Lane, Plan, Way};
use crate::compare::{Figure, Table};
use crate::goal::{Goal, Promise};
use crate::machine::Facts;
use crate::peers::Kind;
use crate::report::Report;
use crate::shares::Verdict;

/// A goal, or a group of goals that one measurement answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Id {
    /// CPU per small TLS message
    #[value(name = "G1", alias = "g1")]
    Messages,
    /// CPU of the session mix, and how many sessions one process holds
    #[value(name = "G2", alias = "g2")]
    Mix,
    /// TLS relay bytes per CPU second, each direction
    #[value(name = "G3", alias = "g3")]
    Bulk,
    /// Sessions set up per CPU second
    #[value(name = "G4", alias = "g4")]
    Setup,
    /// User memory per idle session
    #[value(name = "G5", alias = "g5")]
    Memory,
    /// Latency of live sessions under a storm of logons
    #[value(name = "G6", alias = "g6")]
    Storm,
    /// Added latency
    #[value(name = "G7", alias = "g7")]
    Latency,
    /// Plain bytes per CPU second
    #[value(name = "G10", alias = "g10")]
    Plain,
    /// Our loop against tokio and tokio-uring
    #[value(name = "G11", alias = "g11")]
    Engine,
    /// What metrics cost
    #[value(name = "G12", alias = "g12")]
    Scrape,
}

/// Enough to see whether something is badly wrong.
pub(crate) const SMOKE: [Id; 3] = [Id::Messages, Id::Bulk, Id::Setup];

impl Id {
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

/// What the measurement of one group came to.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) raw: Value,
    pub(crate) figures: Vec<Figure>,
    pub(crate) goals: Vec<Goal>,
    /// Lines below the tables.
    pub(crate) lines: Vec<String>,
}

/// Measures some goals, or all.
pub(crate) fn run(plan: &Plan, only: &[Id], progress: &mut dyn Write) -> Result<Report> {
    let machine = Facts::collect();
    let mut bench = Bench::start(plan.clone(), progress)?;
    let mut outcomes = Vec::new();
    let begin = Instant::now();
    for id in Id::value_variants().iter().copied().filter(|id| only.is_empty() || only.contains(id)) {
        writeln!(progress, "{}: begins after {} s", id.name(), begin.elapsed().as_secs())?;
        let outcome = match measure(id, &mut bench, progress) {
            Ok(outcome) => outcome,
            Err(error) => {
                crate::interrupt::check()?;
                writeln!(progress, "! {}: {error:#}", id.name())?;
                Outcome { goals: missing(id, &format!("{error:#}")), ..Outcome::default() }
            }
        };
        outcome.goals.iter().try_for_each(|goal| writeln!(progress, "{}", goal.line()))?;
        outcomes.push((id, outcome));
    }
    Ok(Report::new(machine, &bench, only, outcomes))
}

fn measure(id: Id, bench: &mut Bench, progress: &mut dyn Write) -> Result<Outcome> {
    match id {
        Id::Messages => messages::run(bench, progress),
        Id::Mix => mix::run(bench, progress),
        Id::Bulk => bulk::run(bench, progress),
        Id::Setup => setup::run(bench, progress),
        Id::Memory => memory::run(bench, progress),
        Id::Storm => storm::run(bench, progress),
        Id::Latency => latency::run(bench, progress),
        Id::Plain => plain::run(bench, progress),
        Id::Engine => engine::run(bench, progress),
        Id::Scrape => scrape::run(bench, progress),
    }
}

/// What a group promises, when nothing of it could be measured.
fn missing(id: Id, why: &str) -> Vec<Goal> {
    promised(id).iter().map(|promised| promised.missing(why)).collect()
}

fn promised(id: Id) -> &'static [Promised] {
    match id {
        Id::Messages => &messages::GOALS,
        Id::Mix => &mix::GOALS,
        Id::Bulk => &bulk::GOALS,
        Id::Setup => &setup::GOALS,
        Id::Memory => &memory::GOALS,
        Id::Storm => &storm::GOALS,
        Id::Latency => &latency::GOALS,
        Id::Plain => &plain::GOALS,
        Id::Engine => &engine::GOALS,
        Id::Scrape => &scrape::GOALS,
    }
}

/// A goal before it is measured.
#[derive(Clone, Copy, Debug)]
struct Promised {
    id: &'static str,
    title: &'static str,
    promise: Promise,
    gate: Option<f64>,
}

impl Promised {
    const fn at_most(id: &'static str, title: &'static str, goal: f64, gate: f64) -> Self {
        Self { id, title, promise: Promise::AtMost(goal), gate: Some(gate) }
    }

    const fn at_least(id: &'static str, title: &'static str, goal: f64, gate: f64) -> Self {
        Self { id, title, promise: Promise::AtLeast(goal), gate: Some(gate) }
    }

    /// What is told beside a goal and promises nothing.
    const fn shown(id: &'static str, title: &'static str) -> Self {
        Self { id, title, promise: Promise::Nothing, gate: None }
    }

    fn missing(self, why: &str) -> Goal {
        Goal { gate: self.gate, ..Goal::missing(self.id, self.title, self.promise, why) }
    }

    fn found(self, ratios: &[f64]) -> Goal {
        Goal { gate: self.gate, ..Goal::new(self.id, self.title, self.promise, ratios) }
    }

    /// Ours by the best of the rivals of the lines-up, round by round.
    fn against(self, table: &Table, rivals: &[&str], verdict: &Verdict) -> Goal {
        self.of(OURS, table, rivals, verdict)
    }

    fn of(self, ours: &str, table: &Table, rivals: &[&str], verdict: &Verdict) -> Goal {
        self.found(&table.ratios(ours, rivals)).unless(verdict.invalid.clone())
    }
}

const OURS: &str = "portcullis";
const GATHERING: &str = "portcullis-gathering";
const PROMPT: &str = "portcullis-prompt";

/// The same of ours that never gathers, shown beside a goal that is about the default.
fn beside(goal: Promised, table: &Table, rivals: &[&str], verdict: &Verdict) -> Goal {
    Promised::shown(goal.id, "  with relay_gather = 0s").of(PROMPT, table, rivals, verdict)
}

/// Everybody who ends TLS.
fn everybody(bench: &Bench) -> Vec<(Kind, Way)> {
    // A quick run leaves out whom no goal is against.
    let wanted = |kind: &Kind| kind.is_rival() || *kind == Kind::Portcullis || !bench.plan.quick;
    let ending_tls = Kind::ALL.into_iter().filter(|kind| {
        !matches!(kind, Kind::TokioUring | Kind::PortcullisGathering | Kind::PortcullisPrompt)
    });
    ending_tls.filter(wanted).map(|kind| (kind, Way::Tls)).collect()
}

/// Everybody who ends TLS, and ours that never gathers.
fn everybody_and_prompt(bench: &Bench) -> Vec<(Kind, Way)> {
    let mut kinds = everybody(bench);
    kinds.push((Kind::PortcullisPrompt, Way::Tls));
    kinds
}

/// Those of a line-up that goals are against.
fn rivals(lanes: &[Lane]) -> Vec<String> {
    let rivals = lanes.iter().filter(|lane| lane.kind.is_some_and(Kind::is_rival));
    rivals.map(|lane| lane.label.clone()).collect()
}

/// Borrowed labels.
fn names(labels: &[String]) -> Vec<&str> {
    labels.iter().map(String::as_str).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of issue 4: goal and gate of every row.
    #[test]
    fn every_promise_is_the_agreed_one() {
        let all: Vec<Promised> = Id::value_variants().iter().flat_map(|id| promised(*id)).copied().collect();
        let found: Vec<(&str, Promise, Option<f64>)> =
            all.iter().map(|promised| (promised.id, promised.promise, promised.gate)).collect();
        let (least, most) = (Promise::AtLeast, Promise::AtMost);
        let expected = [
            ("G1", most(0.45), Some(0.65)),
            ("G2", most(0.45), Some(0.6)),
            ("G2-held", least(9_500.0), None),
            ("G3-down", least(2.0), Some(1.6)),
            ("G3-up", least(2.0), Some(1.6)),
            ("G4", least(2.0), Some(1.5)),
            ("G4-resumed", least(1.5), Some(1.5)),
            ("G5", most(0.25), Some(0.6)),
            ("G5-kb", most(4.0), None),
            ("G6", most(1.5), Some(2.5)),
            ("G6-haproxy", most(0.25), None),
            ("G7", most(0.7), Some(1.0)),
            ("G7-p99", most(1.0), None),
            ("G7-p99-ms", most(1.0), None),
            ("G10-down", least(3.0), None),
            ("G10-splice-down", least(2.0), Some(1.3)),
            ("G10-up", least(3.0), None),
            ("G10-splice-up", least(2.0), Some(1.3)),
            ("G11", least(1.3), Some(1.1)),
            ("G11-uring", least(1.6), Some(1.1)),
            ("G11-enters", most(0.125), None),
            ("G12", most(1.0), Some(3.0)),
            ("G12-ms", most(5.0), None),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn what_could_not_be_measured_is_reported_as_not_kept() {
        for goal in missing(Id::Bulk, "no back end") {
            assert_eq!((goal.met(), goal.gate_met()), (Some(false), Some(false)));
            assert!(goal.line().contains("no back end"));
        }
    }
}
