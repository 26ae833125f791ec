//! `xdp`: what the kernel side costs and keeps, side by side with what one would use instead.
//!
//! Everything happens in namespaces of this run, on Ethernet pairs (veth). See `perf/README.md` for the method, and
//! for where such pairs distort.

mod assembly;
mod bed;
mod drop;
mod ends;
mod filters;
mod flood;
mod forward;
mod frames;
mod generator;
mod peace;
mod program;
mod sessions;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::unistd::Uid;
use portcullis_tests::{netns, process};
use serde::Serialize;
use serde_json::{Map, Value, json};

use self::bed::Pins;
use crate::cpu::{self, Cpus};
use crate::goal::{self, Goal};
use crate::interrupt;
use crate::machine::{self, Facts};

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) rounds: u32,
    pub(crate) quick: bool,
    /// Everything when absent.
    pub(crate) only: Option<Part>,
    /// Between two frames of the generator, where drops and forwarding are measured.
    pub(crate) period: Duration,
}

/// A part of the measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Part {
    /// The program alone, by BPF_PROG_TEST_RUN
    Program,
    /// What a dropped packet costs
    Drop,
    /// Sessions under a flood
    Flood,
    /// What the attached program costs in peace
    Peace,
    /// Forwarding of small packets
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
    only: Option<String>,
    period_seconds: f64,
    goals: Vec<Goal>,
    notes: Vec<&'static str>,
    raw: Map<String, Value>,
    #[serde(skip)]
    tables: Vec<String>,
}

/// What a pair of virtual interfaces (veth) does that a network card does not.
const NOTES: &[&str] = &[
    "a program in the driver of a veth switches TSO off at the peer and copies what a socket sends: bulk TCP loses most \
     of its speed whatever the program does; so only small packets are measured, and TSO is off for all contenders",
    "generator and receiver share a CPU, so that frames lie in its cache as a network card would put them there; what a veth \
     itself costs is in every figure (`xdp-drop-only` in the table), so ratios to nftables are smaller here than on a card",
    "a veth holds 256 packets; what does not fit is lost before any filter has seen it, and the page is handed back \
     under a lock that the receiver needs too: a filter that is overrun pays for that as well",
    "what XDP_TX sends reaches the other end of a veth only when that has a program of its own; without one it fills \
     that end's ring and nothing is received there any more: under the flood all contenders' clients have a program, \
     which drops answers to forged sources",
    "under the flood the generator runs behind the receiver: a contender that is overrun meets fewer packets than 2 million \
     a second, which is in its favour",
    "a veth copies what a socket sends into a new page before a program sees it, and each request of a socket wakes the \
     receiver: that is most of what forwarding costs with requests of sockets, so the ends of those that count for the goal \
     answer in the driver",
];

pub(crate) fn run(plan: Plan, progress: &mut impl Write) -> Result<Report> {
    let (machine, cpus) = (Facts::collect(), Cpus::choose()?);
    check()?;
    interrupt::watch()?;
    cpu::pin(cpus.load)?;
    // As long as anything is measured.
    let _awake = cpu::keep_awake();
    let bench = Bench { plan, cpus, pins: Pins::mount()? };
    let mut report = Report {
        kind: "xdp",
        date: machine::today(),
        machine,
        rounds: plan.rounds,
        quick: plan.quick,
        only: plan.only.map(|part| format!("{part:?}").to_lowercase()),
        period_seconds: plan.period.as_secs_f64(),
        goals: Vec::new(),
        notes: NOTES.to_vec(),
        raw: Map::new(),
        tables: Vec::new(),
    };
    for part in [Part::Program, Part::Drop, Part::Flood, Part::Peace, Part::Forward] {
        if plan.only.is_none_or(|only| only == part) {
            bench.measure(part, &mut report, progress)?;
        }
    }
    Ok(report)
}

/// Says what is missing before anything is begun.
fn check() -> Result<()> {
    ensure!(Uid::effective().is_root(), "this needs root: it makes network namespaces and loads programs");
    if let Err(reason) = netns::available() {
        bail!("no network namespaces: {reason}");
    }
    for (program, package) in
        [("nft", "nftables"), ("ethtool", "ethtool"), ("chrt", "util-linux"), ("haproxy", "haproxy")]
    {
        process::find_program(program)
            .with_context(|| format!("{program} is missing: `apt-get install {package}`"))?;
    }
    process::binary("portcullisd").map(drop).context("our own daemon")
}

/// What every measure needs.
struct Bench {
    plan: Plan,
    cpus: Cpus,
    pins: Pins,
}

impl Bench {
    fn window(&self) -> Duration {
        Duration::from_secs(if self.plan.quick { 1 } else { 2 })
    }

    fn measure(&self, part: Part, report: &mut Report, progress: &mut impl Write) -> Result<()> {
        let name = format!("{part:?}").to_lowercase();
        writeln!(progress, "{name}: begins")?;
        let (raw, goals) = match part {
            Part::Program => {
                let times = program::run(&self.pins)?;
                report.tables.push(String::from("the program alone, repeated on one frame:"));
                report.tables.extend(times.iter().map(program::Time::line));
                (json!(times), Vec::new())
            }
            Part::Drop => {
                let (series, goals) = drop::run(self, progress)?;
                report.tables.extend(drop::table(&series));
                (json!(series), goals)
            }
            Part::Flood => flood::run(self, progress).map(|(series, goals)| (json!(series), goals))?,
            Part::Peace => peace::run(self, progress).map(|(series, goals)| (json!(series), goals))?,
            Part::Forward => forward::run(self, progress).map(|(series, goals)| (json!(series), goals))?,
        };
        report.raw.insert(name, raw);
        report.goals.extend(goals);
        Ok(())
    }
}

impl Report {
    /// The last line of output.
    pub(crate) fn summary(&self) -> Value {
        let goals: Vec<Value> = self.goals.iter().filter_map(Goal::summary).collect();
        json!({"goals": goals})
    }

    /// Keeps everything as `xdp-DATE.json`; a part of it as `xdp-PART-DATE.json`.
    pub(crate) fn save(&self, dir: &Path) -> Result<PathBuf> {
        let part = self.only.as_ref().map(|part| format!("{part}-")).unwrap_or_default();
        let path = dir.join(format!("{}-{part}{}.json", self.kind, self.date));
        let text = serde_json::to_string_pretty(self).context("write the results as JSON")?;
        fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        fs::write(&path, text + "\n").with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let machine = &self.machine;
        writeln!(
            f,
            "{}, {} CPUs, Linux {}, load before {}; {} rounds",
            machine.cpu_model, machine.cpus, machine.kernel, machine.load_average, self.rounds
        )?;
        self.tables.iter().try_for_each(|line| writeln!(f, "{line}"))?;
        writeln!(f, "\n{}", goal::heading())?;
        self.goals.iter().try_for_each(|goal| writeln!(f, "{}", goal.line()))?;
        writeln!(f)?;
        self.notes.iter().try_for_each(|note| writeln!(f, "! {note}"))
    }
}
