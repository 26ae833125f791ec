//! `cargo xtask perf`: installs the peers where it may, builds the kernel side where it is measured, then hands over
//! to the perf program, which builds the daemon itself, as it is shipped.

use anyhow::Result;
use clap::Args;

use crate::{ebpf, setup, shell};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// A measurement and its arguments: the goals of the relay (`--quick --json`, `--only G1,G4`, `goals --help`), or
    /// `xdp` for the kernel side, which needs root (`xdp --quick --json`, `xdp --help`)
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// What the perf program can do, other than measuring the goals.
const OTHERS: [&str; 7] = ["goals", "xdp", "instructions", "delay", "charts", "sizing", "help"];

pub(crate) fn run(arguments: &Arguments) -> Result<bool> {
    setup::ensure(setup::Use::Perf)?;
    let first = arguments.arguments.first().map_or("goals", String::as_str);
    if first == "xdp" {
        ebpf::build()?;
    }
    let mut perf = shell::cargo(&["run", "--quiet", "--release", "-p", "portcullis-perf", "--"]);
    // Without a measurement's name it is about the goals.
    if !OTHERS.contains(&first) || arguments.arguments.is_empty() {
        perf.arg("goals");
    }
    shell::succeeds(perf.args(&arguments.arguments))
}
