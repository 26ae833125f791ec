//! The generator: BPF_PROG_TEST_RUN with live frames (docs.kernel.org/bpf/bpf_prog_run.html), which hands frames to a
//! driver as fast as one core can, without a network stack.
//!
//! Bounded by what the caller asks for, and bound to one interface of a namespace of ours. Each program is attached
//! to an idle interface as well: the kernel patches a jump to every program that is attached somewhere, and would
//! otherwise patch it in and out again, with two RCU grace periods (tens of milliseconds), at each call.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use aya::programs::xdp::XdpMode;
use aya::programs::{TestRun as _, TestRunAttrs, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use nix::net::if_::if_nametoindex;
use portcullis_tests::netns::Namespace;

use super::assembly::{self, Vary};
use super::bed::{self, Bed};
use crate::{cpu, interrupt};

/// Frames that the kernel makes and hands over at once. Half of a pair's ring, so that the receiver empties one half
/// while the other is filled: what does not fit in the ring is handed back to the generator's pool, whose lock both
/// sides then fight for, and the receiver would be billed for that.
const BATCH: u32 = 128;
/// What a frame costs the generator itself, about.
const OWN: Duration = Duration::from_nanos(250);
/// A flood comes in bursts, as fast as the generator is, one in that time; between them its core is the clients'.
const PIECE: Duration = Duration::from_micros(500);
/// A flood that is late by more does not catch up.
const LATE: Duration = Duration::from_millis(20);

/// How fast frames are sent: the generator lingers before each, because a core has no timer that fine.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    turns: u32,
}

impl Pace {
    /// A frame every `period`, as far as the generator can.
    pub(super) fn new(period: Duration) -> Result<Self> {
        const TURNS: u32 = 50_000;
        let mut program = load(&assembly::wait(TURNS))?;
        let mut fastest = Duration::MAX;
        for _ in 0..5 {
            let mut options = TestRunOptions::new();
            options.data_in = Some(&[0; 60]);
            options.repeat = 100;
            fastest = fastest.min(xdp_mut(&mut program)?.test_run(options).context("time a loop")?.duration);
        }
        let wait = period.saturating_sub(OWN);
        let turns = wait.as_nanos() * u128::from(TURNS) / fastest.as_nanos().max(1);
        Ok(Self { turns: u32::try_from(turns)?.min(assembly::TURNS_MAX) })
    }

    /// As fast as the generator can.
    pub(super) const FASTEST: Self = Self { turns: 0 };
}

/// One frame and the program that sends it.
pub(super) struct Shot {
    program: Ebpf,
    frame: Vec<u8>,
}

impl Shot {
    /// To be fired from the namespace outside.
    pub(super) fn new(bed: &Bed, frame: Vec<u8>, pace: Pace, vary: Option<Vary>) -> Result<Self> {
        let mut program = load(&assembly::send(bed.wan_index()?, pace.turns, &frame, vary))?;
        let (idle, peer) = (bed::name("i"), bed::name("j"));
        bed.outside.ip(&["link", "add", "name", &idle, "type", "veth", "peer", "name", &peer])?;
        bed.outside.enter(|| {
            let index = if_nametoindex(idle.as_str())?;
            let attached = xdp_mut(&mut program)?.attach_to_if_index(index, XdpMode::Skb);
            attached.map(drop).context("attach a program of the generator")
        })?;
        Ok(Self { program, frame })
    }

    /// Sends the frame `count` times.
    pub(super) fn fire(&mut self, count: u32) -> Result<()> {
        let mut options = TestRunOptions::new();
        options.data_in = Some(&self.frame);
        options.repeat = count;
        options.attrs = TestRunAttrs::new().xdp_live_frames(BATCH);
        xdp_mut(&mut self.program)?.test_run(options).context("send frames")?;
        Ok(())
    }
}

/// Loads one of our assembled programs.
fn load(object: &[u8]) -> Result<Ebpf> {
    let mut ebpf = EbpfLoader::new().load(object).context("read a program of the generator")?;
    xdp_mut(&mut ebpf)?.load().context("load a program of the generator: this needs root")?;
    Ok(ebpf)
}

/// Loads one of our assembled programs and attaches it in the driver; it goes with its owner.
pub(super) fn attach(namespace: &Namespace, interface: &str, object: &[u8]) -> Result<Ebpf> {
    let mut program = load(object)?;
    namespace.enter(|| {
        let attached = xdp_mut(&mut program)?.attach_to_if_index(if_nametoindex(interface)?, XdpMode::Driver);
        attached.map(drop).with_context(|| format!("attach a program to {interface}"))
    })?;
    Ok(program)
}

/// The only program of an assembled object.
fn xdp_mut(ebpf: &mut Ebpf) -> Result<&mut Xdp> {
    let program = ebpf.program_mut(assembly::NAME).context("an assembled program is missing")?;
    Ok(program.try_into()?)
}

/// Fires the shots in turn, a frame every `period` on average, until `stop` says so or the time is over, and returns how
/// many frames went out. Nothing on its core delays the calling thread.
pub(super) fn flood(
    shots: &mut [Shot],
    on: usize,
    period: Duration,
    limit: Duration,
    mut stop: impl FnMut() -> bool,
) -> Result<u64> {
    cpu::pin(on)?;
    ensure!(cpu::hurry(), "the generator may not run before the clients: this needs root");
    let per_piece = u32::try_from(PIECE.as_nanos() / period.as_nanos().max(1))?;
    let begin = Instant::now();
    let (mut due, mut sent) = (begin, 0);
    while !stop() && begin.elapsed() < limit {
        interrupt::check()?;
        for shot in shots.iter_mut() {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            due = due.max(Instant::now().checked_sub(LATE).unwrap_or(begin)) + PIECE;
            shot.fire(per_piece)?;
            sent += u64::from(per_piece);
        }
    }
    Ok(sent)
}
