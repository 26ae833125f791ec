//! A Unix shell for an administrator, for a limited time: the only one that the appliance has.
//!
//! Two keys open it, and the daemon has one of them. It looks at the role, asks for a reason, writes the audit log, and
//! leaves a grant in a directory that only it writes to. The other is the administrator's: the socket behind which the
//! system starts the shell ([`job`]) lets members of the group `portcullis-admin` in and nobody else, the daemon
//! included. The shell runs in a unit of its own, as a user of its own, and ends with everything that was started in it.
//! What is typed there is not recorded; that it was opened, began and ended is ([`watch`]).

mod frames;
pub mod job;
pub mod watch;

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::role::Origin;

pub(crate) use frames::{Frame, Hello, read_frame, write_frame};

/// Where the system waits for administrators.
pub const SOCKET: &str = "/run/portcullis-support.sock";
/// A directory for each shell that is open, made and removed by the system.
pub const OPEN: &str = "/run/portcullis-support";
/// Where the daemon puts what it grants.
pub const GRANTS: &str = "/run/portcullis-requests";
/// How soon a grant must be used.
pub const USED_WITHIN: Duration = Duration::from_secs(30);
pub const TIME_DEFAULT: Duration = Duration::from_mins(30);
pub const TIME_MIN: Duration = Duration::from_mins(1);
pub const TIME_MAX: Duration = Duration::from_hours(4);
pub const REASON_MAX_CHARS: usize = 200;
/// Of its name, which is the grant itself: 16 random bytes.
const ID_DIGITS: usize = 32;

/// What the daemon grants, once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    #[serde(flatten)]
    pub origin: Origin,
    pub reason: String,
    /// How long the shell may last.
    pub seconds: u64,
    /// Seconds since 1970.
    pub granted: u64,
}

/// The file of a grant; `None` for what is no name of one.
#[must_use]
pub fn grant_file(directory: &Path, id: &str) -> Option<PathBuf> {
    let legal = id.len() == ID_DIGITS && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    legal.then(|| directory.join(format!("support-shell-{id}")))
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_names_one_file_of_its_directory_and_no_other() {
        let good = "0123456789abcdef0123456789abcdef";
        let file = grant_file(Path::new("/x"), good).unwrap();
        assert_eq!(file, Path::new("/x/support-shell-0123456789abcdef0123456789abcdef"));
        for bad in
            ["", "../../etc/shadow", &good.to_uppercase(), good.trim_start_matches('0'), &format!("{good}0")]
        {
            assert_eq!(grant_file(Path::new("/x"), bad), None, "{bad}");
        }
    }
}
