//! The file that keeps bans over a restart of the daemon and of the machine.
//!
//! A file that cannot be read costs the bans, not the start: a gateway that stays down helps nobody.

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use portcullis_core::penalty::Offence;
use portcullis_core::penalty::list::{Ban, Origin};
use serde::{Deserialize, Serialize};

/// Below the state directory.
const FILE: &str = "bans.json";
/// A full list fits, each ban with a note.
const FILE_MAX_BYTES: u64 = 64 * 1024 * 1024;

#[derive(Default, Serialize, Deserialize)]
struct Kept {
    bans: Vec<KeptBan>,
}

#[derive(Serialize, Deserialize)]
struct KeptBan {
    prefix: String,
    origin: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
    #[serde(default, skip_serializing_if = "is_zero")]
    offences: u32,
    #[serde(default, skip_serializing_if = "is_zero")]
    repeats: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    /// Milliseconds since 1970.
    since: u64,
    until: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

pub(super) fn path(state_dir: &Path) -> PathBuf {
    state_dir.join(FILE)
}

/// The bans of the file that have not ended.
pub(super) fn read(path: &Path, now: Instant, wall: SystemTime) -> Vec<Ban> {
    let kept = match parse(path) {
        Ok(kept) => kept,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            tracing::error!(file = %path.display(), %error, "the bans of the last run are lost");
            return Vec::new();
        }
    };
    kept.bans.into_iter().filter_map(|ban| revive(ban, now, wall)).collect()
}

fn parse(path: &Path) -> io::Result<Kept> {
    let mut text = Vec::new();
    fs::File::open(path)?.take(FILE_MAX_BYTES).read_to_end(&mut text)?;
    serde_json::from_slice(&text).map_err(io::Error::from)
}

fn revive(kept: KeptBan, now: Instant, wall: SystemTime) -> Option<Ban> {
    let until = UNIX_EPOCH.checked_add(Duration::from_millis(kept.until))?;
    let left = until.duration_since(wall).ok().filter(|left| !left.is_zero())?;
    let offence = kept.kind.as_deref().and_then(Offence::from_label);
    let origin = match (kept.origin.as_str(), offence) {
        ("hand", _) => Origin::Hand { note: kept.note },
        ("automatic", Some(offence)) => {
            Origin::Automatic { offence, offences: kept.offences, repeats: kept.repeats }
        }
        _ => Origin::Found,
    };
    Some(Ban {
        prefix: kept.prefix.parse().ok()?,
        origin,
        since: UNIX_EPOCH.checked_add(Duration::from_millis(kept.since))?,
        until,
        end: now.checked_add(left)?,
        in_kernel: false,
    })
}

pub(super) fn text<'a>(bans: impl Iterator<Item = &'a Ban>) -> Vec<u8> {
    let kept = Kept { bans: bans.map(keep).collect() };
    // Nothing in it can fail to serialise: all keys are strings.
    serde_json::to_vec(&kept).unwrap_or_default()
}

fn keep(ban: &Ban) -> KeptBan {
    let milliseconds = |at: SystemTime| {
        u64::try_from(at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
    };
    let (kind, offences, repeats, note) = match &ban.origin {
        Origin::Automatic { offence, offences, repeats } => {
            (Some(offence.label()), *offences, *repeats, None)
        }
        Origin::Hand { note } => (None, 0, 0, note.clone()),
        Origin::Found => (None, 0, 0, None),
    };
    KeptBan {
        prefix: ban.prefix.to_string(),
        origin: ban.origin.label().to_owned(),
        kind: kind.map(str::to_owned),
        offences,
        repeats,
        note,
        since: milliseconds(ban.since),
        until: milliseconds(ban.until),
    }
}

/// Writes the file whole or not at all.
pub(super) fn write(path: &Path, text: &[u8]) -> io::Result<()> {
    let new = path.with_extension("json.new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ban(prefix: &str, origin: Origin, left: u64) -> Ban {
        let (now, since) = (Instant::now(), SystemTime::now());
        let time = Duration::from_secs(left);
        let prefix = prefix.parse().unwrap();
        Ban { prefix, origin, since, until: since + time, end: now + time, in_kernel: true }
    }

    #[test]
    fn what_is_kept_is_read_again_but_for_what_has_ended() {
        let directory = tempfile::tempdir().unwrap();
        let path = path(directory.path());
        let automatic = Origin::Automatic { offence: Offence::FailedLogin, offences: 20, repeats: 2 };
        let note = Some("asked by \"ops\", ticket 7".to_owned());
        let bans = [
            ban("192.0.2.1/32", automatic, 100),
            ban("2001:db8::/64", Origin::Hand { note }, 200),
            ban("198.51.100.0/24", Origin::Found, 300),
            ban("203.0.113.0/24", Origin::Found, 1),
        ];
        write(&path, &text(bans.iter())).unwrap();
        let (now, wall) = (Instant::now(), SystemTime::now());
        let read = read(&path, now + Duration::from_secs(10), wall + Duration::from_secs(10));
        let facts = |ban: &Ban| (ban.prefix, ban.origin.clone());
        assert_eq!(
            read.iter().map(facts).collect::<Vec<_>>(),
            bans[..3].iter().map(facts).collect::<Vec<_>>()
        );
        let left = read[0].end.duration_since(now + Duration::from_secs(10));
        assert!(left > Duration::from_secs(85) && left <= Duration::from_secs(90), "{left:?}");
    }

    #[test]
    fn a_damaged_file_costs_the_bans_and_a_damaged_row_only_itself() {
        let directory = tempfile::tempdir().unwrap();
        let path = path(directory.path());
        let (now, wall) = (Instant::now(), SystemTime::now());
        assert!(read(&path, now, wall).is_empty());
        write(&path, b"{\"bans\":[{\"pre").unwrap();
        assert!(read(&path, now, wall).is_empty());
        let rows = r#"{"bans":[{"prefix":"here","origin":"hand","since":0,"until":99999999999999},
            {"prefix":"192.0.2.1/32","origin":"by magic","since":0,"until":99999999999999},
            {"prefix":"192.0.2.2/32","origin":"hand","since":0,"until":18446744073709551615}]}"#;
        write(&path, rows.as_bytes()).unwrap();
        let read = read(&path, now, wall);
        assert_eq!(read[0].origin, Origin::Found);
        assert!(read.iter().all(|ban| ban.prefix.to_string().starts_with("192.0.2.")));
    }
}
