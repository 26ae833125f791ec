//! The state directory over updates, forward and back by one version.
//!
//! Every file there is JSON, or lines of it, that is read leniently: members that nobody knows are passed over, and new
//! ones have a default, so that neither version loses what the other wrote. Configurations are not: a key that this
//! version does not know is a mistake. When the version before comes back and cannot read what was committed since, it
//! takes the newest configuration of the history that it can read. What it leaves stays in the history.

use std::path::Path;

use super::DIRECTORY;
use super::history::History;
use super::trial::Start;
use crate::disk::Disk;
use crate::version;

/// What to start with instead of a text that this version cannot read, because another one put it in force. Nothing when
/// that is not why: a file that somebody has edited is theirs to mend.
#[must_use]
pub fn to_start_with(
    file: &Path,
    state: &Path,
    text: &str,
    reads: impl Fn(&str) -> Result<(), String>,
) -> Option<Start> {
    let history = History::open(&state.join(DIRECTORY));
    let newest = history.entries().next()?;
    if newest.version.is_empty() || newest.version == version::installed() {
        return None;
    }
    let by = newest.version.clone();
    let why = reads(text).err()?;
    if history.newest_text()? != text {
        return None;
    }
    let older = (1..history.entries().count()).filter_map(|back| history.text(back));
    let chosen = older.into_iter().find(|text| reads(text).is_ok())?;
    let told = format!("version {by} wrote a configuration that this one cannot read: {why}");
    tracing::error!("{told}; the newest of the history that it can read is in force");
    let file = file.canonicalize().unwrap_or_else(|_| file.to_owned());
    if let Err(error) = Disk::default().write(&file, chosen.as_bytes()) {
        tracing::error!(%error, path = %file.display(), "the configuration before cannot be written");
    }
    Some(Start { text: chosen, trial: None, reverted: Some(told) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::role::Origin;
    use crate::store::history::Entry;
    use std::fs;

    fn reads(text: &str) -> Result<(), String> {
        if text.contains("new") { Err("1:1: unknown key `new`".to_owned()) } else { Ok(()) }
    }

    fn place(versions: &[(&str, &str)]) -> tempfile::TempDir {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join(DIRECTORY);
        fs::create_dir(&directory).unwrap();
        let mut history = History::open(&directory);
        for (version, text) in versions {
            let mut entry = Entry::new(&Origin::daemon(), "commit", "", text);
            entry.version = (*version).to_owned();
            history.add(&Disk::default(), entry).unwrap();
        }
        fs::write(place.path().join("x.toml"), versions.last().unwrap().1).unwrap();
        place
    }

    fn start(place: &Path) -> Option<Start> {
        let text = fs::read_to_string(place.join("x.toml")).unwrap();
        to_start_with(&place.join("x.toml"), place, &text, reads)
    }

    #[test]
    fn the_version_before_takes_the_newest_configuration_that_it_can_read() {
        let place = place(&[("1", "a = 1\n"), ("1", "a = 2\n"), ("2", "new = 1\n"), ("2", "new = 2\n")]);
        let start = start(place.path()).unwrap();
        assert_eq!(start.text, "a = 2\n");
        assert!(start.reverted.unwrap().contains("unknown key `new`"));
        assert_eq!(fs::read_to_string(place.path().join("x.toml")).unwrap(), "a = 2\n");
        // What the newer version had in force is not lost.
        let history = History::open(&place.path().join(DIRECTORY));
        assert_eq!(history.newest_text().unwrap(), "new = 2\n");
    }

    #[test]
    fn a_mistake_of_somebody_is_theirs_to_mend() {
        let edited = place(&[("2", "a = 1\n")]);
        fs::write(edited.path().join("x.toml"), "new = 1\n").unwrap();
        assert!(start(edited.path()).is_none());
        let own = place(&[(version::installed(), "a = 1\n"), (version::installed(), "new = 1\n")]);
        assert!(start(own.path()).is_none());
        let readable = place(&[("1", "a = 1\n"), ("2", "a = 2\n")]);
        assert!(start(readable.path()).is_none());
    }

    #[test]
    fn entries_of_earlier_and_later_versions_are_read() {
        let place = tempfile::tempdir().unwrap();
        let earlier =
            r#"{"number":1,"at":"2026-01-01T00:00:00Z","who":"ann","action":"commit","text":"a = 1\n"}"#;
        let later = r#"{"number":2,"at":"2026-01-02T00:00:00Z","who":"ann","uid":7,"action":"sync","comment":"x",
            "text":"a = 2\n","version":"9","cluster":{"peer":"b"}}"#;
        for (number, text) in [(1, earlier), (2, later)] {
            fs::write(place.path().join(format!("commit-{number:08}.json")), text).unwrap();
        }
        let history = History::open(place.path());
        let versions: Vec<&str> = history.entries().map(|entry| entry.version.as_str()).collect();
        assert_eq!(versions, ["9", ""]);
        assert_eq!(history.text(1).unwrap(), "a = 1\n");
    }
}
