//! Lines of the system's journal, read by journalctl(1) on the daemon's behalf. The daemon's user must be in the group
//! `systemd-journal` for that; nothing that is asked for can be an option or a file of that program.

use std::path::Path;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::program;
use crate::log::rfc3339;

pub(crate) const JOURNALCTL: &str = "/usr/bin/journalctl";
/// There while journald is.
const JOURNALD: &str = "/run/systemd/journal/socket";
/// What is read of one answer of journalctl.
const OUTPUT_MAX: u64 = 16 * 1024 * 1024;
/// What is answered of it.
const ANSWER_MAX_BYTES: usize = 6 * 1024 * 1024;
const MESSAGE_MAX_CHARS: usize = 4096;

/// Lines, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPage {
    pub lines: Vec<LogLine>,
    /// Ask with it as `after` for what comes next; absent while nothing has been there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// `journal`, or the path of a file.
    pub from: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// RFC 3339, UTC; empty where a line tells no time.
    pub at: String,
    /// Empty where a line tells none.
    pub level: String,
    /// The unit or program; empty for the gateway's own file.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub unit: String,
    pub message: String,
}

/// What is looked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) after: Option<String>,
    pub(crate) since_unix: Option<u64>,
    pub(crate) lines: usize,
    /// None: of the whole system.
    pub(crate) unit: Option<String>,
    /// Of syslog(3): this and what is worse.
    pub(crate) priority: Option<u8>,
}

/// Why there are no lines.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoJournal {
    /// A word that can be none of a unit or a place.
    #[error("{0}")]
    Malformed(&'static str),
    #[error("{0}")]
    Unavailable(String),
}

/// The unit that this process belongs to (cgroups(7)), where systemd started it.
pub(crate) fn own_unit() -> Option<String> {
    unit_of(&std::fs::read_to_string("/proc/self/cgroup").ok()?)
}

fn unit_of(cgroups: &str) -> Option<String> {
    let unit = cgroups.lines().next()?.rsplit('/').find(|part| part.ends_with(".service"))?;
    Some(unit.to_owned())
}

/// Reads.
///
/// # Errors
/// Where there is no journal, or none that the daemon may read.
pub(crate) async fn read(wanted: &Wanted) -> Result<LogPage, NoJournal> {
    let arguments = arguments(wanted)?;
    let printed = program::run(JOURNALCTL, &arguments, OUTPUT_MAX).await;
    let complaints = printed.as_ref().map_or_else(String::as_str, |printed| printed.complaints.as_str());
    if is_barred(complaints) && printed.as_ref().map_or(true, |printed| printed.text.is_empty()) {
        let text = "the gateway may not read the journal: its user belongs into the group systemd-journal \
                    (SupplementaryGroups= of its unit)";
        return Err(NoJournal::Unavailable(text.to_owned()));
    }
    let page = page(&printed.map_err(NoJournal::Unavailable)?.text);
    if page.lines.is_empty() && !Path::new(JOURNALD).exists() {
        let text = "there is no journal on this machine; `[log] file` in the configuration lets the gateway keep one";
        return Err(NoJournal::Unavailable(text.to_owned()));
    }
    Ok(page)
}

fn is_barred(complaints: &str) -> bool {
    complaints.contains("insufficient permissions") || complaints.contains("not seeing messages from")
}

fn arguments(wanted: &Wanted) -> Result<Vec<String>, NoJournal> {
    let mut arguments: Vec<String> = [
        "--output=json",
        "--output-fields=MESSAGE,PRIORITY,_SYSTEMD_UNIT,SYSLOG_IDENTIFIER",
        "--no-pager",
        "--all",
        "--no-hostname",
    ]
    .map(str::to_owned)
    .into();
    arguments.push(format!("--lines={}", wanted.lines));
    if let Some(unit) = &wanted.unit {
        arguments.push(format!("--unit={}", legal(unit, "-_.@:\\", 128, "that is no name of a unit")?));
    }
    if let Some(after) = &wanted.after {
        let after = place(after).ok_or(NoJournal::Malformed("`after` is no place of the journal"))?;
        arguments.push(format!("--after-cursor={after}"));
    }
    if let Some(since) = wanted.since_unix {
        arguments.push(format!("--since=@{since}"));
    }
    if let Some(priority) = wanted.priority {
        arguments.push(format!("--priority={priority}"));
    }
    Ok(arguments)
}

/// A place of the journal, if it can be one.
pub(crate) fn place(text: &str) -> Option<&str> {
    legal(text, "=;-_", 512, "").ok()
}

fn legal<'a>(text: &'a str, others: &str, most: usize, what: &'static str) -> Result<&'a str, NoJournal> {
    let fits = !text.is_empty() && text.len() <= most;
    let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || others.contains(c));
    if fits && plain { Ok(text) } else { Err(NoJournal::Malformed(what)) }
}

fn page(text: &[u8]) -> LogPage {
    let mut lines = Vec::new();
    let mut next = None;
    for line in text.split(|byte| *byte == b'\n') {
        // The last line may have been cut.
        let Ok(entry) = serde_json::from_slice::<Value>(line) else { continue };
        next = entry.get("__CURSOR").and_then(Value::as_str).map(str::to_owned).or(next);
        lines.push(shown(&entry));
    }
    let mut room = ANSWER_MAX_BYTES;
    let fit = lines.iter().rev().take_while(|line: &&LogLine| {
        let size = line.message.len() + 200;
        room = room.saturating_sub(size);
        room > 0
    });
    let unfit = lines.len() - fit.count();
    LogPage { lines: lines.split_off(unfit), next, from: "journal".to_owned() }
}

fn shown(entry: &Value) -> LogLine {
    let text = |name: &str| entry.get(name).and_then(Value::as_str);
    let micros = text("__REALTIME_TIMESTAMP").and_then(|text| text.parse().ok()).map(Duration::from_micros);
    let unit = text("_SYSTEMD_UNIT").or_else(|| text("SYSLOG_IDENTIFIER")).unwrap_or_default();
    LogLine {
        at: micros.map(|since| rfc3339(SystemTime::UNIX_EPOCH + since)).unwrap_or_default(),
        level: level(text("PRIORITY").and_then(|text| text.parse().ok())).to_owned(),
        unit: unit.to_owned(),
        message: message(entry.get("MESSAGE")),
    }
}

/// A list of bytes where it is no UTF-8, nothing where it is too long (journalctl(1)).
fn message(message: Option<&Value>) -> String {
    match message {
        Some(Value::String(text)) => text.chars().take(MESSAGE_MAX_CHARS).collect(),
        Some(Value::Array(bytes)) => {
            let byte = |byte: &Value| byte.as_u64().and_then(|byte| u8::try_from(byte).ok());
            let bytes: Vec<u8> = bytes.iter().filter_map(byte).take(MESSAGE_MAX_CHARS).collect();
            String::from_utf8_lossy(&bytes).into_owned()
        }
        _ => "(too long to be shown)".to_owned(),
    }
}

fn level(priority: Option<u8>) -> &'static str {
    match priority {
        Some(0..=3) => "error",
        Some(4) => "warn",
        Some(5 | 6) => "info",
        Some(_) => "debug",
        None => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_becomes_no_option_of_journalctl() {
        let wanted = |unit: &str| Wanted { unit: Some(unit.into()), lines: 5, ..Wanted::default() };
        assert!(arguments(&wanted("ssh.service")).unwrap().contains(&"--unit=ssh.service".to_owned()));
        for unit in ["", "a b", "*", "x\n--file=/etc/shadow", "a/b", "ü", &"x".repeat(200)] {
            assert!(matches!(arguments(&wanted(unit)), Err(NoJournal::Malformed(_))), "{unit}");
        }
        let after = |after: &str| Wanted { after: Some(after.into()), ..Wanted::default() };
        assert!(arguments(&after("s=ab;i=1;b=c;m=2;t=3;x=4")).is_ok());
        assert!(arguments(&after("/etc/shadow")).is_err());
    }

    #[test]
    fn lines_of_journalctl_are_read_whatever_is_in_them() {
        let text = br#"{"__CURSOR":"s=1;i=1","__REALTIME_TIMESTAMP":"1700000000123456","PRIORITY":"4","_SYSTEMD_UNIT":"portcullis.service","MESSAGE":"a warning"}
{"__CURSOR":"s=1;i=2","__REALTIME_TIMESTAMP":"1700000001000000","SYSLOG_IDENTIFIER":"kernel","MESSAGE":[97,255,98]}
{"__CURSOR":"s=1;i=3","MESSAGE":null,"PRIORITY":"7"}
{"__CURSOR":"half"#;
        let page = page(text);
        assert_eq!(page.next.as_deref(), Some("s=1;i=3"));
        let first = page.lines.first().unwrap();
        assert_eq!((first.at.as_str(), first.level.as_str()), ("2023-11-14T22:13:20.123Z", "warn"));
        assert_eq!(page.lines[1].message, "a\u{fffd}b");
        assert_eq!((page.lines[2].level.as_str(), page.lines.len()), ("debug", 3));
    }

    #[test]
    fn the_own_unit_is_found_in_the_name_of_the_cgroup() {
        assert_eq!(unit_of("0::/system.slice/portcullis.service\n").as_deref(), Some("portcullis.service"));
        assert_eq!(unit_of("0::/user.slice/session-1.scope\n"), None);
    }
}
