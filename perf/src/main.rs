//! Side-by-side measurements of the gateway: load generator, back end, peers, statistics.
//!
//! See `perf/README.md` for the method, how to read the figures, and what they cannot say.
#![forbid(unsafe_code)]

mod backend;
mod baseline;
mod bench;
mod compare;
mod contender;
mod cpu;
mod goal;
mod goals;
mod interrupt;
mod load;
mod machine;
mod peers;
mod report;
mod shares;
mod stats;
mod tickets;
mod xdp;

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
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
        /// Rounds, each there and back through all contenders [default: 9, quick: 5]
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
        rounds: Option<u32>,
        /// Measure only these, as G1,G3
        #[arg(long, value_enum, value_delimiter = ',')]
        only: Vec<goals::Id>,
        /// Shorter and fewer slices, and no peers that no goal is against: less than ten minutes
        #[arg(long)]
        quick: bool,
        /// Print one JSON object as the last line
        #[arg(long)]
        json: bool,
        /// Where to keep the raw series [default: perf/results of this source tree]
        #[arg(long, value_name = "DIR")]
        results: Option<PathBuf>,
    },
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
        Command::Goals { rounds, only, quick, json, results } => {
            let rounds = rounds.unwrap_or(if quick { 5 } else { 9 });
            goals(&bench::Plan { rounds, quick }, &only, json, results)
        }
        Command::Backend { address } => backend::serve(address),
        Command::Baseline(arguments) => baseline::run(&arguments),
        Command::Xdp { rounds, only, period, quick, json, results } => {
            let rounds = rounds.unwrap_or(if quick { 5 } else { 9 });
            xdp(xdp::Plan { rounds, quick, only, period: Duration::from_nanos(period.into()) }, json, results)
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Where standard error is closed there is nobody to tell.
            drop(writeln!(std::io::stderr(), "portcullis-perf: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn goals(plan: &bench::Plan, only: &[goals::Id], json: bool, results: Option<PathBuf>) -> Result<()> {
    let report = goals::run(plan, only, &mut std::io::stderr())?;
    let mut out = std::io::stdout().lock();
    write!(out, "{report}")?;
    let dir = results.unwrap_or_else(|| portcullis_tests::process::repository().join("perf/results"));
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
    let dir = results.unwrap_or_else(|| portcullis_tests::process::repository().join("perf/results"));
    writeln!(out, "raw series: {}", report.save(&dir)?.display())?;
    if json {
        writeln!(out, "{}", report.summary())?;
    }
    Ok(())
}
