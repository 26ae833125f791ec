//! What the attached program costs while nobody attacks: CPU time per message of the small-message mix, with the
//! program and without.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context as _, Result};
use aya::Ebpf;
use serde::Serialize;

use super::generator;
use super::sessions::Site;
use super::{Bench, assembly};
use crate::goal::{Goal, Promise};
use crate::load::echo::MIX;
use crate::stats::float;

const WARM_UP: Duration = Duration::from_millis(300);
const LABELS: [&str; 3] = ["none", "pass-only", "portcullis"];

/// One window of one contender.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Sample {
    contender: &'static str,
    messages: u64,
    /// Of the daemon and of the threads that receive from outside.
    cpu_seconds: f64,
}

struct Contender {
    label: &'static str,
    site: Site,
    /// The program that does nothing, which is detached with its owner.
    _program: Option<Ebpf>,
}

impl Contender {
    fn start(label: &'static str, bench: &Bench) -> Result<Self> {
        let mut site = Site::start("peace", bench.cpus, (label == "portcullis").then_some(&bench.pins))?;
        let pass = || generator::attach(&site.bed.gateway, &site.bed.edge, &assembly::pass_all());
        let program = (label == "pass-only").then(pass).transpose()?;
        site.find_receiver()?;
        Ok(Self { label, site, _program: program })
    }

    fn slice(&self, window: Duration) -> Result<Sample> {
        let site = &self.site;
        let sample = site.bed.outside.enter(|| {
            let mut load = site.connect(MIX)?;
            site.live(&mut load, WARM_UP)?;
            let (before, time) = (load.returned(), site.time()?);
            site.live(&mut load, window)?;
            let cpu_seconds = site.time()?.saturating_sub(time).as_secs_f64();
            Ok(Sample { contender: self.label, messages: load.returned() - before, cpu_seconds })
        });
        let sample = sample.with_context(|| format!("messages with {}", self.label))?;
        site.settle()?;
        Ok(sample)
    }
}

/// The raw series and what they came to.
pub(super) fn run(bench: &Bench, progress: &mut impl Write) -> Result<(Vec<Vec<Sample>>, Vec<Goal>)> {
    let (rounds, window) = (bench.plan.rounds, bench.window());
    let mut contenders = Vec::new();
    for label in LABELS {
        contenders.push(Contender::start(label, bench)?);
    }
    let mut series = Vec::new();
    for round in 1..=rounds {
        let there = contenders.iter().chain(contenders.iter().rev());
        let samples = there.map(|contender| contender.slice(window)).collect::<Result<Vec<Sample>>>()?;
        let line: Vec<String> =
            LABELS.iter().map(|label| format!("{label} {:.2}", cost(&samples, label))).collect();
        writeln!(progress, "round {round}/{rounds}: CPU µs per message: {}", line.join(", "))?;
        series.push(samples);
    }
    let over = |base: &str| -> Vec<f64> {
        series.iter().map(|samples| cost(samples, "portcullis") / cost(samples, base)).collect()
    };
    let goals = vec![
        Goal::new(
            "xdp-peace-cost",
            "in peace: CPU per message, Portcullis / no program",
            Promise::AtMost(1.05),
            &over("none"),
        ),
        // What any program costs on a pair is the pair's own: it copies each packet to where a program may write.
        Goal::new(
            "xdp-peace-cost-vs-pass",
            "  Portcullis / a program that lets everything pass",
            Promise::Nothing,
            &over("pass-only"),
        ),
    ];
    Ok((series, goals))
}

/// CPU microseconds per message of one contender.
fn cost(samples: &[Sample], label: &str) -> f64 {
    let (mut messages, mut cpu) = (0, 0.0);
    for sample in samples.iter().filter(|sample| sample.contender == label) {
        messages += sample.messages;
        cpu += sample.cpu_seconds;
    }
    cpu * 1e6 / float(messages)
}
