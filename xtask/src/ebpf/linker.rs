//! bpf-linker: finding one that understands the compiler's bitcode.
//!
//! LLVM reads bitcode of its own version and of older ones, so a linker with an older LLVM than the compiler's fails in
//! the middle of a build, with words that help nobody. Where the compiler has core for the target, each linker is
//! therefore tried on it first.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use portcullis_tests::process;

use super::toolchain::Compiler;

const NAME: &str = "bpf-linker";
/// What `cargo xtask setup` installs.
pub(crate) const VERSION: &str = "0.13.0";
const NONE: &str = "bpf-linker is missing: `cargo xtask setup --for ebpf` builds it";

pub(crate) struct Linker {
    pub(crate) path: PathBuf,
}

/// Where programs are installed that only this repository uses, below the target directory.
pub(crate) fn tools() -> PathBuf {
    process::repository().join("target/tools")
}

impl Linker {
    /// The first that works with the compiler, or what is wrong with those that are there.
    pub(crate) fn find(compiler: &Compiler) -> Result<Self, String> {
        let mut stale = Vec::new();
        for path in candidates() {
            match try_out(&path, compiler) {
                Ok(()) => return Ok(Self { path }),
                Err(reason) => stale.push(format!("{}: {reason}", path.display())),
            }
        }
        if stale.is_empty() {
            return Err(String::from(NONE));
        }
        let remedy = "`cargo xtask setup --for ebpf` builds one that fits";
        Err(format!("no bpf-linker reads what the compiler writes ({}); {remedy}", stale.join("; ")))
    }
}

/// Ours, the PATH's, cargo's.
fn candidates() -> impl Iterator<Item = PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| {
        let home = std::env::var_os("HOME")?;
        Some(PathBuf::from(home).join(".cargo"))
    });
    let ours = Some(tools().join("bin").join(NAME));
    let cargo = home.map(|home| home.join("bin").join(NAME));
    let mut found: Vec<PathBuf> = [ours, process::find_program(NAME), cargo].into_iter().flatten().collect();
    found.dedup();
    found.into_iter().filter(|file| file.is_file())
}

/// Has the linker read the compiler's own core. Where core is built from source there is nothing to try it on.
fn try_out(linker: &Path, compiler: &Compiler) -> Result<(), String> {
    let Some(core) = compiler.core() else { return Ok(()) };
    let output = tempfile::NamedTempFile::new().map_err(|error| format!("no temporary file: {error}"))?;
    let mut link = Command::new(linker);
    link.arg("-o").arg(output.path()).arg(core).stdin(Stdio::null());
    let done = link.output().map_err(|error| format!("it does not start: {error}"))?;
    if done.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&done.stderr);
    Err(said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it fails").trim().to_owned())
}

/// The major version of LLVM in the answer of `rustc -vV`.
pub(crate) fn llvm_version(said: &str) -> Option<u32> {
    let version = said.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    version.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_llvm_is_read() {
        assert_eq!(llvm_version("rustc 1.96.0\nrelease: 1.96.0\nLLVM version: 22.1.8\n"), Some(22));
        assert_eq!(llvm_version("rustc 1.96.0\n"), None);
    }
}
