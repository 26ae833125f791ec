//! What a dropped packet costs the receiver: CPU time of its threads per packet of a flood of junk.

use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use aya::Ebpf;
use portcullis_tests::gateway::Gateway;
use portcullis_tests::wait;
use serde::Serialize;

use super::Bench;
use super::assembly;
use super::bed::{Bed, GATEWAY, Threads, packets};
use super::filters::{self, Filter};
use super::frames::Junk;
use super::generator::{self, Pace, Shot};
use crate::goal::{Goal, Promise};
use crate::interrupt;
use crate::load::PATIENCE;
use crate::stats::{self, float};

/// A port that no filter leaves open and nobody listens on.
const CLOSED: u16 = 8_022;
/// Frames of one kind in a row.
const BURST: u32 = 50_000;
/// Fewer than the pair's ring holds, so that a receiver that wakes up late loses none.
const PROBE: u32 = 200;
/// For the last packets of a burst to be received, and for their time to be accounted.
const DRAIN: Duration = Duration::from_millis(2);

/// What one filter did with bursts of one kind of junk.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Sample {
    filter: &'static str,
    junk: &'static str,
    packets: u64,
    /// Did not fit into the receiver's ring.
    lost: u64,
    cpu_seconds: f64,
}

/// One filter's samples of one round, by kind of junk.
type Samples = [Sample; 3];

/// Nanoseconds per packet.
fn cost(sample: &Sample) -> f64 {
    sample.cpu_seconds * 1e9 / float(sample.packets)
}

/// Nanoseconds per packet of a mix of equal parts.
fn mixed(samples: &Samples) -> f64 {
    samples.iter().map(cost).sum::<f64>() / 3.0
}

struct Contender {
    filter: Filter,
    bed: Bed,
    threads: Threads,
    shots: Vec<Shot>,
    _daemon: Option<Gateway>,
    _program: Option<Ebpf>,
}

impl Contender {
    fn start(filter: Filter, bench: &Bench, pace: Pace, dir: &Path) -> Result<Self> {
        let cpus = bench.cpus;
        let bed = Bed::new("drop", cpus)?;
        // Nobody connects to it: only the filter is measured here.
        let nobody = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
        let daemon = match filter {
            Filter::Ours => Some(filters::daemon(&bed, nobody, Some(&bench.pins), cpus.contender)?),
            _ => None,
        };
        filters::peer(&bed, filter, dir)?;
        let drop_all = || generator::attach(&bed.gateway, &bed.edge, &assembly::drop_all());
        let program = (filter == Filter::Nothing).then(drop_all).transpose()?;
        let macs = bed.macs()?;
        let shots = Junk::ALL.map(|junk| {
            let frame = junk.frame(macs, GATEWAY, CLOSED);
            Shot::new(&bed, frame, pace, Some(junk.vary()))
        });
        let shots = shots.into_iter().collect::<Result<_>>()?;
        let threads = bed.receiver()?;
        threads.hurry()?;
        let mut contender = Self { filter, bed, threads, shots, _daemon: daemon, _program: program };
        contender.probe().with_context(|| format!("probe of {}", filter.title()))?;
        Ok(contender)
    }

    /// Proves that packets arrive and that none of them gets past the filter.
    fn probe(&mut self) -> Result<()> {
        let before = self.bed.gateway.enter(delivered)?;
        let (shots, wan) = (&mut self.shots, &self.bed.wan);
        self.bed.outside.enter(|| {
            for (junk, shot) in Junk::ALL.into_iter().zip(shots) {
                let [_, before] = packets(wan)?;
                shot.fire(PROBE)?;
                wait::until(PATIENCE, "junk to arrive", || {
                    packets(wan).is_ok_and(|[_, now]| now - before > u64::from(PROBE) / 2)
                })
                .with_context(|| junk.id())?;
            }
            Ok(())
        })?;
        // Neighbour discovery and the like may come at any time.
        let passed = self.bed.gateway.enter(delivered)? - before;
        ensure!(passed < 20, "{passed} packets of junk got past it");
        Ok(())
    }

    fn slice(&mut self, bursts: u32, samples: &mut Samples) -> Result<()> {
        let (shots, wan, threads) = (&mut self.shots, &self.bed.wan, &self.threads);
        self.bed.outside.enter(|| {
            for _ in 0..bursts {
                for (shot, sample) in shots.iter_mut().zip(samples.iter_mut()) {
                    interrupt::check()?;
                    let ([_, sent], time) = (packets(wan)?, threads.time()?);
                    shot.fire(BURST)?;
                    std::thread::sleep(DRAIN);
                    let ([_, more], late) = (packets(wan)?, threads.time()?);
                    sample.packets += more - sent;
                    sample.lost += u64::from(BURST).saturating_sub(more - sent);
                    sample.cpu_seconds += late.saturating_sub(time).as_secs_f64();
                }
            }
            Ok(())
        })
    }

    fn nothing(&self) -> Samples {
        let filter = self.filter.id();
        Junk::ALL.map(|junk| Sample { filter, junk: junk.id(), packets: 0, lost: 0, cpu_seconds: 0.0 })
    }
}

/// Packets that the calling thread's namespace has handed to its transports.
fn delivered() -> Result<u64> {
    let text = fs::read_to_string("/proc/thread-self/net/snmp").context("read the counters of IP")?;
    let mut lines = text.lines().filter(|line| line.starts_with("Ip:"));
    let (names, values) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let mut both = names.split(' ').zip(values.split(' '));
    let found = both.find_map(|(name, value)| (name == "InDelivers").then(|| value.parse().ok())?);
    found.context("the counters of IP have no InDelivers")
}

/// The raw series and what they came to.
pub(super) fn run(bench: &Bench, progress: &mut impl Write) -> Result<(Vec<Vec<Samples>>, Vec<Goal>)> {
    let (rounds, bursts) = (bench.plan.rounds, if bench.plan.quick { 1 } else { 4 });
    let dir = tempfile::tempdir().context("make a temporary directory")?;
    let (pace, mut contenders) = (Pace::new(bench.plan.period)?, Vec::new());
    for filter in [Filter::Ours].into_iter().chain(Filter::PEERS) {
        contenders.push(Contender::start(filter, bench, pace, dir.path())?);
    }
    crate::cpu::pin(bench.cpus.contender)?;
    let mut series = Vec::new();
    for round in 1..=rounds {
        let mut all: Vec<Samples> = contenders.iter().map(Contender::nothing).collect();
        let order = (0..contenders.len()).chain((0..contenders.len()).rev());
        for index in order {
            let (Some(contender), Some(samples)) = (contenders.get_mut(index), all.get_mut(index)) else {
                continue;
            };
            contender.slice(bursts, samples)?;
        }
        let costs: Vec<String> = all.iter().map(describe).collect();
        writeln!(progress, "round {round}/{rounds}: ns per dropped packet: {}", costs.join(", "))?;
        series.push(all);
    }
    crate::cpu::pin(bench.cpus.load)?;
    let goals = goals(&series);
    Ok((series, goals))
}

fn describe(samples: &Samples) -> String {
    let (lost, packets) = samples.iter().fold((0, 0), |sum, one| (sum.0 + one.lost, sum.1 + one.packets));
    let lost = float(lost) * 100.0 / float(lost + packets);
    let filter = samples.first().map_or("", |one| one.filter);
    format!("{filter} {:.0} ({lost:.0} % did not fit)", mixed(samples))
}

fn goals(series: &[Vec<Samples>]) -> Vec<Goal> {
    let ratios = |index: usize, cost: &dyn Fn(&Samples) -> Option<f64>| -> Vec<f64> {
        let of = |round: &Vec<Samples>| Some(cost(round.get(index)?)? / cost(round.first()?)?);
        series.iter().filter_map(of).collect()
    };
    let mut goals = Vec::new();
    for (index, filter) in (1..).zip(Filter::PEERS) {
        let promise = match filter {
            Filter::Raw => Promise::AtLeast(4.0),
            Filter::Input => Promise::AtLeast(7.0),
            _ => Promise::Nothing,
        };
        let title = format!("a drop: {} / Portcullis, CPU per packet", filter.title());
        let id = format!("xdp-drop-vs-{}", filter.id());
        goals.push(Goal::new(&id, &title, promise, &ratios(index, &|samples| Some(mixed(samples)))));
        for (place, junk) in Junk::ALL.into_iter().enumerate() {
            let title = format!("  {} only", junk.id());
            let ratios = ratios(index, &|samples| samples.get(place).map(cost));
            goals.push(Goal::new(&format!("{id}-{}", junk.id()), &title, Promise::Nothing, &ratios));
        }
    }
    goals
}

/// Medians over the rounds in nanoseconds, for people.
pub(super) fn table(series: &[Vec<Samples>]) -> Vec<String> {
    let mut lines =
        vec![format!("\n{:<22} {:>7} {:>7} {:>9}", "ns per dropped packet", "SYN", "UDP", "malformed")];
    for index in 0..series.first().map_or(0, Vec::len) {
        let of = |place: usize| {
            let costs = series.iter().filter_map(|round| Some(cost(round.get(index)?.get(place)?)));
            stats::median(&costs.collect::<Vec<f64>>()).unwrap_or(f64::NAN)
        };
        let name = series.first().and_then(|round| Some(round.get(index)?.first()?.filter)).unwrap_or("");
        lines.push(format!("{name:<22} {:>7.0} {:>7.0} {:>9.0}", of(0), of(1), of(2)));
    }
    lines
}
