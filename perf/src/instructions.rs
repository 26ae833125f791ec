//! How many instructions the hot functions take, counted under callgrind: a regression shows without a quiet machine.
//!
//! A function is run so many times and twice as many times, and the difference is the cost of the runs: start-up, and
//! what the loop itself costs, cancel out or stay the same. The committed baseline is `perf/benches/instructions.json`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::hint::black_box;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use portcullis_ebpf_common::tables::Action;
use portcullis_ebpf_common::{Addresses, Hit, Lookup, Packet, verdict};
use portcullis_proto::sniff::sniff;
use portcullis_proto::socks5::Request;
use portcullis_proto::ticket::TicketString;
use portcullis_tests::{process, twins};
use rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;

use crate::stats::float;

/// A count may differ from the baseline by this share: compilers of one version agree, their patches nearly.
const TOLERANCE: f64 = 0.03;
const RUNS: u32 = 2_000;
/// Callgrind runs programs some fifty times slower.
const LIMIT: Duration = Duration::from_secs(120);

/// A function that is run over and over.
struct Hot {
    name: &'static str,
    run: fn(u32),
    /// What the runs need besides, and is not to be counted.
    besides: Option<fn(u32)>,
}

const HOT: [Hot; 9] = [
    Hot { name: "first-bytes", run: first_bytes, besides: None },
    Hot { name: "record-open", run: record_open, besides: Some(record_forge) },
    Hot { name: "record-open-by-rustls", run: record_open_by_rustls, besides: Some(record_forge) },
    Hot { name: "record-seal", run: record_seal, besides: None },
    Hot { name: "record-seal-by-rustls", run: record_seal_by_rustls, besides: None },
    Hot { name: "socks-request", run: socks_request, besides: None },
    Hot { name: "ticket", run: ticket, besides: None },
    Hot { name: "verdict-of-a-flow", run: verdict_of_a_flow, besides: None },
    Hot { name: "verdict-of-junk", run: verdict_of_junk, besides: None },
];
/// Marks what a function needs besides, in the name that callgrind's program is given.
const BESIDES: &str = "/besides";

/// A request with a ticket, as clients send it.
const REQUEST: &[u8] = b"\x05\x01\x00\x03\x31;40;STA490101972;1234567890ABCDEF1234567890ABCDEF\x05\xD6";
const TICKET: &str = ";40;STA490101972;1234567890ABCDEF1234567890ABCDEF";
/// Content of a record: a small message of a remote desktop.
const CONTENT: [u8; 700] = [7; 700];
/// `application_data`, RFC 8446, section 5.1.
const APPLICATION_DATA: u8 = 23;

fn again<T>(runs: u32, mut run: impl FnMut() -> T) {
    for _ in 0..runs {
        // For nothing but to have been done.
        let _: T = black_box(run());
    }
}

fn first_bytes(runs: u32) {
    again(runs, || sniff(black_box(REQUEST)));
}

fn socks_request(runs: u32) {
    // A refusal is as good as a request here: the test makes sure that it is none.
    again(runs, || Request::parse(black_box(REQUEST)));
}

fn ticket(runs: u32) {
    again(runs, || TicketString::parse(black_box(TICKET)));
}

fn verdict_of_a_flow(runs: u32) {
    let tables = Tables { flow: true };
    again(runs, || verdict(black_box(SEGMENT.as_slice()), &tables));
}

fn verdict_of_junk(runs: u32) {
    let tables = Tables { flow: false };
    again(runs, || verdict(black_box(SEGMENT.as_slice()), &tables));
}

/// TLS 1.3 with AES-128-GCM, in place.
fn record_seal(runs: u32) {
    let (mut records, _) = twins::ours(TLS13_AES_128_GCM_SHA256);
    let mut buffer = [&[0; 13], CONTENT.as_slice(), &[0; 17]].concat();
    again(runs, || records.seal(&mut buffer, 13..13 + CONTENT.len()));
}

fn record_open(runs: u32) {
    let (mut records, mut forger) = twins::ours(TLS13_AES_128_GCM_SHA256);
    for _ in 0..runs {
        let mut record = forger.seal(APPLICATION_DATA, &CONTENT);
        drop(black_box(records.open(black_box(&mut record))));
    }
}

/// What the record layer is for: the same records by rustls, from a buffer and into one.
fn record_open_by_rustls(runs: u32) {
    let mut server = twins::reference(TLS13_AES_128_GCM_SHA256);
    let (_, mut forger) = twins::ours(TLS13_AES_128_GCM_SHA256);
    let mut content = [0; CONTENT.len()];
    for _ in 0..runs {
        let record = forger.seal(APPLICATION_DATA, &CONTENT);
        // A refusal would show as content that never comes: the test makes sure that it does.
        drop(black_box(server.read_tls(&mut record.as_slice())));
        drop(black_box(server.process_new_packets()));
        drop(black_box(server.reader().read(black_box(&mut content))));
    }
}

fn record_seal_by_rustls(runs: u32) {
    let mut server = twins::reference(TLS13_AES_128_GCM_SHA256);
    let mut wire = Vec::with_capacity(2 * CONTENT.len());
    again(runs, || {
        wire.clear();
        drop(black_box(server.writer().write(&CONTENT)));
        server.write_tls(&mut wire)
    });
}

fn record_forge(runs: u32) {
    let (records, mut forger) = twins::ours(TLS13_AES_128_GCM_SHA256);
    again(runs, || forger.seal(APPLICATION_DATA, &CONTENT));
    drop(records);
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
    let known = name.strip_suffix(BESIDES).unwrap_or(name);
    let hot = HOT.iter().find(|hot| hot.name == known).context("there is no such hot function")?;
    let run = if known == name { hot.run } else { hot.besides.context("it needs nothing besides")? };
    run(runs);
    Ok(())
}

/// Counts all functions and compares them with the baseline, or makes the baseline anew. False when one has changed.
pub(crate) fn run(update: bool, out: &mut impl std::io::Write) -> Result<bool> {
    let program =
        process::find_program("valgrind").context("valgrind is missing: `apt-get install valgrind`")?;
    let mut counts = BTreeMap::new();
    for hot in HOT {
        let mut each = each(&program, hot.name)?;
        if hot.besides.is_some() {
            each -= self::each(&program, &format!("{}{BESIDES}", hot.name))?;
        }
        counts.insert(hot.name.to_owned(), each.round());
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

/// Instructions of one run.
fn each(valgrind: &Path, name: &str) -> Result<f64> {
    let once = collected(valgrind, name, RUNS)?;
    let twice = collected(valgrind, name, 2 * RUNS)?;
    Ok(float(twice.saturating_sub(once)) / f64::from(RUNS))
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
        let (mut records, mut forger) = twins::ours(TLS13_AES_128_GCM_SHA256);
        let mut record = forger.seal(APPLICATION_DATA, &CONTENT);
        let opened = records.open(&mut record).unwrap();
        assert_eq!(record[opened.plaintext], CONTENT);
        let mut server = twins::reference(TLS13_AES_128_GCM_SHA256);
        let record = twins::ours(TLS13_AES_128_GCM_SHA256).1.seal(APPLICATION_DATA, &CONTENT);
        server.read_tls(&mut record.as_slice()).unwrap();
        server.process_new_packets().unwrap();
        let mut content = [0; CONTENT.len()];
        server.reader().read_exact(&mut content).unwrap();
        assert_eq!(content, CONTENT);
        let mut buffer = vec![0; 13 + CONTENT.len() + 17];
        assert!(records.seal(&mut buffer, 13..13 + CONTENT.len()).is_some());
    }

    #[test]
    fn every_function_of_the_baseline_is_counted() {
        let text = fs::read_to_string(baseline_path()).unwrap();
        let baseline: BTreeMap<String, f64> = serde_json::from_str(&text).unwrap();
        let known: Vec<&str> = HOT.iter().map(|hot| hot.name).collect();
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
