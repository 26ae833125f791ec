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
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::Settings;

/// Where the daemon puts requests; only the appliance has it.
pub const REQUESTS: &str = "/run/portcullis-requests";
/// The request.
pub const REQUEST: &str = "settings";
/// What the job has done last; everybody may know.
pub const STATUS: &str = "/run/portcullis-settings/status.json";
/// How long a request may lie there before somebody has taken it.
const TAKEN_WITHIN: Duration = Duration::from_secs(10);
const HEADER: &str = "# Written by portcullis from its configuration; what is changed here is lost.\n";

/// How the settings were applied last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// RFC 3339.
    pub at: String,
    pub done: bool,
    /// What has changed, or what went wrong.
    pub told: Vec<String>,
    /// It has begun, and said nothing of its end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub under_way: bool,
}

/// Whether the settings of the configuration are in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    Applied,
    /// Just now, or it was ended before it was done.
    UnderWay {
        since: String,
    },
    /// Why not.
    NotApplied(String),
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

/// Asks at the daemon's start, where the system has followed another text: one that was on trial until now, or the one
/// before a commit in whose midst the daemon was ended. Addresses that listeners need may depend on it.
///
/// # Errors
/// As [`ask`].
pub fn ask_at_start(file: &Path, is_reverted: bool) -> io::Result<()> {
    if is_reverted || is_behind(file, Path::new(STATUS)) { ask() } else { Ok(()) }
}

/// Whether the file has changed since settings were applied.
fn is_behind(file: &Path, status: &Path) -> bool {
    let changed = |path: &Path| path.metadata().and_then(|meta| meta.modified());
    match (changed(file), changed(status)) {
        (Ok(written), Ok(applied)) => written > applied,
        // Nobody has applied any; whoever cannot read the file has other worries.
        (written, _) => written.is_ok(),
    }
}

/// Whether the settings are in force; `None` where nobody applies any.
#[must_use]
pub fn standing() -> Option<Standing> {
    standing_of(Path::new(REQUESTS), Path::new(STATUS))
}

fn standing_of(requests: &Path, status: &Path) -> Option<Standing> {
    if !requests.is_dir() {
        return None;
    }
    let asked = requests.join(REQUEST).metadata().and_then(|request| request.modified());
    if let Some(waits) = asked.ok().and_then(|asked| asked.elapsed().ok())
        && waits > TAKEN_WITHIN
    {
        let seconds = waits.as_secs();
        let why = format!("nobody has taken the request for {seconds} s (appliance-settings.service)");
        return Some(Standing::NotApplied(why));
    }
    let text = std::fs::read_to_string(status).ok();
    Some(match text.and_then(|text| serde_json::from_str::<Status>(&text).ok()) {
        None => Standing::NotApplied("nobody says that they were (appliance-settings.service)".to_owned()),
        Some(Status { under_way: true, at, .. }) => Standing::UnderWay { since: at },
        Some(Status { done: true, .. }) => Standing::Applied,
        Some(Status { at, told, .. }) => Standing::NotApplied(format!("at {at}: {}", told.join("; "))),
    })
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
mod tests;
