//! The audit log: who changed what, when and from where, and what came of it. One JSON object per line, appended and
//! brought to the disk before the answer goes out; files of bounded size, a bounded number of them.
//!
//! Secrets never come here: tickets are left out of requests, and configurations hold none. Who can write to the state
//! directory can change it: whoever needs more sends it elsewhere.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::log::{AUDIT_TARGET, rfc3339};
use crate::role::Origin;
use crate::sync::lock;

/// Most bytes of one file.
const FILE_MAX_BYTES: u64 = 4 * 1024 * 1024;
/// Files besides the current one.
const OLD_FILES: usize = 8;
/// Longest line; what is asked and answered is cut before that.
const LINE_MAX_BYTES: u64 = 16 * 1024;
const DETAIL_MAX_CHARS: usize = 2000;
/// Requests of one user that were denied, of which each has a record, within this time: nobody may push out what others did
/// by asking for what they may not.
const DENIED_MAX: u64 = 10;
const DENIED_WITHIN: Duration = Duration::from_mins(1);
const DENIED_MAX_CHARS: usize = 300;
/// Users whose denied requests are counted.
const DENIED_USERS: usize = 256;
/// Records in one answer.
pub const RECORDS_MAX: usize = 5000;
const CURRENT: &str = "audit.jsonl";

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// RFC 3339, UTC.
    pub at: String,
    #[serde(flatten)]
    pub origin: Origin,
    /// `viewer`, `operator`, `administrator`, or absent for the daemon itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// The request without secrets, or words.
    pub what: Value,
    /// `done`, `failed` or `denied`.
    pub outcome: String,
    /// What came of it, or why not.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

impl Record {
    #[must_use]
    pub fn new(origin: Origin, role: Option<&str>, what: Value, outcome: &str, detail: &str) -> Self {
        let what = match what.to_string().len() {
            length if length > DETAIL_MAX_CHARS => Value::String(format!("a request of {length} bytes")),
            _ => what,
        };
        Self {
            at: rfc3339(SystemTime::now()),
            origin,
            role: role.map(str::to_owned),
            what,
            outcome: outcome.to_owned(),
            detail: detail.chars().take(DETAIL_MAX_CHARS).collect(),
        }
    }
}

/// The log; it is opened for each line, because lines are rare and files may be moved away.
#[derive(Debug)]
pub struct Audit {
    directory: PathBuf,
    /// One line at a time.
    writing: Mutex<()>,
    /// By user.
    denied: Mutex<BTreeMap<Option<u32>, Denied>>,
}

/// Denied requests of one user since a moment.
#[derive(Debug)]
struct Denied {
    since: Instant,
    count: u64,
}

impl Audit {
    #[must_use]
    pub fn new(state: &Path) -> Self {
        Self { directory: state.join("audit"), writing: Mutex::default(), denied: Mutex::default() }
    }

    /// Appends a record, and logs it, from where it can go to another machine. Where the former fails it is in the daemon's log at least, and what was asked is done all the same:
    /// a full disk must not keep operators from acting.
    pub fn add(&self, record: &Record) {
        let Record { origin, role, what, outcome, detail, .. } = record;
        tracing::info!(
            target: AUDIT_TARGET,
            who = origin.who,
            uid = origin.uid,
            from = origin.claimed_from,
            role,
            what = %what,
            outcome,
            detail,
            "who did what"
        );
        if let Err(error) = self.append(record, FILE_MAX_BYTES) {
            let line = serde_json::to_string(record).unwrap_or_default();
            tracing::error!(%error, record = line, "the audit log cannot be written");
        }
    }

    /// Appends a record of a request that was denied, unless its user has had many of them just now.
    pub fn deny(&self, origin: Origin, role: &str, what: Value) {
        let what = match what.to_string().len() {
            length if length > DENIED_MAX_CHARS => {
                serde_json::json!({ "cmd": what.get("cmd"), "bytes": length })
            }
            _ => what,
        };
        let (count, left_out) = self.count_denied(origin.uid, Instant::now());
        let mut detail = match left_out {
            0 => String::new(),
            more => format!("{more} more were denied before"),
        };
        match count {
            DENIED_MAX => detail.push_str("what else is denied within this minute is left out"),
            count if count > DENIED_MAX => return,
            _ => {}
        }
        self.add(&Record::new(origin, Some(role), what, "denied", &detail));
    }

    /// Which one it is of this user's, and how many had no record before.
    fn count_denied(&self, uid: Option<u32>, now: Instant) -> (u64, u64) {
        let mut denied = lock(&self.denied);
        let is_over = |one: &Denied| now.saturating_duration_since(one.since) > DENIED_WITHIN;
        if denied.len() >= DENIED_USERS && !denied.contains_key(&uid) {
            denied.retain(|_, one| !is_over(one));
        }
        let one = denied.entry(uid).or_insert(Denied { since: now, count: 0 });
        let mut left_out = 0;
        if is_over(one) {
            left_out = one.count.saturating_sub(DENIED_MAX);
            *one = Denied { since: now, count: 0 };
        }
        one.count += 1;
        (one.count, left_out)
    }

    fn append(&self, record: &Record, most: u64) -> io::Result<()> {
        let mut line = serde_json::to_vec(record).map_err(io::Error::other)?;
        line.push(b'\n');
        let _one_at_a_time = lock(&self.writing);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
        let mut file = self.open()?;
        let mut length = file.metadata()?.len();
        if length > 0 && length.saturating_add(u64::try_from(line.len()).unwrap_or(u64::MAX)) > most {
            self.rotate()?;
            file = self.open()?;
            length = 0;
        }
        if length > 0 && !ends_in_newline(&mut file)? {
            // A power cut has left half a line: it stays alone.
            line.insert(0, b'\n');
        }
        file.write_all(&line)?;
        file.sync_data()
    }

    fn open(&self) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true).mode(0o600).open(self.path(0))
    }

    fn path(&self, age: usize) -> PathBuf {
        match age {
            0 => self.directory.join(CURRENT),
            age => self.directory.join(format!("{CURRENT}.{age}")),
        }
    }

    fn rotate(&self) -> io::Result<()> {
        for age in (0..OLD_FILES).rev() {
            match fs::rename(self.path(age), self.path(age + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// The newest records, newest last.
    #[must_use]
    pub fn newest(&self, most: usize) -> Vec<Record> {
        let most = most.min(RECORDS_MAX);
        let mut records: Vec<Record> = Vec::new();
        for age in 0..=OLD_FILES {
            if records.len() >= most {
                break;
            }
            let mut older = self.read(age).unwrap_or_default();
            older.append(&mut records);
            records = older;
        }
        records.split_off(records.len().saturating_sub(most))
    }

    /// What is no record is left out.
    fn read(&self, age: usize) -> io::Result<Vec<Record>> {
        let mut reader = BufReader::new(File::open(self.path(age))?.take(FILE_MAX_BYTES + LINE_MAX_BYTES));
        let (mut records, mut line) = (Vec::new(), Vec::new());
        while reader.read_until(b'\n', &mut line)? > 0 {
            records.extend(serde_json::from_slice::<Record>(&line).ok());
            line.clear();
        }
        Ok(records)
    }
}

fn ends_in_newline(file: &mut File) -> io::Result<bool> {
    let mut last = [0];
    file.seek(io::SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn record(n: usize) -> Record {
        let who =
            Origin { who: "ann".into(), uid: Some(7), claimed_from: Some("192.0.2.1 5 10.0.0.1 22".into()) };
        Record::new(who, Some("operator"), json!({"cmd": "ban-add", "n": n}), "done", "")
    }

    #[test]
    fn what_was_written_is_read_newest_last() {
        let directory = tempfile::tempdir().unwrap();
        let audit = Audit::new(directory.path());
        assert!(audit.newest(10).is_empty());
        for n in 0..5 {
            audit.add(&record(n));
        }
        let read: Vec<_> = audit.newest(2).into_iter().map(|record| record.what["n"].clone()).collect();
        assert_eq!(read, [3, 4]);
        assert_eq!(audit.newest(1).first().unwrap().origin, record(4).origin);
    }

    #[test]
    fn who_asks_again_and_again_for_what_they_may_not_pushes_nothing_out() {
        let directory = tempfile::tempdir().unwrap();
        let audit = Audit::new(directory.path());
        let who = |uid| Origin { who: "eve".into(), uid: Some(uid), ..Origin::default() };
        for _ in 0..1000 {
            audit.deny(who(7), "viewer", json!({"cmd": "config-set", "value": "x".repeat(5000)}));
        }
        audit.deny(who(8), "viewer", json!({"cmd": "reload"}));
        let records = audit.newest(100);
        assert_eq!(records.len(), 11);
        assert_eq!(records[0].what, json!({"cmd": "config-set", "bytes": 5031}));
        assert!(records[8].detail.is_empty() && records[9].detail.contains("is left out"), "{records:?}");
        assert_eq!(records[10].what["cmd"], "reload");
        let later = Instant::now() + DENIED_WITHIN + Duration::from_secs(1);
        assert_eq!(audit.count_denied(Some(7), later), (1, 990));
        for uid in 0..10_000 {
            audit.count_denied(Some(uid), later + DENIED_WITHIN * uid * 2);
        }
        assert!(lock(&audit.denied).len() <= DENIED_USERS);
    }

    #[test]
    fn half_a_line_costs_itself_and_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let audit = Audit::new(directory.path());
        audit.add(&record(1));
        let mut text = fs::read_to_string(audit.path(0)).unwrap();
        text.push_str("{\"at\":\"20");
        fs::write(audit.path(0), text).unwrap();
        audit.add(&record(2));
        let read: Vec<_> = audit.newest(10).into_iter().map(|record| record.what["n"].clone()).collect();
        assert_eq!(read, [1, 2]);
    }

    #[test]
    fn files_are_bounded_in_size_and_number() {
        let directory = tempfile::tempdir().unwrap();
        let audit = Audit::new(directory.path());
        for n in 0..200 {
            audit.append(&record(n), 1000).unwrap();
        }
        let files: Vec<_> = fs::read_dir(&audit.directory).unwrap().map(|file| file.unwrap()).collect();
        assert_eq!(files.len(), OLD_FILES + 1);
        assert!(files.iter().all(|file| file.metadata().unwrap().len() <= 1000));
        assert_eq!(audit.newest(1).first().unwrap().what["n"], 199);
        assert!(audit.newest(200).len() > 20);
    }
}
