//! Candidates that an operator keeps under a name, to go on later. One shelf for all operators.

use std::fs;
use std::io::{self, Error, ErrorKind};
use std::path::{Path, PathBuf};

use crate::config;
use crate::disk::Disk;

/// Names on the shelf.
const NAMES_MAX: usize = 32;
const NAME_MAX_BYTES: usize = 64;
const PREFIX: &str = "saved-";
const SUFFIX: &str = ".toml";

pub(super) fn write(disk: &Disk, directory: &Path, name: &str, text: &str) -> io::Result<()> {
    let path = path(directory, name)?;
    let all = names(directory);
    if all.len() >= NAMES_MAX && !all.iter().any(|other| other == name) {
        let text = format!("there are {NAMES_MAX} saved candidates; save under a name that is in use");
        return Err(Error::new(ErrorKind::StorageFull, text));
    }
    disk.make_directory(directory)?;
    disk.write(&path, text.as_bytes())
}

pub(super) fn read(directory: &Path, name: &str) -> io::Result<String> {
    config::read(&path(directory, name)?)
        .map_err(|_| Error::new(ErrorKind::NotFound, format!("there is no saved candidate `{name}`")))
}

pub(super) fn names(directory: &Path) -> Vec<String> {
    let files = fs::read_dir(directory).into_iter().flatten().flatten();
    let name = |file: fs::DirEntry| {
        let name = file.file_name().to_str()?.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?.to_owned();
        Some(name)
    };
    let mut names: Vec<String> = files.filter_map(name).collect();
    names.sort();
    names
}

/// A name leads nowhere else.
fn path(directory: &Path, name: &str) -> io::Result<PathBuf> {
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.is_empty() || name.len() > NAME_MAX_BYTES || !name.chars().all(legal) {
        let text = format!("a name has letters, digits, `-` and `_`, at most {NAME_MAX_BYTES}");
        return Err(Error::new(ErrorKind::InvalidInput, text));
    }
    Ok(directory.join(format!("{PREFIX}{name}{SUFFIX}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_nowhere_else_and_there_are_not_too_many() {
        let directory = tempfile::tempdir().unwrap();
        let disk = Disk::default();
        for name in ["", "../x", "a/b", "a.b", "ä"] {
            assert!(write(&disk, directory.path(), name, "").is_err(), "{name}");
        }
        for n in 0..NAMES_MAX {
            write(&disk, directory.path(), &format!("n{n}"), "a = 1\n").unwrap();
        }
        assert!(write(&disk, directory.path(), "more", "").is_err());
        write(&disk, directory.path(), "n3", "b = 2\n").unwrap();
        assert_eq!(read(directory.path(), "n3").unwrap(), "b = 2\n");
        assert!(read(directory.path(), "n99").is_err());
        assert_eq!(names(directory.path()).len(), NAMES_MAX);
    }
}
