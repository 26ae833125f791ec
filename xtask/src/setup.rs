//! `cargo xtask setup`: finds what is missing on this machine and installs it where that is allowed.
//!
//! It installs Debian packages, without letting their services start and without removing any, the Python clients of the
//! tests into `target/python`, the kernel side's linker into `target/tools`, and what `cargo xtask boot` needs into
//! `target/boot`. The product's own Rust toolchain is installed by rustup, by `rust-toolchain.toml`.

mod kernel;
mod packages;
mod python;

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use nix::unistd::Uid;
use portcullis_tests::process;

use crate::{boot, shell};
pub(crate) use packages::Use;
use packages::{PACKAGES, Package};

/// Debian's hook that says whether a package may start its service (invoke-rc.d(8)); 101 means no.
const POLICY: &str = "/usr/sbin/policy-rc.d";

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Only say what is missing; the exit status is 1 when something is
    #[arg(long)]
    check: bool,
    /// For what; everything when absent
    #[arg(long = "for", value_enum)]
    uses: Vec<Use>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<bool> {
    let uses = if arguments.uses.is_empty() { Use::ALL.to_vec() } else { arguments.uses.clone() };
    if !arguments.check {
        // What is built here runs in process groups of its own, which Ctrl-C does not reach by itself.
        shell::unwind_on_interrupt()?;
        uses.iter().copied().try_for_each(ensure)?;
        return Ok(without_what(&uses, &arguments.uses));
    }
    let mut complete = true;
    for package in PACKAGES.iter().filter(|package| uses.iter().any(|wanted| package.is_for(*wanted))) {
        let there = package.is_there();
        complete &= there;
        let state = if there { "there  " } else { "MISSING" };
        shell::print(&format!("{state} {:<18} {}", package.name, package.why));
    }
    if uses.contains(&Use::Test) {
        let there = python::is_ready();
        complete &= there;
        shell::print(&format!(
            "{} Python clients of {}",
            if there { "there  " } else { "MISSING" },
            python::LIST
        ));
    }
    if uses.contains(&Use::Boot) {
        let there = boot::is_prepared();
        complete &= there;
        let state = if there { "there  " } else { "MISSING" };
        shell::print(&format!("{state} Debian 13's kernel and QEMU, in target/boot"));
    }
    if uses.iter().any(|wanted| matches!(wanted, Use::Test | Use::Ebpf)) {
        let (there, how) = kernel::state();
        complete &= there;
        shell::print(&format!("{} {how}", if there { "there  " } else { "MISSING" }));
    }
    if !complete {
        shell::print("`cargo xtask setup` installs what is missing");
    }
    Ok(complete)
}

/// Says what could not be had and can be done without. Returns whether nothing of that was asked for by name.
fn without_what(uses: &[Use], named: &[Use]) -> bool {
    let mut missing = Vec::new();
    let (kernel_side, why) = kernel::state();
    if !kernel_side && uses.iter().any(|wanted| matches!(wanted, Use::Test | Use::Ebpf)) {
        missing.push((Use::Ebpf, format!("the kernel side: {why}")));
    }
    if uses.contains(&Use::Boot) && !boot::is_prepared() {
        missing.push((Use::Boot, String::from("the appliance's kernel, see above")));
    }
    if missing.is_empty() {
        shell::print("setup: everything is there");
    }
    for (_, what) in &missing {
        shell::print(&format!("setup: it goes without {what}"));
    }
    !missing.iter().any(|(wanted, _)| named.contains(wanted))
}

/// Makes sure that everything for one use is there.
pub(crate) fn ensure(wanted: Use) -> Result<()> {
    let missing: Vec<&Package> =
        PACKAGES.iter().filter(|package| package.is_for(wanted) && !package.is_there()).collect();
    match wanted {
        // With another toolchain than Debian's the packages are not missed.
        Use::Ebpf if kernel::is_complete() => {}
        Use::Ebpf => {
            install(&missing)?;
            kernel::ensure();
        }
        Use::Test => {
            install(&missing)?;
            python::ensure();
            ensure(Use::Ebpf)?;
        }
        Use::Boot => {
            install(&missing)?;
            boot::prepare();
        }
        Use::Demo | Use::Perf => install(&missing)?,
    }
    Ok(())
}

fn install(missing: &[&Package]) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = missing.iter().map(|package| package.name).collect();
    let remedy = format!("sudo apt-get update && sudo apt-get install {}", names.join(" "));
    for package in missing {
        shell::say(&format!("missing: {} ({})", package.name, package.why));
    }
    let Some(root) = Root::get() else {
        return without(missing, &format!("this needs root on Debian or Ubuntu; run: {remedy}"));
    };
    shell::say(&format!("installing {} …", names.join(" ")));
    let installed = apt(&root, &names).or_else(|error| {
        // A release that does not have one of the others must not keep us from what is needed.
        let needed: Vec<&str> = missing.iter().filter(|p| p.required).map(|p| p.name).collect();
        if needed.is_empty() || needed.len() == names.len() { Err(error) } else { apt(&root, &needed) }
    });
    let still: Vec<&Package> = missing.iter().copied().filter(|package| !package.is_there()).collect();
    match installed {
        Ok(()) if still.is_empty() => Ok(()),
        Ok(()) => without(&still, &format!("apt-get succeeded without bringing it; look at: {remedy}")),
        Err(error) => without(&still, &format!("{error:#}; try: {remedy}")),
    }
}

/// Goes on when only optional packages are missing: the tests that want them say that they are skipped.
fn without(missing: &[&Package], reason: &str) -> Result<()> {
    if let Some(package) = missing.iter().find(|package| package.required) {
        bail!("{} is missing: {reason}", package.name);
    }
    shell::say(&format!("going on without: {reason}"));
    Ok(())
}

/// How commands become root's.
struct Root {
    sudo: bool,
}

impl Root {
    /// `None` where this is no Debian or nobody may become root without a password.
    fn get() -> Option<Self> {
        process::find_program("apt-get")?;
        if Uid::effective().is_root() {
            return Some(Self { sudo: false });
        }
        process::find_program("sudo")?;
        let mut probe = Command::new("sudo");
        let status = probe.args(["-n", "true"]).stderr(Stdio::null()).status().ok()?;
        status.success().then_some(Self { sudo: true })
    }

    fn command(&self, program: &str) -> Command {
        if !self.sudo {
            return Command::new(program);
        }
        let mut command = Command::new("sudo");
        command.args(["-n", program]);
        command
    }
}

fn apt(root: &Root, names: &[&str]) -> Result<()> {
    let _no_services = NoServices::new(root)?;
    let apt = |arguments: &[&str]| {
        // Through `env`, because sudo does not hand on the environment.
        let mut command = root.command("env");
        command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-q"]).args(arguments);
        // apt's progress is for the person who watches; standard output is for results.
        shell::succeeds(command.stdin(Stdio::null()).stdout(std::io::stderr()))
    };
    if !apt(&["update"])? {
        shell::say("`apt-get update` failed; going on with the package lists that are there");
    }
    // Some of the packages conflict with others, as rustc-web with rustc: what somebody has installed stays.
    let install = ["install", "-y", "--no-install-recommends", "--no-remove"];
    if !apt(&[&install[..], names].concat())? {
        bail!("`apt-get install` failed");
    }
    Ok(())
}

/// Keeps packages from starting their services: tests start their own, with their own configuration.
struct NoServices<'a> {
    root: &'a Root,
    ours: bool,
}

impl<'a> NoServices<'a> {
    fn new(root: &'a Root) -> Result<Self> {
        let ours = !Path::new(POLICY).exists();
        if ours {
            let script = format!("printf '#!/bin/sh\\nexit 101\\n' > {POLICY} && chmod 755 {POLICY}");
            let written = shell::succeeds(root.command("sh").args(["-c", &script]));
            if !written.context("keep services from starting")? {
                bail!("{POLICY} could not be written");
            }
        }
        Ok(Self { root, ours })
    }
}

impl Drop for NoServices<'_> {
    fn drop(&mut self) {
        let removed =
            !self.ours || shell::succeeds(self.root.command("rm").args(["-f", POLICY])).unwrap_or(false);
        if !removed {
            shell::say(&format!("{POLICY} stays behind and keeps services from starting: remove it"));
        }
    }
}
