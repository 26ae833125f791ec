//! `cargo xtask ebpf`: builds the kernel side, which the gateway then embeds.
//!
//! Two toolchains can do it, and both need bpf-linker. A rustc that has core for the BPF target, as Debian's
//! rustc-web with libstd-rust-web-dev-bpf, needs nothing else; rustup's nightly with rust-src builds core itself.
//! This command picks the first that is there and says which; it installs nothing.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use portcullis_tests::process;

use crate::ci::target_directory;
use crate::shell;

const TARGET: &str = "bpfel-unknown-none";
/// Debian's own compiler; another rustc may come first in the PATH.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const LINKER: &str = "bpf-linker";
const NO_LINKER: &str = "bpf-linker is missing: `apt-get install llvm-22-dev`, then `LLVM_PREFIX=/usr/lib/llvm-22 cargo \
                         install bpf-linker --version 0.13.0 --no-default-features --features llvm-22`";
const NO_RUSTC: &str = "no Rust compiler for the kernel's target: `apt-get install rustc-web libstd-rust-web-dev-bpf` on \
                        Debian, or elsewhere `rustup toolchain install nightly --component rust-src`";
/// The linker's LLVM must not be older than the compiler's.
const FAILED: &str = "the kernel side does not build, see above; where bpf-linker complains of bitcode it was built with \
                      an older LLVM than the compiler: install it again";

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
    let toolchain = match Toolchain::find() {
        Ok(toolchain) => toolchain,
        Err(missing) => bail!("{missing}"),
    };
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

/// What builds for the kernel.
pub(crate) struct Toolchain {
    compiler: Compiler,
    linker: PathBuf,
}

enum Compiler {
    /// With core for the target.
    Ready(PathBuf),
    /// Builds core from its source.
    Nightly,
}

impl Toolchain {
    /// What there is, or what is missing and how to get it.
    pub(crate) fn find() -> Result<Self, String> {
        let compiler = Compiler::find().ok_or(NO_RUSTC)?;
        let linker = find_linker().ok_or(NO_LINKER)?;
        Ok(Self { compiler, linker })
    }

    fn describe(&self) -> String {
        let compiler = match &self.compiler {
            Compiler::Ready(rustc) => format!("{}, which has core for {TARGET}", rustc.display()),
            Compiler::Nightly => String::from("rustup's nightly, which builds core from rust-src"),
        };
        format!("the kernel side is built by {compiler}, and linked by {}", self.linker.display())
    }

    fn cargo(&self) -> Command {
        let mut cargo = match &self.compiler {
            Compiler::Ready(rustc) => {
                let mut cargo = shell::cargo(&[]);
                // The target's core is that of a stable compiler; its helpers use features of nightly.
                cargo.env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", "1").env_remove("RUSTUP_TOOLCHAIN");
                cargo
            }
            Compiler::Nightly => {
                let mut cargo = Command::new("rustup");
                cargo.args(["run", "nightly", "cargo", "-Z", "build-std=core"]).env_remove("RUSTC");
                cargo
            }
        };
        // The linker's place goes first in the PATH: rustc looks for it there.
        let paths = std::env::var_os("PATH").unwrap_or_default();
        let first = self.linker.parent().map(PathBuf::from).into_iter();
        if let Ok(paths) = std::env::join_paths(first.chain(std::env::split_paths(&paths))) {
            cargo.env("PATH", paths);
        }
        cargo.current_dir(process::repository().join("ebpf"));
        cargo
    }
}

impl Compiler {
    fn find() -> Option<Self> {
        let ready = PathBuf::from(DEBIAN_RUSTC);
        let libraries = |rustc: &PathBuf| {
            let mut ask = Command::new(rustc);
            let output = ask.args(["--print", "target-libdir", "--target", TARGET]).output().ok()?;
            let path = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
            path.is_dir().then_some(())
        };
        if ready.is_file() && libraries(&ready).is_some() {
            return Some(Self::Ready(ready));
        }
        let mut ask = Command::new("rustup");
        let output = ask.args(["run", "nightly", "rustc", "--print", "sysroot"]).output().ok()?;
        let sysroot = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
        let source = sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs");
        (output.status.success() && source.is_file()).then_some(Self::Nightly)
    }
}

fn find_linker() -> Option<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| {
        let home = std::env::var_os("HOME")?;
        Some(PathBuf::from(home).join(".cargo"))
    });
    let installed = home.map(|home| home.join("bin").join(LINKER)).filter(|file| file.is_file());
    process::find_program(LINKER).or(installed)
}
