//! Where everything about access lies, and what of it everybody may see.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::User;
use super::keys::{Listed, listed};

/// Longest file of keys that is read.
pub(super) const FILE_MAX_BYTES: u64 = 256 * 1024;

#[derive(Clone, Debug)]
pub struct Places {
    /// Where the system waits for administrators.
    pub socket: PathBuf,
    /// Where the daemon puts what it grants.
    pub grants: PathBuf,
    /// Where the job tells what came of it; only root writes there.
    pub results: PathBuf,
    /// Files of keys as sshd reads them, one for each user.
    pub keys: PathBuf,
    /// Hashes of passwords, one file for each user. Whether there is one may be seen, what is in it not.
    pub passwords: PathBuf,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            socket: "/run/portcullis-access.sock".into(),
            grants: "/run/portcullis-requests".into(),
            results: "/run/appliance-access".into(),
            keys: "/var/lib/appliance/keys".into(),
            passwords: "/var/lib/appliance/passwords".into(),
        }
    }
}

impl Places {
    pub(super) fn keys_of(&self, user: User) -> PathBuf {
        self.keys.join(user.as_str())
    }

    pub(super) fn password_of(&self, user: User) -> PathBuf {
        self.passwords.join(user.as_str())
    }

    /// The text of a user's keys; empty where there is none.
    pub(super) fn keys_text(&self, user: User) -> io::Result<String> {
        let path = self.keys_of(user);
        let failed = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        let mut text = String::new();
        match fs::File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(text),
            file => {
                file.map_err(failed)?.take(FILE_MAX_BYTES + 1).read_to_string(&mut text).map_err(failed)?
            }
        };
        if u64::try_from(text.len()).is_ok_and(|length| length > FILE_MAX_BYTES) {
            return Err(io::Error::other(format!("{} is too long", path.display())));
        }
        Ok(text)
    }

    /// # Errors
    /// When the file of a user's keys cannot be read.
    pub fn listed(&self, user: User) -> io::Result<Vec<Listed>> {
        Ok(listed(&self.keys_text(user)?))
    }

    /// Since when a user has a password; `None` without one.
    #[must_use]
    pub fn password_since(&self, user: User) -> Option<SystemTime> {
        fs::metadata(self.password_of(user)).ok()?.modified().ok()
    }

    /// Whether this machine lets keys and passwords be changed at all.
    #[must_use]
    pub fn are_here(&self) -> bool {
        self.socket.exists()
    }
}

/// Writes a file that is whole and on the disk, whenever the power goes.
pub(super) fn put(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
    let directory = path.parent().unwrap_or_else(|| Path::new("/"));
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".new");
    let staged = directory.join(name);
    match fs::remove_file(&staged) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&staged)?;
    file.write_all(text.as_bytes())?;
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.sync_all()?;
    fs::rename(&staged, path)?;
    fs::File::open(directory)?.sync_all()
}
