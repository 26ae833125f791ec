//! `cargo xtask perf`: installs the peers where it may, unpacks the newest HAProxy beside this machine's, builds the
//! kernel side where it is measured, then hands over to the perf program, which builds the daemon itself, as it is shipped.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::ci::target_directory;
use crate::{boot, ebpf, setup, shell};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// A measurement and its arguments: the goals of the relay (`--quick --json`, `--only G1,G4`, `goals --help`), or
    /// `xdp` for the kernel side, which needs root (`xdp --quick --json`, `xdp --help`)
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Where the newest HAProxy is unpacked, and the variable that tells the perf program.
const NEWEST_HAPROXY: &str = "PORTCULLIS_PERF_HAPROXY";
/// Debian's newest first.
const SUITES: [&str; 2] = ["sid", "trixie"];

pub(crate) fn run(arguments: &Arguments) -> Result<bool> {
    setup::ensure(setup::Use::Perf)?;
    let first = arguments.arguments.first().map_or("goals", String::as_str);
    if first == "xdp" {
        ebpf::build()?;
    }
    let mut perf = shell::cargo(&["run", "--quiet", "--release", "-p", "portcullis-perf", "--"]);
    ebpf::embed_what_is_there(&mut perf)?;
    // Without a measurement's name it is about the goals.
    let is_about_goals = first == "goals" || first.starts_with('-');
    if is_about_goals && first != "goals" || arguments.arguments.is_empty() {
        perf.arg("goals");
    }
    if (is_about_goals || first == "delay")
        && std::env::var_os(NEWEST_HAPROXY).is_none()
        && let Some(root) = newest_haproxy()
    {
        perf.env(NEWEST_HAPROXY, root);
    }
    shell::succeeds(perf.args(&arguments.arguments))
}

/// HAProxy of Debian's newest suite that can be had, beside the one of this machine.
fn newest_haproxy() -> Option<PathBuf> {
    let target = target_directory().ok()?;
    SUITES.iter().find_map(|suite| {
        let directory = target.join("perf").join(suite);
        let unpacked = boot::debian::unpack_program(suite, "haproxy", &directory);
        unpacked.inspect_err(|error| shell::say(&format!("no HAProxy of Debian {suite}: {error:#}"))).ok()
    })
}
