//! Values that are true just now, for completion: asked of the daemon, each at most so often.

use std::cell::RefCell;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::choices;
use crate::config::path::quoted;
use crate::config::schema::{Shape, keys_of};
use crate::ctl::client::Client;
use crate::ctl::protocol::{
    AccessRow, BanFilter, BanRow, CaptureRow, CertificateRow, Command, ConfigText, ForwardStatus, HistoryRow,
    SecretPage, SessionFilter, SessionRow, StaRow, Status, UpdateStatus, WhichText,
};
use crate::store::edit;

/// How old an answer may be: between two presses of Tab nothing is asked again.
const FRESH: Duration = Duration::from_secs(3);
/// Values that are offered.
const VALUES_MAX: usize = 500;

/// What kind of value a place takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Session,
    User,
    Sta,
    Listener,
    Server,
    Ban,
    Back,
    Saved,
    Capture,
    Interface,
    Certificate,
    Secret,
    /// Of SSH, by its fingerprint.
    Key,
    /// Of the appliance: those that a source of updates has told, and those that are installed.
    Version,
}

/// Asks the daemon.
#[derive(Debug)]
pub(super) struct Live {
    socket: PathBuf,
    asked: RefCell<Vec<(Kind, Instant, Vec<String>)>>,
}

impl Live {
    pub(super) fn new(socket: PathBuf) -> Self {
        Self { socket, asked: RefCell::default() }
    }

    /// The values of a kind; none where the daemon does not say.
    pub(super) fn values(&self, kind: Kind) -> Vec<String> {
        let mut asked = self.asked.borrow_mut();
        asked.retain(|(_, at, _)| at.elapsed() < FRESH);
        if let Some((_, _, values)) = asked.iter().find(|(of, _, _)| *of == kind) {
            return values.clone();
        }
        let mut values = self.ask(kind).unwrap_or_default();
        values.retain(|value| !value.chars().any(char::is_control));
        values.truncate(VALUES_MAX);
        asked.push((kind, Instant::now(), values.clone()));
        values
    }

    fn ask(&self, kind: Kind) -> Option<Vec<String>> {
        let mut client = Client::connect(&self.socket).ok()?;
        Some(match kind {
            Kind::Session | Kind::User => {
                let rows: Vec<SessionRow> =
                    client.call(&Command::SessionsList(SessionFilter::default())).ok()?;
                let value = |row: SessionRow| if kind == Kind::Session { Some(row.id) } else { row.user };
                sorted(rows.into_iter().filter_map(value))
            }
            Kind::Sta => {
                let rows: Vec<StaRow> = client.call(&Command::StaList {}).ok()?;
                sorted(rows.into_iter().map(|row| row.name))
            }
            Kind::Listener => {
                let status: Status = client.call(&Command::Status {}).ok()?;
                sorted(status.listeners.into_iter().map(|row| row.name))
            }
            Kind::Server => {
                let rows: Vec<ForwardStatus> = client.call(&Command::ForwardStatus {}).ok()?;
                sorted(rows.into_iter().flat_map(|row| row.servers).map(|server| server.name))
            }
            Kind::Ban => {
                let rows: Vec<BanRow> = client.call(&Command::BansList(BanFilter::default())).ok()?;
                sorted(rows.into_iter().map(|row| row.prefix))
            }
            Kind::Back => {
                let rows: Vec<HistoryRow> = client.call(&Command::ConfigHistory {}).ok()?;
                rows.into_iter().map(|row| row.back.to_string()).collect()
            }
            Kind::Capture => {
                let rows: Vec<CaptureRow> = client.call(&Command::CaptureList {}).ok()?;
                rows.into_iter().map(|row| row.name).collect()
            }
            Kind::Interface => {
                let entries = std::fs::read_dir("/sys/class/net").ok()?;
                sorted(entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()))
            }
            Kind::Certificate => {
                let rows: Vec<CertificateRow> = client.call(&Command::CertificateList {}).ok()?;
                rows.into_iter().map(|row| row.name).collect()
            }
            Kind::Secret => {
                let page: SecretPage = client.call(&Command::SecretList {}).ok()?;
                page.secrets.into_iter().map(|row| row.name).collect()
            }
            Kind::Key => {
                let rows: Vec<AccessRow> = client.call(&Command::AccessList {}).ok()?;
                sorted(rows.into_iter().flat_map(|row| row.keys).map(|key| key.fingerprint))
            }
            Kind::Saved => client.call(&Command::ConfigSaved {}).ok()?,
            Kind::Version => {
                let status: UpdateStatus = client.call(&Command::UpdateStatus {}).ok()?;
                let told = status.job.into_iter().flat_map(|job| job.versions);
                sorted(told.chain(status.slots.into_iter().map(|slot| slot.version)))
            }
        })
    }

    /// The paths of the configuration that begin like a typed one: keys, and the names of tables in the candidate.
    pub(super) fn paths(&self, place: &str, typed: &str) -> Vec<String> {
        let (before, _) = typed.rsplit_once('.').unwrap_or(("", typed));
        let full = super::grammar::joined(place, before);
        let prefix = if before.is_empty() { String::new() } else { format!("{before}.") };
        let words: Vec<String> = match edit::shape_of(&full) {
            Ok(Shape::Table(table)) => keys_of(table).iter().map(|(key, _)| (*key).to_owned()).collect(),
            Ok(Shape::List(Shape::Table(_))) => {
                let text = self.candidate().unwrap_or_default();
                let mut names = edit::names(&text, &full);
                if ["network.interface", "xdp.interface"].contains(&full.as_str()) {
                    names.extend(self.values(Kind::Interface));
                }
                sorted(names.iter().map(|name| quoted(name)))
            }
            _ => Vec::new(),
        };
        words.into_iter().map(|word| format!("{prefix}{word}")).collect()
    }

    /// Values that may stand at a path, as far as there is a list of them.
    pub(super) fn values_at(&self, path: &str) -> Vec<String> {
        let key = path.rsplit('.').next().unwrap_or_default();
        let of_network =
            ["network.", "xdp.", "high_availability."].iter().any(|table| path.starts_with(table));
        match key {
            _ if key.ends_with("_secret") || key.ends_with("_secrets") => self.values(Kind::Secret),
            "parent" | "members" | "interface" if of_network => self.values(Kind::Interface),
            _ => choices::of(&self.candidate().unwrap_or_default(), path),
        }
    }

    fn candidate(&self) -> Option<String> {
        let which = WhichText { candidate: true, back: None, path: None };
        let answer: ConfigText =
            Client::connect(&self.socket).ok()?.call(&Command::ConfigText(which)).ok()?;
        Some(answer.text)
    }
}

fn sorted(values: impl Iterator<Item = String>) -> Vec<String> {
    let mut values: Vec<String> = values.collect();
    values.sort();
    values.dedup();
    values
}
