//! `xdp`: what the kernel side costs and keeps, side by side with what one would use instead.
//!
//! Everything happens in namespaces of this run, on Ethernet pairs (veth). See `perf/README.md` for the method, and
//! for where such pairs distort.

mod assembly;
mod bed;
mod drop;
mod filters;
mod flood;
mod frames;
mod generator;
mod goal;
mod peace;
mod program;
mod sessions;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use portcullis_tests::{netns, process};
use serde::Serialize;
use serde_json::{Value, json};

use self::bed::Pins;
use self::goal::Goal;
use crate::cpu::{self, Cpus};
use crate::interrupt;
use crate::machine::{self, Facts};

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) rounds: u32,
    pub(crate) quick: bool,
    pub(crate) only: Option<Part>,
}

/// A part of the measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Part {
    Program,
    Drop,
    Flood,
    Peace,
    Forward,
}

/// Everything that one run found.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    kind: &'static str,
    date: String,
    machine: Facts,
    rounds: u32,
    quick: bool,
    goals: Vec<Goal>,
    notes: Vec<&'static str>,
    raw: Value,
    #[serde(skip)]
    tables: Vec<String>,
}

/// What a pair of virtual interfaces does that a network card does not.
const NOTES: [&str; 1] = ["x"];

pub(crate) fn run(plan: Plan, progress: &mut impl Write) -> Result<Report> {
    let machine = Facts::collect();
    let cpus = Cpus::choose()?;
    if let Err(reason) = netns::available() {
        anyhow::bail!("no network namespaces: {reason}");
    }
    process::find_program("nft").context("nft is missing: `apt-get install nftables`")?;
    process::find_program("ethtool").context("ethtool is missing: `apt-get install ethtool`")?;
    process::binary("portcullisd").context("our own daemon")?;
    interrupt::watch()?;
    cpu::pin(cpus.load)?;
    let pins = Pins::mount()?;
    let bursts = if plan.quick { 2 } else { 4 };
    let window = Duration::from_secs(if plan.quick { 1 } else { 2 });
    let alone = program::run(&pins)?;
    for time in &alone {
        writeln!(progress, "the program alone: {}", time.line())?;
    }
    if plan.only == Some(Part::Program) {
        anyhow::bail!("only the program");
    }
    let (dropped, mut goals) = drop::run(plan.rounds, bursts, cpus, &pins, progress)?;
    if plan.only == Some(Part::Drop) {
        for line in drop::table(&dropped) {
            writeln!(progress, "{line}")?;
        }
        anyhow::bail!("only drop");
    }
    let (flooded, more) = flood::run(plan.rounds, window, cpus, &pins, progress)?;
    goals.extend(more);
    let (peaceful, more) = peace::run(plan.rounds, window, cpus, &pins, progress)?;
    goals.extend(more);
    Ok(Report {
        kind: "xdp",
        date: machine::today(),
        machine,
        rounds: plan.rounds,
        quick: plan.quick,
        tables: drop::table(&dropped),
        raw: json!({"drop": dropped, "flood": flooded, "peace": peaceful}),
        goals,
        notes: NOTES.to_vec(),
    })
}

impl Report {
    /// The last line of output.
    pub(crate) fn summary(&self) -> Value {
        let goals: Vec<Value> = self.goals.iter().filter_map(Goal::summary).collect();
        json!({"goals": goals})
    }

    pub(crate) fn save(&self, dir: &Path) -> Result<PathBuf> {
        let path = dir.join(format!("{}-{}.json", self.kind, self.date));
        let text = serde_json::to_string_pretty(self).context("write the results as JSON")?;
        fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        fs::write(&path, text + "\n").with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for line in &self.tables {
            writeln!(f, "{line}")?;
        }
        for goal in &self.goals {
            writeln!(f, "{}", goal.line())?;
        }
        Ok(())
    }
}
