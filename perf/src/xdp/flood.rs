//! Sessions under a flood: how many messages still come back while 2 million SYNs and datagrams a second arrive.
//!
//! The receiver's threads run before everything else on their CPU, as softirqs do: as threads among others they would
//! leave the daemon half of it whatever a packet costs, and lose the rest of the flood before any filter sees it.

use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use aya::Ebpf;
use serde::Serialize;

use super::bed::{GATEWAY, packets};
use super::filters::OPEN;
use super::frames::{Junk, SOURCE};
use super::generator::{self, Pace, Shot};
use super::sessions::Site;
use super::{Bench, assembly};
use crate::goal::{Goal, Promise};
use crate::interrupt;
use crate::load::echo::{MIX as MIX_OF_SESSIONS, Mix};
use crate::stats::float;

/// Of one frame: 2 million a second.
const PERIOD: Duration = Duration::from_nanos(500);
/// Somewhat less than half of the gateway's core in peace, so that a flood leaves room for them or does not.
const MIX: Mix = Mix { active: 200, gap: Duration::from_millis(12), ..MIX_OF_SESSIONS };
const SETTLE: Duration = Duration::from_millis(300);
/// A flood ends at the latest after this, whatever else goes wrong.
const FLOOD_LIMIT: Duration = Duration::from_secs(30);
/// What the junk for closed ports aims at.
const CLOSED: u16 = 8_022;
const LABELS: [&str; 3] = ["portcullis", "nft-input-limit", "nft-raw-limit"];

/// One quiet and one flooded window of one contender.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Sample {
    contender: &'static str,
    quiet_per_second: f64,
    flooded_per_second: f64,
    /// How much of the gateway's CPU daemon and receiver took, in peace and under the flood.
    quiet_busy: f64,
    flooded_busy: f64,
    /// Of the flood, per second: what the generator made, and what fitted into the receiver's ring.
    offered_per_second: f64,
    arrived_per_second: f64,
    /// Why there were no sessions at all.
    error: Option<String>,
}

/// A SYN budget and SYN cookies as administrators write them, with connection tracking.
fn input_rules(edge: &str) -> String {
    format!(
        "table inet filter {{\nchain c {{\ntype filter hook input priority 0; policy drop; \
         ct state established,related accept; iifname \"lo\" accept; ct state invalid drop; \
         iifname \"{edge}\" tcp dport {OPEN} tcp flags & (fin|syn|rst|ack) == syn \
         limit rate 1000/second burst 100 packets accept\n}}\n}}\n"
    )
}

/// The same without connection tracking and before routing, which costs less.
fn raw_rules(edge: &str) -> String {
    format!(
        "table inet filter {{\nchain c {{\ntype filter hook prerouting priority -300; policy drop; \
         iifname != \"{edge}\" accept; tcp dport {OPEN} tcp flags & (fin|syn|rst|ack) != syn accept; \
         tcp dport {OPEN} limit rate 1000/second burst 100 packets accept\n}}\n}}\n"
    )
}

struct Contender {
    label: &'static str,
    site: Site,
    shots: Vec<Shot>,
    /// The gateway's.
    cpu: usize,
    /// Takes what answers the flood.
    _mouth: Ebpf,
}

impl Contender {
    fn start(label: &'static str, bench: &Bench, dir: &Path) -> Result<Self> {
        let ours = label == LABELS[0];
        let mut site = Site::start("flood", bench.cpus, ours.then_some(&bench.pins))?;
        site.bed.sysctl("net.ipv4.tcp_syncookies", "1")?;
        match label {
            "nft-input-limit" => site.bed.nft(&input_rules(&site.bed.edge), dir)?,
            "nft-raw-limit" => site.bed.nft(&raw_rules(&site.bed.edge), dir)?,
            _ => {}
        }
        // What XDP_TX hands to an end without a program stays in its ring for ever, and fills it: nobody is told.
        let answers = assembly::drop_to([SOURCE[0], SOURCE[1]]);
        let mouth = generator::attach(&site.bed.outside, &site.bed.wan, &answers)?;
        site.find_receiver()?;
        site.hurry()?;
        let macs = site.bed.macs()?;
        // Half of it SYNs for the open port, half datagrams for a closed one.
        let shots = [(Junk::Syn, OPEN), (Junk::Udp, CLOSED)].map(|(junk, port)| {
            Shot::new(&site.bed, junk.frame(macs, GATEWAY, port), Pace::FASTEST, Some(junk.vary()))
        });
        let shots = shots.into_iter().collect::<Result<_>>()?;
        Ok(Self { label, site, shots, cpu: bench.cpus.contender, _mouth: mouth })
    }

    fn slice(&mut self, window: Duration) -> Result<Sample> {
        let (site, shots, label, cpu) = (&self.site, &mut self.shots, self.label, self.cpu);
        let sample = site.bed.outside.enter(|| {
            let mut load = site.connect(MIX)?;
            let measure = |load: &mut _| {
                site.live(load, SETTLE)?;
                let (before, [_, sent], at) = (load.returned(), packets(&site.bed.wan)?, Instant::now());
                let time = site.time()?;
                site.live(load, window)?;
                let seconds = at.elapsed().as_secs_f64();
                let [_, late] = packets(&site.bed.wan)?;
                let busy = site.time()?.saturating_sub(time).as_secs_f64();
                let (returned, arrived) = (float(load.returned() - before), float(late - sent));
                Ok::<_, anyhow::Error>([returned, arrived, busy].map(|n| n / seconds))
            };
            let [quiet, _, quiet_busy] = measure(&mut load)?;
            let stop = AtomicBool::new(false);
            std::thread::scope(|scope| {
                let begin = Instant::now();
                let generator = scope.spawn(|| {
                    generator::flood(shots, cpu, PERIOD, FLOOD_LIMIT, || stop.load(Ordering::Relaxed))
                });
                let measured = measure(&mut load);
                stop.store(true, Ordering::Relaxed);
                let sent = generator.join().map_err(|_| anyhow::anyhow!("the generator panicked"))??;
                let offered = float(sent) / begin.elapsed().as_secs_f64();
                let [flooded, arrived, flooded_busy] = measured?;
                Ok(Sample {
                    contender: label,
                    quiet_per_second: quiet,
                    flooded_per_second: flooded,
                    quiet_busy,
                    flooded_busy,
                    offered_per_second: offered,
                    arrived_per_second: arrived,
                    error: None,
                })
            })
        });
        interrupt::check()?;
        // Whoever loses its sessions has kept none of them; that is a result.
        let none = |error| Sample {
            contender: label,
            quiet_per_second: 0.0,
            flooded_per_second: 0.0,
            quiet_busy: 0.0,
            flooded_busy: 0.0,
            offered_per_second: 0.0,
            arrived_per_second: 0.0,
            error: Some(format!("{error:#}")),
        };
        let settled = sample.and_then(|sample| self.site.settle().map(|()| sample));
        Ok(settled.unwrap_or_else(none))
    }
}

/// The raw series and what they came to.
pub(super) fn run(bench: &Bench, progress: &mut impl Write) -> Result<(Vec<Vec<Sample>>, Vec<Goal>)> {
    let (rounds, window) = (bench.plan.rounds, bench.window());
    let dir = tempfile::tempdir().context("make a temporary directory")?;
    let mut contenders = Vec::new();
    for label in LABELS {
        contenders.push(Contender::start(label, bench, dir.path())?);
    }
    let mut series = Vec::new();
    for round in 1..=rounds {
        let mut samples = Vec::new();
        // There and back: a drift of the machine falls on all alike.
        for contender in &mut contenders {
            samples.push(contender.slice(window)?);
        }
        for contender in contenders.iter_mut().rev() {
            samples.push(contender.slice(window)?);
        }
        let line: Vec<String> = LABELS.iter().map(|label| describe(&samples, label)).collect();
        writeln!(progress, "round {round}/{rounds}: messages per second: {}", line.join("; "))?;
        for error in samples.iter().filter_map(|sample| sample.error.as_ref()) {
            writeln!(progress, "  no sessions: {error}")?;
        }
        series.push(samples);
    }
    let goals = goals(&series);
    Ok((series, goals))
}

/// The mean of one figure of one contender's slices.
fn mean(samples: &[Sample], label: &str, of: fn(&Sample) -> f64) -> f64 {
    let values: Vec<f64> = samples.iter().filter(|sample| sample.contender == label).map(of).collect();
    values.iter().sum::<f64>() / values.iter().map(|_| 1.0).sum::<f64>()
}

fn describe(samples: &[Sample], label: &str) -> String {
    format!(
        "{label} {:.0} of {:.0} (CPU {:.0} %, quiet {:.0} %) at {:.2} Mpps offered, {:.2} arrived",
        mean(samples, label, |sample| sample.flooded_per_second),
        mean(samples, label, |sample| sample.quiet_per_second),
        mean(samples, label, |sample| sample.flooded_busy) * 100.0,
        mean(samples, label, |sample| sample.quiet_busy) * 100.0,
        mean(samples, label, |sample| sample.offered_per_second) / 1e6,
        mean(samples, label, |sample| sample.arrived_per_second) / 1e6,
    )
}

fn goals(series: &[Vec<Sample>]) -> Vec<Goal> {
    let [ours, input, raw] = LABELS;
    let flooded = |samples: &[Sample], label| mean(samples, label, |sample| sample.flooded_per_second);
    let kept = |samples: &[Sample], label| {
        flooded(samples, label) / mean(samples, label, |sample| sample.quiet_per_second).max(1.0)
    };
    // Less than one message a second is none, and nothing can be divided by that.
    let over = |samples: &[Sample], label| flooded(samples, ours) / flooded(samples, label).max(1.0);
    let each = |ratio: &dyn Fn(&[Sample]) -> f64| -> Vec<f64> {
        series.iter().map(|samples| ratio(samples)).collect()
    };
    let title = |text: &str| format!("a flood, messages: {text}");
    vec![
        Goal::new(
            "xdp-flood-kept",
            &title("Portcullis flooded / quiet"),
            Promise::AtLeast(0.8),
            &each(&|samples| kept(samples, ours)),
        ),
        Goal::new(
            "xdp-flood-vs-nft-limit",
            &title("Portcullis / nftables limit in input, SYN cookies"),
            Promise::AtLeast(3.0),
            &each(&|samples| over(samples, input)),
        ),
        Goal::new(
            "xdp-flood-vs-nft-raw-limit",
            &title("Portcullis / nftables limit in raw, SYN cookies"),
            Promise::Nothing,
            &each(&|samples| over(samples, raw)),
        ),
        Goal::new(
            "xdp-flood-nft-input-kept",
            "  nftables limit in input: flooded / quiet",
            Promise::Nothing,
            &each(&|samples| kept(samples, input)),
        ),
        Goal::new(
            "xdp-flood-nft-raw-kept",
            "  nftables limit in raw: flooded / quiet",
            Promise::Nothing,
            &each(&|samples| kept(samples, raw)),
        ),
    ]
}
