//! What a public key of SSH looks like, before it is handed over to sshd(8).

/// Whether a line of `authorized_keys` has a key, without options before it.
#[must_use]
pub fn is_key(line: &str) -> bool {
    let mut words = line.split_whitespace();
    let kind = words
        .next()
        .is_some_and(|kind| ["ssh-", "ecdsa-", "sk-"].iter().any(|start| kind.starts_with(start)));
    kind && words.next().is_some_and(|key| key.len() > 32 && key.starts_with("AAAA"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_keys_are_keys_and_private_ones_are_not() {
        assert!(is_key("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJq6YKy4vT3L0bKQ admin@desk"));
        assert!(!is_key("-----BEGIN OPENSSH PRIVATE KEY-----"));
        assert!(!is_key("command=\"x\" ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJq6YKy4vT3L0bKQ"));
    }
}
