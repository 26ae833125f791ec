//! The log to a syslog server: RFC 5424 over TLS (RFC 5425), TCP (RFC 6587) or UDP (RFC 5426).
//!
//! The journal is the source, so that what was logged while the server or the daemon was away is sent later: where the
//! last entry stands is kept in the state directory. What a connection swallowed as it broke is lost, which the
//! protocols do not let a sender know; what was sent just before a restart may come twice. The gateway's lines hold no
//! secret at any level, see [`crate::log`]; what is in the audit log is among them.

mod connection;
mod journal;
pub mod message;

use std::io;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::time::{Instant, MissedTickBehavior, sleep};

use crate::config::{Config, SyslogConfig};
use crate::dns::Resolver;
use crate::metrics::syslog::Fact;
use crate::sync::lock;
use crate::tools::journal as entries;
use connection::Connection;
use journal::{Cursor, Journal, Wanted, cursor_of};

/// How soon a change of the configuration is noticed.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How soon the server is tried again, at first and at last.
const AGAIN_FIRST: Duration = Duration::from_secs(1);
const AGAIN_LAST: Duration = Duration::from_mins(1);
/// How often is noted what was sent.
const NOTE_EVERY: Duration = Duration::from_secs(2);

/// How it goes.
#[derive(Debug, Default)]
pub struct Report {
    sent: AtomicU64,
    failures: AtomicU64,
    /// What keeps it from being sent; `None` before the first attempt and while it works.
    fault: Mutex<Option<String>>,
    connected: std::sync::atomic::AtomicBool,
}

impl Report {
    #[must_use]
    pub fn fact(&self) -> Fact {
        Fact {
            connected: self.connected.load(Ordering::Relaxed),
            sent: self.sent.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
            fault: lock(&self.fault).clone(),
        }
    }

    fn works(&self, server: &str) {
        self.connected.store(true, Ordering::Relaxed);
        if lock(&self.fault).take().is_some() {
            tracing::warn!(server, "the syslog server gets the log again");
        } else {
            tracing::info!(server, "the syslog server gets the log");
        }
    }

    fn fails(&self, server: &str, error: &io::Error) {
        self.connected.store(false, Ordering::Relaxed);
        self.failures.fetch_add(1, Ordering::Relaxed);
        // Once, not at every attempt.
        if lock(&self.fault).replace(error.to_string()).is_none() {
            tracing::error!(server, %error, "the syslog server does not get the log; it is tried again, and gets what is missing");
        }
    }
}

/// Sends whatever the configuration says at the time.
#[derive(Debug)]
pub(crate) struct Sender {
    pub(crate) config: Arc<ArcSwap<Config>>,
    pub(crate) report: Arc<Report>,
    pub(crate) resolver: Arc<Resolver>,
}

impl Sender {
    /// Until the daemon ends.
    pub(crate) async fn run(self) {
        let configured = || self.config.load().syslog.clone();
        let mut interval = tokio::time::interval(LOOK_EVERY);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            let Some(config) = configured() else { continue };
            let changed = async {
                let mut look = tokio::time::interval(LOOK_EVERY);
                while configured().as_ref() == Some(&config) {
                    look.tick().await;
                }
            };
            tokio::select! {
                () = changed => {}
                () = self.keep_sending(&config) => {}
            }
            self.report.connected.store(false, Ordering::Relaxed);
            *lock(&self.report.fault) = None;
        }
    }

    async fn keep_sending(&self, config: &SyslogConfig) {
        let server = config.server.to_string();
        let mut pause = AGAIN_FIRST;
        loop {
            let begun = Instant::now();
            let Err(error) = self.send(config, &server).await;
            self.report.fails(&server, &error);
            if begun.elapsed() > AGAIN_LAST {
                pause = AGAIN_FIRST;
            }
            sleep(pause).await;
            pause = (pause * 2).min(AGAIN_LAST);
        }
    }

    /// One connection, until it breaks.
    async fn send(&self, config: &SyslogConfig, server: &str) -> io::Result<std::convert::Infallible> {
        let state = self.config.load().server.state_dir.clone();
        let (cursor, certificates) = (Cursor::of(&state), self.config.load().certificates.clone());
        let after = match cursor.read() {
            Some(after) => Some(after),
            None => newest(&cursor).await?,
        };
        let mut connection = Connection::open(config, &certificates, &self.resolver).await?;
        let mut journal = Journal::open(&Wanted { scope: config.scope, priority: config.priority, after })?;
        self.report.works(server);
        let own = entries::own_unit();
        let mut sent = None;
        let mut note = tokio::time::interval(NOTE_EVERY);
        note.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let broken = loop {
            tokio::select! {
                entry = journal.next() => {
                    let entry = match entry {
                        Ok(entry) => entry,
                        Err(error) => break error,
                    };
                    let message = message::message(&entry, own.as_deref(), config.facility);
                    if let Err(error) = connection.send(&message).await {
                        break error;
                    }
                    self.report.sent.fetch_add(1, Ordering::Relaxed);
                    sent = cursor_of(&entry).map(str::to_owned).or(sent);
                }
                error = connection.closed() => break error,
                _ = note.tick() => if let Some(place) = sent.take() { keep(&cursor, &place) },
            }
        };
        if let Some(place) = sent {
            keep(&cursor, &place);
        }
        Err(broken)
    }
}

/// The journal begins here for a server that has had nothing yet.
async fn newest(cursor: &Cursor) -> io::Result<Option<String>> {
    let page = entries::read(&entries::Wanted { lines: 1, ..entries::Wanted::default() }).await;
    let page = page.map_err(|error| io::Error::other(error.to_string()))?;
    if let Some(place) = &page.next {
        keep(cursor, place);
    }
    Ok(page.next)
}

fn keep(cursor: &Cursor, place: &str) {
    if let Err(error) = cursor.write(place) {
        tracing::debug!(%error, "what was sent to the syslog server is not noted");
    }
}
