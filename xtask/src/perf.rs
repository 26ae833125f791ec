//! `cargo xtask perf`: installs the peers where it may, builds the kernel side where it is measured, then hands over
//! to the perf program, which builds the daemon itself, as it is shipped.

use anyhow::Result;
use clap::Args;

use crate::{ebpf, setup, shell};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// A short comparison with HAProxy
    #[arg(long)]
    smoke: bool,
    /// A measurement (`smoke`, or `xdp` for the kernel side, which needs root) and its arguments, for example
    /// `xdp --quick --json` or `xdp --help`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<bool> {
    setup::ensure(setup::Use::Perf)?;
    if arguments.arguments.first().is_some_and(|first| first == "xdp") {
        ebpf::build()?;
    }
    let mut perf = shell::cargo(&["run", "--quiet", "--release", "-p", "portcullis-perf", "--"]);
    if arguments.smoke {
        perf.arg("smoke");
    }
    shell::succeeds(perf.args(&arguments.arguments))
}
