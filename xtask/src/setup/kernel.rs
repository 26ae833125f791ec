//! The toolchain of the kernel side: a compiler for the kernel's target, its clippy, and bpf-linker.
//!
//! On Debian 12 the compiler and LLVM are packages; elsewhere the compiler is rustup's nightly with rust-src. bpf-linker
//! is built from its source into `target/tools`, so that one that somebody has installed stays as it is.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use portcullis_tests::process;

use crate::ebpf::{Compiler, LINKER_VERSION, Linker, NO_RUSTC, Toolchain, tools};
use crate::shell;

/// Versions of LLVM that this bpf-linker can be built with.
const LLVM: std::ops::RangeInclusive<u32> = 21..=23;
/// It takes a minute on two cores.
const INSTALL_LIMIT: Duration = Duration::from_secs(20 * 60);
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(10 * 60);

/// Whether the kernel side can be built and linted.
pub(crate) fn is_complete() -> bool {
    Toolchain::find().is_ok_and(|toolchain| toolchain.clippy().is_some())
}

/// Whether the kernel side can be built, and how, or why not.
pub(crate) fn state() -> (bool, String) {
    match Toolchain::find() {
        Ok(toolchain) => (true, toolchain.describe()),
        Err(missing) => (false, missing),
    }
}

/// Makes the toolchain, after the packages. Says why the gateway goes without a kernel side when it cannot.
pub(crate) fn ensure() {
    if let Err(error) = make() {
        shell::say(&format!("going on without the kernel side: {error:#}"));
    }
}

fn make() -> Result<()> {
    let compiler = match Compiler::find() {
        Ok(compiler) => compiler,
        Err(_missing) => nightly()?,
    };
    let Err(reason) = Linker::find(&compiler) else { return Ok(()) };
    shell::say(&reason);
    install_linker(&compiler)?;
    match Linker::find(&compiler) {
        Ok(_) => Ok(()),
        Err(reason) => bail!("{reason}"),
    }
}

/// rustup's nightly where the distribution has no compiler for the target.
fn nightly() -> Result<Compiler> {
    process::find_program("rustup").context(NO_RUSTC)?;
    let mut probe = Command::new("rustup");
    probe.args(["run", "nightly", "rustc", "--version"]).stdout(Stdio::null()).stderr(Stdio::null());
    let there = probe.status().is_ok_and(|status| status.success());
    let mut rustup = Command::new("rustup");
    // A nightly that is there stays the one that it is.
    if there {
        rustup.args(["component", "add", "rust-src", "clippy", "--toolchain", "nightly"]);
    } else {
        rustup.args(["toolchain", "install", "nightly", "--profile", "minimal"]);
        rustup.args(["--component", "rust-src", "--component", "clippy"]);
    }
    shell::say(&format!("`{}` …", process::describe(&rustup)));
    let done = shell::stream(&mut rustup, DOWNLOAD_LIMIT, |_| ())?;
    if !done {
        bail!("{NO_RUSTC}");
    }
    Compiler::find().map_err(anyhow::Error::msg)
}

fn install_linker(compiler: &Compiler) -> Result<()> {
    let least = compiler.llvm().context("the compiler does not say which LLVM it has")?;
    let (version, prefix) = llvm(least).with_context(|| {
        format!("bpf-linker needs LLVM {least} or newer: `apt-get install llvm-{least}-dev`")
    })?;
    let mut cargo =
        shell::cargo(&["install", "bpf-linker", "--version", LINKER_VERSION, "--locked", "--force"]);
    cargo.args(["--no-default-features", "--features", &format!("llvm-{version}"), "--root"]).arg(tools());
    cargo.env("LLVM_PREFIX", &prefix);
    shell::say(&format!(
        "building bpf-linker {LINKER_VERSION} with {} into target/tools …",
        prefix.display()
    ));
    if !shell::stream(&mut cargo, INSTALL_LIMIT, |_| ())? {
        bail!(
            "bpf-linker does not build, see above: LLVM_PREFIX={} {}",
            prefix.display(),
            process::describe(&cargo)
        );
    }
    Ok(())
}

/// The oldest LLVM for developers that is new enough and that bpf-linker knows.
fn llvm(least: u32) -> Option<(u32, PathBuf)> {
    let mut known = LLVM.filter(|version| *version >= least);
    known.find_map(|version| {
        let prefix = Path::new("/usr/lib").join(format!("llvm-{version}"));
        prefix.join("include/llvm-c").is_dir().then_some((version, prefix))
    })
}
