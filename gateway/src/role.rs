//! Who asks, and what they may ask for.
//!
//! The kernel says which user is at the other end of the socket; the groups of that user say which role it has. Root
//! and the daemon's own user are administrators. The rest of the machine has no role and is not answered.

use std::ffi::CString;

use nix::unistd::{Gid, Group, Uid, User, geteuid, getgrouplist};
use serde::{Deserialize, Serialize};

/// Longest claim about where somebody came from, and by which key.
const CLAIM_MAX_BYTES: usize = 256;

/// What somebody may do; each role may do what the ones before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Looks at everything but secrets.
    Viewer,
    /// Ends sessions, drains, bans, reads logs, asks other machines.
    Operator,
    /// Changes the configuration, issues tickets, captures packets, resets the machine.
    Administrator,
}

impl Role {
    pub const ALL: [Self; 3] = [Self::Viewer, Self::Operator, Self::Administrator];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Administrator => "administrator",
        }
    }

    /// The group whose members have it.
    #[must_use]
    pub fn group(self) -> &'static str {
        match self {
            Self::Viewer => "portcullis-viewer",
            Self::Operator => "portcullis-operator",
            Self::Administrator => "portcullis-admin",
        }
    }
}

/// Who did something, and from where.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    pub who: String,
    /// Absent for the daemon itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Where an SSH session came from, as its own environment claims.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claimed_from: Option<String>,
}

impl Origin {
    /// What the daemon does by itself.
    #[must_use]
    pub fn daemon() -> Self {
        Self { who: "portcullisd".to_owned(), uid: None, claimed_from: None }
    }
}

/// Whoever sent a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    pub uid: u32,
    pub name: String,
    pub role: Role,
    /// Where an SSH session came from and by which key, as its environment says: nobody vouches for it.
    pub claimed_from: Option<String>,
}

impl Caller {
    /// Whoever has that user and primary group, if they have a role. Asks the system's lists of users and groups,
    /// which may take a while.
    ///
    /// # Errors
    /// The name of a user without any role.
    pub fn of(uid: u32, gid: u32) -> Result<Self, String> {
        let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
        let name = match &user {
            Some(user) => user.name.clone(),
            None if uid == 0 => "root".to_owned(),
            None => format!("uid {uid}"),
        };
        let mut groups = vec![gid];
        if let Some(user) = user.and_then(|user| CString::new(user.name).ok()) {
            let all = getgrouplist(&user, Gid::from_raw(gid)).unwrap_or_default();
            groups.extend(all.into_iter().map(Gid::as_raw));
        }
        let own = geteuid().as_raw();
        match role_of(uid, own, &groups, &groups_of_roles()) {
            Some(role) => Ok(Self { uid, name, role, claimed_from: None }),
            None => Err(name),
        }
    }

    #[must_use]
    pub fn origin(&self) -> Origin {
        Origin { who: self.name.clone(), uid: Some(self.uid), claimed_from: self.claimed_from.clone() }
    }
}

/// The highest role of a user.
fn role_of(uid: u32, own: u32, groups: &[u32], of_roles: &[(Role, u32)]) -> Option<Role> {
    if uid == 0 || uid == own {
        return Some(Role::Administrator);
    }
    of_roles.iter().filter(|(_, gid)| groups.contains(gid)).map(|(role, _)| *role).max()
}

/// The roles whose groups this machine has.
fn groups_of_roles() -> Vec<(Role, u32)> {
    let group = |role: Role| Some((role, Group::from_name(role.group()).ok()??.gid.as_raw()));
    Role::ALL.into_iter().filter_map(group).collect()
}

/// Whether anybody besides root and the daemon's own user may have a role here.
#[must_use]
pub fn any_group_exists() -> bool {
    !groups_of_roles().is_empty()
}

/// A claim that can stand in a log, or nothing.
#[must_use]
pub fn plain_claim(claim: &str) -> Option<String> {
    let legal = |c: char| c.is_ascii_graphic() || c == ' ';
    let fits = !claim.is_empty() && claim.len() <= CLAIM_MAX_BYTES && claim.chars().all(legal);
    fits.then(|| claim.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUPS: [(Role, u32); 3] = [(Role::Viewer, 10), (Role::Operator, 20), (Role::Administrator, 30)];

    #[test]
    fn the_highest_role_counts_and_strangers_have_none() {
        let role = |uid, groups: &[u32]| role_of(uid, 900, groups, &GROUPS);
        assert_eq!(role(1000, &[5, 10]), Some(Role::Viewer));
        assert_eq!(role(1000, &[20, 10]), Some(Role::Operator));
        assert_eq!(role(1000, &[30]), Some(Role::Administrator));
        assert_eq!(role(1000, &[5, 0]), None);
        assert_eq!(role(0, &[]), Some(Role::Administrator));
        assert_eq!(role(900, &[]), Some(Role::Administrator));
    }

    #[test]
    fn root_has_a_name_and_somebody_unknown_a_number() {
        assert_eq!(Caller::of(0, 0).unwrap().role, Role::Administrator);
        assert_eq!(Caller::of(3_999_999_999, 3_999_999_999), Err("uid 3999999999".to_owned()));
    }

    #[test]
    fn a_claim_cannot_break_a_line_or_fill_the_log() {
        assert_eq!(
            plain_claim("192.0.2.7 50000 10.0.0.1 22").as_deref(),
            Some("192.0.2.7 50000 10.0.0.1 22")
        );
        for claim in ["", "a\nb", "a\u{1b}[2J", &"x".repeat(300)] {
            assert_eq!(plain_claim(claim), None);
        }
    }
}
