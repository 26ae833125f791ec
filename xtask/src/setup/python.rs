//! The Python clients of the tests, in an environment of their own under `target/`.
//!
//! They are optional: without them the tests that drive them are skipped, and say so.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use portcullis_tests::process;

use crate::shell;

/// The pinned clients, relative to the root.
pub(crate) const LIST: &str = "tests/requirements.txt";

fn directory() -> PathBuf {
    process::repository().join("target/python")
}

/// Whether the environment holds exactly what the list says: a copy of the list is its proof.
pub(crate) fn is_ready() -> bool {
    let wanted = fs::read(process::repository().join(LIST)).ok();
    process::python().is_some() && wanted.is_some() && fs::read(directory().join("installed")).ok() == wanted
}

/// Makes the environment, or says why the tests go without it.
pub(crate) fn ensure() {
    if is_ready() {
        return;
    }
    shell::say("making target/python for the Python clients of the tests …");
    if let Err(error) = make() {
        shell::say(&format!("going on without Python clients: {error:#}"));
    }
}

fn make() -> Result<()> {
    let dir = directory();
    if dir.exists() {
        fs::remove_dir_all(&dir).context("remove the old environment")?;
    }
    let system = Path::new("/usr/bin/python3");
    let python = if system.exists() {
        system.to_owned()
    } else {
        process::find_program("python3").context("no python3")?
    };
    let quiet = |command: &mut Command| shell::succeeds(command.stdout(std::io::stderr()));
    if !quiet(Command::new(python).args(["-m", "venv"]).arg(&dir))? {
        bail!("`python3 -m venv` failed; run: sudo apt-get install python3-venv");
    }
    let mut pip = Command::new(dir.join("bin/pip"));
    pip.args(["install", "--quiet", "--disable-pip-version-check", "--requirement", LIST]);
    if !quiet(pip.current_dir(process::repository()))? {
        bail!("pip could not install {LIST}; run: target/python/bin/pip install -r {LIST}");
    }
    fs::copy(process::repository().join(LIST), dir.join("installed")).context("note what is installed")?;
    Ok(())
}
