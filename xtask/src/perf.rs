//! `cargo xtask perf`: installs the peers where it may, then hands over to the perf program, which builds the daemon
//! itself, as it is shipped.

use anyhow::Result;
use clap::Args;

use crate::{setup, shell};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// A short comparison with HAProxy
    #[arg(long)]
    smoke: bool,
    /// Further arguments of the perf program, for example `--json`, `--rounds 9` or `--help`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<bool> {
    setup::ensure(setup::Use::Perf)?;
    let mut perf = shell::cargo(&["run", "--quiet", "--release", "-p", "portcullis-perf", "--"]);
    if arguments.smoke {
        perf.arg("smoke");
    }
    shell::succeeds(perf.args(&arguments.arguments))
}
