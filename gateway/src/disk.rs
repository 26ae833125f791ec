//! Files that are whole at any moment: written beside their place, brought to the disk, and renamed.
//!
//! A power cut leaves the old file or the new one (rename(2) is atomic), and the new one only with all its bytes,
//! because they are on the disk before the rename; the directory is synchronised after it, so that who was told of a
//! success can rely on it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Mode of new files: who may read the configuration of a running daemon asks it.
const MODE_NEW: u32 = 0o600;

/// The file system; tests let it fail at a chosen step as a power cut would.
#[derive(Debug, Default)]
pub struct Disk {
    #[cfg(test)]
    pub(super) power: std::sync::Mutex<Option<usize>>,
}

impl Disk {
    /// A moment at which the power may go.
    #[cfg(not(test))]
    #[expect(clippy::unnecessary_wraps, clippy::unused_self, reason = "tests let it fail")]
    fn moment(&self) -> io::Result<()> {
        Ok(())
    }

    #[cfg(test)]
    fn moment(&self) -> io::Result<()> {
        match &mut *crate::sync::lock(&self.power) {
            None => Ok(()),
            Some(0) => Err(io::Error::other("the power is gone")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
        }
    }

    /// Makes a directory that only its owner reads.
    pub(crate) fn make_directory(&self, path: &Path) -> io::Result<()> {
        self.moment()?;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
    }

    /// Brings bytes to the disk beside `path`, with mode and owner of the file that is there.
    pub(crate) fn stage(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let staged = staged(path);
        self.moment()?;
        let mut file = new_file(&staged)?;
        let (first, rest) = bytes.split_at(bytes.len() / 2);
        file.write_all(first)?;
        self.moment()?;
        file.write_all(rest)?;
        if let Ok(old) = fs::metadata(path) {
            file.set_permissions(fs::Permissions::from_mode(old.mode() & 0o7777))?;
            // Only root may give files away; the daemon's own file is its own already.
            std::os::unix::fs::fchown(&file, Some(old.uid()), Some(old.gid())).ok();
        }
        self.moment()?;
        file.sync_all()
    }

    /// Takes back what was staged.
    pub(crate) fn unstage(&self, path: &Path) {
        if self.moment().is_ok() {
            // What is not there needs no removing, and what stays is overwritten by the next.
            fs::remove_file(staged(path)).ok();
        }
    }

    /// What was staged becomes the file.
    pub(crate) fn adopt(&self, path: &Path) -> io::Result<()> {
        self.moment()?;
        fs::rename(staged(path), path)?;
        self.moment()?;
        sync_directory(path)
    }

    /// Stages and adopts.
    pub(crate) fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.stage(path, bytes)?;
        self.adopt(path)
    }

    /// The same where the directory may be missing.
    pub(crate) fn write_below(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        if let Some(directory) = path.parent() {
            self.make_directory(directory)?;
        }
        self.write(path, bytes)
    }

    /// Removes a file that may be there.
    pub(crate) fn remove(&self, path: &Path) -> io::Result<()> {
        self.moment()?;
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Err(_) => Ok(()),
            Ok(()) => sync_directory(path),
        }
    }
}

/// Where a file is written before it has its name.
pub(crate) fn staged(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

/// A file that is new: nobody else holds it open, and no link leads elsewhere.
fn new_file(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(MODE_NEW).open(path)
}

fn sync_directory(path: &Path) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(directory.unwrap_or_else(|| Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mode_of_the_old_file_stays_and_a_link_in_the_way_is_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let (path, other) = (directory.path().join("x"), directory.path().join("other"));
        fs::write(&path, "old").unwrap();
        fs::write(&other, "precious").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink(&other, staged(&path)).unwrap();
        Disk::default().write(&path, b"new").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o640);
        assert_eq!(fs::read_to_string(&other).unwrap(), "precious");
    }
}
