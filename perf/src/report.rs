//! What is printed and what is kept: tables for people, one JSON object for scripts, the raw series for later.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::bench::Bench;
use crate::compare::Figure;
use crate::goal::{self, Goal};
use crate::goals::{Id, Outcome};
use crate::machine::{self, Facts};
use crate::peers::Peer;

/// Under which circumstances everything was measured.
#[derive(Debug, Serialize)]
struct Settings {
    rounds: u32,
    quick: bool,
    seconds_per_slice: f64,
    order: &'static str,
    tls: &'static str,
    certificate: &'static str,
    contender_cpu: usize,
    load_cpu: usize,
    cpu_time_from: &'static str,
    idle_cpus_poll: bool,
}

/// Everything that one run found.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    kind: &'static str,
    date: String,
    machine: Facts,
    settings: Settings,
    contenders: Vec<Peer>,
    skipped: Vec<String>,
    only: Vec<String>,
    goals: Vec<Goal>,
    figures: Vec<Figure>,
    lines: Vec<String>,
    notes: Vec<&'static str>,
    raw: Map<String, Value>,
}

/// What loopback does that a network does not.
const NOTES: &[&str] = &[
    "the sender of a segment on loopback also runs the receiver's TCP stack in its own time: each contender is billed \
     for a part of the client's and the back end's work, equally, and ratios are pressed towards 1",
    "a part of any advantage over HAProxy, nginx and hitch of Debian 12 is an advantage over OpenSSL 3.0",
];

const HALTS: &str =
    "idle CPUs halt (/dev/cpu_dma_latency cannot be used): each contender is billed for waking the load";

impl Report {
    pub(crate) fn new(machine: Facts, bench: &Bench, only: &[Id], outcomes: Vec<(Id, Outcome)>) -> Self {
        let settings = Settings {
            rounds: bench.plan.rounds,
            quick: bench.plan.quick,
            seconds_per_slice: bench.plan.timing().length.as_secs_f64(),
            order: "there and back through all contenders in each round",
            tls: "TLS_AES_128_GCM_SHA256 and X25519; resumed sessions: TLS 1.2, ECDHE-ECDSA-AES128-GCM-SHA256",
            certificate: "ECDSA P-256, issued by a root without intermediates",
            contender_cpu: bench.cpus.contender,
            load_cpu: bench.cpus.load,
            cpu_time_from: bench.cpu_source,
            idle_cpus_poll: bench.is_awake(),
        };
        let mut report = Self {
            kind: "goals",
            date: machine::today(),
            machine,
            settings,
            contenders: bench.peers.clone(),
            skipped: bench.skipped.clone(),
            only: only.iter().map(|id| id.name()).collect(),
            goals: Vec::new(),
            figures: Vec::new(),
            lines: Vec::new(),
            notes: NOTES.iter().copied().chain((!bench.is_awake()).then_some(HALTS)).collect(),
            raw: Map::new(),
        };
        for (id, outcome) in outcomes {
            report.goals.extend(outcome.goals);
            report.figures.extend(outcome.figures);
            report.lines.extend(outcome.lines);
            report.raw.insert(id.name(), outcome.raw);
        }
        report
    }

    /// The last line of output.
    pub(crate) fn summary(&self) -> Value {
        let goals: Vec<Value> = self.goals.iter().filter_map(Goal::summary).collect();
        json!({"goals": goals})
    }

    /// Keeps everything as `goals-DATE.json`; a quick run and a part of the goals have names of their own. A second
    /// run of a day replaces the first.
    pub(crate) fn save(&self, dir: &Path) -> Result<PathBuf> {
        let quick = if self.settings.quick { "quick-" } else { "" };
        let part: String = self.only.iter().map(|id| format!("{id}-")).collect();
        let path = dir.join(format!("{}-{quick}{part}{}.json", self.kind, self.date));
        let text = serde_json::to_string(self).context("write the results as JSON")?;
        fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        fs::write(&path, text + "\n").with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (machine, settings) = (&self.machine, &self.settings);
        writeln!(f, "{}; {}", settings.tls, settings.certificate)?;
        writeln!(
            f,
            "{}, {} CPUs, Linux {}, load before {}; contenders on CPU {}, load and back end on CPU {}; {} rounds",
            machine.cpu_model,
            machine.cpus,
            machine.kernel,
            machine.load_average,
            settings.contender_cpu,
            settings.load_cpu,
            settings.rounds
        )?;
        for peer in &self.contenders {
            writeln!(f, "  {:<16} {}", peer.kind.label(), peer.version)?;
        }
        writeln!(f)?;
        self.figures.iter().try_for_each(|figure| writeln!(f, "{figure}"))?;
        self.lines.iter().try_for_each(|line| writeln!(f, "{line}"))?;
        writeln!(f, "\n{}", goal::heading())?;
        self.goals.iter().try_for_each(|goal| writeln!(f, "{}", goal.line()))?;
        writeln!(f)?;
        self.skipped.iter().try_for_each(|line| writeln!(f, "! SKIPPED {line}"))?;
        self.notes.iter().try_for_each(|note| writeln!(f, "! {note}"))
    }
}
