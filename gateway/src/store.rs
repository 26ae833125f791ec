//! The operator's way to the configuration: candidates that are edited, and what has been committed.
//!
//! Every operator has a candidate of his own. One that all share would be simpler, but then a commit would carry
//! what others have half done, and the history would name somebody who never saw it. A candidate remembers what it
//! began with and every change, so that it can be made again on top of what others have committed meanwhile
//! (`update`); until then its commit is refused. Nothing here decides whether a configuration is good: that is
//! for `config` and `check`; and nothing puts it in force: that is the daemon's reloader, which asks this for files only.

pub mod candidate;
pub mod diff;
pub mod edit;
pub mod history;
pub mod other_version;
mod saved;
pub mod trial;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::Disk;
use crate::role::Origin;
use history::{Entry, History};
use trial::Trial;

/// Below the state directory.
const DIRECTORY: &str = "config";

/// Everything that is kept of configurations.
#[derive(Debug)]
pub struct Store {
    /// The configuration file itself, not a link to it.
    path: PathBuf,
    directory: PathBuf,
    disk: Disk,
    /// The text of the configuration in force.
    running: Arc<str>,
    history: History,
    trial: Option<Trial>,
    /// What was done before anybody could be told, for the audit log.
    news: Vec<String>,
}

impl Store {
    /// Opens the store of a daemon that starts with `text`. What cannot be read is said and left out.
    #[must_use]
    pub fn open(path: &Path, state: &Path, started: trial::Start) -> Self {
        let directory = state.join(DIRECTORY);
        let disk = Disk::default();
        let mut store = Self {
            path: path.canonicalize().unwrap_or_else(|_| path.to_owned()),
            history: History::open(&directory),
            directory,
            disk,
            running: started.text.into(),
            trial: started.trial,
            news: Vec::new(),
        };
        if let Some(reverted) = started.reverted {
            store.remember(&Origin::daemon(), "revert", &reverted);
            store.news.push(reverted);
        } else if store.history.newest_text().as_deref() != Some(&*store.running) {
            store.remember(&Origin::daemon(), "start", "found in the file when the daemon started");
        }
        store
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    #[must_use]
    pub fn running(&self) -> Arc<str> {
        Arc::clone(&self.running)
    }

    #[must_use]
    pub fn history(&self) -> &History {
        &self.history
    }

    #[must_use]
    pub fn trial(&self) -> Option<&Trial> {
        self.trial.as_ref()
    }

    /// What happened at the start that belongs into the audit log; told once.
    pub fn take_news(&mut self) -> Vec<String> {
        std::mem::take(&mut self.news)
    }

    /// The daemon has become ready with the configuration that is on trial, if one is.
    pub fn note_ready(&mut self) {
        if let Some(trial) = &mut self.trial
            && let Err(error) = trial.note_ready(&self.disk, &self.directory)
        {
            tracing::warn!(%error, "the note of a commit that waits to be confirmed cannot be written");
        }
    }

    /// Puts `text` beside the configuration file, whole and on the disk: from here on only a rename is missing.
    ///
    /// # Errors
    /// When the file system refuses; nothing has changed then.
    pub fn stage(&self, text: &str) -> std::io::Result<()> {
        self.disk.make_directory(&self.directory)?;
        self.disk.stage(&self.path, text.as_bytes())
    }

    /// Takes back what was staged.
    pub fn unstage(&self) {
        self.disk.unstage(&self.path);
        trial::forget(&self.disk, &self.directory);
    }

    /// Notes that what is staged will be on trial, before it is in force.
    ///
    /// # Errors
    /// When the note cannot be written.
    pub fn note_trial(&self, trial: &Trial) -> std::io::Result<()> {
        trial.write(&self.disk, &self.directory)
    }

    /// What is staged becomes the configuration file, and is in force.
    ///
    /// # Errors
    /// When the rename fails; the file is the old one then.
    pub fn adopt(
        &mut self,
        text: &str,
        trial: Option<Trial>,
        origin: &Origin,
        action: &str,
        comment: &str,
    ) -> std::io::Result<u64> {
        self.disk.adopt(&self.path)?;
        self.running = text.into();
        if trial.is_none() {
            trial::forget(&self.disk, &self.directory);
        }
        self.trial = trial;
        Ok(self.remember(origin, action, comment))
    }

    /// The file was changed by somebody else and has been reloaded.
    pub fn note_reloaded(&mut self, text: &str, origin: &Origin) {
        if *self.running == *text {
            return;
        }
        // Whoever edits the file decides anew.
        if self.trial.take().is_some() {
            trial::forget(&self.disk, &self.directory);
        }
        self.running = text.into();
        self.remember(origin, "reload", "the file was changed and reloaded");
    }

    /// What was on trial stays. Whether anything was.
    pub fn confirm(&mut self) -> bool {
        let waited = self.trial.take().is_some();
        if waited {
            trial::forget(&self.disk, &self.directory);
        }
        waited
    }

    /// The revert did not work; it is tried again then.
    pub fn put_off_revert(&mut self, until: std::time::Instant) {
        if let Some(trial) = &mut self.trial {
            trial.ends = until;
        }
    }

    /// A configuration of the history: 0 is the one in force, 1 the one before.
    #[must_use]
    pub fn past(&self, back: usize) -> Option<String> {
        if back == 0 { Some(self.running.to_string()) } else { self.history.text(back) }
    }

    /// A history that cannot be written costs the history, not the commit.
    fn remember(&mut self, origin: &Origin, action: &str, comment: &str) -> u64 {
        let entry = Entry::new(origin, action, comment, &self.running);
        let kept =
            self.disk.make_directory(&self.directory).and_then(|()| self.history.add(&self.disk, entry));
        if let Err(error) = kept {
            tracing::error!(%error, path = %self.directory.display(), "the history of the configuration is not kept");
        }
        self.history.newest()
    }

    /// Keeps a candidate under a name.
    ///
    /// # Errors
    /// A name that is none, too many of them, or what the file system says.
    pub fn save(&self, name: &str, text: &str) -> std::io::Result<()> {
        saved::write(&self.disk, &self.directory, name, text)
    }

    /// # Errors
    /// When there is none of that name, or it cannot be read.
    pub fn saved(&self, name: &str) -> std::io::Result<String> {
        saved::read(&self.directory, name)
    }

    #[must_use]
    pub fn saved_names(&self) -> Vec<String> {
        saved::names(&self.directory)
    }
}

#[cfg(test)]
mod tests;
