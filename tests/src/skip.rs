//! Tests that cannot run here say so aloud: a skipped test never looks like a passed one.

use std::fs::OpenOptions;
use std::io::Write as _;

use crate::{netns, process};

/// Names the file to which skips are appended, one a line, so that whoever runs the tests can count them.
pub const SKIPS: &str = "PORTCULLIS_SKIPS";

/// Says on standard error, and in the file that [`SKIPS`] names, that the running test is skipped, and why.
pub fn skip(reason: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let mut said = std::io::stderr();
    // Nothing is left to say it on when standard error is gone.
    drop(writeln!(said, "{test}: skipped: {reason}"));
    if let Some(path) = std::env::var_os(SKIPS) {
        let file = OpenOptions::new().create(true).append(true).open(&path);
        if let Err(error) = file.and_then(|mut file| writeln!(file, "{test}: skipped: {reason}")) {
            drop(writeln!(said, "cannot write {}: {error}", path.display()));
        }
    }
}

/// Skips aloud and returns `true` when one of the programs is missing.
#[must_use]
pub fn without_programs(programs: &[&str]) -> bool {
    let missing: Vec<_> =
        programs.iter().copied().filter(|name| process::find_program(name).is_none()).collect();
    if missing.is_empty() {
        return false;
    }
    skip(&format!("no {} on this machine", missing.join(", no ")));
    true
}

/// Skips aloud and returns `true` when network namespaces cannot be made.
#[must_use]
pub fn without_namespaces() -> bool {
    match netns::available() {
        Ok(()) => false,
        Err(reason) => {
            skip(&format!("no network namespaces: {reason}"));
            true
        }
    }
}
