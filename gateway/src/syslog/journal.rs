//! Entries of the journal as they come, from journalctl(1), and where the last one that was sent stands.
//!
//! Who reads slowly makes journalctl wait: nothing piles up here.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStdout, Command};

use crate::config::SyslogScope;
use crate::tools::journal::{JOURNALCTL, own_unit, place};

/// Longest entry that is read; what is longer is left out.
const ENTRY_MAX_BYTES: usize = 256 * 1024;
const FIELDS: &str = "--output-fields=MESSAGE,PRIORITY,SYSLOG_FACILITY,SYSLOG_IDENTIFIER,SYSLOG_PID,_COMM,_PID,\
                      _HOSTNAME,_SYSTEMD_UNIT";
/// In the state directory.
const CURSOR: &str = "syslog-cursor";

/// What is read.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) scope: SyslogScope,
    pub(super) priority: u8,
    /// The last entry that was sent.
    pub(super) after: Option<String>,
}

/// A running journalctl.
#[derive(Debug)]
pub(super) struct Journal {
    /// Ends with this value.
    child: Child,
    output: BufReader<ChildStdout>,
    line: Vec<u8>,
    /// The line is longer than what is read of one.
    overlong: bool,
}

impl Journal {
    /// # Errors
    /// Where there is no journalctl, or the gateway has no unit of its own.
    pub(super) fn open(wanted: &Wanted) -> io::Result<Self> {
        let mut command = Command::new(JOURNALCTL);
        command.args([
            "--follow",
            "--no-tail",
            "--merge",
            "--output=json",
            FIELDS,
            "--no-pager",
            "--all",
            "--quiet",
        ]);
        command.arg(format!("--priority={}", wanted.priority));
        if wanted.scope == SyslogScope::Gateway {
            let nowhere =
                "no unit of systemd takes the gateway's log: nothing can be sent, but with `send = \"all\"`";
            command.arg(format!("--unit={}", own_unit().ok_or_else(|| io::Error::other(nowhere))?));
        }
        if let Some(after) = &wanted.after {
            command.arg(format!("--after-cursor={after}"));
        }
        command.env_clear().env("LC_ALL", "C.UTF-8").current_dir("/").kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn()?;
        let output = child.stdout.take().ok_or_else(|| io::Error::other("journalctl has no output"))?;
        Ok(Self { child, output: BufReader::new(output), line: Vec::new(), overlong: false })
    }

    /// The next entry. Nothing is lost when it is not waited for to the end.
    ///
    /// # Errors
    /// When there will be none.
    pub(super) async fn next(&mut self) -> io::Result<Value> {
        loop {
            let read = self.output.fill_buf().await?;
            if read.is_empty() {
                return Err(io::Error::other(match self.child.try_wait() {
                    Ok(Some(status)) => format!("journalctl has ended ({status})"),
                    _ => "journalctl says nothing more".to_owned(),
                }));
            }
            let (part, whole) = match read.iter().position(|byte| *byte == b'\n') {
                Some(end) => (end + 1, true),
                None => (read.len(), false),
            };
            self.overlong |= self.line.len() + part > ENTRY_MAX_BYTES;
            if !self.overlong {
                self.line.extend(read.iter().take(part));
            }
            self.output.consume(part);
            if whole {
                let line = std::mem::take(&mut self.line);
                if !std::mem::take(&mut self.overlong)
                    && let Ok(entry) = serde_json::from_slice(&line)
                {
                    return Ok(entry);
                }
            }
        }
    }
}

/// The place of an entry, if it can be one.
pub(super) fn cursor_of(entry: &Value) -> Option<&str> {
    entry.get("__CURSOR").and_then(Value::as_str).and_then(place)
}

/// Where the last entry that was sent is noted.
#[derive(Clone, Debug)]
pub(super) struct Cursor(PathBuf);

impl Cursor {
    pub(super) fn of(state: &Path) -> Self {
        Self(state.join(CURSOR))
    }

    /// Nothing where it cannot be read: then the journal is sent from now on.
    pub(super) fn read(&self) -> Option<String> {
        let text = std::fs::read_to_string(&self.0).ok()?;
        place(text.trim()).map(str::to_owned)
    }

    /// After a power cut it may be an older one: then some entries are sent twice.
    pub(super) fn write(&self, cursor: &str) -> io::Result<()> {
        let staged = self.0.with_extension("new");
        std::fs::write(&staged, cursor)?;
        std::fs::rename(&staged, &self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_kept_and_what_is_none_is_not_believed() {
        let directory = tempfile::tempdir().unwrap();
        let cursor = Cursor::of(directory.path());
        assert_eq!(cursor.read(), None);
        cursor.write("s=1;i=2;b=3;m=4;t=5;x=6").unwrap();
        assert_eq!(cursor.read().as_deref(), Some("s=1;i=2;b=3;m=4;t=5;x=6"));
        std::fs::write(&cursor.0, "--file=/etc/shadow x").unwrap();
        assert_eq!(cursor.read(), None);
        assert_eq!(cursor_of(&serde_json::json!({"__CURSOR": "a b"})), None);
    }
}
