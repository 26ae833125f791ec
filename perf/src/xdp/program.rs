//! The program alone: BPF_PROG_TEST_RUN runs the real object on one frame a million times and says how long a run
//! took. No interface, no frame to fetch from another core's cache: what is left is the program's own.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use aya::maps::{Array, HashMap};
use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use portcullis_ebpf_common::Protocol;
use portcullis_ebpf_common::rules::{Ports, RuleKey, RuleValue, closed_place, port_bit};
use portcullis_ebpf_common::tables::{self, Action, Interface, PORT_WORDS, Role, Setting};
use portcullis_tests::process;
use serde::Serialize;

use super::bed::{GATEWAY, Pins};
use super::filters::OPEN;
use super::frames::{Junk, Macs, varied};

const REPEAT: u32 = 1_000_000;
/// Repeated runs, of which the fastest counts: whatever disturbs only makes them slower.
const TRIES: usize = 5;
/// Frames run as if they had come in by the loopback interface.
const LOOPBACK: u32 = 1;

/// How long the program takes for one kind of frame.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Time {
    frame: &'static str,
    nanoseconds: u128,
}

impl Time {
    pub(super) fn line(&self) -> String {
        format!("{:<46} {:>5} ns", self.frame, self.nanoseconds)
    }
}

/// Runs the object that the daemon embeds.
pub(super) fn run(pins: &Pins) -> Result<Vec<Time>> {
    let object = object()?;
    let bytes = fs::read(&object).with_context(|| format!("read {}", object.display()))?;
    let directory = pins.dir("program");
    fs::create_dir_all(&directory).context("make a directory for pins")?;
    let mut ebpf = EbpfLoader::new().default_map_pin_directory(&directory).load(&bytes)?;
    fill(&mut ebpf)?;
    xdp(&mut ebpf)?.load()?;
    let macs = Macs { to: [2; 6], from: [4; 6] };
    let closed = OPEN + 1;
    let junk = |junk: Junk, port| varied(junk.frame(macs, GATEWAY, port), junk.vary(), [7, 9], [0xc3, 0x50]);
    let frames = [
        ("neither IP nor ARP: dropped at once", [&[2; 12][..], &[0x88, 0x47], &[0; 46]].concat()),
        ("malformed TCP: dropped", junk(Junk::Malformed, closed)),
        ("datagram to a closed port: dropped", junk(Junk::Udp, closed)),
        ("SYN to a closed port: dropped", junk(Junk::Syn, closed)),
        ("SYN to an open port", junk(Junk::Syn, OPEN)),
    ];
    let mut times = Vec::new();
    for (name, frame) in frames {
        times.push(time(xdp(&mut ebpf)?, name, &frame)?);
    }
    // A source may begin what it likes, all together next to nothing.
    set(&mut ebpf, Setting::SynSource, u32::MAX)?;
    set(&mut ebpf, Setting::SynTotal, 1)?;
    times.push(time(
        xdp(&mut ebpf)?,
        "SYN to an open port, over the budget: dropped",
        &junk(Junk::Syn, OPEN),
    )?);
    Ok(times)
}

fn xdp(ebpf: &mut Ebpf) -> Result<&mut Xdp> {
    Ok(ebpf.program_mut(tables::PROGRAM).context("the object has no program")?.try_into()?)
}

fn set(ebpf: &mut Ebpf, setting: Setting, value: u32) -> Result<()> {
    let settings = ebpf.map_mut(tables::SETTINGS).context("the object has no settings")?;
    let mut settings: Array<_, u64> = settings.try_into()?;
    Ok(settings.set(setting.index(), u64::from(value), 0)?)
}

fn time(program: &Xdp, name: &'static str, frame: &[u8]) -> Result<Time> {
    let mut best = u128::MAX;
    for _ in 0..TRIES {
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.repeat = REPEAT;
        best = best.min(program.test_run(options).with_context(|| name)?.duration.as_nanos());
    }
    Ok(Time { frame: name, nanoseconds: best })
}

/// One interface and one rule, as in the other measures.
fn fill(ebpf: &mut Ebpf) -> Result<()> {
    let interfaces = ebpf.map_mut(tables::INTERFACES).context("the object has no interfaces")?;
    let mut table: HashMap<_, [u8; 4], [u8; 8]> = interfaces.try_into()?;
    let interface = Interface::new(0, Role::Edge, (32_768, 60_999));
    table.insert(LOOPBACK.to_be_bytes(), interface.to_bytes(), 0)?;
    let near = ebpf.map_mut(tables::NEAR_INTERFACES).context("the object has no near interfaces")?;
    let mut near: Array<_, [u8; 8]> = near.try_into()?;
    near.set(LOOPBACK, interface.to_bytes(), 0)?;
    let closed = ebpf.map_mut(tables::CLOSED).context("the object has no closed ports")?;
    let mut closed: Array<_, Ports> = closed.try_into()?;
    for protocol in Protocol::ALL {
        let mut ports = [u64::MAX; PORT_WORDS];
        let (word, bit) = port_bit(OPEN);
        if let Some(word) = ports.get_mut(usize::from(word)).filter(|_| protocol == Protocol::Tcp) {
            *word &= !bit;
        }
        closed.set(closed_place(false, Role::Edge.to_byte(), protocol), ports, 0)?;
    }
    let rules = ebpf.map_mut(tables::RULES).context("the object has no rules")?;
    let mut table: HashMap<_, [u8; 4], u64> = rules.try_into()?;
    let key = RuleKey::new(Role::Edge.to_byte(), Protocol::Tcp.number(), OPEN);
    table.insert(key.to_bytes(), RuleValue::new(Action::Accept).to_word(), 0)?;
    Ok(())
}

/// Where the daemon was built lies what it was built with.
fn object() -> Result<PathBuf> {
    let daemon = process::binary("portcullisd")?;
    let target = daemon.ancestors().find(|directory| directory.join("CACHEDIR.TAG").is_file());
    let object = target.context("the daemon lies in no target directory")?.join("ebpf/portcullis-ebpf.o");
    anyhow::ensure!(object.is_file(), "the kernel side is not built: `cargo xtask ebpf`");
    Ok(object)
}
