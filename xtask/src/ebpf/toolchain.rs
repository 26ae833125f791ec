//! What compiles for the kernel's target: a rustc that has core for it, as Debian's rustc-web with
//! libstd-rust-web-dev-bpf, or else rustup's nightly, which builds core from rust-src.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use portcullis_tests::process;

use super::linker::{self, Linker};
use crate::shell;

pub(crate) const TARGET: &str = "bpfel-unknown-none";
/// Debian's own compiler and its clippy; another rustc may come first in the PATH.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CLIPPY: &str = "/usr/bin/clippy-driver";
pub(crate) const NO_RUSTC: &str = "no Rust compiler for the kernel's target: `apt-get install rustc-web \
                                   libstd-rust-web-dev-bpf` on Debian 12, or elsewhere `rustup toolchain install \
                                   nightly --component rust-src`";

const NO_SOURCE: &str = "rustup's nightly is here, but not the source of core, from which it builds for the kernel's target: \
                         `rustup component add rust-src --toolchain nightly`";
const RUSTUP: &str = "rustup";

/// What builds for the kernel.
pub(crate) struct Toolchain {
    compiler: Compiler,
    linker: Linker,
}

pub(crate) enum Compiler {
    /// With core for the target, which lies in the second path.
    Ready(PathBuf, PathBuf),
    /// Builds core from its source; by this rustup.
    Nightly(PathBuf),
}

impl Toolchain {
    /// What there is, or what is missing and how to get it.
    pub(crate) fn find() -> Result<Self, String> {
        let compiler = Compiler::find()?;
        let linker = Linker::find(&compiler)?;
        Ok(Self { compiler, linker })
    }

    pub(crate) fn describe(&self) -> String {
        let linker = self.linker.path.display();
        format!("the kernel side is built by {}, and linked by {linker}", self.compiler.describe())
    }

    /// A cargo that compiles for the kernel, in the kernel side's workspace.
    pub(crate) fn cargo(&self) -> Command {
        let mut cargo = match &self.compiler {
            Compiler::Ready(rustc, _) => {
                let mut cargo = shell::cargo(&[]);
                // The target's core is that of a stable compiler; its helpers use features of nightly.
                cargo.env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", "1").env_remove("RUSTUP_TOOLCHAIN");
                cargo
            }
            Compiler::Nightly(rustup) => {
                let mut cargo = nightly(rustup, &["cargo", "-Z", "build-std=core"]);
                // Of whatever built this program: rustup sets its own.
                cargo.env_remove("RUSTC").env_remove("RUSTC_BOOTSTRAP").env_remove("RUSTUP_TOOLCHAIN");
                cargo
            }
        };
        // The linker's place goes first in the PATH: rustc looks for it there.
        let paths = std::env::var_os("PATH").unwrap_or_default();
        let first = self.linker.path.parent().map(PathBuf::from).into_iter();
        if let Ok(paths) = std::env::join_paths(first.chain(std::env::split_paths(&paths))) {
            cargo.env("PATH", paths);
        }
        cargo.current_dir(process::repository().join("ebpf"));
        cargo
    }

    /// The clippy that belongs to the compiler: another one could not read the core that it has for the target.
    pub(crate) fn clippy(&self) -> Option<Command> {
        let driver = match &self.compiler {
            Compiler::Ready(..) => Some(DEBIAN_CLIPPY).filter(|driver| Path::new(driver).is_file()),
            // Where rustup starts a program its own are in the PATH.
            Compiler::Nightly(rustup) => {
                Some("clippy-driver").filter(|driver| answers(&mut nightly(rustup, &[driver, "--version"])))
            }
        }?;
        let mut cargo = self.cargo();
        // What `cargo clippy` does. It would take the driver that lies beside Debian's cargo, and with nightly it would
        // lose what stands before the command, and its own arguments would take the place of these.
        cargo.env("RUSTC_WORKSPACE_WRAPPER", driver);
        cargo.env("CLIPPY_ARGS", "-Dwarnings__CLIPPY_HACKERY__").arg("check");
        Some(cargo)
    }

    /// Why there is no clippy, and how to get one.
    pub(crate) const fn no_clippy(&self) -> &'static str {
        match self.compiler {
            Compiler::Ready(..) => {
                "no clippy of the kernel side's compiler: `apt-get install rust-web-clippy`"
            }
            Compiler::Nightly(_) => "no clippy of nightly: `rustup component add clippy --toolchain nightly`",
        }
    }
}

impl Compiler {
    /// What there is, or what is missing and how to get it.
    pub(crate) fn find() -> Result<Self, &'static str> {
        Self::find_by(DEBIAN_RUSTC.into(), Path::new(RUSTUP))
    }

    fn find_by(ready: PathBuf, rustup: &Path) -> Result<Self, &'static str> {
        if let Some(libraries) = libraries(&ready).filter(|_| ready.is_file()) {
            return Ok(Self::Ready(ready, libraries));
        }
        let sysroot = printed(&mut nightly(rustup, &["rustc", "--print", "sysroot"])).ok_or(NO_RUSTC)?;
        let source = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/src/lib.rs");
        if source.is_file() { Ok(Self::Nightly(rustup.to_owned())) } else { Err(NO_SOURCE) }
    }

    fn describe(&self) -> String {
        match self {
            Self::Ready(rustc, _) => format!("{}, which has core for {TARGET}", rustc.display()),
            Self::Nightly(_) => String::from("rustup's nightly, which builds core from rust-src"),
        }
    }

    /// The major version of its LLVM: the linker's must not be older.
    pub(crate) fn llvm(&self) -> Option<u32> {
        let said = match self {
            Self::Ready(rustc, _) => printed(Command::new(rustc).arg("-vV")),
            Self::Nightly(rustup) => printed(&mut nightly(rustup, &["rustc", "-vV"])),
        }?;
        linker::llvm_version(&said)
    }

    /// Core as this compiler has it for the target, as bitcode.
    pub(crate) fn core(&self) -> Option<PathBuf> {
        let Self::Ready(_, libraries) = self else { return None };
        let mut entries = std::fs::read_dir(libraries).ok()?.flatten();
        let core = entries.find(|entry| {
            let name = entry.file_name();
            // Beside the library lies a file with nothing but its metadata.
            name.to_str().is_some_and(|name| name.starts_with("libcore-") && name.ends_with(".rlib"))
        })?;
        Some(core.path())
    }
}

/// Where a compiler keeps its libraries for the target, if it has any.
fn libraries(rustc: &Path) -> Option<PathBuf> {
    let said = printed(Command::new(rustc).args(["--print", "target-libdir", "--target", TARGET]))?;
    Some(PathBuf::from(said.trim())).filter(|path| path.is_dir())
}

fn nightly(rustup: &Path, command: &[&str]) -> Command {
    let mut rustup = Command::new(rustup);
    rustup.args(["run", "nightly"]).args(command);
    rustup
}

fn answers(command: &mut Command) -> bool {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}

/// What a program prints, if it is there and succeeds.
fn printed(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8(output.stdout).ok())?
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// A program that does this, in a line of shell.
    fn program(directory: &Path, name: &str, line: &str) -> PathBuf {
        let path = directory.join(name);
        fs::write(&path, format!("#!/bin/sh\n{line}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn without_debians_compiler_it_is_nightly_with_the_source_of_core_or_the_way_to_get_it() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        let nothing = at.join("nothing");
        let found = |rustc: &Path, rustup: &Path| Compiler::find_by(rustc.to_owned(), rustup);
        assert_eq!(found(&nothing, &nothing).err(), Some(NO_RUSTC));
        for way in [
            "apt-get install rustc-web libstd-rust-web-dev-bpf",
            "rustup toolchain install nightly --component rust-src",
        ] {
            assert!(NO_RUSTC.contains(way));
        }
        // As rustup answers for a toolchain that is not installed.
        let without =
            program(at, "without", "echo \"error: toolchain 'nightly' is not installed\" >&2; exit 1");
        assert_eq!(found(&nothing, &without).err(), Some(NO_RUSTC));
        let asked = "[ \"$*\" = 'run nightly rustc --print sysroot' ] || exit 64";
        let rustup = program(at, "rustup", &format!("{asked}; echo {}", at.join("sysroot").display()));
        assert_eq!(found(&nothing, &rustup).err(), Some(NO_SOURCE));
        assert!(NO_SOURCE.contains("rustup component add rust-src --toolchain nightly"));
        let source = at.join("sysroot/lib/rustlib/src/rust/library/core/src");
        fs::create_dir_all(&source).unwrap();
        fs::write(source.join("lib.rs"), "").unwrap();
        assert!(matches!(found(&nothing, &rustup), Ok(Compiler::Nightly(by)) if by == rustup));
        // A stable compiler that has core for the target comes first; one that names a directory without it is none.
        let empty = program(at, "rustc", &format!("echo {}", nothing.display()));
        assert!(matches!(found(&empty, &rustup), Ok(Compiler::Nightly(_))));
        let ready = program(at, "rustc-web", &format!("echo {}", at.display()));
        assert!(matches!(found(&ready, &rustup), Ok(Compiler::Ready(..))));
    }
    /// A rustup that writes down what it is asked for and in what environment.
    fn noting(at: &Path) -> PathBuf {
        let line = "{ echo \"$PWD\"; echo \"$*\"; for name in RUSTC RUSTC_BOOTSTRAP RUSTC_WORKSPACE_WRAPPER CLIPPY_ARGS; \
                    do printenv $name || echo -; done; echo \"${PATH%%:*}\"; } >\"${0%/*}/notes\"";
        program(at, "rustup", line)
    }

    #[test]
    fn nightly_builds_core_from_source_with_the_linker_s_place_first_and_nothing_of_another_compiler() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        let linker = Linker { path: at.join("tools/bpf-linker") };
        let toolchain = Toolchain { compiler: Compiler::Nightly(noting(at)), linker };
        let ebpf = process::repository().join("ebpf");
        let notes = |command: &mut Command| {
            let done = command.status().unwrap();
            assert!(done.success());
            let notes = fs::read_to_string(at.join("notes")).unwrap();
            notes.lines().map(str::to_owned).collect::<Vec<_>>()
        };
        let (place, first) = (ebpf.display().to_string(), at.join("tools").display().to_string());
        let work = at.join("work");
        let build = format!(
            "run nightly cargo -Z build-std=core build --locked --release --target {TARGET} --target-dir {}",
            work.display()
        );
        let built = notes(&mut crate::ebpf::build_command(&toolchain, &work));
        assert_eq!(built, [&place, &build, "-", "-", "-", "-", &first].map(String::from));
        let linted = notes(&mut toolchain.clippy().unwrap());
        let lint = "run nightly cargo -Z build-std=core check";
        let arguments = "-Dwarnings__CLIPPY_HACKERY__";
        assert_eq!(linted, [&place, lint, "-", "-", "clippy-driver", arguments, &first].map(String::from));
        assert!(toolchain.describe().contains("rustup's nightly, which builds core from rust-src"));
    }

    #[test]
    fn a_nightly_without_clippy_says_how_to_get_it() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        let rustup = program(at, "rustup", "echo \"error: 'clippy-driver' is not installed\" >&2; exit 1");
        let toolchain =
            Toolchain { compiler: Compiler::Nightly(rustup), linker: Linker { path: at.join("l") } };
        assert!(toolchain.clippy().is_none());
        assert!(toolchain.no_clippy().contains("rustup component add clippy --toolchain nightly"));
    }

    #[test]
    fn debians_compiler_may_use_what_its_core_needs_of_nightly() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        let compiler = Compiler::Ready(at.join("rustc"), at.join("lib"));
        let toolchain = Toolchain { compiler, linker: Linker { path: at.join("tools/bpf-linker") } };
        let command = crate::ebpf::build_command(&toolchain, &at.join("work"));
        let variables: Vec<_> = command.get_envs().collect();
        let has = |name: &str, value: Option<&str>| {
            variables.contains(&(std::ffi::OsStr::new(name), value.map(std::ffi::OsStr::new)))
        };
        assert!(has("RUSTC", at.join("rustc").to_str()) && has("RUSTC_BOOTSTRAP", Some("1")));
        assert!(has("RUSTUP_TOOLCHAIN", None), "{variables:?}");
        assert!(command.get_args().all(|argument| argument != "build-std=core"));
    }
}
