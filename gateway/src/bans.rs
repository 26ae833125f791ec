//! Who may not come in: does what `portcullis_core::penalty` decides.
//!
//! One list, here. The kernel's table is a copy of it, so that packets of a banned source cost next to nothing; the front
//! threads ask the list as well, which is all there is where no interface is filtered. A file in the state directory
//! keeps it over a restart, and what the kernel's table holds beyond the file is taken over. Sessions that are live
//! when their source is banned go on: many people may share its address, and `portcullis sessions kill` ends those that
//! shall end.

mod exempt;
mod store;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use ipnet::IpNet;
use portcullis_core::deny::Deny;
use portcullis_core::limits::{BANS_MAX, SUSPECTS_MAX};
use portcullis_core::penalty::exempt::{Exempt, Reason};
use portcullis_core::penalty::list::{Ban, BanList, Full, Origin};
use portcullis_core::penalty::{Offence, Penalties, Sentence};
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval, sleep_until};

use crate::config::Config;
use crate::metrics::{self, HandshakeFailure};
use crate::sync::lock;
use crate::xdp::Kernel;
use exempt::Sources;

/// How often the machine's addresses and networks are looked at: they may change.
const NETWORKS_EVERY: Duration = Duration::from_secs(5);
/// Under attack the list changes all the time, and its file need not.
const SAVE_EVERY: Duration = Duration::from_secs(1);
/// After a failure, which the disk may take a while to get over.
const SAVE_AGAIN: Duration = Duration::from_secs(30);

/// Why a ban cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("{prefix} is never banned: it is {reason}")]
    Exempt { prefix: IpNet, reason: Reason },
    #[error("{prefix} covers {part}, which is {reason}; ban the parts around it")]
    Covers { prefix: IpNet, part: IpNet, reason: Reason },
    #[error(transparent)]
    Full(#[from] Full),
}

/// Everything about bans, shared by the front threads and the control plane.
#[derive(Debug)]
pub struct Bans {
    state: Mutex<State>,
    /// Copies of two lengths, so that nobody waits for the lock while there is nothing to look up.
    banned: AtomicUsize,
    suspects: AtomicUsize,
    /// Whether the file is behind the list.
    unsaved: AtomicBool,
    changed: Notify,
    kernel: Arc<Kernel>,
    file: PathBuf,
}

#[derive(Debug)]
struct State {
    /// Whether offences lead to bans: `[bans]` is in the configuration.
    automatic: bool,
    sources: Sources,
    exempt: Exempt,
    penalties: Penalties,
    list: BanList,
}

impl Bans {
    /// The bans that an earlier run has left in the state directory and in the kernel.
    #[must_use]
    pub fn open(config: &Config, kernel: Arc<Kernel>) -> Self {
        metrics::bans_exist();
        let sources = Sources::new(config);
        let rules = config.bans.as_ref().map(|bans| bans.rules.clone());
        let state = State {
            automatic: rules.is_some(),
            exempt: sources.exempt(),
            sources,
            penalties: Penalties::new(rules.unwrap_or_default(), SUSPECTS_MAX),
            list: BanList::new(BANS_MAX),
        };
        let bans = Self {
            state: Mutex::new(state),
            banned: AtomicUsize::new(0),
            suspects: AtomicUsize::new(0),
            unsaved: AtomicBool::new(false),
            changed: Notify::new(),
            kernel,
            file: store::path(&config.server.state_dir),
        };
        bans.take_over();
        bans
    }

    fn take_over(&self) {
        let (now, wall) = (Instant::now(), SystemTime::now());
        let mut state = lock(&self.state);
        for ban in store::read(&self.file, now, wall) {
            if let Origin::Automatic { repeats, .. } = ban.origin {
                state.penalties.recall(ban.prefix, repeats, ban.end, now);
            }
            self.impose(&mut state, ban).ok();
        }
        match self.kernel.bans() {
            Ok(rows) => {
                for row in rows.into_iter().flatten() {
                    if state.list.get(row.prefix).is_none() {
                        let ban = begin(row.prefix, Origin::Found, row.left);
                        self.impose(&mut state, ban).ok();
                    }
                }
            }
            Err(error) => tracing::error!(%error, "the kernel's bans cannot be read"),
        }
        self.keep_promises(&mut state);
        self.count(&state);
    }

    /// Whether a connection from there is refused.
    #[must_use]
    pub fn refuses(&self, source: IpAddr) -> bool {
        if self.banned.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let state = lock(&self.state);
        state.list.find(source, Instant::now()).is_some() && state.exempt.covers(source).is_none()
    }

    /// A client was refused.
    pub fn on_refusal(&self, source: IpAddr, reason: Deny) {
        if let Some(offence) = Offence::of_refusal(reason) {
            self.on_offence(source, offence);
        }
    }

    /// A TLS handshake failed.
    pub fn on_handshake_failure(&self, source: IpAddr, failure: HandshakeFailure) {
        match failure {
            HandshakeFailure::NotTls | HandshakeFailure::TooLong | HandshakeFailure::Misbehaved => {
                self.on_offence(source, Offence::BrokenHandshake);
            }
            // Browsers hold connections that they never use; old clients know old TLS; and who does not trust our
            // certificate or knows us by another name is right to go.
            HandshakeFailure::Timeout
            | HandshakeFailure::ClientClosed
            | HandshakeFailure::ClientAlert
            | HandshakeFailure::NoCommonVersion
            | HandshakeFailure::NoCommonSuite
            | HandshakeFailure::ServerName
            | HandshakeFailure::Other => {}
        }
    }

    /// Somebody there has a good ticket, or a good name and password.
    pub fn on_success(&self, source: IpAddr) {
        if self.suspects.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut state = lock(&self.state);
        let State { penalties, exempt, .. } = &mut *state;
        penalties.forgive(source, exempt, Instant::now());
        self.count(&state);
    }

    /// Counts an offence, and bans its source when it was one too many.
    pub fn on_offence(&self, source: IpAddr, offence: Offence) {
        metrics::offence(offence.label());
        let mut state = lock(&self.state);
        if !state.automatic {
            return;
        }
        let State { penalties, exempt, .. } = &mut *state;
        let sentence = penalties.offend(source, offence, exempt, Instant::now());
        if let Some(sentence) = sentence {
            self.carry_out(&mut state, sentence);
        }
        self.count(&state);
    }

    fn carry_out(&self, state: &mut State, sentence: Sentence) {
        let Sentence { prefix, time, offence, offences, repeats } = sentence;
        // An address may have come to an interface since the last look.
        state.exempt = state.sources.exempt();
        if state.exempt.overlaps(prefix) {
            return;
        }
        let ban = begin(prefix, Origin::Automatic { offence, offences, repeats }, time);
        if state.list.get(prefix).is_some_and(|other| other.end >= ban.end) {
            return;
        }
        match self.impose(state, ban) {
            Ok(()) => {
                metrics::ban(offence.label());
                let (kind, seconds) = (offence.label(), time.as_secs());
                tracing::info!(%prefix, kind, offences, repeats, seconds, "a source was banned");
            }
            Err(Full) => tracing::warn!(%prefix, "a source was not banned: the list of bans is full"),
        }
    }

    /// Bans a prefix as an operator wishes, in the place of an earlier ban of the same prefix.
    ///
    /// # Errors
    /// When some of it is never banned, or when there is no room.
    pub fn add(&self, prefix: IpNet, time: Duration, note: Option<String>) -> Result<Ban, Refusal> {
        let mut state = lock(&self.state);
        state.exempt = state.sources.exempt();
        if let Some(reason) = state.exempt.contains(prefix) {
            return Err(Refusal::Exempt { prefix, reason });
        }
        // The kernel side knows no exceptions within a prefix.
        if let Some((part, reason)) = state.exempt.promised_within(prefix) {
            return Err(Refusal::Covers { prefix, part, reason });
        }
        let ban = begin(prefix, Origin::Hand { note }, time);
        self.impose(&mut state, ban.clone())?;
        self.count(&state);
        metrics::ban("hand");
        tracing::info!(%prefix, seconds = time.as_secs(), "a prefix was banned by an operator");
        Ok(state.list.get(prefix).cloned().unwrap_or(ban))
    }

    /// Lifts a ban, and forgets what its source has done; `None`: there is none.
    pub fn remove(&self, prefix: IpNet) -> Option<Ban> {
        let mut state = lock(&self.state);
        let ban = state.list.remove(prefix)?;
        state.penalties.pardon(|suspect| prefix.contains(&suspect));
        self.lift(&ban);
        self.count(&state);
        tracing::info!(%prefix, "a ban was lifted by an operator");
        Some(ban)
    }

    /// Lifts all bans, or those that the gateway gave by itself, and forgets all offences. Returns how many there were.
    pub fn clear(&self, automatic_only: bool) -> usize {
        let mut state = lock(&self.state);
        let lifted = state.list.remove_where(|ban| !automatic_only || ban.origin.is_automatic());
        lifted.iter().for_each(|ban| self.lift(ban));
        state.penalties.pardon(|_| true);
        self.count(&state);
        tracing::info!(lifted = lifted.len(), automatic_only, "bans were lifted by an operator");
        lifted.len()
    }

    /// At most `most` bans in force behind `after`, by prefix, that `wanted` picks.
    #[must_use]
    pub fn list(&self, after: Option<IpNet>, most: usize, wanted: impl Fn(&Ban) -> bool) -> Vec<Ban> {
        let (state, now) = (lock(&self.state), Instant::now());
        let picked = |ban: &&Ban| ban.end > now && wanted(ban);
        match after {
            Some(after) => state.list.iter_after(after).filter(picked).take(most).cloned().collect(),
            None => state.list.iter().filter(picked).take(most).cloned().collect(),
        }
    }

    /// Bans by origin, and how many sources have offences to their account.
    #[must_use]
    pub fn counts(&self) -> ([(&'static str, usize); 3], usize) {
        let state = lock(&self.state);
        let mut counts = [("automatic", 0), ("found", 0), ("hand", 0)];
        for ban in state.list.iter() {
            if let Some((_, count)) = counts.iter_mut().find(|(label, _)| *label == ban.origin.label()) {
                *count += 1;
            }
        }
        (counts, state.penalties.len())
    }

    /// Judges by a new configuration from now on. Bans of what it exempts are lifted.
    pub fn reconfigure(&self, config: &Config) {
        let mut state = lock(&self.state);
        state.automatic = config.bans.is_some();
        let rules = config.bans.as_ref().map(|bans| bans.rules.clone()).unwrap_or_default();
        state.penalties.set_rules(rules);
        state.sources = Sources::new(config);
        state.exempt = state.sources.exempt();
        self.keep_promises(&mut state);
        self.count(&state);
    }

    /// Keeps the list, the kernel's table and the file in step, for good.
    pub async fn run(&self) {
        let mut networks = interval(NETWORKS_EVERY);
        networks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut save_at = Instant::now();
        let mut failing = false;
        loop {
            let end = lock(&self.state).list.next_end();
            let save = self.unsaved.load(Ordering::Relaxed).then_some(save_at);
            let due = end.into_iter().chain(save).min();
            tokio::select! {
                () = self.changed.notified() => {}
                () = sleep_until(due.unwrap_or_else(Instant::now).into()), if due.is_some() => {}
                _ = networks.tick() => {
                    let mut state = lock(&self.state);
                    state.exempt = state.sources.exempt();
                }
            }
            self.sweep();
            if self.unsaved.load(Ordering::Relaxed) && save_at <= Instant::now() {
                let saved = self.save().await;
                match &saved {
                    Err(error) if !failing => {
                        tracing::error!(file = %self.file.display(), %error, "bans cannot be kept for a restart");
                    }
                    Ok(()) | Err(_) => {}
                }
                failing = saved.is_err();
                save_at = Instant::now() + if failing { SAVE_AGAIN } else { SAVE_EVERY };
            }
        }
    }

    /// Ended bans go at once: in the kernel's table a narrow one would go on hiding a wider one.
    fn sweep(&self) {
        let mut state = lock(&self.state);
        for ban in state.list.expire(Instant::now()) {
            tracing::debug!(prefix = %ban.prefix, origin = ban.origin.label(), "a ban has ended");
            self.lift(&ban);
        }
        self.count(&state);
    }

    /// Writes the file, when the list has changed.
    ///
    /// # Errors
    /// What the system says; the list counts as changed still.
    pub async fn save(&self) -> std::io::Result<()> {
        if !self.unsaved.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        let text = store::text(lock(&self.state).list.iter());
        let file = self.file.clone();
        let written = tokio::task::spawn_blocking(move || store::write(&file, &text)).await;
        let written = written.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        if written.is_err() {
            self.unsaved.store(true, Ordering::Relaxed);
        }
        written
    }

    /// Enters a ban in the list and in the kernel's table.
    fn impose(&self, state: &mut State, ban: Ban) -> Result<(), Full> {
        let (prefix, left) = (ban.prefix, ban.end.saturating_duration_since(Instant::now()));
        if let Some(evicted) = state.list.insert(ban)? {
            tracing::info!(prefix = %evicted.prefix, "a ban made room for another");
            self.lift(&evicted);
        }
        match self.kernel.ban(prefix, left) {
            Ok(enforced) => state.list.set_in_kernel(prefix, enforced.is_some()),
            Err(error) => tracing::warn!(
                %prefix,
                error = format!("{:#}", anyhow::Error::from(error)),
                "a ban holds at the listeners only"
            ),
        }
        self.note_change();
        Ok(())
    }

    /// Takes a ban that left the list out of the kernel's table.
    fn lift(&self, ban: &Ban) {
        if let Err(error) = self.kernel.unban(ban.prefix) {
            let error = format!("{:#}", anyhow::Error::from(error));
            tracing::error!(prefix = %ban.prefix, error, "a ban cannot be lifted at the interfaces");
        }
        self.note_change();
    }

    /// Lifts bans of what is exempt.
    fn keep_promises(&self, state: &mut State) {
        let State { list, exempt, penalties, .. } = state;
        let lifted = list.remove_where(|ban| {
            exempt.contains(ban.prefix).is_some() || exempt.promised_within(ban.prefix).is_some()
        });
        penalties.pardon(|suspect| exempt.overlaps(suspect));
        for ban in lifted {
            tracing::warn!(prefix = %ban.prefix, "a ban was lifted: some of it is never banned");
            self.lift(&ban);
        }
    }

    fn count(&self, state: &State) {
        self.banned.store(state.list.len(), Ordering::Relaxed);
        self.suspects.store(state.penalties.len(), Ordering::Relaxed);
    }

    fn note_change(&self) {
        self.unsaved.store(true, Ordering::Relaxed);
        self.changed.notify_one();
    }
}

/// A ban that begins now.
fn begin(prefix: IpNet, origin: Origin, time: Duration) -> Ban {
    let (now, since) = (Instant::now(), SystemTime::now());
    let end = now.checked_add(time).unwrap_or(now);
    let until = since.checked_add(time).unwrap_or(since);
    Ban { prefix, origin, since, until, end, in_kernel: false }
}
