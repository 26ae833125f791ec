//! Forwarding of small packets: our `forward` listener in XDP, HAProxy in TCP mode, and DNAT by nftables.
//!
//! Three times: requests and answers whose ends answer in the driver, which all three can carry; the same of sockets,
//! whose own cost is in it; and a stream of segments of established connections from the generator, which HAProxy cannot
//! carry.

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, SocketAddrV4, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use aya::Ebpf;
use portcullis_tests::gateway::{Gateway, Setup};
use portcullis_tests::netns::{self, End, Namespace};
use portcullis_tests::process::Child;
use portcullis_tests::wait;
use serde::Serialize;

use super::bed::{self, Bed, GATEWAY, Threads, packets};
use super::ends::{self, Answering};
use super::filters::{self, OPEN};
use super::frames;
use super::generator::{self, Pace, Shot};
use super::{Bench, assembly};
use crate::backend::Backend;
use crate::cpu::{self, Meter};
use crate::goal::{Goal, Promise};
use crate::interrupt;
use crate::load::PATIENCE;
use crate::load::rounds::{self, Exchange};
use crate::peers::haproxy;
use crate::stats::float;

const INNER: [u8; 4] = [10, 77, 0, 1];
const SERVER: [u8; 4] = [10, 77, 0, 10];
const PORT: u16 = 7_000;
/// Connections of the small requests.
const CONNECTIONS: usize = 256;
/// Connections whose ends answer in the driver: one packet of each is under way, and a ring holds 256.
const TURNED: usize = 128;
/// A contender that carries fewer in a window has lost them.
const TURNED_MIN: u64 = 10_000;
/// Connections into which the generator sends.
const FLOWS: usize = 8;
/// Segments into one connection in a row.
const BURST: u32 = 20_000;
const WARM_UP: Duration = Duration::from_millis(200);
const DRAIN: Duration = Duration::from_millis(2);
const OURS: &str = "portcullis";
const HAPROXY: &str = "haproxy-tcp";
const DNAT: &str = "nft-dnat";
const HAPROXY_GOAL: (&str, &str) =
    ("xdp-forward-vs-haproxy", "forwarding, packets per CPU second: Portcullis / HAProxy, requests");
const DNAT_GOAL: (&str, &str) =
    ("xdp-forward-vs-nft-dnat", "forwarding, packets per CPU second: Portcullis / nftables DNAT");

/// One window of one contender.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Sample {
    contender: &'static str,
    load: Load,
    packets: u64,
    cpu_seconds: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Load {
    /// Requests and answers whose ends answer in the driver.
    Turned,
    /// Requests and answers of sockets.
    Requests,
    /// Of established connections, from the generator.
    Segments,
}

/// What does the forwarding, beside the kernel.
enum Process {
    Kernel,
    Haproxy(Child),
    Daemon(Box<Gateway>),
}

struct Contender {
    label: &'static str,
    bed: Bed,
    lan: String,
    inner: String,
    farm: Namespace,
    meter: Option<Meter>,
    threads: Option<Threads>,
    flows: Vec<(TcpStream, Shot)>,
    sink: Option<Ebpf>,
    _backend: Backend,
    _process: Process,
}

impl Contender {
    fn start(label: &'static str, bench: &Bench, dir: &Path) -> Result<Self> {
        let bed = Bed::new("fwd", bench.cpus)?;
        let farm = Namespace::new("fwd-farm")?;
        let (inner, lan) = (bed::name("n"), bed::name("l"));
        let at = |ip: [u8; 4]| [format!("{}/24", bed::dotted(ip))];
        netns::join(
            End { namespace: &bed.gateway, interface: &inner, addresses: &at(INNER) },
            End { namespace: &farm, interface: &lan, addresses: &at(SERVER) },
        )?;
        farm.ip(&["route", "add", "default", "via", &bed::dotted(INNER)])?;
        bed::thread_napi(&bed.gateway, &inner)?;
        bed::thread_napi(&farm, &lan)?;
        bed::introduce((&bed.gateway, &inner, INNER), (&farm, &lan, SERVER))?;
        bed::write_checksums(&bed.outside, &bed.wan)?;
        bed::write_checksums(&farm, &lan)?;
        bed.sysctl("net.ipv4.ip_forward", "1")?;
        [&bed.outside, &farm].into_iter().try_for_each(ends::keep_headers_short)?;
        let backend = farm.enter(|| Backend::start_at(SocketAddr::from((SERVER, PORT))))?;
        let process = forwarder(label, &bed, &inner, bench, dir)?;
        let pid = match &process {
            Process::Kernel => None,
            Process::Haproxy(child) => Some(child.pid()),
            Process::Daemon(gateway) => Some(gateway.pid()),
        };
        let meter = pid.map(|pid| Meter::attach(&bed.edge, pid, bench.cpus.contender));
        let mut contender = Self {
            label,
            bed,
            lan,
            inner,
            farm,
            meter,
            threads: None,
            flows: Vec::new(),
            sink: None,
            _backend: backend,
            _process: process,
        };
        contender.find_threads(bench)?;
        contender.wait()?;
        Ok(contender)
    }

    fn find_threads(&mut self, bench: &Bench) -> Result<()> {
        Threads::of(&self.lan, bench.cpus.load)?;
        self.threads = Some(self.bed.receiver()?.and(Threads::of(&self.inner, bench.cpus.contender)?));
        Ok(())
    }

    /// Waits until a connection leads to the server.
    fn wait(&self) -> Result<()> {
        let answered = self.bed.outside.enter(|| {
            wait::attempt(PATIENCE, "a connection through the gateway", || {
                Ok::<_, anyhow::Error>(
                    rounds::connect(door()).and_then(|mut tcp| rounds::once(&mut tcp)).ok(),
                )
            })
        });
        answered.with_context(|| format!("forwarding by {}", self.label))
    }

    fn time(&self) -> Result<Duration> {
        let process = self.meter.as_ref().map_or(Ok(Duration::ZERO), Meter::read)?;
        Ok(process + self.threads.as_ref().map_or(Ok(Duration::ZERO), Threads::time)?)
    }

    /// Small requests and their answers, one under way on each connection.
    fn requests(&self, window: Duration) -> Result<Sample> {
        let sample = self.bed.outside.enter(|| {
            let mut load = Exchange::start(door(), CONNECTIONS)?;
            let live = |load: &mut Exchange, time: Duration| {
                let begin = Instant::now();
                while begin.elapsed() < time {
                    interrupt::check()?;
                    load.turn()?;
                }
                Ok::<_, anyhow::Error>(())
            };
            live(&mut load, WARM_UP)?;
            let (before, time) = (load.answered(), self.time()?);
            live(&mut load, window)?;
            let cpu_seconds = self.time()?.saturating_sub(time).as_secs_f64();
            // A request and an answer: what acknowledges them is not counted, however many there are.
            let packets = 2 * (load.answered() - before);
            Ok(Sample { contender: self.label, load: Load::Requests, packets, cpu_seconds })
        });
        sample.with_context(|| format!("requests through {}", self.label))
    }

    /// Requests and answers whose ends answer in the driver, one under way on each connection.
    fn turned(&mut self, bench: &Bench) -> Result<Sample> {
        let connect = || {
            let mut tcp = rounds::connect(door())?;
            rounds::once(&mut tcp)?;
            Ok(tcp)
        };
        let all = || (0..TURNED).map(|_| connect()).collect::<Result<Vec<_>>>();
        let connections = self.bed.outside.enter(all);
        let connections = connections.with_context(|| format!("connections through {}", self.label))?;
        let answering = Answering::begin(self.ends(), OPEN, PORT)?;
        self.find_threads(bench)?;
        ends::hand_over(connections)?;
        std::thread::sleep(WARM_UP);
        let (before, time) = (self.answered()?, self.time()?);
        std::thread::sleep(bench.window());
        let cpu_seconds = self.time()?.saturating_sub(time).as_secs_f64();
        let packets = self.answered()? - before;
        answering.end();
        self.find_threads(bench)?;
        let label = self.label;
        ensure!(packets > TURNED_MIN, "only {packets} packets came through {label}: requests were lost");
        Ok(Sample { contender: label, load: Load::Turned, packets, cpu_seconds })
    }

    fn ends(&self) -> [ends::End<'_>; 2] {
        [
            ends::End { namespace: &self.bed.outside, interface: &self.bed.wan },
            ends::End { namespace: &self.farm, interface: &self.lan },
        ]
    }

    fn answered(&self) -> Result<u64> {
        self.ends().into_iter().try_fold(0, |sum, end| Ok(sum + end.answered()?))
    }

    /// Opens the connections into which the generator sends, and lets the server's machine drop what it sends.
    fn open_flows(&mut self, bench: &Bench, pace: Pace) -> Result<()> {
        let (bed, macs) = (&self.bed, self.bed.macs()?);
        // DNAT forwards only segments that it takes for valid ones; the generator knows no sequence numbers.
        if self.label == DNAT {
            bed.sysctl("net.netfilter.nf_conntrack_tcp_be_liberal", "1")?;
        }
        for _ in 0..FLOWS {
            let mut tcp = bed.outside.enter(|| rounds::connect(door()))?;
            rounds::once(&mut tcp)?;
            let SocketAddr::V4(from) = tcp.local_addr()? else { continue };
            let to = SocketAddrV4::new(GATEWAY.into(), OPEN);
            let shot = Shot::new(bed, frames::segment(macs, from, to), pace, None)?;
            self.flows.push((tcp, shot));
        }
        self.sink = Some(generator::attach(&self.farm, &self.lan, &assembly::drop_marked(frames::MARK))?);
        self.find_threads(bench)?;
        self.threads.iter().try_for_each(Threads::hurry)?;
        // It shares its CPU with the generator, which would let its ring overflow.
        Threads::of(&self.lan, bench.cpus.load)?.hurry()?;
        let sample = self.segments(1)?;
        let (sent, label) = (u64::from(BURST) * u64::try_from(FLOWS)?, self.label);
        ensure!(sample.packets > sent / 2, "{label} forwarded {} of {sent} segments", sample.packets);
        Ok(())
    }

    fn segments(&mut self, laps: u32) -> Result<Sample> {
        let arrived = |contender: &Self| {
            let received = contender.farm.enter(|| packets(&contender.lan))?;
            Ok::<_, anyhow::Error>(received[0])
        };
        let (before, time) = (arrived(self)?, self.time()?);
        let (bed, flows) = (&self.bed, &mut self.flows);
        bed.outside.enter(|| {
            for _ in 0..laps {
                interrupt::check()?;
                flows.iter_mut().try_for_each(|(_, shot)| shot.fire(BURST))?;
            }
            std::thread::sleep(DRAIN);
            Ok(())
        })?;
        let cpu_seconds = self.time()?.saturating_sub(time).as_secs_f64();
        let packets = arrived(self)? - before;
        Ok(Sample { contender: self.label, load: Load::Segments, packets, cpu_seconds })
    }
}

/// Where clients connect to.
fn door() -> SocketAddr {
    SocketAddr::from((GATEWAY, OPEN))
}

fn forwarder(label: &str, bed: &Bed, inner: &str, bench: &Bench, dir: &Path) -> Result<Process> {
    let server = SocketAddr::from((SERVER, PORT));
    match label {
        OURS => {
            let gateway = filters::start(bed, forwarding(bed, inner, bench)?, bench.cpus.contender)?;
            Ok(Process::Daemon(Box::new(gateway)))
        }
        HAPROXY => {
            let config = dir.join("haproxy.cfg");
            fs::write(&config, haproxy::render_plain(door(), server)).context("configure HAProxy")?;
            let program = haproxy::find()?;
            let mut command = bed.gateway.command(program.to_str().context("the path of haproxy")?);
            command.arg("-db").arg("-f").arg(&config);
            let child = cpu::pinned(bench.cpus.contender, || Child::spawn(HAPROXY, &mut command, dir))?;
            Ok(Process::Haproxy(child))
        }
        _ => {
            let edge = &bed.edge;
            let rules = format!(
                "table ip nat {{\nchain pre {{\ntype nat hook prerouting priority -100;\n\
                 iifname \"{edge}\" tcp dport {OPEN} dnat to {server}\n}}\n}}\n"
            );
            bed.nft(&rules, dir)?;
            Ok(Process::Kernel)
        }
    }
}

/// The daemon's configuration: forwarding in the kernel or not at all.
fn forwarding(bed: &Bed, inner: &str, bench: &Bench) -> Result<Setup> {
    let mut setup = Setup::new()?;
    let (edge, pins) = (&bed.edge, bench.pins.dir(&bed.edge));
    let server = SocketAddr::from((SERVER, PORT));
    setup.own_authority([127, 0, 0, 1].into())?;
    setup.merge(&format!(
        "[server]\nworkers = 1\n[log]\nlevel = \"info\"\n\
         [[listener]]\nname = \"forward\"\nkind = \"forward\"\nlisten = [\"{}\"]\ndata_path = \"xdp\"\n\
         [[listener.server]]\naddress = \"{server}\"\n\
         [xdp]\npin_dir = \"{}\"\nallow_no_management = true\nmode = \"driver\"\n\
         flood = {{ syn_per_source = \"100000/s\", syn_total = \"100000/s\" }}\n\
         interface = [{{ name = \"{edge}\", role = \"edge\" }}, {{ name = \"{inner}\", role = \"farm\" }}]\n",
        door(),
        pins.display()
    ))?;
    Ok(setup)
}

/// The raw series and what they came to. What of ours cannot be started is reported, and the peers are measured.
pub(super) fn run(bench: &Bench, progress: &mut impl Write) -> Result<(Vec<Vec<Sample>>, Vec<Goal>)> {
    let dir = tempfile::tempdir().context("make a temporary directory")?;
    let mut contenders =
        vec![Contender::start(HAPROXY, bench, dir.path())?, Contender::start(DNAT, bench, dir.path())?];
    let missing = match Contender::start(OURS, bench, dir.path()) {
        Ok(ours) => {
            contenders.insert(0, ours);
            None
        }
        Err(error) => {
            interrupt::check()?;
            writeln!(progress, "forward: ours is left out: {error:#}")?;
            Some(String::from("the daemon does not forward in XDP here, see above"))
        }
    };
    let mut series = Vec::new();
    cpu::pin(bench.cpus.load)?;
    for round in 1..=bench.plan.rounds {
        let mut samples = Vec::new();
        for_each_twice(&mut contenders, |one| one.turned(bench).map(|sample| samples.push(sample)))?;
        describe(round, bench, &samples, Load::Turned, progress)?;
        series.push(samples);
    }
    cpu::pin(bench.cpus.contender)?;
    for (round, samples) in (1..).zip(&mut series) {
        for_each_twice(&mut contenders, |one| {
            one.requests(bench.window()).map(|sample| samples.push(sample))
        })?;
        describe(round, bench, samples, Load::Requests, progress)?;
    }
    contenders.retain(|one| one.label != HAPROXY);
    // As in the measure of drops.
    cpu::pin(bench.cpus.contender)?;
    let pace = Pace::new(bench.plan.period)?;
    contenders.iter_mut().try_for_each(|one| one.open_flows(bench, pace))?;
    let laps = if bench.plan.quick { 1 } else { 3 };
    for (round, samples) in (1..).zip(&mut series) {
        for_each_twice(&mut contenders, |one| one.segments(laps).map(|sample| samples.push(sample)))?;
        describe(round, bench, samples, Load::Segments, progress)?;
    }
    cpu::pin(bench.cpus.load)?;
    let goals = goals(&series, missing.as_deref());
    Ok((series, goals))
}

/// There and back.
fn for_each_twice(
    contenders: &mut [Contender],
    mut measure: impl FnMut(&mut Contender) -> Result<()>,
) -> Result<()> {
    contenders.iter_mut().try_for_each(&mut measure)?;
    contenders.iter_mut().rev().try_for_each(measure)
}

/// Packets per CPU second of one contender under one load.
fn rate(samples: &[Sample], label: &str, load: Load) -> Option<f64> {
    let (mut packets, mut cpu) = (0, 0.0);
    for sample in samples.iter().filter(|sample| sample.contender == label && sample.load == load) {
        packets += sample.packets;
        cpu += sample.cpu_seconds;
    }
    (packets > 0).then(|| float(packets) / cpu)
}

fn describe(
    round: u32,
    bench: &Bench,
    samples: &[Sample],
    load: Load,
    progress: &mut impl Write,
) -> Result<()> {
    let of = |label: &&str| Some(format!("{label} {:.0}", rate(samples, label, load)? / 1e3));
    let line: Vec<String> = [OURS, HAPROXY, DNAT].iter().filter_map(of).collect();
    let rounds = bench.plan.rounds;
    let load = format!("{load:?}").to_lowercase();
    writeln!(progress, "round {round}/{rounds}: {load}: 1000 packets per CPU second: {}", line.join(", "))?;
    Ok(())
}

fn goals(series: &[Vec<Sample>], missing: Option<&str>) -> Vec<Goal> {
    let (haproxy, dnat) = (Promise::AtLeast(10.0), Promise::AtLeast(2.0));
    if let Some(why) = missing {
        return vec![
            Goal::missing(HAPROXY_GOAL.0, HAPROXY_GOAL.1, haproxy, why),
            Goal::missing(DNAT_GOAL.0, DNAT_GOAL.1, dnat, why),
        ];
    }
    let over = |label: &str, load: Load| -> Vec<f64> {
        let of = |round: &Vec<Sample>| Some(rate(round, OURS, load)? / rate(round, label, load)?);
        series.iter().filter_map(of).collect()
    };
    vec![
        Goal::new(HAPROXY_GOAL.0, HAPROXY_GOAL.1, haproxy, &over(HAPROXY, Load::Turned)),
        Goal::new(
            "xdp-forward-vs-haproxy-sockets",
            "  the same with requests of sockets",
            Promise::Nothing,
            &over(HAPROXY, Load::Requests),
        ),
        Goal::new(DNAT_GOAL.0, DNAT_GOAL.1, dnat, &over(DNAT, Load::Segments)),
        Goal::new(
            "xdp-forward-vs-nft-dnat-requests",
            "  the same with requests and answers",
            Promise::Nothing,
            &over(DNAT, Load::Turned),
        ),
        Goal::new(
            "xdp-forward-vs-nft-dnat-sockets",
            "  the same with requests of sockets",
            Promise::Nothing,
            &over(DNAT, Load::Requests),
        ),
    ]
}
