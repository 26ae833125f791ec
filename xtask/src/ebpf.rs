//! `cargo xtask ebpf`: builds the kernel side, which the gateway then embeds.
//!
//! It picks a toolchain, says which, and installs nothing: `cargo xtask setup --for ebpf` does that.

mod linker;
mod toolchain;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::ci::target_directory;
use crate::shell;
pub(crate) use linker::{Linker, VERSION as LINKER_VERSION, tools};
pub(crate) use toolchain::{Compiler, NO_RUSTC, TARGET, Toolchain};

/// What `gateway/build.rs` embeds; nothing at all where it is empty.
const OBJECT_VARIABLE: &str = "PORTCULLIS_EBPF_OBJECT";
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

/// Has a build of the gateway go on without the kernel side where that has not been built.
pub(crate) fn embed_what_is_there(cargo: &mut Command) -> Result<()> {
    if !object()?.is_file() && std::env::var_os(OBJECT_VARIABLE).is_none() {
        cargo.env(OBJECT_VARIABLE, "");
    }
    Ok(())
}

fn object() -> Result<PathBuf> {
    Ok(target_directory()?.join("ebpf/portcullis-ebpf.o"))
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
    if !shell::succeeds(&mut build_command(toolchain, &work))? {
        bail!("{FAILED}");
    }
    let built = work.join(TARGET).join("release/portcullis-ebpf");
    let object = object()?;
    let bytes = fs::read(&built).with_context(|| format!("read {}", built.display()))?;
    // An object that is the same keeps its time, so that the gateway is not built again for nothing.
    if fs::read(&object).ok().as_ref() != Some(&bytes) {
        fs::create_dir_all(target.join("ebpf")).context("make the directory of the kernel side")?;
        fs::write(&object, bytes).with_context(|| format!("write {}", object.display()))?;
    }
    Ok(object)
}

fn build_command(toolchain: &Toolchain, work: &Path) -> Command {
    let mut cargo = toolchain.cargo();
    cargo.args(["build", "--locked", "--release", "--target", TARGET, "--target-dir"]).arg(work);
    cargo
}

/// Lints the kernel side, for its own target. `None` when no clippy here can.
pub(crate) fn lint(toolchain: &Toolchain) -> Result<Option<bool>> {
    let Some(mut cargo) = toolchain.clippy() else { return Ok(None) };
    // Not in the directory of the build: the same crates are compiled there in another way.
    let work = target_directory()?.join("ebpf-clippy");
    cargo.args(["--locked", "--target", TARGET, "--target-dir"]).arg(work);
    shell::succeeds(&mut cargo).map(Some)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use portcullis_tests::process;

    use super::*;

    /// The gateway's build script as a program.
    fn script(directory: &Path) -> PathBuf {
        let script = directory.join("script");
        let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
        rustc.args(["--edition=2024", "-o"]).arg(&script).arg(process::repository().join("gateway/build.rs"));
        assert!(rustc.status().unwrap().success());
        script
    }

    #[test]
    fn a_release_without_the_kernel_side_is_built_only_when_that_is_asked_for() {
        const EMBEDDED: &str = "cargo::rustc-cfg=kernel_side";
        let directory = tempfile::tempdir().unwrap();
        let (target, script) = (directory.path().join("target"), script(directory.path()));
        let out = target.join("profile/build/portcullis/out");
        fs::create_dir_all(&out).unwrap();
        fs::write(target.join("CACHEDIR.TAG"), "").unwrap();
        let built = |profile: &str, object: Option<&str>| {
            let mut script = Command::new(&script);
            script.env_clear().env("OUT_DIR", &out).env("PROFILE", profile);
            let output = script.envs(object.map(|object| (OBJECT_VARIABLE, object))).output().unwrap();
            let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            (output.status.success(), said)
        };
        let (good, said) = built("release", None);
        assert!(!good && said.contains("`cargo xtask ebpf`") && said.contains(OBJECT_VARIABLE), "{said}");
        let (good, said) = built("release", Some(""));
        assert!(good && !said.contains(EMBEDDED) && !said.contains("warning"), "{said}");
        let (good, said) = built("debug", None);
        assert!(good && !said.contains(EMBEDDED) && !said.contains("warning"), "{said}");
        let (good, said) = built("debug", Some("/nonexistent/object.o"));
        assert!(!good && said.contains("cannot embed the kernel side /nonexistent/object.o"), "{said}");
        fs::create_dir_all(target.join("ebpf")).unwrap();
        fs::write(target.join("ebpf/portcullis-ebpf.o"), "object").unwrap();
        for profile in ["release", "debug"] {
            let (good, said) = built(profile, None);
            assert!(good && said.contains(EMBEDDED), "{said}");
        }
    }
}
