//! How one event becomes one line: text for people and journald, JSON for programs.
//!
//! A line is a line whatever its fields hold: control characters are escaped, so that nothing a client sends can
//! forge a second line or move a terminal's cursor.

use std::fmt::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::SystemTime;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level};

use super::timestamp::rfc3339;

/// Longest line; a longer one is cut.
const LINE_MAX_BYTES: usize = 8 * 1024;
/// What stays of a message whose JSON line is too long; a character takes at most 12 bytes there.
const CUT_MESSAGE_CHARS: usize = 512;

/// How lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// With a time.
    Text,
    /// For journald: it has the time, and takes the level from a prefix (sd-daemon(3)).
    Journal,
    Json,
}

impl Style {
    const ALL: [Self; 3] = [Self::Text, Self::Journal, Self::Json];

    /// Text as it suits what standard error is.
    pub(super) fn text() -> Self {
        if stderr_is_journal() { Self::Journal } else { Self::Text }
    }
}

/// `JOURNAL_STREAM` holds device and inode of the journal's socket; a redirected standard error has others
/// (systemd.exec(5)).
fn stderr_is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let stderr = std::fs::metadata("/proc/self/fd/2");
    stderr.is_ok_and(|stderr| stream == format!("{}:{}", stderr.dev(), stderr.ino()))
}

/// The style of all threads.
#[derive(Clone, Debug)]
pub(super) struct SharedStyle(Arc<AtomicU8>);

impl SharedStyle {
    pub(super) fn new(style: Style) -> Self {
        let shared = Self(Arc::default());
        shared.set(style);
        shared
    }

    pub(super) fn set(&self, style: Style) {
        let index = Style::ALL.iter().position(|known| *known == style);
        self.0.store(index.and_then(|index| u8::try_from(index).ok()).unwrap_or(0), Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> Style {
        let index = usize::from(self.0.load(Ordering::Relaxed));
        Style::ALL.get(index).copied().unwrap_or(Style::Text)
    }
}

/// The line of an event, newline included.
pub(super) fn line(event: &Event<'_>, style: Style) -> Vec<u8> {
    let (level, target) = (*event.metadata().level(), event.metadata().target());
    let mut fields = Fields::default();
    event.record(&mut fields);
    match style {
        Style::Json => json(level, target, fields),
        Style::Text | Style::Journal => text(level, target, &fields, style),
    }
}

/// A line of the log itself, which no event stands behind.
pub(super) fn notice(message: &str, style: Style) -> Vec<u8> {
    let fields = Fields { message: message.into(), others: Vec::new() };
    match style {
        Style::Json => json(Level::WARN, "portcullis::log", fields),
        Style::Text | Style::Journal => text(Level::WARN, "portcullis::log", &fields, style),
    }
}

fn json(level: Level, target: &str, fields: Fields) -> Vec<u8> {
    let mut object = Map::new();
    object.insert("time".into(), rfc3339(SystemTime::now()).into());
    object.insert("level".into(), level.as_str().to_ascii_lowercase().into());
    // A session record has a field of that name, which is worth more than the name of a module.
    object.insert("target".into(), target.into());
    object.insert("message".into(), fields.message.into());
    if target == super::SESSION_TARGET {
        object.insert("event".into(), "session".into());
    }
    for (name, value) in fields.others {
        object.insert(name.to_owned(), value);
    }
    let line = serde_json::to_vec(&object).unwrap_or_default();
    if line.len() < LINE_MAX_BYTES {
        return ended(line);
    }
    // What is cut must still be JSON: the fields go, and the start of the message stays.
    let message = object.remove("message").and_then(|message| message.as_str().map(str::to_owned));
    object.retain(|name, _| ["time", "level", "event"].contains(&name.as_str()));
    let message: String = message.unwrap_or_default().chars().take(CUT_MESSAGE_CHARS).collect();
    object.insert("message".into(), message.into());
    ended(serde_json::to_vec(&object).unwrap_or_default())
}

fn text(level: Level, target: &str, fields: &Fields, style: Style) -> Vec<u8> {
    let mut line = match style {
        Style::Journal => format!("<{}>", priority(level)),
        Style::Text | Style::Json => format!("{} {level:<5} ", rfc3339(SystemTime::now())),
    };
    line.push_str(target);
    line.push_str(": ");
    push_escaped(&mut line, &fields.message, |_| false);
    for (name, value) in &fields.others {
        line.push(' ');
        line.push_str(name);
        line.push('=');
        push_value(&mut line, value);
    }
    let end = line.floor_char_boundary(LINE_MAX_BYTES - 1);
    line.truncate(end);
    ended(line.into_bytes())
}

fn ended(mut line: Vec<u8>) -> Vec<u8> {
    line.push(b'\n');
    line
}

/// syslog(3)
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

fn push_value(line: &mut String, value: &Value) {
    let Value::String(text) = value else {
        line.push_str(&value.to_string());
        return;
    };
    let plain = |c: char| !c.is_control() && !c.is_whitespace() && c != '"' && c != '=';
    if !text.is_empty() && text.chars().all(plain) {
        line.push_str(text);
        return;
    }
    line.push('"');
    push_escaped(line, text, |c| c == '"' || c == '\\');
    line.push('"');
}

fn push_escaped(line: &mut String, text: &str, escape: impl Fn(char) -> bool) {
    for c in text.chars() {
        // U+2028 and its like end lines for some readers; bidirectional controls turn text around.
        let treacherous = matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
        if c.is_control() || treacherous || escape(c) {
            line.extend(c.escape_debug());
        } else {
            line.push(c);
        }
    }
}

/// The fields of an event in their order.
#[derive(Default)]
struct Fields {
    message: String,
    others: Vec<(&'static str, Value)>,
}

impl Fields {
    fn push(&mut self, field: &Field, value: Value) {
        if field.name() == "message" {
            self.message = match value {
                Value::String(text) => text,
                other => other.to_string(),
            };
        } else {
            self.others.push((field.name(), value));
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = String::new();
        // A Debug that fails leaves what it has written.
        if write!(text, "{value:?}").is_err() {
            text.push('…');
        }
        self.push(field, text.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.push(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.push(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.push(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.push(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.push(field, value.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text_of(message: &str, value: &str) -> String {
        let fields = Fields { message: message.into(), others: vec![("name", value.into())] };
        String::from_utf8(text(Level::INFO, "portcullis", &fields, Style::Journal)).unwrap()
    }

    #[test]
    fn a_journal_line_has_its_priority_and_no_time() {
        assert_eq!(text_of("up", "main"), "<6>portcullis: up name=main\n");
    }

    #[test]
    fn nothing_in_a_field_can_forge_a_line() {
        let line = text_of("a\nERROR b", "x\r\n\u{1b}[2J\u{202e}\" y=\\");
        assert_eq!(line.matches(['\n', '\r', '\u{1b}', '\u{202e}']).count(), 1, "{line:?}");
        assert!(line.starts_with("<6>portcullis: a\\nERROR b name=\"x\\r\\n\\u{1b}[2J"), "{line:?}");
    }

    #[test]
    fn long_lines_are_cut_and_stay_what_they_are() {
        let long = "é".repeat(LINE_MAX_BYTES);
        assert!(text_of(&long, "").len() <= LINE_MAX_BYTES);
        let fields = Fields { message: long.clone(), others: vec![("name", long.into())] };
        let line = json(Level::INFO, "portcullis", fields);
        assert!(line.len() <= LINE_MAX_BYTES);
        let value: Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(value["level"], "info");
    }

    #[test]
    fn an_empty_value_shows_as_such() {
        assert_eq!(text_of("m", ""), "<6>portcullis: m name=\"\"\n");
    }
}
