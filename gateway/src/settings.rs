//! Settings of the machine itself: its network, its name, whom it asks for names and the time.
//!
//! The daemon has no privilege over them. It puts a request where the system looks (systemd.path(5)), which says nothing
//! but "look again"; a job of root's (`portcullis settings-job`) reads the tables that these settings come from out of
//! the configuration, with the same code as the daemon, and writes the files of systemd-networkd, systemd-resolved and
//! chrony. Nothing of the text itself goes into them: what is written are addresses, numbers, and names of types that
//! cannot hold anything else.

pub mod job;
mod networkd;
mod servers;

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::Settings;

/// Where the daemon puts requests; only the appliance has it.
pub const REQUESTS: &str = "/run/portcullis-requests";
/// The request.
pub const REQUEST: &str = "settings";
/// What the job has done last; everybody may know.
pub const STATUS: &str = "/run/portcullis-settings/status.json";
const HEADER: &str = "# Written by portcullis from its configuration; what is changed here is lost.\n";

/// How the settings were applied last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// RFC 3339.
    pub at: String,
    pub done: bool,
    /// What has changed, or what went wrong.
    pub told: Vec<String>,
}

/// Whether there is somebody on this machine who applies settings.
#[must_use]
pub fn are_applied() -> bool {
    Path::new(REQUESTS).is_dir()
}

/// Asks the system to look at the configuration again. Where nobody does that, nothing happens.
///
/// # Errors
/// When the request cannot be written.
pub fn ask() -> io::Result<()> {
    ask_in(Path::new(REQUESTS))
}

fn ask_in(directory: &Path) -> io::Result<()> {
    match OpenOptions::new().write(true).create(true).truncate(true).open(directory.join(REQUEST)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// How the settings were applied last; `None` where nobody has.
#[must_use]
pub fn status() -> Option<Status> {
    let text = std::fs::read_to_string(STATUS).ok()?;
    serde_json::from_str(&text).ok()
}

/// Every file that the settings ask for, with what it holds. The same settings give the same files.
#[must_use]
pub fn files(settings: &Settings) -> BTreeMap<PathBuf, String> {
    let mut files = BTreeMap::new();
    if let Some(network) = &settings.network {
        networkd::add(network, &mut files);
    }
    servers::add(settings.network.as_ref(), &mut files);
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_an_empty_file_and_elsewhere_nothing() {
        let directory = tempfile::tempdir().unwrap();
        ask_in(directory.path()).unwrap();
        assert_eq!(std::fs::read(directory.path().join(REQUEST)).unwrap(), b"");
        ask_in(&directory.path().join("absent")).unwrap();
    }
}
