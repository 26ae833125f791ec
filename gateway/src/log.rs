//! Logs of the daemon: one line per event, as text or JSON, to standard error or a file.
//!
//! Who logs never waits: a line goes into a bounded queue and a thread of its own writes it. When the queue is
//! full or the disk is, lines are lost and counted, and writing goes on by itself once it can. Events carry no
//! secrets: neither tickets, nor passwords, nor keys, nor cookies, at any level.

mod format;
mod queue;
mod timestamp;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use portcullis_core::session::Record;
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::{Layer, Registry, reload};

use crate::config::{Log, LogFormat};
use format::Style;
use queue::{Output, Queue};
pub use timestamp::rfc3339;

/// Lines that may wait to be written: about a second of a very busy gateway.
const QUEUE_LINES: usize = 8192;
/// How long the end of the program may wait for its last lines.
const FLUSH_WAIT: Duration = Duration::from_secs(2);
/// Target of session records, so that they can be told from the rest.
pub const SESSION_TARGET: &str = "session";
/// Target of what is in the audit log. Such lines are logged at every level.
pub const AUDIT_TARGET: &str = "audit";
/// Events of other crates count as ours only from WARN on; below that they are noise unless everything is asked.
const OWN_TARGETS: [&str; 3] = ["portcullis", SESSION_TARGET, AUDIT_TARGET];

/// Why logging could not be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("cannot open the log file {}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("cannot start the log writer: {0}")]
    Thread(io::Error),
    #[error("logging was set up twice")]
    Twice,
}

/// Changes what is logged and where, while the daemon runs.
#[derive(Clone, Debug)]
pub struct Control {
    queue: Arc<Queue>,
    style: format::SharedStyle,
    level: reload::Handle<Targets, Registry>,
    /// Whether other crates' events count below WARN.
    foreign: Arc<AtomicBool>,
}

/// Starts logging to standard error at INFO, so that faults of the configuration can be told.
///
/// # Errors
/// When logging has been started already or no thread can be.
pub fn init_early() -> Result<Control, LogError> {
    let (subscriber, control) = build()?;
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LogError::Twice)?;
    Ok(control)
}

/// Starts logging as configured.
///
/// # Errors
/// As [`init_early`], or when the log file cannot be opened.
pub fn init(config: &Log) -> Result<Control, LogError> {
    let control = init_early()?;
    control.reconfigure(config)?;
    Ok(control)
}

/// A subscriber that is not yet anybody's, and its control.
///
/// # Errors
/// When no thread can be started.
pub fn build() -> Result<(impl Subscriber + Send + Sync + 'static, Control), LogError> {
    let queue = Queue::start(QUEUE_LINES, Output::Stderr).map_err(LogError::Thread)?;
    let style = format::SharedStyle::new(Style::text());
    let (filter, level) = reload::Layer::new(filter(Level::INFO));
    let foreign = Arc::new(AtomicBool::new(false));
    let lines = Lines { queue: Arc::clone(&queue), style: style.clone(), foreign: Arc::clone(&foreign) };
    let control = Control { queue, style, level, foreign };
    Ok((tracing_subscriber::registry().with(filter).with(lines), control))
}

impl Control {
    /// Sets level, format and destination.
    ///
    /// # Errors
    /// When the log file cannot be opened; nothing changes then.
    pub fn reconfigure(&self, config: &Log) -> Result<(), LogError> {
        let output = match &config.file {
            None => Output::Stderr,
            Some(path) => {
                let file = open(path).map_err(|source| LogError::File { path: path.clone(), source })?;
                Output::File { path: path.clone(), file: Some(file) }
            }
        };
        self.style.set(match (config.format, &config.file) {
            (LogFormat::Json, _) => Style::Json,
            (LogFormat::Text, Some(_)) => Style::Text,
            (LogFormat::Text, None) => Style::text(),
        });
        self.queue.redirect(output);
        self.set_level(config.level);
        Ok(())
    }

    /// Sets the level until the next reload or restart.
    pub fn set_level(&self, level: Level) {
        // Before the filter, whose change makes tracing ask each layer again.
        self.foreign.store(level == Level::TRACE, Ordering::Relaxed);
        // It fails only when the subscriber is gone, and then nobody logs.
        if self.level.modify(|now| *now = filter(level)).is_err() {
            tracing::debug!("the subscriber is gone");
        }
    }

    /// The level in force, in lower case.
    #[must_use]
    pub fn level(&self) -> String {
        let current = self.level.clone_current().and_then(|filter| filter.default_level());
        let current = current.unwrap_or(LevelFilter::OFF);
        current.to_string().to_ascii_lowercase()
    }

    /// Opens the log file again, after a tool such as logrotate has moved it.
    pub fn reopen(&self) {
        self.queue.reopen();
    }

    /// Lines that were lost since the start.
    #[must_use]
    pub fn lines_lost(&self) -> u64 {
        self.queue.lost()
    }

    /// Waits until what was logged so far is written or lost, for a bounded time. To be called at the end.
    pub fn flush(&self) {
        self.queue.flush(FLUSH_WAIT);
    }
}

/// Who did what is not to be silenced.
fn filter(level: Level) -> Targets {
    let audit = LevelFilter::from_level(level).max(LevelFilter::INFO);
    Targets::new().with_default(level).with_target(AUDIT_TARGET, audit)
}

fn open(path: &std::path::Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

/// One INFO line per finished session, with target `session`.
pub fn session_record(record: &Record) {
    let session = &record.session;
    let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    tracing::info!(
        target: SESSION_TARGET,
        id = %session.id,
        listener = session.info.listener,
        protocol = session.info.protocol.as_str(),
        source = %session.info.source,
        user = session.info.user.as_deref(),
        application = session.info.application.as_deref(),
        target = session.info.target,
        started = %rfc3339(session.started_at),
        duration_ms = u64::try_from(record.duration.as_millis()).unwrap_or(u64::MAX),
        bytes_up = load(&session.counters.bytes_up),
        bytes_down = load(&session.counters.bytes_down),
        reason = record.reason.as_str(),
        "session ended"
    );
}

/// The layer that turns events into lines.
struct Lines {
    queue: Arc<Queue>,
    style: format::SharedStyle,
    foreign: Arc<AtomicBool>,
}

impl<S: Subscriber> Layer<S> for Lines {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        let own = OWN_TARGETS.iter().any(|target| metadata.target().starts_with(target));
        own || *metadata.level() <= Level::WARN || self.foreign.load(Ordering::Relaxed)
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        self.queue.push(format::line(event, self.style.get()));
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::time::Instant;

    use super::*;

    fn log(file: &std::path::Path, format: LogFormat) -> Log {
        Log { level: Level::INFO, format, file: Some(file.to_owned()) }
    }

    /// All inside one default subscriber: `tracing` may take the only one it knows for everybody's.
    fn logging(config: &Log, act: impl FnOnce(&Control)) -> Control {
        let (subscriber, control) = build().unwrap();
        tracing::subscriber::with_default(subscriber, || {
            control.reconfigure(config).unwrap();
            act(&control);
        });
        control
    }

    fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !done() {
            assert!(Instant::now() < deadline, "{what}");
            std::thread::yield_now();
        }
    }

    #[test]
    fn events_become_json_lines_in_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("log");
        let control = logging(&log(&file, LogFormat::Json), |_| {
            tracing::info!(target: "portcullis::test", count = 3, name = "a\"b\n", "one {}", 1);
            tracing::debug!(target: "portcullis::test", "not at this level");
            tracing::info!(target: "hyper::proto", "not ours");
        });
        control.flush();
        let text = std::fs::read_to_string(&file).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        let line: serde_json::Value = serde_json::from_str(text.trim_end()).unwrap();
        assert_eq!(line["message"], "one 1");
        assert_eq!(line["level"], "info");
        assert_eq!(line["target"], "portcullis::test");
        assert_eq!(line["count"], 3);
        assert_eq!(line["name"], "a\"b\n");
    }

    #[test]
    fn the_level_changes_while_running() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("log");
        let control = logging(&log(&file, LogFormat::Text), |control| {
            tracing::debug!(target: "portcullis::test", "first");
            control.set_level(Level::DEBUG);
            assert_eq!(control.level(), "debug");
            tracing::debug!(target: "portcullis::test", "second");
            control.set_level(Level::ERROR);
            tracing::info!(target: "portcullis::test", "third");
            tracing::info!(target: AUDIT_TARGET, "who did what");
        });
        control.flush();
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(!text.contains("first") && text.contains("second") && !text.contains("third"), "{text}");
        assert!(text.contains("audit: who did what"), "{text}");
    }

    #[test]
    fn a_full_disk_loses_lines_and_counts_them_and_writing_goes_on_when_it_can() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("log");
        let control = logging(&log(std::path::Path::new("/dev/full"), LogFormat::Text), |control| {
            for _ in 0..100 {
                tracing::info!(target: "portcullis::test", "no room");
            }
            wait_until("all lines are lost", || control.lines_lost() == 100);
            control.reconfigure(&log(&file, LogFormat::Text)).unwrap();
            tracing::info!(target: "portcullis::test", "room again");
        });
        control.flush();
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.contains("room again") && text.contains("100 log lines were lost"), "{text}");
        assert_eq!(control.lines_lost(), 100);
    }

    #[test]
    fn a_moved_file_is_made_anew_on_reopen() {
        let directory = tempfile::tempdir().unwrap();
        let (file, moved) = (directory.path().join("log"), directory.path().join("log.1"));
        let control = logging(&log(&file, LogFormat::Text), |control| {
            tracing::info!(target: "portcullis::test", "before");
            control.flush();
            std::fs::rename(&file, &moved).unwrap();
            control.reopen();
            tracing::info!(target: "portcullis::test", "after");
        });
        control.flush();
        assert!(std::fs::read_to_string(&moved).unwrap().contains("before"));
        assert!(std::fs::read_to_string(&file).unwrap().contains("after"));
    }

    #[test]
    fn a_reader_that_stalls_never_stalls_who_logs() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        // Opened for both, a FIFO opens at once; nobody reads, so that its buffer fills and the writer blocks.
        let mut reader = OpenOptions::new().read(true).write(true).open(&fifo).unwrap();
        let control = logging(&log(&fifo, LogFormat::Text), |_| {
            let filler = "x".repeat(1000);
            for _ in 0..QUEUE_LINES + 1000 {
                tracing::info!(target: "portcullis::test", filler);
            }
        });
        assert!(control.lines_lost() > 0);
        let mut start = [0; 100];
        reader.read_exact(&mut start).unwrap();
    }

    #[test]
    fn a_session_record_names_all_that_an_auditor_needs() {
        use portcullis_core::limits::Limits;
        use portcullis_core::session::{EndReason, Protocol, SessionInfo, Table};
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("log");
        let now = Instant::now();
        let mut table = Table::new(1);
        let info = SessionInfo {
            listener: "gateway".into(),
            protocol: Protocol::Cgp,
            source: "192.0.2.1:5".parse().unwrap(),
            user: Some("ann".into()),
            application: None,
            target: "10.0.0.9:2598".into(),
        };
        let session = table.admit(now, std::time::SystemTime::UNIX_EPOCH, info, &Limits::default()).unwrap();
        let record = table.end(now, session.id, EndReason::Idle).unwrap();
        logging(&log(&file, LogFormat::Json), |_| session_record(&record)).flush();
        let line: serde_json::Value =
            serde_json::from_str(std::fs::read_to_string(&file).unwrap().trim_end()).unwrap();
        for (key, value) in [
            ("id", "0000000100000001"),
            ("listener", "gateway"),
            ("protocol", "cgp"),
            ("source", "192.0.2.1:5"),
            ("user", "ann"),
            ("started", "1970-01-01T00:00:00.000Z"),
            ("reason", "idle"),
            ("target", "10.0.0.9:2598"),
        ] {
            assert_eq!(line[key], value, "{line}");
        }
        assert_eq!(line["bytes_up"], 0);
    }
}
