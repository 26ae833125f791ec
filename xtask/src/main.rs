//! Every automation of the repository: `cargo xtask --help`.
//!
//! A command that needs something says what is missing and how to get it.
#![forbid(unsafe_code)]

mod boot;
mod ci;
mod demo;
mod deps;
mod ebpf;
mod fuzz;
mod image;
mod licences;
mod perf;
mod setup;
mod shell;
mod tidy;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Every automation of the Portcullis repository.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", version, disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Find what is missing on this machine (Debian packages, Python clients) and install it where allowed
    Setup(setup::Arguments),
    /// Everything that must hold before a change lands; continuous integration is this command
    #[command(alias = "test")]
    Ci(ci::Arguments),
    /// Repository rules as code: layout, sizes, forbidden words and files
    Tidy,
    /// Which crate may depend on which
    Deps,
    /// Licences and sources of all dependencies
    Licences,
    /// Build the whole picture on this machine and walk a session through it
    Demo(demo::Arguments),
    /// Build the kernel side, which the gateway then embeds
    Ebpf(ebpf::Arguments),
    /// Boot the appliance's kernel in QEMU and run the tests of the kernel side on it, or boot the whole appliance
    Boot(boot::Arguments),
    /// Build the appliance as a disk image
    Image(image::Arguments),
    /// Run fuzz targets
    Fuzz(fuzz::Arguments),
    /// Measure the gateway beside its peers (arguments go to the perf program)
    Perf(perf::Arguments),
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            shell::say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Returns whether what was checked is in order; an error means that it could not be checked.
fn run(command: Command) -> Result<bool> {
    match command {
        Command::Setup(arguments) => setup::run(&arguments),
        Command::Ci(arguments) => ci::run(&arguments),
        Command::Tidy => shell::report("tidy", &tidy::check()?),
        Command::Deps => shell::report("deps", &deps::check()?),
        Command::Licences => shell::report("licences", &licences::check()?),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Ebpf(arguments) => ebpf::run(&arguments),
        Command::Boot(arguments) => boot::run(&arguments),
        Command::Image(arguments) => image::run(&arguments),
        Command::Fuzz(arguments) => fuzz::run(&arguments),
        Command::Perf(arguments) => perf::run(&arguments),
    }
}
