//! `cargo xtask fuzz`: runs the targets of `tests/fuzz` with cargo-fuzz. Plain `cargo test` replays what they found.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use portcullis_tests::process;

use crate::shell;

const MANIFEST: &str = "tests/fuzz/Cargo.toml";

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// One target; all of them when absent
    target: Option<String>,
    /// Seconds for each target
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Name the targets and do nothing
    #[arg(long)]
    list: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<bool> {
    let all = targets()?;
    if arguments.list {
        all.iter().for_each(|target| shell::print(target));
        return Ok(true);
    }
    let chosen: Vec<&String> =
        match &arguments.target {
            Some(name) => vec![all.iter().find(|target| *target == name).with_context(|| {
                format!("there is no fuzz target `{name}`; there are: {}", all.join(", "))
            })?],
            None => all.iter().collect(),
        };
    if process::find_program("cargo-fuzz").is_none() && !in_cargo_home("cargo-fuzz") {
        bail!(
            "cargo-fuzz is missing: `cargo install cargo-fuzz --locked`; what it found before is replayed by plain \
             `cargo test`"
        );
    }
    let nightly = has_nightly();
    let mut good = true;
    for target in chosen {
        shell::say(&format!("fuzzing {target} for {}", describe(arguments.seconds)));
        // rustup's own `cargo` understands the toolchain's name; the one that runs us does not.
        let mut fuzz = Command::new("cargo");
        if nightly {
            fuzz.arg("+nightly");
        } else {
            // The same compiler takes the flags of instrumentation when it is told that it may.
            fuzz.env("RUSTC_BOOTSTRAP", "1");
        }
        fuzz.args(["fuzz", "run", target, "--"]).current_dir(process::repository().join("tests"));
        // No target has packets filtered.
        fuzz.env("PORTCULLIS_EBPF_OBJECT", "");
        // The limit stops a target that hangs on one input.
        fuzz.args([format!("-max_total_time={}", arguments.seconds), String::from("-timeout=10")]);
        good &= shell::succeeds(&mut fuzz)?;
    }
    Ok(good)
}

fn has_nightly() -> bool {
    let mut rustc = Command::new("rustup");
    rustc.args(["run", "nightly", "rustc", "--version"]);
    rustc.output().is_ok_and(|output| output.status.success())
}

fn describe(seconds: u64) -> String {
    format!("{:?}", Duration::from_secs(seconds))
}

fn in_cargo_home(program: &str) -> bool {
    let home = std::env::var_os("CARGO_HOME").map(std::path::PathBuf::from);
    home.is_some_and(|home| home.join("bin").join(program).is_file())
}

/// The names of the `[[bin]]` sections of the fuzz workspace.
fn targets() -> Result<Vec<String>> {
    let path = process::repository().join(MANIFEST);
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {MANIFEST}"))?;
    let manifest: toml::Table = text.parse().with_context(|| format!("read {MANIFEST}"))?;
    let bins = manifest.get("bin").and_then(toml::Value::as_array).into_iter().flatten();
    let names = bins.filter_map(|bin| bin.get("name")?.as_str());
    Ok(names.map(str::to_owned).collect())
}
