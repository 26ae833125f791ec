//! A test that cannot run on this machine says so; nothing is skipped in silence.
//!
//! `cargo xtask test` names a file in `PORTCULLIS_SKIPS`, counts its lines, and prints them at the end.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::thread;

/// Notes that the running test is skipped, and why. The test returns after that.
#[allow(clippy::print_stderr, reason = "the test runner's output is where a person looks first")]
pub fn skip(reason: &str) {
    let name = thread::current().name().unwrap_or("a test").to_owned();
    eprintln!("skipped: {name}: {reason}");
    let Some(path) = std::env::var_os("PORTCULLIS_SKIPS") else { return };
    let written = OpenOptions::new().create(true).append(true).open(path).and_then(|mut file| {
        // One write per line, so that lines of parallel tests do not mix.
        file.write_all(format!("{name}: {}\n", reason.replace('\n', " ")).as_bytes())
    });
    if let Err(error) = written {
        eprintln!("the skip could not be counted: {error}");
    }
}
