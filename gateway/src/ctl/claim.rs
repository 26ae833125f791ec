//! Where an SSH session came from and by which key, as its own environment says: what the command line tells the daemon
//! for the history and the audit log. Nothing is decided by it.
//!
//! sshd says the address in `SSH_CONNECTION`, and with `ExposeAuthInfo yes` the key in a file that `SSH_USER_AUTH` names
//! (sshd_config(5)). Where `PORTCULLIS_KEYS` names the directory of the users' `authorized_keys`, one file for each
//! user, the comment beside the key is told too: it is what people call it. `PORTCULLIS_CONSOLE` names the console at which
//! somebody has logged in.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use ring::digest::{SHA256, digest};

/// Most bytes of a file that is looked into: some hundred keys.
const FILE_MAX_BYTES: u64 = 256 * 1024;
/// Longest comment of a key.
const COMMENT_MAX_CHARS: usize = 48;
/// Between the addresses and the key.
const KEY: &str = " key ";

/// What this process's environment says, or nothing outside of a login over SSH or at the console.
#[must_use]
pub fn from_environment() -> Option<String> {
    let console = || std::env::var("PORTCULLIS_CONSOLE").ok().map(|name| format!("console:{name}"));
    let Ok(connection) = std::env::var("SSH_CONNECTION") else { return console() };
    Some(match key_from_environment() {
        Some(key) => connection + KEY + &key,
        None => connection,
    })
}

/// `192.0.2.7 (ann@desk)` of a claim, for people: the key's comment, or else its fingerprint.
#[must_use]
pub fn shown(claim: &str) -> String {
    let address = claim.split(' ').next().unwrap_or_default();
    let Some((_, key)) = claim.split_once(KEY) else { return address.to_owned() };
    let name = key.split_once(' ').map_or(key, |(_, comment)| comment);
    format!("{address} ({name})")
}

fn key_from_environment() -> Option<String> {
    let methods = small(Path::new(&std::env::var_os("SSH_USER_AUTH")?))?;
    let user = std::env::var("USER").unwrap_or_default();
    let listed = std::env::var_os("PORTCULLIS_KEYS")
        .filter(|_| !user.is_empty() && !user.contains('/'))
        .and_then(|directory| small(&Path::new(&directory).join(user)));
    key(&methods, listed.as_deref().unwrap_or_default())
}

/// The fingerprint of the key that was used, as sshd's log has it, and its comment where it has one.
fn key(methods: &str, listed: &str) -> Option<String> {
    let mut words = methods.lines().find_map(|line| line.strip_prefix("publickey "))?.split(' ');
    let blob = words.nth(1)?;
    let hash = digest(&SHA256, &STANDARD.decode(blob).ok()?);
    let fingerprint = format!("SHA256:{}", STANDARD_NO_PAD.encode(hash.as_ref()));
    let comment = listed.lines().find_map(|line| line.split_once(blob)).map(|(_, rest)| plain(rest.trim()));
    Some(match comment {
        Some(comment) if !comment.is_empty() => format!("{fingerprint} {comment}"),
        _ => fingerprint,
    })
}

fn plain(comment: &str) -> String {
    let legal = |c: char| if c.is_ascii_graphic() || c == ' ' { c } else { '?' };
    comment.chars().take(COMMENT_MAX_CHARS).map(legal).collect()
}

fn small(path: &Path) -> Option<String> {
    let mut text = String::new();
    File::open(path).ok()?.take(FILE_MAX_BYTES).read_to_string(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::role::plain_claim;

    const BLOB: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIEsecHKK3YU6QYDrCPbD3bGwrbMvVbqCFKEhPHyhbhuM";

    #[test]
    fn a_key_is_told_by_its_fingerprint_and_its_comment() {
        let methods = format!("publickey ssh-ed25519 {BLOB}\n");
        let bare = key(&methods, "").unwrap();
        assert!(bare.starts_with("SHA256:") && bare.len() == 7 + 43, "{bare}");
        let listed =
            format!("# ours\nssh-ed25519 AAAA bob\nrestrict,pty ssh-ed25519 {BLOB} ann m\u{fc}ller\n");
        assert_eq!(key(&methods, &listed).unwrap(), format!("{bare} ann m?ller"));
        assert_eq!(key(&methods, &format!("ssh-ed25519 {BLOB}")).unwrap(), bare);
        for methods in ["", "password\n", "publickey ssh-ed25519\n", "publickey ssh-ed25519 %%%\n"] {
            assert_eq!(key(methods, &listed), None, "{methods}");
        }
    }

    #[test]
    fn people_see_the_address_and_the_name_of_the_key() {
        let connection = "192.0.2.7 50000 10.0.0.1 22";
        assert_eq!(shown(connection), "192.0.2.7");
        assert_eq!(shown(&format!("{connection} key SHA256:abc")), "192.0.2.7 (SHA256:abc)");
        assert_eq!(shown(&format!("{connection} key SHA256:abc ann m")), "192.0.2.7 (ann m)");
    }

    #[test]
    fn the_longest_claim_is_accepted() {
        let address = "2001:0db8:ffff:ffff:ffff:ffff:ffff:ffff";
        let key = format!("SHA256:{} {}", "x".repeat(43), "y".repeat(COMMENT_MAX_CHARS));
        assert!(plain_claim(&format!("{address} 65535 {address} 65535{KEY}{key}")).is_some());
    }
}
