//! Where the image's Debian packages come from: the release, its updates, and its security updates.

use anyhow::{Result, bail};

use crate::boot::debian::{self, SUITE};

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sources {
    /// The main archive.
    pub(crate) mirror: String,
    security: String,
    /// Whether they were named, and may be of a day whose signatures have run out.
    named: bool,
}

impl Sources {
    /// Those named, or else those that this machine's apt is configured for.
    pub(crate) fn find(mirror: Option<&str>, security: Option<&str>) -> Result<Self> {
        let configured = match mirror {
            Some(_) => None,
            None => debian::configured_security_mirror()?,
        };
        let named = mirror.is_some();
        let mirror = mirror.map_or_else(debian::configured_mirror, |mirror| Ok(mirror.to_owned()))?;
        let mirror = mirror.trim_end_matches('/').to_owned();
        let security = security.map(str::to_owned).or(configured).or_else(|| security_of(&mirror));
        let Some(security) = security else {
            bail!("{mirror} does not tell where security updates are: name that with --security-mirror");
        };
        Ok(Self { mirror, security: security.trim_end_matches('/').to_owned(), named })
    }

    /// As apt reads them. `components` are those of Debian, such as `main`.
    pub(crate) fn text(&self, components: &str) -> String {
        // Lists of a snapshot are as old as it is; their signatures are checked all the same.
        let until = if self.named { "Check-Valid-Until: no\n" } else { "" };
        let stanza = |uri: &str, suites: &str| {
            format!(
                "Types: deb\nURIs: {uri}\nSuites: {suites}\nComponents: {components}\nSigned-By: {KEYRING}\n{until}"
            )
        };
        let release = stanza(&self.mirror, &format!("{SUITE} {SUITE}-updates"));
        format!("{release}\n{}", stanza(&self.security, &format!("{SUITE}-security")))
    }
}

/// The security archive stands beside the main one, on mirrors and on snapshots: `…/debian/…` and `…/debian-security/…`.
fn security_of(mirror: &str) -> Option<String> {
    let (before, after) = mirror.rsplit_once("/debian")?;
    (after.is_empty() || after.starts_with('/')).then(|| format!("{before}/debian-security{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn security_updates_come_from_beside_the_mirror() {
        let beside = |mirror| security_of(mirror).unwrap_or_default();
        assert_eq!(beside("http://m.example/debian"), "http://m.example/debian-security");
        assert_eq!(
            beside("http://s.example/archive/debian/20261101T000000Z"),
            "http://s.example/archive/debian-security/20261101T000000Z"
        );
        assert_eq!(security_of("http://m.example/trixie"), None);
        assert_eq!(security_of("http://m.example/debian-ports"), None);
    }

    #[test]
    fn a_snapshot_may_be_old_and_a_mirror_may_not() {
        let snapshot = Sources::find(Some("http://s.example/debian/1/"), None).unwrap();
        let text = snapshot.text("main");
        assert_eq!(text.matches("Check-Valid-Until: no").count(), 2, "{text}");
        assert!(
            text.contains("URIs: http://s.example/debian-security/1\nSuites: trixie-security\n"),
            "{text}"
        );
        let current = Sources { named: false, ..snapshot };
        assert!(!current.text("main").contains("Valid-Until"));
    }

    #[test]
    fn a_mirror_that_does_not_tell_needs_another_word() {
        let refused = Sources::find(Some("http://m.example/x"), None).unwrap_err();
        assert!(refused.to_string().contains("--security-mirror"), "{refused}");
        assert!(Sources::find(Some("http://m.example/x"), Some("http://m.example/y")).is_ok());
    }
}
