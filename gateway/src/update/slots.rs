//! Versions that are installed, as the names of their kernel images tell: systemd-boot counts tries there (`+LEFT-DONE`,
//! Boot Loader Specification, *Boot counting*), and takes the newest version that has tries left or needs none.

use std::cmp::Ordering;
use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Version;

const PREFIX: &str = "portcullis_";
const SUFFIX: &str = ".efi";
/// Tries of a version that somebody goes to; as in the transfer of the kernel image.
const TRIES: u32 = 3;
/// More than any version has had: it tells who was set aside from who is in the last of its tries.
const DONE_ASIDE: u32 = 9;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    pub version: String,
    pub state: SlotState,
    /// How often it may still start without having become healthy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tries_left: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SlotState {
    /// It was healthy, or came with the machine.
    Good,
    /// It has tries left.
    OnTrial,
    /// It used up its tries without becoming healthy.
    Failed,
    /// Somebody chose the other one.
    SetAside,
}

impl SlotState {
    pub const ALL: [Self; 4] = [Self::Good, Self::OnTrial, Self::Failed, Self::SetAside];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::OnTrial => "on-trial",
            Self::Failed => "failed",
            Self::SetAside => "set-aside",
        }
    }

    /// Whether the boot loader takes it only where there is nothing else.
    fn is_last_resort(self) -> bool {
        matches!(self, Self::Failed | Self::SetAside)
    }
}

/// What is installed, the newest first.
pub(super) fn read(kernels: &Path) -> io::Result<Vec<Slot>> {
    let mut slots = Vec::new();
    for entry in fs::read_dir(kernels)? {
        if let Some((version, tries)) = parse(&entry?.file_name().to_string_lossy()) {
            let (state, tries_left) = match tries {
                None => (SlotState::Good, None),
                Some((0, DONE_ASIDE..)) => (SlotState::SetAside, None),
                Some((0, _)) => (SlotState::Failed, None),
                Some((left, _)) => (SlotState::OnTrial, Some(left)),
            };
            slots.push(Slot { version: version.to_string(), state, tries_left });
        }
    }
    slots.sort_by(|one, other| order(&other.version, &one.version));
    Ok(slots)
}

/// The version that the boot loader takes next.
pub(super) fn next(slots: &[Slot]) -> Option<&Slot> {
    slots.iter().find(|slot| !slot.state.is_last_resort()).or_else(|| slots.first())
}

/// Makes the boot loader take this version next: it is not set aside any more, and newer ones are. One that does not
/// run is on trial then, so that the one that runs comes back where it does not do.
pub(super) fn choose(kernels: &Path, version: &str, running: &str) -> io::Result<()> {
    let slots = read(kernels)?;
    let chosen = slots.iter().find(|slot| slot.version == version);
    let chosen = chosen.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "it is not installed"))?;
    if version == running {
        rename(kernels, version, None)?;
    } else if chosen.state != SlotState::OnTrial {
        rename(kernels, version, Some((TRIES, 0)))?;
    }
    for newer in slots.iter().filter(|slot| order(&slot.version, version) == Ordering::Greater) {
        if !newer.state.is_last_resort() {
            rename(kernels, &newer.version, Some((0, DONE_ASIDE)))?;
        }
    }
    fs::File::open(kernels)?.sync_all()
}

fn rename(kernels: &Path, version: &str, tries: Option<(u32, u32)>) -> io::Result<()> {
    let to = match tries {
        Some((left, done)) => format!("{PREFIX}{version}+{left}-{done}{SUFFIX}"),
        None => format!("{PREFIX}{version}{SUFFIX}"),
    };
    for entry in fs::read_dir(kernels)? {
        let name = entry?.file_name();
        if parse(&name.to_string_lossy()).is_some_and(|(found, _)| found.as_str() == version) {
            return fs::rename(kernels.join(name), kernels.join(to));
        }
    }
    Err(io::Error::new(io::ErrorKind::NotFound, "it is not installed"))
}

/// `portcullis_VERSION[+LEFT[-DONE]].efi`
fn parse(name: &str) -> Option<(Version, Option<(u32, u32)>)> {
    let stem = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
    let Some((version, tries)) = stem.split_once('+') else {
        return Some((Version::parse(stem).ok()?, None));
    };
    let (left, done) = tries.split_once('-').unwrap_or((tries, "0"));
    Some((Version::parse(version).ok()?, Some((left.parse().ok()?, done.parse().ok()?))))
}

/// Which version is newer, as the boot loader sees it (UAPI Version Format, for the characters that versions have
/// here): numbers by value, words by letters, more of the same is newer.
pub(super) fn order(one: &str, other: &str) -> Ordering {
    let (mut one, mut other) = (one, other);
    loop {
        one = one.trim_start_matches('.');
        other = other.trim_start_matches('.');
        match (one.starts_with('-'), other.starts_with('-')) {
            (true, false) => return Ordering::Less,
            (false, true) => return Ordering::Greater,
            (true, true) => {
                one = one.trim_start_matches('-');
                other = other.trim_start_matches('-');
            }
            (false, false) if one.is_empty() || other.is_empty() => return one.len().cmp(&other.len()),
            (false, false) => {}
        }
        let digits = |byte: char| byte.is_ascii_digit();
        if one.starts_with(digits) || other.starts_with(digits) {
            let (mine, rest) = run(one, digits);
            let (theirs, other_rest) = run(other, digits);
            let (mine, theirs) = (mine.trim_start_matches('0'), theirs.trim_start_matches('0'));
            let compared = mine.len().cmp(&theirs.len()).then_with(|| mine.cmp(theirs));
            if compared != Ordering::Equal {
                return compared;
            }
            (one, other) = (rest, other_rest);
        } else {
            let letters = |byte: char| byte.is_ascii_alphabetic();
            let (mine, rest) = run(one, letters);
            let (theirs, other_rest) = run(other, letters);
            if mine != theirs {
                return mine.cmp(theirs);
            }
            (one, other) = (rest, other_rest);
        }
    }
}

fn run(text: &str, belongs: impl Fn(char) -> bool) -> (&str, &str) {
    let end = text.find(|byte| !belongs(byte)).unwrap_or(text.len());
    text.split_at_checked(end).unwrap_or((text, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernels(names: &[&str]) -> tempfile::TempDir {
        let place = tempfile::tempdir().unwrap();
        for name in names {
            fs::write(place.path().join(name), "").unwrap();
        }
        place
    }

    fn seen(place: &Path) -> Vec<(String, SlotState)> {
        read(place).unwrap().into_iter().map(|slot| (slot.version, slot.state)).collect()
    }

    #[test]
    fn versions_are_ordered_as_the_boot_loader_orders_them() {
        let ordered = [
            "0.1.0-rc1",
            "0.1.0",
            "0.1.0.2611220811",
            "0.1.0.2611220811.1",
            "0.1.0.2612",
            "0.2",
            "0.10",
            "1",
        ];
        // 2612 is the smaller number: a date always has ten digits.
        let expected = [
            "0.1.0-rc1",
            "0.1.0",
            "0.1.0.2612",
            "0.1.0.2611220811",
            "0.1.0.2611220811.1",
            "0.2",
            "0.10",
            "1",
        ];
        let mut sorted = ordered;
        sorted.sort_by(|one, other| order(one, other));
        assert_eq!(sorted, expected);
        for version in ordered {
            assert_eq!(order(version, version), Ordering::Equal);
        }
    }

    #[test]
    fn names_of_kernel_images_tell_versions_and_tries() {
        let place =
            kernels(&["portcullis_1.efi", "portcullis_2+2-1.efi", "portcullis_3+0-3.efi", "other.efi"]);
        let slots = read(place.path()).unwrap();
        assert_eq!(
            seen(place.path()),
            [
                ("3".to_owned(), SlotState::Failed),
                ("2".to_owned(), SlotState::OnTrial),
                ("1".to_owned(), SlotState::Good)
            ]
        );
        assert_eq!(slots[1].tries_left, Some(2));
        assert_eq!(next(&slots).unwrap().version, "2");
    }

    #[test]
    fn the_other_version_is_chosen_and_chosen_back() {
        let place = kernels(&["portcullis_1.efi", "portcullis_2.efi"]);
        let next = || next(&read(place.path()).unwrap()).unwrap().version.clone();
        assert_eq!(next(), "2");
        choose(place.path(), "1", "2").unwrap();
        assert_eq!(next(), "1");
        assert_eq!(
            seen(place.path()),
            [("2".to_owned(), SlotState::SetAside), ("1".to_owned(), SlotState::OnTrial)]
        );
        choose(place.path(), "2", "2").unwrap();
        assert_eq!((next(), seen(place.path())[0].1), ("2".to_owned(), SlotState::Good));
        assert!(choose(place.path(), "3", "2").is_err());
    }
}
