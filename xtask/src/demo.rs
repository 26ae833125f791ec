//! `cargo xtask demo`: the whole picture on one machine, walked through with real programs.
//!
//! An outside client, the gateway, and a farm with a ticket authority, an OpenSSH server and a web server, each in a
//! network namespace of its own, with the packet filter on the gateway's interfaces; where namespaces are not allowed,
//! on loopback without a filter, and it says so. It follows the steps
//! of "Establishing a Secure Connection to the Server Farm" that concern tickets and relaying. Nothing is left behind.

mod farm;
mod filter;
mod observe;
mod outage;
mod refusals;
mod report;
mod stage;
mod walk;
mod ways;

use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;
use portcullis_tests::{netns, process, wait};

use crate::ebpf::{self, Toolchain};
use crate::setup::{self, Use};
use crate::shell;
pub(crate) use report::Report;
use report::Reporter;
use stage::Stage;

const BUILD_LIMIT: Duration = Duration::from_secs(60 * 60);
/// `--keep` is for a person who looks around, not for ever.
const KEEP_LIMIT: Duration = Duration::from_secs(12 * 60 * 60);

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Print one JSON object on standard output; progress goes to standard error
    #[arg(long)]
    json: bool,
    /// Use loopback addresses even where namespaces are allowed
    #[arg(long)]
    loopback: bool,
    /// Keep everything running afterwards, until Ctrl-C, and say how to use it
    #[arg(long)]
    keep: bool,
    /// Use the programs as they are shipped (the default)
    #[arg(long, conflicts_with = "debug")]
    release: bool,
    /// Use the development build: sooner there, slower
    #[arg(long)]
    debug: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Profile {
    #[default]
    Release,
    Debug,
}

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Options {
    pub(crate) loopback: bool,
    pub(crate) keep: bool,
    pub(crate) profile: Profile,
}

/// The steps of the description that need a portal and a login, which the gateway does not have yet.
const NOT_PART: &str = "Not part of this demo: steps 1 to 7 of the description (address in a browser, login, list of \
    applications, choice). They need the portal and login pages, which come later. The demo plays their result: a \
    ticket request for a chosen server.";

pub(crate) fn run(arguments: &Arguments) -> Result<bool> {
    shell::unwind_on_interrupt()?;
    let profile = if arguments.debug { Profile::Debug } else { Profile::Release };
    let report = perform(&Options { loopback: arguments.loopback, keep: arguments.keep, profile })?;
    if arguments.json {
        shell::print(&report.to_json()?);
    } else {
        report.skipped.iter().for_each(|why| shell::print(&format!("skipped: {why}")));
        let failed = report.steps.iter().filter(|step| !step.ok).count();
        let passed = report.steps.len() - failed;
        shell::print(&format!("{passed} passed, {failed} failed, {} skipped", report.skipped.len()));
    }
    Ok(report.ok())
}

/// Builds, stages and walks. A demo that could not even be staged is a failed report, not an error.
pub(crate) fn perform(options: &Options) -> Result<Report> {
    setup::ensure(Use::Demo)?;
    let loopback = loopback_reason(options);
    if loopback.is_none() {
        build_kernel_side()?;
    }
    build(options.profile)?;
    let mut reporter = Reporter::default();
    let mut staged = None;
    reporter.step("stage: client, gateway and farm", || {
        let stage = Stage::build(loopback)?;
        let what = stage.describe();
        staged = Some(stage);
        Ok(what)
    });
    if let Some(mut stage) = staged {
        shell::say(NOT_PART);
        act(&mut stage, &mut reporter);
        if options.keep && !wait::interrupted() {
            shell::say(&stage.hints()?);
            // Ends by an interruption, which is no failure here.
            drop(wait::until(KEEP_LIMIT, "Ctrl-C", || false));
        }
        reporter.finish("end: the gateway drains and ends", || stage.end());
    }
    Ok(reporter.into_report())
}

fn act(stage: &mut Stage, reporter: &mut Reporter) {
    walk::run(stage, reporter);
    ways::run(stage, reporter);
    refusals::run(stage, reporter);
    filter::run(stage, reporter);
    outage::run(stage, reporter);
    observe::run(stage, reporter);
}

/// `None` when the lab can be built in namespaces.
fn loopback_reason(options: &Options) -> Option<String> {
    if options.loopback {
        return Some(String::from("asked for"));
    }
    netns::available().err().map(|reason| format!("network namespaces are not allowed here: {reason}"))
}

/// Where the gateway's interfaces can be filtered, the gateway shall have what filters. The demo goes without it only
/// where there is no toolchain for it, and says so.
fn build_kernel_side() -> Result<()> {
    setup::ensure(Use::Ebpf)?;
    match Toolchain::find() {
        Ok(toolchain) => ebpf::build_with(&toolchain).map(drop),
        Err(missing) => {
            shell::say(&missing);
            Ok(())
        }
    }
}

fn build(profile: Profile) -> Result<()> {
    let (arguments, directory): (&[&str], _) = match profile {
        Profile::Release => (&["build", "--locked", "--release", "-p", "portcullis", "--bins"], "release"),
        // The same set as `cargo xtask ci` builds, so that nothing is built twice with other features.
        Profile::Debug => (&["build", "--locked", "--workspace", "--bins"], "debug"),
    };
    shell::say("building the gateway …");
    let mut cargo = shell::cargo(arguments);
    ebpf::embed_what_is_there(&mut cargo)?;
    if !shell::stream(&mut cargo, BUILD_LIMIT, |_| ())? {
        bail!("the gateway does not build: see above");
    }
    process::use_binaries(&crate::ci::target_directory()?.join(directory));
    Ok(())
}
