//! Confirm or revert: a policy that was changed in a running daemon holds for a while, and is taken back unless an
//! operator confirms it. Whoever has shut himself out cannot, and gets in again.
//!
//! What is not confirmed stays so over a restart: a note in the state directory has the policy before and the one
//! that was tried, and a daemon that starts with the latter in its file takes the former.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::policy::RuleRow;
use crate::config::{self, Config, XdpConfig};

const NOTE: &str = "xdp-unconfirmed.json";
/// A note holds two configuration files.
const NOTE_MAX_BYTES: u64 = 4 * config::FILE_MAX_BYTES;

/// What holds, as people see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Running {
    pub(super) xdp: XdpConfig,
    pub(super) rows: Vec<RuleRow>,
    /// Entries of the table of rules.
    pub(super) entries: usize,
}

/// A change that waits.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    pub(super) ends: Instant,
    pub(super) before: Running,
    /// The configuration file with the changed policy.
    pub(super) tried: String,
}

/// Texts of configuration files.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    confirmed: String,
    tried: String,
}

fn path(state: &Path) -> PathBuf {
    state.join(NOTE)
}

/// Notes a change before it takes effect.
pub(super) fn note(state: &Path, confirmed: &str, tried: &str) -> std::io::Result<()> {
    let note = Note { confirmed: confirmed.to_owned(), tried: tried.to_owned() };
    let bytes = serde_json::to_vec(&note).map_err(std::io::Error::other)?;
    let new = path(state).with_extension("new");
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    fs::rename(new, path(state))
}

/// There is nothing to be confirmed any more.
pub(super) fn forget(state: &Path) {
    match fs::remove_file(path(state)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::error!(%error, path = %path(state).display(), "remove this file: its policy is confirmed");
        }
        _ => {}
    }
}

/// What a daemon starts with.
#[derive(Debug)]
pub struct Start {
    /// That of the file; where the policy of the file was never confirmed, with the `[xdp]` before it.
    pub config: Config,
    /// The text of the file with that `[xdp]`.
    pub(super) text: String,
    /// Whether there is a policy that waits for an operator.
    is_unconfirmed: bool,
}

impl Start {
    /// Takes the policy that was confirmed last, and with it budgets, sizes and steering: one decision.
    #[must_use]
    pub fn of(config: Config) -> Self {
        let before = confirmed_before(&config.server.state_dir, &config);
        let Some(((confirmed, text), xdp)) = before.zip(config.xdp.clone()) else {
            // A file that has vanished since it was read has nothing to go back to.
            let text = config::read(&config.path).unwrap_or_default();
            return Self { config, text, is_unconfirmed: false };
        };
        tracing::warn!(
            "the [xdp] policy of {} was tried and not confirmed, so the one before it is in force; `portcullis reload` \
             tries it again, `portcullis ports diff` shows the difference",
            config.path.display()
        );
        // What the machine has is as the file says: the program must get onto the interfaces that are there.
        let XdpConfig { interfaces, mode, pins, cgroup, .. } = xdp;
        let xdp = XdpConfig { interfaces, mode, pins, cgroup, ..confirmed };
        Self { config: Config { xdp: Some(xdp), ..config }, text, is_unconfirmed: true }
    }

    /// A note about any other policy than that of the file is over: not before this daemon has everything to itself.
    pub(super) fn forget_others(&self) {
        if !self.is_unconfirmed {
            forget(&self.config.server.state_dir);
        }
    }
}

fn confirmed_before(state: &Path, config: &Config) -> Option<(XdpConfig, String)> {
    fs::metadata(path(state)).ok().filter(|found| found.len() <= NOTE_MAX_BYTES)?;
    let note: Note = serde_json::from_slice(&fs::read(path(state)).ok()?).ok()?;
    let tried = config::parse(&note.tried, &config.path).ok()?;
    // A file that was edited since is a new decision.
    if tried.xdp != config.xdp {
        return None;
    }
    Some((config::parse(&note.confirmed, &config.path).ok()?.xdp?, note.confirmed))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: &str = "[xdp]\nallow_no_management = true\n";
    const INTERFACE: &str = "interface = [{ name = \"e\", role = \"edge\" }]\n";

    #[test]
    fn what_was_not_confirmed_is_not_started_with_until_the_file_changes() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("x.toml");
        let state = format!("[server]\nstate_dir = \"{}\"\n", directory.path().display());
        let text = |bogons: &str| format!("{state}{BASE}{INTERFACE}bogons = \"{bogons}\"\n");
        let parse = |bogons: &str| config::parse(&text(bogons), &file).unwrap();
        let starts = |config: Config| {
            let start = Start::of(config);
            start.forget_others();
            start.config.xdp.unwrap().bogons.as_str()
        };
        note(directory.path(), &text("off"), &text("full")).unwrap();
        assert_eq!(starts(parse("full")), "off");
        assert_eq!(starts(parse("full")), "off");
        assert_eq!(starts(parse("martians")), "martians");
        assert_eq!(starts(parse("full")), "full", "it was forgotten");
        note(directory.path(), &text("off"), &text("full")).unwrap();
        forget(directory.path());
        assert_eq!(starts(parse("full")), "full");
    }
    #[test]
    fn what_comes_with_a_policy_goes_with_it_and_interfaces_are_those_of_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("x.toml");
        let text = |interface: &str, rest: &str| {
            let state = format!("[server]\nstate_dir = \"{}\"\n", directory.path().display());
            let at = INTERFACE.replace("\"e\"", &format!("\"{interface}\""));
            format!("{state}{BASE}{at}{rest}")
        };
        let before = text("e", "flows = 4096\nsteering = \"off\"\nflood = { syn_total = \"7/s\" }\n");
        let tried = text("f", "bogons = \"full\"\nflows = 8192\nsteering = \"on\"\nmode = \"generic\"\n");
        note(directory.path(), &before, &tried).unwrap();
        let start = Start::of(config::parse(&tried, &file).unwrap());
        let [before, tried] = [&before, &tried].map(|text| config::parse(text, &file).unwrap().xdp.unwrap());
        let found = start.config.xdp.unwrap();
        let of = |xdp: &XdpConfig| (xdp.bogons, xdp.sizes.flows, xdp.steering, xdp.flood.syn_total);
        assert_eq!(of(&found), of(&before));
        assert_eq!((found.interfaces, found.mode), (tried.interfaces, tried.mode));
        assert_eq!(
            start.text,
            text("e", "flows = 4096\nsteering = \"off\"\nflood = { syn_total = \"7/s\" }\n")
        );
    }
}
