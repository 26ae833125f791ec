//! Lines of the daemon's own log file, from its end.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::journal::{LogLine, LogPage};
use crate::log::rfc3339;

/// What is read of the file, at its end.
const READ_MAX: u64 = 4 * 1024 * 1024;
const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];

/// Reads the newest lines that are wanted.
///
/// # Errors
/// When the file cannot be read.
pub(crate) fn read(
    path: &Path,
    after: Option<&str>,
    since_unix: Option<u64>,
    level: Option<&str>,
    most: usize,
) -> io::Result<LogPage> {
    let mut file = File::open(path)?;
    let metadata = file.metadata()?;
    let (length, inode) = (metadata.len(), metadata.ino());
    let earliest = length.saturating_sub(READ_MAX);
    // A file that was moved away, or made anew, is read from its beginning.
    let begun = after
        .map(|after| place(after).filter(|(of, at)| *of == inode && *at <= length).map_or(0, |(_, at)| at));
    let start = begun.unwrap_or(0).max(earliest);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(READ_MAX).read_to_end(&mut bytes)?;
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    bytes.truncate(whole);
    let next = start + u64::try_from(whole).unwrap_or(0);
    let text = String::from_utf8_lossy(&bytes);
    let cut_off = usize::from(start > 0 && begun != Some(start));
    let since = since_unix.map(|since| rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(since)));
    let rank = |level: &str| LEVELS.iter().position(|known| *known == level);
    let worst = level.and_then(rank);
    let wanted = |line: &LogLine| {
        let late = since.as_ref().is_none_or(|since| line.at >= *since);
        late && worst.is_none_or(|worst| rank(&line.level).is_some_and(|rank| rank <= worst))
    };
    let mut lines: Vec<LogLine> = text.lines().skip(cut_off).map(shown).filter(wanted).collect();
    let lines = lines.split_off(lines.len().saturating_sub(most));
    Ok(LogPage { lines, next: Some(format!("file;{inode};{next}")), from: path.display().to_string() })
}

fn place(after: &str) -> Option<(u64, u64)> {
    let (inode, at) = after.strip_prefix("file;")?.split_once(';')?;
    Some((inode.parse().ok()?, at.parse().ok()?))
}

/// Either of the forms that the daemon writes; what is neither is a message.
fn shown(line: &str) -> LogLine {
    if let Ok(Value::Object(mut members)) = serde_json::from_str(line) {
        let mut text = |name: &str| match members.remove(name) {
            Some(Value::String(text)) => text,
            _ => String::new(),
        };
        let (at, level, mut message) = (text("time"), text("level"), text("message"));
        for (name, value) in &members {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            message.push_str(&format!(" {name}={value}"));
        }
        return LogLine { at, level, unit: String::new(), message };
    }
    let mut words = line.splitn(2, ' ');
    let (at, rest) = (words.next().unwrap_or_default(), words.next().unwrap_or_default().trim_start());
    let (level, message) = rest.split_once(' ').unwrap_or((rest, ""));
    let level = level.to_ascii_lowercase();
    if LEVELS.contains(&level.as_str()) {
        let message = message.trim_start().to_owned();
        return LogLine { at: at.to_owned(), level, unit: String::new(), message };
    }
    LogLine { message: line.to_owned(), ..LogLine::default() }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn both_forms_are_read_and_what_comes_later_is_found_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let text = "2026-01-01T00:00:00.000Z INFO  portcullis: up\n\
                    {\"time\":\"2026-01-02T00:00:00.000Z\",\"level\":\"warn\",\"message\":\"hot\",\"degrees\":99}\n\
                    something else\n2026-01-03T00:00:00.000Z ERROR half";
        std::fs::write(&path, text).unwrap();
        let all = read(&path, None, None, None, 10).unwrap();
        let levels: Vec<&str> = all.lines.iter().map(|line| line.level.as_str()).collect();
        assert_eq!(levels, ["info", "warn", ""]);
        assert_eq!(all.lines[1].message, "hot degrees=99");
        assert_eq!(read(&path, None, None, Some("warn"), 10).unwrap().lines.len(), 1);
        assert_eq!(read(&path, None, Some(1_767_300_000), None, 10).unwrap().lines.len(), 1);
        assert_eq!(read(&path, None, None, None, 1).unwrap().lines[0].message, "something else");
        let mut file = File::options().append(true).open(&path).unwrap();
        file.write_all(b" a line\n").unwrap();
        let later = read(&path, all.next.as_deref(), None, None, 10).unwrap();
        assert_eq!(later.lines.len(), 1);
        assert_eq!(later.lines[0].message, "half a line");
        std::fs::rename(&path, directory.path().join("log.1")).unwrap();
        std::fs::write(&path, "2026-01-04T00:00:00.000Z INFO  anew\n").unwrap();
        assert_eq!(read(&path, later.next.as_deref(), None, None, 10).unwrap().lines[0].message, "anew");
    }
}
