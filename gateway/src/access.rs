//! Who may log in to the appliance: public keys for SSH, and passwords for the console.
//!
//! The daemon has no right to either. A change has two keys, as a support shell has: the daemon looks at the role, writes
//! the audit log and leaves a grant in a directory that only it writes to; the socket behind which the system does it
//! ([`job`]) lets members of the group `portcullis-admin` in and nobody else, the daemon included. A password goes from
//! the administrator's program to root's job and past the daemon. What is written is made of what was understood here.

pub mod job;
mod keys;
pub mod passwords;
mod places;

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::role::Origin;
use crate::role::Role;

pub use keys::{KEYS_MAX, KeyError, Listed, PublicKey, listed};
pub(crate) use keys::{with, without};
pub use passwords::PasswordError;
pub use places::Places;

/// How soon a grant must be used, and how long the daemon waits for what comes of it.
pub const USED_WITHIN: Duration = Duration::from_secs(20);
/// Of its name: 16 random bytes.
const ID_DIGITS: usize = 32;

/// A user of the appliance: one for each role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum User {
    Admin,
    Operator,
    Viewer,
}

impl User {
    pub const ALL: [Self; 3] = [Self::Admin, Self::Operator, Self::Viewer];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Operator => "operator",
            Self::Viewer => "viewer",
        }
    }

    #[must_use]
    pub fn role(self) -> Role {
        match self {
            Self::Admin => Role::Administrator,
            Self::Operator => Role::Operator,
            Self::Viewer => Role::Viewer,
        }
    }
}

/// One change, without the key or the password itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Change {
    KeyAdd {
        user: User,
        fingerprint: String,
    },
    KeyRemove {
        user: User,
        fingerprint: String,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        force: bool,
    },
    PasswordSet {
        user: User,
    },
    PasswordClear {
        user: User,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        force: bool,
    },
}

/// What the daemon grants, once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    #[serde(flatten)]
    pub origin: Origin,
    pub change: Change,
    /// Seconds since 1970.
    pub granted: u64,
}

/// What came of a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Done {
    pub done: bool,
    /// What has changed, or why nothing has.
    pub told: String,
}

/// A file of a directory that a ticket names; `None` for what is no ticket.
#[must_use]
pub fn file_of(directory: &Path, ticket: &str) -> Option<PathBuf> {
    let legal =
        ticket.len() == ID_DIGITS && ticket.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    legal.then(|| directory.join(format!("access-{ticket}")))
}

pub(crate) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_names_one_file_of_its_directory_and_no_other() {
        let good = "0123456789abcdef0123456789abcdef";
        let file = file_of(Path::new("/x"), good).unwrap();
        assert_eq!(file, Path::new("/x/access-0123456789abcdef0123456789abcdef"));
        for bad in ["", "../../etc/shadow", &good.to_uppercase(), &format!("{good}0")] {
            assert_eq!(file_of(Path::new("/x"), bad), None, "{bad}");
        }
    }

    #[test]
    fn a_change_names_users_of_the_appliance_and_nothing_else() {
        let read = serde_json::from_str::<Change>;
        assert_eq!(
            read(r#"{"do":"password-set","user":"viewer"}"#).unwrap(),
            Change::PasswordSet { user: User::Viewer }
        );
        for bad in [
            r#"{"do":"password-set","user":"root"}"#,
            r#"{"do":"password-set","user":"../admin"}"#,
            r#"{"do":"key-remove","user":"admin"}"#,
            r#"{"do":"key-add","user":"admin","fingerprint":"SHA256:x","key":"ssh-rsa"}"#,
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
