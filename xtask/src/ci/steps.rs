//! The steps of `cargo xtask ci`, in order.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context as _, Result};
use portcullis_tests::filtered::World;
use portcullis_tests::gateway::BpfFs;
use portcullis_tests::{netns, process};
use serde_json::Value;

use super::filtered;
use super::tally::Tally;
use crate::demo::{self, Profile};
use crate::ebpf::{self, Toolchain};
use crate::image::Draft;
use crate::image::scenario::{self, Choice};
use crate::setup::{self, Use};
use crate::shell::{self, cargo, succeeds};
use crate::{boot, deps, licences, tidy};

/// A machine with two cores builds everything from nothing in far less.
const BUILD_LIMIT: Duration = Duration::from_secs(40 * 60);
/// Tests are made to end within 25 minutes on two cores.
const TEST_LIMIT: Duration = Duration::from_secs(30 * 60);
const FUZZ: &str = "tests/fuzz/Cargo.toml";

pub(crate) struct Step {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    /// Whether `--quick` runs it.
    pub(crate) quick: bool,
    /// Gets whether `--quick` was given.
    pub(crate) run: fn(bool) -> Result<Tally>,
}

const fn step(name: &'static str, about: &'static str, run: fn(bool) -> Result<Tally>) -> Step {
    Step { name, about, quick: true, run }
}

const fn slow(name: &'static str, about: &'static str, run: fn(bool) -> Result<Tally>) -> Step {
    Step { name, about, quick: false, run }
}

pub(crate) const STEPS: &[Step] = &[
    slow("setup", "packages and clients that the tests need", |_| {
        setup::ensure(Use::Test)?;
        Ok(Tally::passed())
    }),
    step("fmt", "formatting", |_| {
        // The kernel side is a workspace of its own.
        let good =
            [&["fmt", "--all", "--check"][..], &["fmt", "--manifest-path", "ebpf/Cargo.toml", "--check"]];
        let good = good.into_iter().map(|call| succeeds(&mut cargo(call))).collect::<Result<Vec<bool>>>()?;
        Ok(Tally::of(!good.contains(&false), "run `cargo fmt --all`, in ebpf/ too"))
    }),
    step("tidy", "repository rules", |_| Ok(Tally::of_findings(tidy::check()?))),
    step("deps", "which crate may depend on which", |_| Ok(Tally::of_findings(deps::check()?))),
    step("licences", "licences and sources of dependencies", |_| Ok(Tally::of_findings(licences::check()?))),
    slow("advisories", "known faults of dependencies", |_| advisories()),
    // Before the lints, because the gateway has more code with a kernel side than without.
    step("ebpf", "the kernel side, which the gateway embeds", |_| match Toolchain::find() {
        Ok(toolchain) => ebpf::build_with(&toolchain).map(|_| Tally::passed()),
        Err(missing) => Ok(Tally::skipped(&missing)),
    }),
    step("clippy", "lints, as errors, here and in the kernel side", |_| clippy()),
    slow("doc", "documentation, warnings as errors", |_| {
        let mut doc = cargo(&["doc", "--locked", "--workspace", "--no-deps", "--quiet"]);
        Ok(Tally::of(succeeds(doc.env("RUSTDOCFLAGS", "-D warnings"))?, "fix what rustdoc says above"))
    }),
    slow("fuzz", "fuzz targets still build", |_| fuzz()),
    step("build", "all programs", |_| {
        let good =
            shell::stream(&mut cargo(&["build", "--locked", "--workspace", "--bins"]), BUILD_LIMIT, |_| ())?;
        Ok(Tally::of(good, "fix what the compiler says above"))
    }),
    step("test", "unit, conformance, integration tests, replay of fuzz findings", test),
    slow("epoll", "sessions again on the relay engine for machines without io_uring", |_| on_epoll()),
    slow("filtered", "sessions again with the packet filter on both interfaces of every gateway", |_| {
        behind_the_filter()
    }),
    slow("boot", "the kernel side on the appliance's kernel, in QEMU", |_| boot::step()),
    slow("appliance", "the image that was built, or one that is made now, in QEMU", |_| appliance()),
    slow("demo", "the whole picture on this machine", |_| demonstration()),
];

fn advisories() -> Result<Tally> {
    let found = process::find_program("cargo-deny").or_else(|| {
        let home = std::env::var_os("CARGO_HOME").map(PathBuf::from)?;
        Some(home.join("bin/cargo-deny")).filter(|file| file.is_file())
    });
    let Some(program) = found else {
        return Ok(Tally::skipped("no cargo-deny (`cargo install cargo-deny --locked`)"));
    };
    // Without the network only a database that is already there can be asked.
    let mut deny = Command::new(&program);
    deny.current_dir(process::repository()).args(["--offline", "--all-features", "check", "bans", "sources"]);
    if !succeeds(&mut deny)? {
        return Ok(Tally::failed("cargo-deny objects to a crate or its source"));
    }
    let mut deny = Command::new(&program);
    deny.current_dir(process::repository()).args(["--offline", "check", "--disable-fetch", "advisories"]);
    let output = process::run(&mut deny, Duration::from_secs(300))?;
    let no_database = ["failed to load advisory database", "advisory database", "unable to fetch"];
    if !output.success() && no_database.iter().any(|text| output.stderr.contains(text)) {
        return Ok(Tally::skipped("the advisory database is not on this machine (`cargo deny fetch`)"));
    }
    shell::say(&output.stderr);
    Ok(Tally::of(output.success(), "a dependency has a known fault, see above"))
}

fn clippy() -> Result<Tally> {
    const REMEDY: &str = "fix what clippy says above";
    let mut clippy = cargo(&["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"]);
    let mut tally = Tally::of(succeeds(&mut clippy)?, REMEDY);
    let kernel_side = match Toolchain::find() {
        Ok(toolchain) => match ebpf::lint(&toolchain)? {
            Some(good) => Tally::of(good, REMEDY),
            None => Tally::skipped(toolchain.no_clippy()),
        },
        Err(missing) => Tally::skipped(&missing),
    };
    tally.add(kernel_side);
    Ok(tally)
}

fn fuzz() -> Result<Tally> {
    if !process::repository().join(FUZZ).is_file() {
        return Ok(Tally::skipped(&format!("there is no {FUZZ}")));
    }
    let target = target_directory()?.join("fuzz");
    let mut check = cargo(&["check", "--locked", "--manifest-path", FUZZ, "--target-dir"]);
    Ok(Tally::of(succeeds(check.arg(target))?, "fix what the compiler says above"))
}

/// What depends most on what carries the bytes; the rest of the tests run on io_uring alone.
fn on_epoll() -> Result<Tally> {
    let mut tests = cargo(&["test", "--locked", "-p", "portcullis-tests", "--test", "gateway", "--"]);
    tests.args(["relay", "websocket", "tls", "records", "drain", "hostile", "http", "fault"]);
    tests.env(portcullis_tests::gateway::RELAY_ENGINE, "epoll");
    run_tests(tests)
}

/// Behind the filter daemons run one after the other.
fn behind_the_filter() -> Result<Tally> {
    if let Err(missing) = Toolchain::find() {
        return Ok(Tally::skipped(&missing));
    }
    let mounted = || BpfFs::mount().map(drop).map_err(|error| format!("{error:#}"));
    if let Err(reason) = netns::available().and_then(|()| mounted()) {
        return Ok(Tally::skipped(&format!("no filter between namespaces: {reason}")));
    }
    let program = boot::build_test("gateway")?;
    let world = World::build()?;
    let mut tests = world.command(program.to_str().context("the test program's path is no text")?);
    tests.current_dir(process::repository().join("tests")).args(["--test-threads", "1"]);
    tests.args(filtered::arguments());
    filtered::left_out().iter().for_each(|line| shell::say(line));
    run_tests(tests)
}

fn appliance() -> Result<Tally> {
    let tools = boot::debian::ensure(None, false).and_then(|_| Draft::tools());
    let tools = match tools {
        Ok(tools) => tools,
        Err(error) => {
            return Ok(Tally::skipped(&format!("no image of the appliance can be made: {error:#}")));
        }
    };
    let _draft = Draft::make(&tools)?;
    Ok(scenario::run(Choice::Quick)?.tally())
}

fn test(quick: bool) -> Result<Tally> {
    let mut tests = cargo(&["test", "--locked", "--workspace", "--no-fail-fast"]);
    if quick {
        tests.args(["--lib", "--bins"]);
    }
    run_tests(tests)
}

fn run_tests(mut tests: Command) -> Result<Tally> {
    let programs = target_directory()?.join("debug");
    let skips = tempfile::NamedTempFile::new().context("make a file for skips")?;
    tests.env("PORTCULLIS_BIN_DIR", programs).env("PORTCULLIS_SKIPS", skips.path());
    let mut tally = Tally::default();
    let good = shell::stream(&mut tests, TEST_LIMIT, |line| tally.read_test_line(line))?;
    let reasons = std::fs::read_to_string(skips.path()).context("read the skips")?;
    tally.move_to_skipped(reasons.lines().map(str::to_owned).collect());
    if !good && tally.failed.is_empty() {
        tally.failed.push(String::from("cargo test failed without naming a test: see above"));
    }
    if tally.passed == 0 && tally.failed.is_empty() {
        tally.failed.push(String::from("no test ran"));
    }
    Ok(tally)
}

fn demonstration() -> Result<Tally> {
    let options = demo::Options { profile: Profile::Debug, ..demo::Options::default() };
    let report = demo::perform(&options)?;
    let mut tally = Tally::default();
    for step in report.steps {
        if step.ok {
            tally.passed += 1;
        } else {
            tally.failed.push(format!("{}: {}", step.name, step.detail));
        }
    }
    tally.skipped.extend(report.skipped);
    Ok(tally)
}

/// Where cargo puts what it builds.
pub(crate) fn target_directory() -> Result<PathBuf> {
    // Cargo is asked once: it waits while others of its kind fetch and resolve, and a scenario asks at every step.
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    if let Some(found) = FOUND.get() {
        return Ok(found.clone());
    }
    let metadata = deps::metadata()?;
    let path = metadata.get("target_directory").and_then(Value::as_str);
    let path = path.map(PathBuf::from).context("cargo names no target directory")?;
    Ok(FOUND.get_or_init(|| path).clone())
}
