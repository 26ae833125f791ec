//! What has been in force: each configuration with who put it there, when, from where and why, one file each. The
//! oldest go when there are too many or they are too large together.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::config::FILE_MAX_BYTES;
use crate::disk::Disk;
use crate::log::rfc3339;
use crate::role::Origin;
use crate::version;

/// Configurations that are kept.
pub const ENTRIES_MAX: usize = 50;
/// Bytes that they may have together.
const TOTAL_MAX_BYTES: u64 = 64 * 1024 * 1024;
/// A file is its text as JSON, and some words.
const ENTRY_MAX_BYTES: u64 = 8 * FILE_MAX_BYTES;
const PREFIX: &str = "commit-";
const SUFFIX: &str = ".json";
/// Longest comment.
pub const COMMENT_MAX_CHARS: usize = 200;

/// One configuration that was in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Counts up, and is used once.
    pub number: u64,
    /// RFC 3339, UTC.
    pub at: String,
    #[serde(flatten)]
    pub origin: Origin,
    /// `commit`, `revert`, `reload` or `start`.
    pub action: String,
    #[serde(default)]
    pub comment: String,
    /// Of the system that had it in force.
    #[serde(default)]
    pub version: String,
    #[serde(default)]
    text: String,
}

impl Entry {
    #[must_use]
    pub fn new(origin: &Origin, action: &str, comment: &str, text: &str) -> Self {
        let comment = comment.chars().map(|c| if c.is_control() { ' ' } else { c });
        Self {
            number: 0,
            at: rfc3339(SystemTime::now()),
            origin: origin.clone(),
            action: action.to_owned(),
            comment: comment.take(COMMENT_MAX_CHARS).collect(),
            version: version::installed().to_owned(),
            text: text.to_owned(),
        }
    }
}

/// The entries without their texts, oldest first.
#[derive(Debug)]
pub struct History {
    directory: PathBuf,
    entries: Vec<(Entry, u64)>,
}

impl History {
    /// Reads what is there. A file that cannot be understood is left alone and said.
    #[must_use]
    pub fn open(directory: &Path) -> Self {
        let mut entries = Vec::new();
        for file in fs::read_dir(directory).into_iter().flatten().flatten() {
            let Some(number) = file.file_name().to_str().and_then(number_of) else { continue };
            match read(&file.path()) {
                Ok((mut entry, length)) if entry.number == number => {
                    entry.text = String::new();
                    entries.push((entry, length));
                }
                Ok(_) => {
                    tracing::warn!(path = %file.path().display(), "an entry of the history has another number")
                }
                Err(error) => {
                    tracing::warn!(%error, path = %file.path().display(), "an entry of the history is unreadable");
                }
            }
        }
        entries.sort_by_key(|(entry, _)| entry.number);
        Self { directory: directory.to_owned(), entries }
    }

    /// Number of the newest entry, or 0.
    #[must_use]
    pub fn newest(&self) -> u64 {
        self.entries.last().map_or(0, |(entry, _)| entry.number)
    }

    /// The entries, newest first: that of the configuration in force, then the one before.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().rev().map(|(entry, _)| entry)
    }

    /// The text of the entry so many before the newest.
    #[must_use]
    pub fn text(&self, back: usize) -> Option<String> {
        let (entry, _) = self.entries.iter().rev().nth(back)?;
        let (entry, _) = read(&self.path(entry.number)).ok()?;
        Some(entry.text)
    }

    #[must_use]
    pub fn newest_text(&self) -> Option<String> {
        self.text(0)
    }

    /// Adds an entry and drops what is too old.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn add(&mut self, disk: &Disk, mut entry: Entry) -> io::Result<()> {
        entry.number = self.newest().saturating_add(1);
        let bytes = serde_json::to_vec(&entry).map_err(io::Error::other)?;
        disk.write(&self.path(entry.number), &bytes)?;
        entry.text = String::new();
        self.entries.push((entry, u64::try_from(bytes.len()).unwrap_or(u64::MAX)));
        while self.entries.len() > ENTRIES_MAX || (self.total() > TOTAL_MAX_BYTES && self.entries.len() > 1) {
            let (oldest, _) = self.entries.remove(0);
            // One that stays is found and dropped by the next start.
            disk.remove(&self.path(oldest.number)).ok();
        }
        Ok(())
    }

    fn total(&self) -> u64 {
        self.entries.iter().map(|(_, length)| length).sum()
    }

    fn path(&self, number: u64) -> PathBuf {
        self.directory.join(format!("{PREFIX}{number:08}{SUFFIX}"))
    }
}

fn number_of(name: &str) -> Option<u64> {
    name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?.parse().ok()
}

fn read(path: &Path) -> io::Result<(Entry, u64)> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(ENTRY_MAX_BYTES).read_to_end(&mut bytes)?;
    let entry = serde_json::from_slice(&bytes).map_err(io::Error::other)?;
    Ok((entry, u64::try_from(bytes.len()).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_come_first_and_the_oldest_go() {
        let directory = tempfile::tempdir().unwrap();
        let (disk, mut history) = (Disk::default(), History::open(directory.path()));
        let who = Origin { who: "ann".into(), uid: Some(7), claimed_from: Some("192.0.2.1".into()) };
        for n in 0..ENTRIES_MAX + 5 {
            history.add(&disk, Entry::new(&who, "commit", "why\nnot", &format!("n = {n}\n"))).unwrap();
        }
        let again = History::open(directory.path());
        assert_eq!(again.entries().count(), ENTRIES_MAX);
        assert_eq!(again.newest(), 55);
        assert_eq!(again.text(0).unwrap(), "n = 54\n");
        assert_eq!(again.text(2).unwrap(), "n = 52\n");
        assert_eq!(again.text(ENTRIES_MAX), None);
        let newest = again.entries().next().unwrap();
        assert_eq!((newest.origin.clone(), newest.comment.as_str()), (who, "why not"));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), ENTRIES_MAX);
    }

    #[test]
    fn a_broken_entry_is_left_out() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("commit-00000003.json"), "{\"numb").unwrap();
        fs::write(directory.path().join("commit-00000004.json.new"), "{\"numb").unwrap();
        let mut history = History::open(directory.path());
        assert_eq!(history.entries().count(), 0);
        let entry = Entry::new(&Origin::daemon(), "start", "", "a = 1\n");
        history.add(&Disk::default(), entry).unwrap();
        assert_eq!(History::open(directory.path()).newest(), 1);
    }
}
