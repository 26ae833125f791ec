//! How many instructions the hot functions take, counted under callgrind: a regression shows without a quiet machine.
//!
//! A function is run so many times and twice as many times, and the difference is the cost of the runs: start-up, and
//! what the loop itself costs, cancel out or stay the same. The committed baseline is `perf/benches/instructions.json`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use portcullis_ebpf_common::tables::Action;
use portcullis_ebpf_common::{Addresses, Hit, Lookup, Packet, verdict};
use portcullis_proto::sniff::sniff;
use portcullis_proto::socks5::Request;
use portcullis_proto::ticket::TicketString;
use portcullis_tests::process;

use crate::stats::float;

/// A count may differ from the baseline by this share: compilers of one version agree, their patches nearly.
const TOLERANCE: f64 = 0.03;
const RUNS: u32 = 2_000;
/// Callgrind runs programs some fifty times slower.
const LIMIT: Duration = Duration::from_secs(120);

/// A function that is run over and over, by name. The record layer's `seal` and `open` belong here as well.
type Hot = (&'static str, fn());

const HOT: [Hot; 5] = [
    ("first-bytes", first_bytes),
    ("socks-request", socks_request),
    ("ticket", ticket),
    ("verdict-of-a-flow", verdict_of_a_flow),
    ("verdict-of-junk", verdict_of_junk),
];

/// A request with a ticket, as clients send it.
const REQUEST: &[u8] = b"\x05\x01\x00\x03\x31;40;STA490101972;1234567890ABCDEF1234567890ABCDEF\x05\xD6";
const TICKET: &str = ";40;STA490101972;1234567890ABCDEF1234567890ABCDEF";

fn first_bytes() {
    black_box(sniff(black_box(REQUEST)));
}

fn socks_request() {
    // A refusal is as good as a request here: the test makes sure that it is none.
    drop(black_box(Request::parse(black_box(REQUEST))));
}

fn ticket() {
    drop(black_box(TicketString::parse(black_box(TICKET))));
}

fn verdict_of_a_flow() {
    black_box(verdict(black_box(SEGMENT.as_slice()), &Tables { flow: true }));
}

fn verdict_of_junk() {
    black_box(verdict(black_box(SEGMENT.as_slice()), &Tables { flow: false }));
}

/// A segment without data from 192.0.2.1:50000 to 192.0.2.2:443.
const SEGMENT: [u8; 54] = [
    2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, // Ethernet
    0x45, 0, 0, 40, 0, 1, 0x40, 0, 64, 6, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2, // IPv4
    0xC3, 0x50, 0x01, 0xBB, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0x10, 0, 0, 0, 0, 0, // TCP, ACK
];

/// Tables that hold one flow or nothing.
struct Tables {
    flow: bool,
}

impl Lookup for Tables {
    fn is_management(&self) -> bool {
        false
    }

    fn flow(&self, _: &Packet) -> Option<Hit> {
        self.flow.then_some(Hit { steer: None })
    }

    fn is_banned(&self, _: &Addresses) -> bool {
        false
    }

    fn rule(&self, _: &Addresses, _: u8, _: u16) -> Option<Action> {
        None
    }

    fn is_ours(&self, _: &Packet) -> bool {
        false
    }
}

/// Runs a function so many times: what callgrind is given to count.
pub(crate) fn hot(name: &str, runs: u32) -> Result<()> {
    let (_, run) = HOT.iter().find(|(known, _)| *known == name).context("there is no such hot function")?;
    (0..runs).for_each(|_| run());
    Ok(())
}

/// Counts all functions and compares them with the baseline, or makes the baseline anew. False when one has changed.
pub(crate) fn run(update: bool, out: &mut impl std::io::Write) -> Result<bool> {
    let program =
        process::find_program("valgrind").context("valgrind is missing: `apt-get install valgrind`")?;
    let mut counts = BTreeMap::new();
    for (name, _) in HOT {
        let once = collected(&program, name, RUNS)?;
        let twice = collected(&program, name, 2 * RUNS)?;
        let each = float(twice.saturating_sub(once)) / f64::from(RUNS);
        counts.insert(name.to_owned(), each.round());
    }
    let path = baseline_path();
    if update {
        let text = serde_json::to_string_pretty(&counts).context("write the baseline")?;
        fs::create_dir_all(path.parent().unwrap_or_else(|| Path::new(".")))?;
        fs::write(&path, text + "\n").with_context(|| format!("write {}", path.display()))?;
    }
    let text = fs::read_to_string(&path)
        .with_context(|| format!("read {}: make it with --update", path.display()))?;
    let baseline: BTreeMap<String, f64> = serde_json::from_str(&text).context("the baseline")?;
    let (lines, good) = compare(&baseline, &counts);
    write!(out, "{lines}")?;
    Ok(good)
}

fn baseline_path() -> PathBuf {
    process::repository().join("perf/benches/instructions.json")
}

/// A table, and whether every function is within the tolerance.
fn compare(baseline: &BTreeMap<String, f64>, counts: &BTreeMap<String, f64>) -> (String, bool) {
    let mut lines = format!("{:<24} {:>10} {:>10} {:>8}\n", "instructions", "baseline", "now", "");
    let mut good = baseline.keys().all(|name| counts.contains_key(name));
    for (name, now) in counts {
        let verdict = match baseline.get(name) {
            None => "not in the baseline",
            Some(then) if *now > then * (1.0 + TOLERANCE) + 1.0 => "MORE",
            Some(then) if *now < then * (1.0 - TOLERANCE) - 1.0 => "less: update the baseline",
            Some(_) => "same",
        };
        good &= matches!(verdict, "same" | "less: update the baseline");
        let then = baseline.get(name).map_or_else(|| String::from("-"), |then| format!("{then:.0}"));
        // Writing to a String cannot fail.
        let _infallible = writeln!(lines, "{name:<24} {then:>10} {now:>10.0} {verdict}");
    }
    (lines, good)
}

fn collected(valgrind: &Path, name: &str, runs: u32) -> Result<u64> {
    let exe = std::env::current_exe().context("find this program")?;
    let mut command = Command::new(valgrind);
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(exe);
    let output = process::run(command.args(["hot", name]).arg(runs.to_string()), LIMIT)?;
    ensure!(output.success(), "callgrind failed: {}", output.stderr);
    read_collected(&output.stderr)
}

/// Callgrind's sum, as `==123== Collected : 4567`.
fn read_collected(text: &str) -> Result<u64> {
    let Some(line) = text.lines().find(|line| line.contains("Collected")) else {
        bail!("callgrind has collected nothing: {text}");
    };
    line.rsplit(' ').next().and_then(|count| count.parse().ok()).context("callgrind's count is no number")
}

#[cfg(test)]
mod tests {
    use portcullis_ebpf_common::Cause;

    use super::*;

    fn counts(pairs: &[(&str, f64)]) -> BTreeMap<String, f64> {
        pairs.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    }

    #[test]
    fn the_hot_functions_do_what_they_are_counted_for() {
        assert!(sniff(REQUEST).is_some());
        assert!(Request::parse(REQUEST).unwrap().ticket().unwrap().is_ok());
        assert!(TicketString::parse(TICKET).is_ok());
        let of = |flow| verdict(SEGMENT.as_slice(), &Tables { flow }).cause;
        assert_eq!((of(true), of(false)), (Cause::Flow, Cause::NoRule));
    }

    #[test]
    fn every_function_of_the_baseline_is_counted() {
        let text = fs::read_to_string(baseline_path()).unwrap();
        let baseline: BTreeMap<String, f64> = serde_json::from_str(&text).unwrap();
        let known: Vec<&str> = HOT.iter().map(|(name, _)| *name).collect();
        assert_eq!(baseline.keys().collect::<Vec<_>>(), known);
    }

    #[test]
    fn more_instructions_than_tolerated_are_a_regression() {
        let baseline = counts(&[("a", 1_000.0), ("b", 10.0)]);
        assert!(compare(&baseline, &counts(&[("a", 1_020.0), ("b", 11.0)])).1);
        assert!(!compare(&baseline, &counts(&[("a", 1_040.0), ("b", 10.0)])).1);
        assert!(!compare(&baseline, &counts(&[("a", 1_000.0)])).1);
        assert!(compare(&baseline, &counts(&[("a", 500.0), ("b", 10.0)])).0.contains("less"));
    }

    #[test]
    fn the_sum_is_read_from_what_callgrind_says() {
        assert_eq!(read_collected("==7== Events    : Ir\n==7== Collected : 45678\n").unwrap(), 45_678);
        assert!(read_collected("==7== nothing\n").is_err());
    }
}
