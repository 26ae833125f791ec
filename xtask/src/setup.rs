//! `cargo xtask setup`: finds what is missing on this machine and installs it where that is allowed.
//!
//! It installs Debian packages, without letting their services start, and the Python clients of the tests into
//! `target/python`. It installs no Rust toolchain: rustup does that by `rust-toolchain.toml`.

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
        uses.into_iter().try_for_each(ensure)?;
        shell::print("setup: everything is there");
        return Ok(true);
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
    if !complete {
        shell::print("`cargo xtask setup` installs what is missing");
    }
    Ok(complete)
}

/// Makes sure that everything for one use is there.
pub(crate) fn ensure(wanted: Use) -> Result<()> {
    let missing: Vec<&Package> =
        PACKAGES.iter().filter(|package| package.is_for(wanted) && !package.is_there()).collect();
    install(&missing)?;
    if wanted == Use::Test {
        python::ensure();
    }
    if wanted == Use::Boot {
        boot::prepare()?;
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
    let installed = apt(&root, &names);
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
    let install = ["install", "-y", "--no-install-recommends"];
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
