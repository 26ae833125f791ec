//! How commands speak: results on standard output, for people or as JSON, and failures on standard error.

use std::fmt::Display;
use std::io::{self, IsTerminal as _, Write as _};
use std::sync::Mutex;

use serde::Serialize;

use super::table::Table;
use crate::ctl::client::ClientError;
use crate::ctl::protocol::ErrorCode;
use crate::exit::Exit;
use crate::sync::lock;

/// Widest table when nobody says how wide the output is.
const WIDTH_UNKNOWN: usize = usize::MAX;

/// Why a command did not do what it should: a code for programs and words for people.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    /// Empty: nothing is to be said.
    pub(crate) message: String,
}

pub(crate) type Outcome = Result<Exit, Failure>;

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }

    /// A file that cannot be read or written.
    pub(crate) fn file(what: impl Display, path: &std::path::Path, error: &io::Error) -> Self {
        let exit = match error.kind() {
            io::ErrorKind::PermissionDenied => Exit::Permission,
            io::ErrorKind::NotFound | io::ErrorKind::IsADirectory => Exit::Data,
            _ => Exit::Internal,
        };
        Self::new(exit, format!("cannot {what} {}: {error}", path.display()))
    }
}

/// Standard output that cannot be written. A reader that has gone away wants no more, and no words.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::new(Exit::Ok, "");
        }
        Self::new(Exit::Internal, format!("cannot write to standard output: {error}"))
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match &error {
            ClientError::Connect { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Self::new(Exit::Permission, format!("{error}; run this as root or as the daemon's user"))
            }
            ClientError::Connect { .. } => Self::new(
                Exit::Unavailable,
                format!("{error}; is portcullisd running? Use --socket for another"),
            ),
            ClientError::Io { .. } | ClientError::Garbage { .. } => {
                Self::new(Exit::Unavailable, error.to_string())
            }
            ClientError::Failure(failure) => {
                let exit = match failure.code {
                    ErrorCode::NotFound | ErrorCode::Refused => Exit::Negative,
                    ErrorCode::BadRequest => Exit::Data,
                    ErrorCode::Unavailable => Exit::Unavailable,
                    ErrorCode::Internal => Exit::Internal,
                };
                Self::new(exit, failure.message.clone())
            }
        }
    }
}

/// Where results go.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) json: bool,
    pub(crate) colour: bool,
    pub(crate) terminal: bool,
    /// Results are collected here instead of being written.
    collected: Option<Mutex<Vec<u8>>>,
}

impl Output {
    pub(crate) fn new(json: bool, no_color: bool) -> Self {
        let terminal = io::stdout().is_terminal();
        let forbidden = no_color || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self { json, colour: terminal && !forbidden && !dumb && !json, terminal, collected: None }
    }

    /// The same, keeping results until they are asked for.
    pub(crate) fn collecting(self) -> Self {
        Self { collected: Some(Mutex::default()), ..self }
    }

    /// What was collected.
    pub(crate) fn collected(&self) -> String {
        let bytes =
            self.collected.as_ref().map(|bytes| std::mem::take(&mut *lock(bytes))).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Columns of the output: `COLUMNS`, or what the terminal says.
    pub(crate) fn width(&self) -> usize {
        let told = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
        let asked = || terminal_size::terminal_size_of(io::stdout()).map(|(width, _)| usize::from(width.0));
        told.or_else(|| if self.terminal { asked() } else { None })
            .filter(|width| *width > 0)
            .unwrap_or(WIDTH_UNKNOWN)
    }

    /// Rows of the terminal.
    pub(crate) fn height(&self) -> usize {
        let told = std::env::var("LINES").ok().and_then(|lines| lines.parse().ok());
        let asked = || terminal_size::terminal_size_of(io::stdout()).map(|(_, height)| usize::from(height.0));
        told.or_else(asked).unwrap_or(24)
    }

    /// Text as it is, and a newline unless it has one.
    pub(crate) fn text(&self, text: &str) -> Result<(), Failure> {
        self.bytes(text.as_bytes())?;
        if !text.ends_with('\n') {
            self.bytes(b"\n")?;
        }
        Ok(())
    }

    /// Bytes as they are.
    pub(crate) fn bytes(&self, bytes: &[u8]) -> Result<(), Failure> {
        if let Some(collected) = &self.collected {
            lock(collected).extend_from_slice(bytes);
            return Ok(());
        }
        let mut out = io::stdout().lock();
        out.write_all(bytes)?;
        out.flush()?;
        Ok(())
    }

    /// One JSON value, indented for a terminal and else on one line.
    pub(crate) fn json(&self, value: &impl Serialize) -> Result<(), Failure> {
        let text =
            if self.terminal { serde_json::to_string_pretty(value) } else { serde_json::to_string(value) };
        self.text(&text.map_err(|error| Failure::new(Exit::Internal, error.to_string()))?)
    }

    /// JSON where it was asked for, else the table.
    pub(crate) fn value_or_table(&self, value: &impl Serialize, table: &Table) -> Result<(), Failure> {
        if self.json { self.json(value) } else { self.text(&table.render(self.width(), self.colour)) }
    }

    /// JSON where it was asked for, else the sentence.
    pub(crate) fn value_or_text(&self, value: &impl Serialize, text: &str) -> Result<(), Failure> {
        if self.json { self.json(value) } else { self.text(text) }
    }

    /// A warning on standard error.
    pub(crate) fn warn(&self, message: impl Display) {
        complain(&format!("portcullis: warning: {message}"));
    }

    /// Something worth knowing on standard error.
    pub(crate) fn note(&self, message: impl Display) {
        complain(&format!("portcullis: {message}"));
    }

    /// Says why a command failed.
    pub(crate) fn failure(&self, failure: &Failure) {
        if failure.message.is_empty() {
            return;
        }
        if self.json {
            let error = serde_json::json!({"code": failure.exit.as_str(), "message": failure.message});
            complain(&serde_json::json!({ "error": error }).to_string());
        } else {
            complain(&format!("portcullis: {}", failure.message));
        }
    }
}

/// Writes to standard error. When even that fails there is nobody left to tell.
pub(crate) fn complain(line: &str) {
    drop(writeln!(io::stderr(), "{line}"));
}
