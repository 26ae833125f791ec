//! Side-by-side measurements of the gateway: load generator, back end, peers, statistics.
//!
//! See `perf/README.md` for the method, how to read the figures, and what they cannot say.
#![forbid(unsafe_code)]

mod backend;
mod baseline;
mod bench;
mod chart;
mod compare;
mod contender;
mod cpu;
mod delay;
mod far;
mod goal;
mod goals;
mod instructions;
mod interrupt;
mod load;
mod machine;
mod peers;
mod report;
mod shares;
mod sizing;
mod stats;
mod tickets;
mod xdp;

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(about = "Measures Portcullis side by side with other proxies, on loopback")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The goals of the relay, side by side with what one would use instead
    Goals {
        /// Rounds, each there and back through all contenders [default: 9, quick: 4]
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
        rounds: Option<u32>,
        /// Measure only these, as G1,G3
        #[arg(long, value_enum, value_delimiter = ',')]
        only: Vec<goals::Id>,
        /// Shorter and fewer slices, and no peers that no goal is against
        #[arg(long)]
        quick: bool,
        /// The same as `--quick --only G1,G3,G4`
        #[arg(long, conflicts_with = "only")]
        smoke: bool,
        /// Print one JSON object as the last line
        #[arg(long)]
        json: bool,
        /// Where to keep the raw series [default: perf/results of this source tree]
        #[arg(long, value_name = "DIR")]
        results: Option<PathBuf>,
    },
    /// What 50 ms of delay change
    Delay {
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
        rounds: u32,
    },
    /// Instructions of the hot functions under callgrind, compared with the committed baseline
    Instructions {
        /// Make the baseline anew
        #[arg(long)]
        update: bool,
    },
    /// Plots of a results file, as SVG
    Charts {
        results: PathBuf,
        /// Where to write them [default: perf/results of this source tree]
        #[arg(long, value_name = "DIR")]
        to: Option<PathBuf>,
    },
    /// The sizing page, computed from a results file
    Sizing {
        results: PathBuf,
        /// Where to write it [default: standard output]
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
    },
    /// A hot function so many times, for callgrind
    #[command(hide = true)]
    Hot { name: String, runs: u32 },
    /// The machine behind the contenders, as a process of its own
    #[command(hide = true)]
    Backend { address: SocketAddr },
    /// A relay as one writes it in an afternoon, to be compared with
    #[command(hide = true)]
    Baseline(baseline::Arguments),
    /// The kernel side: drop cost, sessions under a flood, cost in peace, forwarding; needs root
    Xdp {
        /// Rounds of every measure [default: 9, quick: 5]
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
        rounds: Option<u32>,
        /// Measure only this
        #[arg(long, value_enum)]
        only: Option<xdp::Part>,
        /// Nanoseconds between frames where drops and forwarding are measured; with less than a contender needs, its
        /// ring overflows, for which it pays too
        #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(100..=100_000))]
        period: u32,
        /// Shorter and fewer slices: a few minutes
        #[arg(long)]
        quick: bool,
        /// Print one JSON object as the last line
        #[arg(long)]
        json: bool,
        /// Where to keep the raw series [default: perf/results of this source tree]
        #[arg(long, value_name = "DIR")]
        results: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Goals { rounds, only, quick, smoke, json, results } => {
            let (quick, only) = if smoke { (true, goals::SMOKE.to_vec()) } else { (quick, only) };
            // Fewer in a quick run, which is meant to take no more than ten minutes.
            let rounds = rounds.unwrap_or(if quick { 4 } else { 9 });
            goals(&bench::Plan { rounds, quick }, &only, json, results)
        }
        Command::Delay { rounds } => delayed(rounds),
        Command::Instructions { update } => return counted(update),
        Command::Charts { results, to } => charts(&results, to),
        Command::Sizing { results, to } => sized(&results, to),
        Command::Hot { name, runs } => instructions::hot(&name, runs),
        Command::Backend { address } => backend::serve(address),
        Command::Baseline(arguments) => baseline::run(&arguments),
        Command::Xdp { rounds, only, period, quick, json, results } => {
            let rounds = rounds.unwrap_or(if quick { 5 } else { 9 });
            xdp(xdp::Plan { rounds, quick, only, period: Duration::from_nanos(period.into()) }, json, results)
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

fn failed(error: &anyhow::Error) -> ExitCode {
    // Where standard error is closed there is nobody to tell.
    drop(writeln!(std::io::stderr(), "portcullis-perf: {error:#}"));
    ExitCode::FAILURE
}

fn results_directory() -> PathBuf {
    portcullis_tests::process::repository().join("perf/results")
}

fn delayed(rounds: u32) -> Result<()> {
    let figures = far::run(bench::Plan { rounds, quick: true }, &mut std::io::stderr())?;
    let mut out = std::io::stdout().lock();
    figures.iter().try_for_each(|figure| writeln!(out, "{figure}"))?;
    Ok(())
}

fn counted(update: bool) -> ExitCode {
    match instructions::run(update, &mut std::io::stdout()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => failed(&error),
    }
}

fn charts(results: &Path, to: Option<PathBuf>) -> Result<()> {
    let figures = sizing::Results::read(results)?.figures;
    let paths = chart::save(&figures, &to.unwrap_or_else(results_directory))?;
    let mut out = std::io::stdout().lock();
    paths.iter().try_for_each(|path| writeln!(out, "{}", path.display()))?;
    Ok(())
}

fn sized(results: &Path, to: Option<PathBuf>) -> Result<()> {
    let page = sizing::page(&sizing::Results::read(results)?)?;
    match to {
        Some(path) => std::fs::write(&path, page).with_context(|| format!("write {}", path.display())),
        None => Ok(write!(std::io::stdout(), "{page}")?),
    }
}

fn goals(plan: &bench::Plan, only: &[goals::Id], json: bool, results: Option<PathBuf>) -> Result<()> {
    let report = goals::run(plan, only, &mut std::io::stderr())?;
    let mut out = std::io::stdout().lock();
    write!(out, "{report}")?;
    let dir = results.unwrap_or_else(results_directory);
    writeln!(out, "raw series: {}", report.save(&dir)?.display())?;
    if json {
        writeln!(out, "{}", report.summary())?;
    }
    Ok(())
}

fn xdp(plan: xdp::Plan, json: bool, results: Option<PathBuf>) -> Result<()> {
    let report = xdp::run(plan, &mut std::io::stderr())?;
    let mut out = std::io::stdout().lock();
    write!(out, "{report}")?;
    let dir = results.unwrap_or_else(results_directory);
    writeln!(out, "raw series: {}", report.save(&dir)?.display())?;
    if json {
        writeln!(out, "{}", report.summary())?;
    }
    Ok(())
}
