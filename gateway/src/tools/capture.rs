//! Packets in a file, without what they carry: link, network and transport headers, in the classic pcap format.
//!
//! The packets are those that the network stack sees (packet(7)): what the packet filter drops or forwards by itself is
//! not among them. One capture runs at a time, for a bounded time, up to a bounded size; the newest files are kept.

mod cut;
mod filter;
mod socket;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use crate::log::rfc3339;
use crate::sync::lock;
pub(crate) use filter::Filter;
use socket::{Packet, Source};

/// Most bytes of one file: some hundred thousand headers.
const FILE_MAX_BYTES: u64 = 16 * 1024 * 1024;
/// Files that are kept.
const KEPT: usize = 8;
/// Bytes of one piece of a file.
const PIECE: u64 = 1024 * 1024;
/// How long nothing may come before what has come is written.
const QUIET: Duration = Duration::from_millis(200);
const ENDING: &str = "pcap";

/// What to capture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaptureOrder {
    /// All of them where none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// Such as `host 192.0.2.7 and tcp port 443`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    #[serde(default = "default_packets")]
    pub packets: u32,
    #[serde(default = "default_seconds")]
    pub seconds: u32,
}

/// One capture.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureRow {
    pub name: String,
    /// `running`, `done`, or `failed`.
    pub state: String,
    /// Why it ended.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Of captures of this daemon's life; 0 for earlier ones.
    pub packets: u64,
    /// Packets that came faster than they were written.
    pub lost: u64,
    /// Of the file.
    pub bytes: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
}

fn default_packets() -> u32 {
    10_000
}

fn default_seconds() -> u32 {
    60
}

/// Why there is no capture, or not that one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CaptureError {
    #[error("{0}")]
    Filter(String),
    #[error("there is no interface named `{0}`")]
    Interface(String),
    #[error("{0} is no Ethernet: such frames are not captured")]
    NotEthernet(String),
    #[error("{0} is running; `capture stop` ends it")]
    Busy(String),
    #[error("there is no capture named `{0}`; `capture list` shows them")]
    Unknown(String),
    #[error(
        "the gateway may not capture: it has no capability CAP_NET_RAW, or its unit no address family AF_PACKET (the \
         appliance's has both)"
    )]
    NotPermitted,
    #[error("cannot {what}: {source}")]
    Io { what: String, source: io::Error },
}

fn failed(what: &str) -> impl FnOnce(io::Error) -> CaptureError {
    let what = what.to_owned();
    |source| CaptureError::Io { what, source }
}

/// The captures of this machine.
#[derive(Debug)]
pub struct Captures {
    directory: PathBuf,
    known: Mutex<BTreeMap<String, Arc<Running>>>,
}

/// One that runs, or has run in this daemon's life.
#[derive(Debug)]
struct Running {
    order: CaptureOrder,
    packets: AtomicU64,
    lost: AtomicU64,
    stop: AtomicBool,
    /// Why it ended, and whether in order.
    ended: Mutex<Option<(bool, String)>>,
}

impl Captures {
    #[must_use]
    pub fn new(state: &Path) -> Self {
        Self { directory: state.join("captures"), known: Mutex::default() }
    }

    /// Begins one on a thread of its own.
    pub(crate) fn start(&self, order: CaptureOrder) -> Result<CaptureRow, CaptureError> {
        let filter = order.filter.as_deref().map(Filter::parse).transpose().map_err(CaptureError::Filter)?;
        let source = Source::open(order.interface.as_deref())?;
        let mut known = lock(&self.known);
        if let Some((name, _)) = known.iter().find(|(_, running)| lock(&running.ended).is_none()) {
            return Err(CaptureError::Busy(name.clone()));
        }
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.directory)
            .map_err(failed("make the directory of captures"))?;
        self.forget_oldest(&mut known);
        let name: String = rfc3339(SystemTime::now()).chars().filter(char::is_ascii_alphanumeric).collect();
        let mut options = File::options();
        let file = options.write(true).create_new(true).mode(0o600).open(self.path(&name));
        let file = file.map_err(failed("make a file for the capture"))?;
        let running = Arc::new(Running {
            order,
            packets: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            ended: Mutex::default(),
        });
        let here = Arc::clone(&running);
        std::thread::Builder::new()
            .name("capture".to_owned())
            .spawn(move || here.run(source, filter, file))
            .map_err(failed("start a thread"))?;
        known.insert(name.clone(), running);
        drop(known);
        self.row(&name)
    }

    /// Ends the one of that name, or the one that runs.
    pub(crate) fn stop(&self, name: Option<&str>) -> Result<CaptureRow, CaptureError> {
        let known = lock(&self.known);
        let wanted = known.iter().find(|(known, running)| match name {
            Some(name) => name == known.as_str(),
            None => lock(&running.ended).is_none(),
        });
        let Some((name, running)) = wanted else {
            return Err(CaptureError::Unknown(name.unwrap_or("(running)").to_owned()));
        };
        running.stop.store(true, Ordering::Relaxed);
        let name = name.clone();
        drop(known);
        self.row(&name)
    }

    /// All that are kept, the oldest first.
    pub(crate) fn list(&self) -> Vec<CaptureRow> {
        self.names().iter().filter_map(|name| self.row(name).ok()).collect()
    }

    /// A piece of the file from an offset on.
    pub(crate) fn read(&self, name: &str, offset: u64) -> Result<(Vec<u8>, CaptureRow), CaptureError> {
        // Before the bytes: what is done when they are read may have grown in between otherwise.
        let row = self.row(name)?;
        let mut bytes = Vec::new();
        let read = File::open(self.path(name)).and_then(|mut file| {
            file.seek(SeekFrom::Start(offset))?;
            file.take(PIECE).read_to_end(&mut bytes)
        });
        read.map_err(failed("read the capture"))?;
        Ok((bytes, row))
    }

    pub(crate) fn delete(&self, name: &str) -> Result<CaptureRow, CaptureError> {
        let row = self.row(name)?;
        if row.state == "running" {
            return Err(CaptureError::Busy(row.name));
        }
        fs::remove_file(self.path(name)).map_err(failed("remove the capture"))?;
        lock(&self.known).remove(name);
        Ok(row)
    }

    fn row(&self, name: &str) -> Result<CaptureRow, CaptureError> {
        let unknown = || CaptureError::Unknown(name.chars().take(64).collect());
        // Names are made here: nothing else can be a file of the directory.
        if name.is_empty() || name.len() > 64 || !name.chars().all(|c| c.is_ascii_alphanumeric()) {
            return Err(unknown());
        }
        let running = lock(&self.known).get(name).cloned();
        let mut row = CaptureRow { name: name.to_owned(), state: "done".to_owned(), ..CaptureRow::default() };
        if let Some(running) = running {
            match &*lock(&running.ended) {
                None => row.state = "running".to_owned(),
                Some((well, reason)) => {
                    row.state = if *well { "done" } else { "failed" }.to_owned();
                    row.reason.clone_from(reason);
                }
            }
            row.packets = running.packets.load(Ordering::Relaxed);
            row.lost = running.lost.load(Ordering::Relaxed);
            row.interface.clone_from(&running.order.interface);
            row.filter.clone_from(&running.order.filter);
        }
        row.bytes = fs::metadata(self.path(name)).map_err(|_| unknown())?.len();
        Ok(row)
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        let name = |path: PathBuf| {
            let right = path.extension().is_some_and(|ending| ending == ENDING);
            path.file_stem().filter(|_| right)?.to_str().map(str::to_owned)
        };
        let mut names: Vec<String> = entries.filter_map(|entry| name(entry.path())).collect();
        names.sort();
        names
    }

    fn forget_oldest(&self, known: &mut BTreeMap<String, Arc<Running>>) {
        let names = self.names();
        for name in names.iter().take((names.len() + 1).saturating_sub(KEPT)) {
            if let Err(error) = fs::remove_file(self.path(name)) {
                tracing::warn!(%error, name, "an old capture cannot be removed");
            }
            known.remove(name);
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.{ENDING}"))
    }
}

impl Running {
    fn run(&self, mut source: Source, filter: Option<Filter>, file: File) {
        let outcome = self.write(&mut source, filter.as_ref(), BufWriter::new(file));
        let (well, reason) = match outcome {
            Ok(reason) => (true, reason.to_owned()),
            Err(error) => (false, error.to_string()),
        };
        tracing::info!(reason, packets = self.packets.load(Ordering::Relaxed), "a capture has ended");
        *lock(&self.ended) = Some((well, reason));
    }

    fn write(
        &self,
        source: &mut Source,
        filter: Option<&Filter>,
        mut out: BufWriter<File>,
    ) -> io::Result<&'static str> {
        let until = Instant::now() + Duration::from_secs(self.order.seconds.into());
        let most = u64::from(self.order.packets);
        out.write_all(&file_header())?;
        out.flush()?;
        let mut written = FILE_HEADER_BYTES;
        let mut flushed = Instant::now();
        let reason = loop {
            let now = Instant::now();
            if self.stop.load(Ordering::Relaxed) {
                break "stopped";
            }
            if now >= until {
                break "its time was over";
            }
            if flushed.elapsed() >= QUIET {
                out.flush()?;
                flushed = now;
            }
            let Some(packet) = source.next(QUIET.min(until - now))? else { continue };
            self.lost.store(u64::from(packet.lost), Ordering::Relaxed);
            if filter.is_some_and(|filter| !filter.holds(packet.bytes)) {
                continue;
            }
            let record = record(&packet, cut::headers(packet.bytes));
            let size = u64::try_from(record.len()).unwrap_or(u64::MAX);
            if written.saturating_add(size) > FILE_MAX_BYTES {
                break "its file was full";
            }
            out.write_all(&record)?;
            written += size;
            if self.packets.fetch_add(1, Ordering::Relaxed) + 1 >= most {
                break "it had its packets";
            }
        };
        out.flush()?;
        Ok(reason)
    }
}

const FILE_HEADER_BYTES: u64 = 24;

/// Classic pcap with microseconds, Ethernet (draft-ietf-opsawg-pcap).
fn file_header() -> Vec<u8> {
    let mut header = Vec::new();
    header.extend(0xa1b2_c3d4_u32.to_le_bytes());
    header.extend(2_u16.to_le_bytes());
    header.extend(4_u16.to_le_bytes());
    header.extend([0; 8]);
    header.extend(u32::try_from(socket::SNAP).unwrap_or(u32::MAX).to_le_bytes());
    header.extend(1_u32.to_le_bytes());
    header
}

fn record(packet: &Packet<'_>, kept: &[u8]) -> Vec<u8> {
    let at = packet.at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let word = |value: u64| u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes();
    let length = |length: usize| u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes();
    let mut record = Vec::with_capacity(16 + kept.len());
    record.extend(word(at.as_secs()));
    record.extend(at.subsec_micros().to_le_bytes());
    record.extend(length(kept.len()));
    record.extend(length(packet.length));
    record.extend_from_slice(kept);
    record
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_no_path() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("secret.pcap"), "x").unwrap();
        let captures = Captures::new(directory.path());
        for name in ["../secret", "", "/etc/passwd", "..", "a.pcap", &"a".repeat(99)] {
            assert!(matches!(captures.read(name, 0), Err(CaptureError::Unknown(_))), "{name}");
        }
        assert!(captures.list().is_empty());
    }

    #[test]
    fn the_oldest_files_go() {
        let directory = tempfile::tempdir().unwrap();
        let captures = Captures::new(directory.path());
        fs::create_dir(&captures.directory).unwrap();
        for day in 1..=KEPT {
            fs::write(captures.path(&format!("2026010{day}")), file_header()).unwrap();
        }
        captures.forget_oldest(&mut BTreeMap::new());
        let names: Vec<String> = captures.list().into_iter().map(|row| row.name).collect();
        assert_eq!(names.len(), KEPT - 1);
        assert!(!names.contains(&"20260101".to_owned()));
        let (bytes, row) = captures.read("20260102", 4).unwrap();
        assert_eq!((bytes.len(), row.bytes, row.state.as_str()), (20, 24, "done"));
        captures.delete("20260102").unwrap();
        assert!(captures.delete("20260102").is_err());
    }
}
