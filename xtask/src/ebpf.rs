//! `cargo xtask ebpf`: builds the kernel side, which the gateway then embeds.
//!
//! It picks a toolchain, says which, and installs nothing: `cargo xtask setup --for ebpf` does that.

mod linker;
mod toolchain;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::ci::target_directory;
use crate::shell;
pub(crate) use linker::{Linker, VERSION as LINKER_VERSION, tools};
pub(crate) use toolchain::{Compiler, NO_RUSTC, TARGET, Toolchain};

const FAILED: &str = "the kernel side does not build, see above";

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Only say whether it can be built here and how; the exit status is 1 when it cannot
    #[arg(long)]
    check: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<bool> {
    if arguments.check {
        let answer = Toolchain::find();
        shell::print(&answer.as_ref().map_or_else(Clone::clone, Toolchain::describe));
        return Ok(answer.is_ok());
    }
    let object = build()?;
    shell::print(&format!("{}: the next build of the gateway embeds it", object.display()));
    Ok(true)
}

/// Builds the kernel side and puts it where the gateway's build looks for it.
pub(crate) fn build() -> Result<PathBuf> {
    match Toolchain::find() {
        Ok(toolchain) => build_with(&toolchain),
        Err(missing) => bail!("{missing}"),
    }
}

pub(crate) fn build_with(toolchain: &Toolchain) -> Result<PathBuf> {
    shell::say(&toolchain.describe());
    let target = target_directory()?;
    let work = target.join("ebpf-build");
    let mut cargo = toolchain.cargo();
    cargo.args(["build", "--locked", "--release", "--target", TARGET, "--target-dir"]).arg(&work);
    if !shell::succeeds(&mut cargo)? {
        bail!("{FAILED}");
    }
    let built = work.join(TARGET).join("release/portcullis-ebpf");
    let object = target.join("ebpf/portcullis-ebpf.o");
    let bytes = fs::read(&built).with_context(|| format!("read {}", built.display()))?;
    // An object that is the same keeps its time, so that the gateway is not built again for nothing.
    if fs::read(&object).ok().as_ref() != Some(&bytes) {
        fs::create_dir_all(target.join("ebpf")).context("make the directory of the kernel side")?;
        fs::write(&object, bytes).with_context(|| format!("write {}", object.display()))?;
    }
    Ok(object)
}

/// Lints the kernel side, for its own target. `None` when no clippy here can.
pub(crate) fn lint(toolchain: &Toolchain) -> Result<Option<bool>> {
    let Some(mut cargo) = toolchain.clippy() else { return Ok(None) };
    // Not in the directory of the build: the same crates are compiled there in another way.
    let work = target_directory()?.join("ebpf-clippy");
    cargo.args(["--locked", "--target", TARGET, "--target-dir"]).arg(work);
    shell::succeeds(&mut cargo).map(Some)
}
