//! The generator: BPF_PROG_TEST_RUN with live frames (docs.kernel.org/bpf/bpf_prog_run.html), which hands frames to a
//! driver as fast as one core can, without a network stack.
//!
//! Bounded by what the caller asks for, and bound to one interface of a namespace of ours. Each program is attached
//! to an idle interface as well: the kernel patches a jump to every program that is attached somewhere, and would
//! otherwise patch it in and out again, with two RCU grace periods (tens of milliseconds), at each call.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use aya::programs::xdp::XdpMode;
use aya::programs::{TestRun as _, TestRunAttrs, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use nix::net::if_::if_nametoindex;
use portcullis_tests::netns::Namespace;

use super::assembly::{self, Vary};
use super::bed::{self, Bed};
use crate::interrupt;

/// Frames that the kernel makes and hands over at once.
const BATCH: u32 = 64;
/// A paced flood comes in pieces of this length: shorter ones cost more to start than to send.
const PACE: Duration = Duration::from_millis(2);

/// One frame and the program that sends it.
pub(super) struct Shot {
    program: Ebpf,
    frame: Vec<u8>,
}

impl Shot {
    /// To be fired from the namespace outside.
    pub(super) fn new(bed: &Bed, frame: Vec<u8>, vary: Option<Vary>) -> Result<Self> {
        let mut program = load(&assembly::send(bed.wan_index()?, vary))?;
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

/// Fires the shots in turn at `rate` frames a second altogether until `stop` says so or the time is over, and
/// returns how many frames went out.
pub(super) fn flood(
    shots: &mut [Shot],
    rate: u32,
    limit: Duration,
    mut stop: impl FnMut() -> bool,
) -> Result<u64> {
    let each = rate / u32::try_from(PACE.as_millis()).map_or(1, |pace| 1_000 / pace.max(1));
    let begin = Instant::now();
    let (mut due, mut sent) = (begin, 0);
    while !stop() && begin.elapsed() < limit {
        interrupt::check()?;
        for shot in shots.iter_mut() {
            let now = Instant::now();
            if due > now {
                std::thread::sleep(due - now);
            } else if now - due > 50 * PACE {
                // The core does not make the rate: what was missed stays missed.
                due = now;
            }
            shot.fire(each)?;
            sent += u64::from(each);
            due += PACE;
        }
    }
    Ok(sent)
}
