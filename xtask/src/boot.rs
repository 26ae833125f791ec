//! `cargo xtask boot`: the kernel side on the appliance's kernel, which is not this machine's.
//!
//! Debian 13's kernel starts in QEMU, sees this machine's files, and runs the test programs that were built here:
//! first every program of the object goes through that kernel's verifier, then everything else. Nothing is installed;
//! what is fetched lies in `target/boot`.

pub(crate) mod debian;
mod guest;
mod initramfs;
pub(crate) mod lines;
mod qemu;
mod report;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use portcullis_tests::process;
use serde::Serialize;
use serde_json::Value;

use crate::ci::{Tally, target_directory};
use crate::ebpf::{self, Toolchain};
use crate::image::scenario::{self, Choice, Report as Scenarios};
use crate::shell;
use guest::{Part, Work};
use report::Report;

/// The tests of the kernel side.
const TEST: &str = "xdp";
/// The part of [`TEST`] that only loads.
const VERIFIER: &str = "verifier::";
/// The part of [`TEST`] that needs no interface.
const FRAMES: &str = "program::";
/// The part of [`TEST`] with whole sessions.
const SESSIONS: &str = "sessions::";
/// The part of [`TEST`] with a client that is far away, which tells how fast that is.
const DELAY: &str = "delay::";
/// Where the guest notes skipped tests.
const SKIPS: &str = "/run/boot/skips";
/// For one program in the guest, which is about ten times slower than this machine.
const PART_LIMIT: Duration = Duration::from_secs(15 * 60);
/// For the guest as a whole.
const LIMIT: Duration = Duration::from_secs(40 * 60);

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Fetch the newest kernel of Debian 13, also when there is one already
    #[arg(long)]
    update: bool,
    /// Debian mirror to fetch from; the one that apt is configured for when absent
    #[arg(long, value_name = "URL")]
    mirror: Option<String>,
    /// Run this test program instead of `xdp`
    #[arg(long, value_name = "NAME", conflicts_with = "command")]
    test: Option<String>,
    /// Run this line of shell instead of tests
    #[arg(long, value_name = "LINE")]
    command: Option<String>,
    /// Boot the appliance instead and run this scenario of `appliance-image/scenarios`; may be given more than once
    #[arg(long, value_name = "NAME", conflicts_with_all = ["test", "command", "all"], group = "scenarios")]
    scenario: Vec<String>,
    /// The tests of the kernel side, and then all scenarios of the appliance
    #[arg(long, conflicts_with_all = ["test", "command"], group = "scenarios")]
    all: bool,
    /// Print what it came to as one JSON object on standard output; everything else goes to standard error
    #[arg(long, requires = "scenarios")]
    json: bool,
    /// Arguments of the test program, such as a filter
    #[arg(last = true)]
    arguments: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<bool> {
    shell::unwind_on_interrupt()?;
    if !arguments.scenario.is_empty() {
        return tell_scenarios(&scenario::run(Choice::Named(&arguments.scenario))?, None, arguments.json);
    }
    let machine = debian::ensure(arguments.mirror.as_deref(), arguments.update)?;
    let parts = match &arguments.command {
        Some(line) => vec![part("command", ["/bin/sh", "-c", line].map(str::to_owned).to_vec())],
        None => work_of(arguments.test.as_deref().unwrap_or(TEST), &arguments.arguments)?,
    };
    let tally = perform(&machine, parts, if arguments.json { shell::say } else { shell::print })?;
    if arguments.all {
        return tell_scenarios(&scenario::run(Choice::All)?, Some(tally), arguments.json);
    }
    Ok(tell(&tally))
}

/// All that a run came to, for programs.
#[derive(Debug, Serialize)]
struct Outcome<'a> {
    /// The tests of the kernel side, where they were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    kernel_side: Option<&'a Tally>,
    #[serde(flatten)]
    scenarios: &'a Scenarios,
    /// Of everything.
    passed: usize,
    failed: usize,
    skipped: usize,
}

fn tell_scenarios(scenarios: &Scenarios, kernel_side: Option<Tally>, json: bool) -> Result<bool> {
    let mut tally = scenarios.tally();
    if json {
        let counted = |count: fn(&Tally) -> usize| count(&tally) + kernel_side.as_ref().map_or(0, count);
        let outcome = Outcome {
            kernel_side: kernel_side.as_ref(),
            scenarios,
            passed: counted(|tally| tally.passed),
            failed: counted(|tally| tally.failed.len()),
            skipped: counted(|tally| tally.skipped.len()),
        };
        shell::print(&serde_json::to_string_pretty(&outcome).context("write the report")?);
        return Ok(outcome.failed == 0);
    }
    scenarios.lines().iter().for_each(|line| shell::print(line));
    tally.add(kernel_side.unwrap_or_default());
    Ok(tell(&tally))
}

fn tell(tally: &Tally) -> bool {
    tally.skipped.iter().for_each(|why| shell::print(&format!("skipped: {why}")));
    tally.failed.iter().for_each(|why| shell::print(&format!("FAILED: {why}")));
    shell::print(&tally.counts());
    tally.failed.is_empty()
}

/// Fetches what is needed, for `cargo xtask setup`; says it when that cannot be had.
pub(crate) fn prepare() {
    if let Err(error) = debian::ensure(None, false) {
        shell::say(&format!("going on without the appliance's kernel: {error:#}"));
    }
}

/// Whether everything is there, for `cargo xtask setup --check`.
pub(crate) fn is_prepared() -> bool {
    debian::is_there()
}

/// The step of `cargo xtask ci`.
pub(crate) fn step() -> Result<Tally> {
    let machine = match debian::ensure(None, false) {
        Ok(machine) => machine,
        Err(error) => return Ok(Tally::skipped(&format!("no Debian 13 to boot: {error:#}"))),
    };
    if let Err(missing) = Toolchain::find() {
        return Ok(Tally::skipped(&missing));
    }
    perform(&machine, work_of(TEST, &[])?, shell::print)
}

fn part(name: &str, command: Vec<String>) -> Part {
    Part { name: name.to_owned(), command, decisive: false }
}

/// Builds the kernel side, the gateway that embeds it, and a test program; returns how to run it.
fn work_of(name: &str, arguments: &[String]) -> Result<Vec<Part>> {
    ebpf::build()?;
    // As the whole workspace, like continuous integration: another choice of features would build much again.
    if !shell::succeeds(&mut shell::cargo(&["build", "--locked", "--workspace", "--bins"]))? {
        bail!("the gateway does not build, see above");
    }
    let program = build_test(name)?;
    let program = program.to_str().context("the test program's path is no text")?;
    let call = |arguments: &[&str]| {
        // On the serial line a test program believes itself on a terminal; the lines are read by us.
        [program, "--color", "never"].iter().chain(arguments).copied().map(str::to_owned).collect::<Vec<_>>()
    };
    if name != TEST {
        return Ok(vec![part(name, [call(&[]), arguments.to_vec()].concat())]);
    }
    let load = Part { decisive: true, ..part("verifier", call(&[VERIFIER, "--nocapture"])) };
    let at_once = qemu::TESTS_AT_ONCE.to_string();
    let mut on_pairs = call(&["--skip", VERIFIER, "--test-threads", &at_once]);
    let far_away = part("far away", call(&["--nocapture", DELAY]));
    // Once more with frames from a driver, as on a virtual appliance.
    let cards = [String::from("env"), format!("PORTCULLIS_CARDS={}", qemu::cards())];
    let mut on_cards =
        call(&["--skip", VERIFIER, "--skip", FRAMES, "--skip", DELAY, "--test-threads", &at_once]);
    if arguments.is_empty() {
        // They take the longest, and have gone over the pairs.
        on_cards.extend(["--skip", SESSIONS].map(str::to_owned));
        on_pairs.extend(["--skip", DELAY].map(str::to_owned));
    }
    let on_pairs = part("on Ethernet pairs", [on_pairs, arguments.to_vec()].concat());
    let on_cards = part("on virtio_net", [&cards[..], &on_cards, arguments].concat());
    // Who has chosen tests has them on the pairs.
    Ok([load, on_pairs, on_cards].into_iter().chain(arguments.is_empty().then_some(far_away)).collect())
}

pub(crate) fn build_test(name: &str) -> Result<PathBuf> {
    let mut cargo = shell::cargo(&["test", "--locked", "--workspace", "--no-run", "--test", name]);
    let messages = shell::output(cargo.arg("--message-format=json-render-diagnostics"))?;
    executable(&messages, name).with_context(|| format!("cargo built no test program `{name}`"))
}

/// Where cargo's messages say that a test program is.
fn executable(messages: &str, name: &str) -> Option<PathBuf> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut found = messages.filter_map(|message| {
        let named = message.pointer("/target/name")? == name && message.pointer("/target/kind/0")? == "test";
        named.then(|| message.get("executable")?.as_str().map(PathBuf::from)).flatten()
    });
    found.next()
}

fn perform(machine: &debian::Machine, parts: Vec<Part>, show: fn(&str)) -> Result<Tally> {
    let text = |path: PathBuf| path.into_os_string().into_string();
    let programs = text(target_directory()?.join("debug"));
    let directory = text(process::repository().join("tests"));
    let (Ok(programs), Ok(directory)) = (programs, directory) else {
        bail!("the repository's path is no text");
    };
    let kept =
        ["PATH", "HOME"].into_iter().filter_map(|name| Some((name.to_owned(), std::env::var(name).ok()?)));
    let ours = [("PORTCULLIS_BIN_DIR", programs), ("PORTCULLIS_SKIPS", SKIPS.to_owned())];
    let environment = kept.chain(ours.map(|(name, value)| (name.to_owned(), value))).collect();
    let work = Work { parts, environment, directory, limit: PART_LIMIT };
    shell::say(&format!("booting Linux {} in QEMU", machine.release()));
    let begun = Instant::now();
    let mut tally = Tally::default();
    let report = qemu::run(machine, &work, LIMIT, |line| {
        show(line);
        tally.read_test_line(line);
    })?;
    let seconds = begun.elapsed().as_secs_f64();
    shell::say(&format!("Linux {} was up and at work for {seconds:.1} s", machine.release()));
    let release = report.kernel.as_deref().unwrap_or_default();
    if release != machine.release() {
        bail!("the guest ran Linux {release}");
    }
    judge(&work.parts, &report, &mut tally);
    Ok(tally)
}

/// Adds what the tests themselves do not say: a program that failed without naming a test, or that never ran.
fn judge(parts: &[Part], report: &Report, tally: &mut Tally) {
    for part in parts {
        let name = &part.name;
        match report.parts.iter().find(|(ended, _)| ended == name) {
            Some((_, 0)) => {}
            // What busybox's timeout(1) makes of SIGTERM and SIGKILL.
            Some((_, 143 | 137)) => {
                tally.failed.push(format!("{name} took longer than {} s", PART_LIMIT.as_secs()));
            }
            Some((_, status)) if tally.failed.is_empty() => {
                tally.failed.push(format!("{name} ended with status {status}, see above"));
            }
            Some(_) => {}
            None => tally.failed.push(format!("{name} did not run: nothing can be said of it")),
        }
    }
    tally.move_to_skipped(report.skips.clone());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_test_program_is_found_in_what_cargo_says() {
        let messages = r#"{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"xdp"},"executable":null}
            {"reason":"compiler-artifact","target":{"kind":["test"],"name":"proto"},"executable":"/t/proto-1"}
            {"reason":"compiler-artifact","target":{"kind":["test"],"name":"xdp"},"executable":"/t/xdp-1"}
            {"reason":"build-finished","success":true}"#;
        assert_eq!(executable(messages, "xdp"), Some(PathBuf::from("/t/xdp-1")));
        assert_eq!(executable(messages, "other"), None);
    }

    #[test]
    fn only_work_that_was_done_well_is_a_success() {
        let parts = ["load", "tests"].map(|name| part(name, Vec::new()));
        let judged = |ended: &[(&str, u8)]| {
            let parts_ended = ended.iter().map(|(name, status)| ((*name).to_owned(), *status)).collect();
            let report = Report { parts: parts_ended, ..Report::default() };
            let mut tally = Tally::default();
            judge(&parts, &report, &mut tally);
            tally.failed
        };
        assert!(judged(&[("load", 0), ("tests", 0)]).is_empty());
        assert_eq!(judged(&[("load", 0), ("tests", 101)]), ["tests ended with status 101, see above"]);
        assert_eq!(judged(&[("load", 0), ("tests", 143)]), ["tests took longer than 900 s"]);
        assert_eq!(judged(&[("load", 1)]).len(), 2);
        assert_eq!(judged(&[]).len(), 2);
    }
}
