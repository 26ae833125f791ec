//! High availability: this appliance as one of two that share addresses.
//!
//! keepalived decides who has the addresses (VRRP); the daemon gives it a configuration, tells it whether this appliance
//! serves, and hears which state it is in. Both know each other by files in one directory: no script runs, and nothing
//! runs as root. Configurations go from one appliance to the other by [`peer`]. `gateway/docs/HIGH-AVAILABILITY.md` is
//! the document.

pub mod identity;
pub mod keepalived;
mod notify;
pub mod peer;
pub mod shared;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

use crate::config::{self, HighAvailability};
use crate::sync::lock;
use keepalived::{CONFIGURATION, HANDICAP, NOTIFY, Process, SERVING, WEAK};
use notify::Fifo;

/// How long a better standing must last before it counts, and a weak one before it does: an authority that answers
/// now and then must not make the addresses move as often.
const SETTLE: Duration = Duration::from_secs(3);

/// What keepalived says of this appliance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// It has the addresses.
    Master,
    Backup,
    /// It cannot have them: it does not serve, or an interface is down.
    Fault,
    /// keepalived does not run.
    #[default]
    Stopped,
}

impl State {
    pub const ALL: [Self; 4] = [Self::Master, Self::Backup, Self::Fault, Self::Stopped];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Master => "master",
            Self::Backup => "backup",
            Self::Fault => "fault",
            Self::Stopped => "stopped",
        }
    }
}

/// How fit this appliance is for the addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    Serves,
    /// It serves, but less than it should: a peer that is better off gets the addresses, and nobody else.
    Weak(String),
    /// Nothing would be served here.
    Faulty(String),
}

impl Standing {
    fn rank(&self) -> u8 {
        match self {
            Self::Serves => 2,
            Self::Weak(_) => 1,
            Self::Faulty(_) => 0,
        }
    }

    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Serves => "serves",
            Self::Weak(_) => "weak",
            Self::Faulty(_) => "faulty",
        }
    }

    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Serves => None,
            Self::Weak(reason) | Self::Faulty(reason) => Some(reason),
        }
    }
}

/// How it stands, for people and metrics.
#[derive(Clone, Debug)]
pub struct Report {
    pub state: State,
    /// When that state was first seen.
    pub since: SystemTime,
    /// How often it has changed while the daemon ran.
    pub changes: u64,
    /// What keepalived was told.
    pub standing: Standing,
    /// Virtual addresses that this machine has now, in the order of the configuration.
    pub here: Vec<bool>,
}

/// The daemon's side of it.
#[derive(Debug)]
pub struct Ha {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: Option<HighAvailability>,
    fifo: Option<Fifo>,
    /// As keepalived told it last; `None` when it has said nothing yet.
    told: Option<State>,
    state: State,
    since: SystemTime,
    changes: u64,
    standing: Standing,
    /// What the standing is about to become, and since when.
    coming: Option<(Standing, Instant)>,
}

impl Default for Ha {
    fn default() -> Self {
        let inner = Inner {
            config: None,
            fifo: None,
            told: None,
            state: State::Stopped,
            since: SystemTime::now(),
            changes: 0,
            standing: Standing::Faulty("starting".to_owned()),
            coming: None,
        };
        Self { inner: inner.into() }
    }
}

impl Ha {
    /// Does as a configuration says: keepalived gets its own, or ends.
    ///
    /// # Errors
    /// When the files cannot be written, in words for an operator.
    pub fn apply(&self, config: Option<&HighAvailability>) -> Result<(), String> {
        let inner = &mut *lock(&self.inner);
        if inner.config.as_ref().map(|old| &old.directory) != config.map(|new| &new.directory)
            && let Some(old) = inner.config.take()
        {
            withdraw(&old.directory);
            Process::of(&old.directory).stop();
            fs::remove_file(old.directory.join(CONFIGURATION)).ok();
            (inner.fifo, inner.told) = (None, None);
        }
        let Some(config) = config else { return Ok(()) };
        let failed = |error: io::Error| {
            format!(
                "{}: {error}; the directory must belong to the daemon's user, and keepalived must run as that user",
                config.directory.display()
            )
        };
        inner.begin(config).map_err(failed)?;
        inner.config = Some(config.clone());
        Ok(())
    }

    /// Takes in what keepalived has said, and tells it how this appliance stands.
    pub fn look(&self, standing: impl FnOnce() -> Standing) {
        let inner = &mut *lock(&self.inner);
        let Some(directory) = inner.config.as_ref().map(|config| config.directory.clone()) else { return };
        let now = Instant::now();
        if inner.settle(standing(), now) {
            inner.tell(&directory);
        }
        inner.hear(&directory);
    }

    /// Nothing is served here from now on: the peer shall have the addresses at once.
    pub fn leave(&self, why: &str) {
        let inner = &mut *lock(&self.inner);
        inner.standing = Standing::Faulty(why.to_owned());
        inner.coming = None;
        if let Some(config) = &inner.config {
            withdraw(&config.directory);
        }
    }

    /// How it stands; `None` where nothing is configured.
    #[must_use]
    pub fn report(&self) -> Option<(HighAvailability, Report)> {
        let inner = lock(&self.inner);
        let config = inner.config.clone()?;
        let report = Report {
            state: inner.state,
            since: inner.since,
            changes: inner.changes,
            standing: inner.standing.clone(),
            here: here(&config),
        };
        Some((config, report))
    }
}

impl Inner {
    fn begin(&mut self, config: &HighAvailability) -> io::Result<()> {
        let directory = &config.directory;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        if self.fifo.is_none() {
            // What a daemon before this one has left there says nothing of this one.
            withdraw(directory);
            fs::write(directory.join(HANDICAP), "0\n")?;
            self.fifo = Some(Fifo::open(&directory.join(NOTIFY))?);
        }
        let (path, text) = (directory.join(CONFIGURATION), keepalived::render(config));
        if fs::read_to_string(&path).is_ok_and(|old| old == text) {
            return Ok(());
        }
        put(&path, &text)?;
        Process::of(directory).reload();
        Ok(())
    }

    /// Takes a standing in; whether keepalived must be told of a new one.
    fn settle(&mut self, new: Standing, now: Instant) -> bool {
        if new.rank() == self.standing.rank() {
            self.coming = None;
            self.standing = new;
            return false;
        }
        let waited = match &self.coming {
            Some((coming, since)) if coming.rank() == new.rank() => now.duration_since(*since) >= SETTLE,
            _ => {
                self.coming = Some((new.clone(), now));
                false
            }
        };
        if !waited && new.rank() > 0 {
            return false;
        }
        self.coming = None;
        self.standing = new;
        true
    }

    fn tell(&self, directory: &Path) {
        tracing::info!(
            standing = self.standing.as_str(),
            reason = self.standing.reason(),
            "keepalived is told how this appliance stands"
        );
        let told = match &self.standing {
            Standing::Faulty(_) => {
                withdraw(directory);
                return;
            }
            Standing::Weak(_) => put(&directory.join(HANDICAP), &format!("{WEAK}\n")),
            Standing::Serves => put(&directory.join(HANDICAP), "0\n"),
        };
        if let Err(error) = told.and_then(|()| put(&directory.join(SERVING), "1\n")) {
            tracing::error!(%error, path = %directory.display(), "keepalived cannot be told");
        }
    }

    fn hear(&mut self, directory: &Path) {
        let told = self.fifo.as_mut().map(Fifo::read).unwrap_or_default();
        for state in told {
            self.told = Some(state);
            self.enter(state);
        }
        let state = match (Process::of(directory).runs(), self.told) {
            (false, _) => State::Stopped,
            (true, Some(State::Stopped) | None) => self.seen(),
            (true, Some(told)) => told,
        };
        if state == State::Stopped {
            self.told = None;
        }
        self.enter(state);
    }

    /// The state of a keepalived that has said nothing yet, as one that was running before the daemon: by the addresses.
    fn seen(&self) -> State {
        let has_all = self.config.as_ref().is_some_and(|config| here(config).iter().all(|here| *here));
        match (has_all, &self.standing) {
            (true, _) => State::Master,
            (false, Standing::Faulty(_)) => State::Fault,
            (false, _) => State::Backup,
        }
    }

    fn enter(&mut self, state: State) {
        if state == self.state {
            return;
        }
        tracing::warn!(
            from = self.state.as_str(),
            to = state.as_str(),
            "high availability: the state has changed"
        );
        (self.state, self.since) = (state, SystemTime::now());
        self.changes = self.changes.saturating_add(1);
    }
}

/// Which of the virtual addresses this machine has.
fn here(config: &HighAvailability) -> Vec<bool> {
    let own: BTreeSet<_> = config::own_addresses().unwrap_or_default();
    config.addresses.iter().map(|floating| own.contains(&floating.address.addr())).collect()
}

fn withdraw(directory: &Path) {
    match fs::remove_file(directory.join(SERVING)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::error!(%error, path = %directory.display(), "keepalived cannot be told that nothing is served");
        }
        _ => {}
    }
}

/// A file that is whole whenever somebody reads it. It need not outlive a power cut.
fn put(path: &Path, text: &str) -> io::Result<()> {
    let mut staged = path.as_os_str().to_owned();
    staged.push(".new");
    fs::write(&staged, text)?;
    fs::rename(&staged, path)
}

#[cfg(test)]
mod tests;
