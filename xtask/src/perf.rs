//! `cargo xtask perf`: builds what is measured as it is shipped, then hands over to the perf program.

use anyhow::Result;
use clap::Args;

use crate::{setup, shell};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Arguments of the perf program, for example `--smoke` or `--help`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<bool> {
    setup::ensure(setup::Use::Perf)?;
    if !shell::succeeds(&mut shell::cargo(&[
        "build",
        "--release",
        "-p",
        "portcullis",
        "-p",
        "portcullis-perf",
    ]))? {
        return Ok(false);
    }
    let mut perf = shell::cargo(&["run", "--quiet", "--release", "-p", "portcullis-perf", "--"]);
    shell::succeeds(perf.args(&arguments.arguments))
}
