//! The installer of the appliance: finds disks, asks which one, writes the image to it, reads it back, and hands over what
//! the machine is to be told at its first boot.
//!
//! It is the one program of the installation medium, where it runs as root and everything else is systemd's. It asks on
//! every console at once, because nobody can know at which one a person sits. Credentials answer instead of a person (see
//! [`orders`]). Nothing is written before a person, or a credential, has said which disk may be erased.

pub mod copy;
pub mod credentials;
pub mod disks;
pub mod keys;
pub mod orders;
pub mod session;
pub mod terminals;

use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, bail};

/// Where the medium has its things.
#[derive(Debug, Clone)]
pub struct Places {
    /// The image, compressed, and beside it its checksum.
    pub image: PathBuf,
    /// The file system `sysfs`.
    pub sys: PathBuf,
    /// Device nodes.
    pub dev: PathBuf,
    /// What the unit was given.
    pub credentials: Option<PathBuf>,
}

/// Runs on the installation medium, with no arguments.
#[must_use]
pub fn main() -> ExitCode {
    let places = Places {
        image: PathBuf::from("/usr/lib/portcullis/portcullis.raw.zst"),
        sys: PathBuf::from("/sys"),
        dev: PathBuf::from("/dev"),
        credentials: std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from),
    };
    let mut terminals = terminals::Terminals::open(&["/dev/tty1", "/dev/ttyS0", "/dev/hvc0"]);
    match session::run(&places, &mut terminals) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            terminals.say(&format!("\nThe installer cannot go on: {error:#}"));
            terminals.say("Nothing more is done. Start the machine again to try once more.");
            ExitCode::FAILURE
        }
    }
}

/// Runs a program to its end; what it printed, or what it complained of.
fn output(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("start {name}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    bail!("{name} ended with {}: {}", output.status, complaint.trim())
}
