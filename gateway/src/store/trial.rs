//! Confirm or revert, for whole configurations: what was committed on trial holds for a while, and is taken back
//! unless an operator confirms it.
//!
//! That goes on over a restart of the daemon: a note in the state directory has the configuration before, the one on
//! trial, and until when. A daemon that starts after that time takes the one before; so does one whose last start
//! with the one on trial did not get as far as being ready, because a configuration that keeps the gateway down
//! cannot be confirmed by anybody. A note counts only while the file is the one that it speaks of: an edited file is
//! a new decision, and a commit that never got as far as its rename is none.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::DIRECTORY;
use crate::config;
use crate::disk::Disk;

const NOTE: &str = "unconfirmed.json";
/// A note holds two configuration files.
const NOTE_MAX_BYTES: u64 = 8 * config::FILE_MAX_BYTES;
/// Bounds of the time on trial.
pub const LENGTH_MIN: Duration = Duration::from_secs(1);
pub const LENGTH_MAX: Duration = Duration::from_hours(24);

/// A commit that waits to be confirmed.
#[derive(Clone, Debug)]
pub struct Trial {
    pub ends: Instant,
    note: Note,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Note {
    before: String,
    tried: String,
    who: String,
    /// Since 1970, in milliseconds.
    began: u64,
    length: u64,
    /// A start with it has begun and was not ready yet.
    starting: bool,
}

impl Trial {
    /// Begins now.
    #[must_use]
    pub fn new(before: &str, tried: &str, who: &str, length: Duration) -> Self {
        let note = Note {
            before: before.to_owned(),
            tried: tried.to_owned(),
            who: who.to_owned(),
            began: milliseconds(SystemTime::now()),
            length: u64::try_from(length.as_millis()).unwrap_or(u64::MAX),
            starting: false,
        };
        Self { ends: Instant::now() + length, note }
    }

    /// What comes back.
    #[must_use]
    pub fn before(&self) -> &str {
        &self.note.before
    }

    /// Whose commit it is.
    #[must_use]
    pub fn who(&self) -> &str {
        &self.note.who
    }

    pub(super) fn write(&self, disk: &Disk, directory: &Path) -> io::Result<()> {
        let bytes = serde_json::to_vec(&self.note).map_err(io::Error::other)?;
        disk.write(&path(directory), &bytes)
    }

    pub(super) fn note_ready(&mut self, disk: &Disk, directory: &Path) -> io::Result<()> {
        self.note.starting = false;
        self.write(disk, directory)
    }
}

/// There is nothing to be confirmed any more.
pub(super) fn forget(disk: &Disk, directory: &Path) {
    if let Err(error) = disk.remove(&path(directory)) {
        tracing::error!(%error, path = %path(directory).display(), "remove this file: its commit is decided");
    }
}

/// With what a daemon starts.
#[derive(Clone, Debug, Default)]
pub struct Start {
    pub text: String,
    pub trial: Option<Trial>,
    /// Why the text is not the one that was found in the file.
    pub reverted: Option<String>,
}

impl Start {
    /// A start without anything on trial.
    #[must_use]
    pub fn plain(text: String) -> Self {
        Self { text, trial: None, reverted: None }
    }
}

/// Decides what to start with, where the file has `text`. The file is changed where that is another one.
#[must_use]
pub fn to_start_with(file: &Path, state: &Path, text: String) -> Start {
    settle(&Disk::default(), file, state, text, SystemTime::now())
}

pub(super) fn settle(disk: &Disk, file: &Path, state: &Path, text: String, now: SystemTime) -> Start {
    let directory = state.join(DIRECTORY);
    let Some(mut note) = read(&directory) else { return Start::plain(text) };
    if note.tried != text {
        forget(disk, &directory);
        return Start::plain(text);
    }
    let left = note.left(now);
    let why = if note.starting {
        "the last start with the new configuration failed"
    } else if left.is_zero() {
        "its time was over"
    } else {
        note.starting = true;
        let trial = Trial { ends: Instant::now() + left, note };
        if let Err(error) = trial.write(disk, &directory) {
            tracing::warn!(%error, "the note of a commit that waits to be confirmed cannot be written");
        }
        return Start { text, trial: Some(trial), reverted: None };
    };
    let file = file.canonicalize().unwrap_or_else(|_| file.to_owned());
    match disk.write(&file, note.before.as_bytes()) {
        Ok(()) => forget(disk, &directory),
        // The note stays, so the next start decides the same.
        Err(error) => {
            tracing::error!(%error, path = %file.display(), "the configuration before cannot be written")
        }
    }
    tracing::error!(
        "the configuration that {} committed was not confirmed ({why}): the one before is in force again",
        note.who
    );
    let reverted = format!("not confirmed, and the daemon started: {why}");
    Start { text: note.before, trial: None, reverted: Some(reverted) }
}

impl Note {
    /// A clock that was set back, or is not set yet, does not make it longer.
    fn left(&self, now: SystemTime) -> Duration {
        let length = Duration::from_millis(self.length).min(LENGTH_MAX);
        let since = milliseconds(now).saturating_sub(self.began);
        length.saturating_sub(Duration::from_millis(since))
    }
}

fn milliseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn path(directory: &Path) -> PathBuf {
    directory.join(NOTE)
}

fn read(directory: &Path) -> Option<Note> {
    let path = path(directory);
    fs::metadata(&path).ok().filter(|found| found.len() <= NOTE_MAX_BYTES)?;
    let note = serde_json::from_slice(&fs::read(&path).ok()?);
    note.inspect_err(|error| tracing::error!(%error, path = %path.display(), "a note is unreadable")).ok()
}
