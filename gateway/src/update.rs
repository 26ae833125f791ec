//! Updates of the appliance: what may be asked, what is told, and where both lie.
//!
//! The daemon has no privilege over the disk. It puts a request where the system looks (systemd.path(5)), and a job of
//! root's (`portcullis update-job`) does it with systemd-sysupdate(8) and writes a status that everybody may read.
//! What the job reads of others is parsed here: a request that exists can only name a version and a place of updates.

mod authorities;
pub mod job;
mod run;
mod slots;
pub(crate) mod upload;

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use authorities::{AUTHORITIES_MAX_BYTES, Authorities, prepare};
pub use slots::{Slot, SlotState};

/// A name of a partition has no room for more; see xtask/src/image/release.rs.
const VERSION_MAX_CHARS: usize = 23;
const URL_MAX_CHARS: usize = 1024;
/// Longest request or status.
const FILE_MAX_BYTES: u64 = 64 * 1024;
/// Largest update that is handed over; three times what one is now.
pub const UPLOAD_MAX_BYTES: u64 = 512 * 1024 * 1024;

/// Where everything lies.
#[derive(Clone, Debug)]
pub struct Places {
    /// What the daemon asks for.
    pub request: PathBuf,
    /// Status, and what systemd-sysupdate is told: gone with the next boot.
    pub run: PathBuf,
    /// What is kept: where updates came from, and how the last one went.
    pub kept: PathBuf,
    /// What administrators hand over.
    pub uploads: PathBuf,
    /// Kernel images, one for each version that is installed.
    pub kernels: PathBuf,
    /// What is fetched and where it goes, with a gap for the source.
    pub transfers: PathBuf,
    pub os_release: PathBuf,
    pub sysupdate: PathBuf,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            request: "/run/portcullis-requests/update".into(),
            run: "/run/appliance-update".into(),
            kept: "/var/lib/appliance/update".into(),
            uploads: "/var/lib/appliance/uploads".into(),
            kernels: "/efi/EFI/Linux".into(),
            transfers: "/usr/lib/appliance/update.d".into(),
            os_release: "/etc/os-release".into(),
            sysupdate: "/usr/lib/systemd/systemd-sysupdate".into(),
        }
    }
}

impl Places {
    #[must_use]
    pub fn status(&self) -> PathBuf {
        self.run.join("status.json")
    }

    /// Who vouches for the source of the order that is done now; absent where that are the public authorities.
    fn authorities(&self) -> PathBuf {
        self.run.join("authorities.pem")
    }

    /// The directory of updates that was named last.
    fn source(&self) -> PathBuf {
        self.kept.join("source.json")
    }
}

/// A version of the appliance: what names of files and partitions can hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Version(String);

impl Version {
    /// # Errors
    /// What a version looks like.
    pub fn parse(text: &str) -> Result<Self, String> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
        let leads = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        if !leads || text.len() > VERSION_MAX_CHARS || !text.bytes().all(fits) {
            return Err(format!(
                "no version: letters, digits, `.` and `-`, {VERSION_MAX_CHARS} characters at most"
            ));
        }
        Ok(Self(text.to_owned()))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Version {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text)
    }
}

impl From<Version> for String {
    fn from(version: Version) -> Self {
        version.0
    }
}

/// A directory of updates, by HTTPS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Url(String);

impl Url {
    /// # Errors
    /// What such an address looks like.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim_end_matches('/');
        let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\'' | b'\\' | b'#' | b'?');
        let host = text.strip_prefix("https://").and_then(|rest| rest.split('/').next());
        match host {
            Some(host)
                if !host.is_empty()
                    && !host.contains('@')
                    && text.len() <= URL_MAX_CHARS
                    && text.bytes().all(plain) =>
            {
                Ok(Self(text.to_owned()))
            }
            _ => {
                Err("no directory of updates: write https://host/path, without user, query or quotes".into())
            }
        }
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Url {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text)
    }
}

impl From<Url> for String {
    fn from(url: Url) -> Self {
        url.0
    }
}

/// Where an update comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// The file that was handed over last.
    Upload,
    Url(Url),
    /// A directory for which other authorities than the public ones vouch.
    Private {
        url: Url,
        authorities: Authorities,
    },
    /// The directory that was named last.
    Known,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Order {
    /// Say which versions there are.
    List { source: Source },
    /// Put a version into the other slot: a certain one, or the newest.
    Install {
        source: Source,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        version: Option<Version>,
    },
    /// Choose the other slot for the next start.
    Rollback {},
}

impl Order {
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::List { .. } => "list",
            Self::Install { .. } => "install",
            Self::Rollback {} => "rollback",
        }
    }
}

/// An order with a name, by which its outcome is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    pub id: String,
    pub order: Order,
}

/// What there is, and what came of the last order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The version that runs.
    pub running: String,
    /// The version that the boot loader takes next.
    pub next: String,
    /// What is installed, the newest first.
    pub slots: Vec<Slot>,
    /// The directory that was named last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<Job>,
}

/// One order, and how it goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    pub id: String,
    /// `list`, `install` or `rollback`.
    pub action: String,
    pub state: JobState,
    /// What it does now, or what came of it.
    pub told: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<u8>,
    /// RFC 3339, UTC.
    pub started: String,
    /// Versions that the source has, or that are installed, the newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub versions: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JobState {
    Running,
    Done,
    Failed,
}

impl JobState {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }
}

/// Reads a small file of JSON. A link is not followed: whoever may write to the directory may not choose the file.
pub(crate) fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> std::io::Result<T> {
    use std::io::Read as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = std::fs::OpenOptions::new();
    let nofollow = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    options.read(true).custom_flags(i32::try_from(nofollow.bits()).unwrap_or_default());
    let mut text = String::new();
    options.open(path)?.take(FILE_MAX_BYTES).read_to_string(&mut text)?;
    serde_json::from_str(&text).map_err(std::io::Error::other)
}

/// Writes a file that is whole at any moment.
pub(crate) fn write_json(path: &Path, value: &impl Serialize, mode: u32) -> std::io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let staged = path.with_extension("new");
    match std::fs::remove_file(&staged) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&staged)?;
    file.write_all(&serde_json::to_vec(value).map_err(std::io::Error::other)?)?;
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(mode))?;
    file.sync_all()?;
    std::fs::rename(&staged, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_can_only_name_versions_and_directories_by_https() {
        let read = |order: &str| serde_json::from_str::<Request>(&format!(r#"{{"id":"1","order":{order}}}"#));
        for good in [
            r#"{"action":"list","source":"known"}"#,
            r#"{"action":"install","source":{"url":"https://u.example/p/"},"version":"0.1.0.26-rc1"}"#,
            r#"{"action":"install","source":"upload"}"#,
            r#"{"action":"rollback"}"#,
        ] {
            let request = read(good).unwrap();
            assert_eq!(
                serde_json::from_str::<Request>(&serde_json::to_string(&request).unwrap()).unwrap(),
                request
            );
        }
        for bad in [
            r#"{"action":"list","source":{"url":"http://u.example/"}}"#,
            r#"{"action":"list","source":{"url":"https://"}}"#,
            r#"{"action":"list","source":{"url":"https://u.example/\nPath=/etc"}}"#,
            r#"{"action":"list","source":{"url":"https://me@u.example/"}}"#,
            r#"{"action":"install","source":"upload","version":"../../x"}"#,
            r#"{"action":"install","source":"upload","version":"--help"}"#,
            r#"{"action":"install","source":"upload","force":true}"#,
            r#"{"action":"wipe"}"#,
            r#"{"action":"list","source":{"private":{"url":"https://u.example/","authorities":"none"}}}"#,
            r#"{"action":"list","source":{"private":{"url":"https://u.example/"}}}"#,
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_link_in_the_place_of_a_request_is_not_followed() {
        let place = tempfile::tempdir().unwrap();
        let (link, file) = (place.path().join("update"), place.path().join("other"));
        write_json(&file, &Status::default(), 0o600).unwrap();
        assert_eq!(read_json::<Status>(&file).unwrap(), Status::default());
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert!(read_json::<Status>(&link).is_err());
    }
}
