use std::process::Command;

use proptest::prelude::{any, prop, proptest};

use super::*;

const ED: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIEsecHKK3YU6QYDrCPbD3bGwrbMvVbqCFKEhPHyhbhuM";

fn part(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
}

fn line(kind: &str, parts: &[&[u8]]) -> String {
    let mut blob = part(kind.as_bytes());
    for one in parts {
        blob.extend(part(one));
    }
    format!("{kind} {} someone", STANDARD.encode(blob))
}

fn rsa(bits: usize) -> String {
    let mut modulus = vec![0x80; bits / 8];
    modulus.insert(0, 0);
    line(RSA, &[&[1, 0, 1], &modulus])
}

fn point(length: usize) -> Vec<u8> {
    let mut point = vec![7; length];
    point[0] = 4;
    point
}

#[test]
fn kinds_that_are_strong_enough_are_taken() {
    let ecdsa = |kind: &str, curve: &str, length| line(kind, &[curve.as_bytes(), &point(length)]);
    for good in [
        format!("ssh-ed25519 {ED} ann@desk"),
        format!("  ssh-ed25519\t{ED}\r\n"),
        rsa(3072),
        rsa(4096),
        ecdsa("ecdsa-sha2-nistp256", "nistp256", 65),
        ecdsa("ecdsa-sha2-nistp384", "nistp384", 97),
        ecdsa("ecdsa-sha2-nistp521", "nistp521", 133),
        line(SK_ED25519, &[&[7; 32], b"ssh:"]),
        line(SK_ECDSA, &[b"nistp256", &point(65), b"ssh:"]),
    ] {
        let key = PublicKey::parse(&good).unwrap_or_else(|error| panic!("{good}: {error}"));
        assert_eq!(PublicKey::parse(&key.line()), Ok(key.clone()), "{good}");
    }
    let key = PublicKey::parse(&format!("ssh-ed25519 {ED} ann m\u{fc}ller")).unwrap();
    assert_eq!((key.comment(), key.kind()), ("ann m\u{fc}ller", "ssh-ed25519"));
}

#[test]
fn weak_keys_garbage_and_options_are_refused_and_not_repeated() {
    let refused = |text: &str| PublicKey::parse(text).unwrap_err();
    assert_eq!(refused(&rsa(2048)), KeyError::Weak(2048));
    assert_eq!(refused(&line(RSA, &[&[1], &[0x7f; 384]])), KeyError::NotAKey, "an exponent of 1");
    assert_eq!(refused(&line("ssh-dss", &[&[1; 128], &[1; 20]])), KeyError::Kind("ssh-dss".into()));
    assert_eq!(
        refused(&line("ssh-ed25519-cert-v01@openssh.com", &[&[1; 32]])),
        KeyError::Kind("ssh-ed25519-cert-v01@openssh.com".into())
    );
    for options in ["restrict", "command=\"rm -rf /\"", "from=\"a b\",no-pty", "cert-authority"] {
        assert_eq!(refused(&format!("{options} ssh-ed25519 {ED}")), KeyError::Options, "{options}");
    }
    assert_eq!(refused("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n"), KeyError::Private);
    assert_eq!(refused(&format!("ssh-ed25519 {ED}\nssh-ed25519 {ED}")), KeyError::Long);
    assert_eq!(refused(&format!("ssh-ed25519 {ED} {}", "x".repeat(5000))), KeyError::Long);
    assert_eq!(refused(&format!("ssh-ed25519 {ED} a\u{1b}[2J")), KeyError::Comment);
    let cut: String = ED.chars().take(60).collect();
    for garbage in [
        "",
        "hunter2",
        "# comment",
        "ssh-ed25519",
        "ssh-ed25519 hunter2",
        "ssh-ed25519 AAAA",
        &format!("ssh-ed25519 {cut}"),
        &format!("ssh-rsa {ED}"),
        // More behind the key than belongs there.
        &line(ED25519, &[&[7; 32], b"x"]),
        &line(ED25519, &[&[7; 31]]),
        &line("ecdsa-sha2-nistp256", &[b"nistp384", &point(65)]),
    ] {
        let error = refused(garbage);
        assert_eq!(error, KeyError::NotAKey, "{garbage}");
        assert!(!error.to_string().contains("hunter2"));
    }
}

#[test]
fn what_the_first_boot_was_told_is_listed_with_its_options_and_told_apart() {
    let given = format!("# ours\n\nrestrict,command=\"echo hi\" ssh-ed25519 {ED} bob b\nnonsense\n");
    let key = PublicKey::parse(&rsa(3072)).unwrap();
    let text = with(&given, &key, "2026-01-01T00:00:00Z");
    let keys = listed(&text);
    assert_eq!(keys.len(), 2, "{keys:?}");
    assert_eq!((keys[0].comment.as_str(), keys[0].options, keys[0].added.as_deref()), ("bob b", true, None));
    assert_eq!((keys[1].bits, keys[1].added.as_deref()), (3072, Some("2026-01-01T00:00:00Z")));
    assert_eq!(without(&text, key.fingerprint()), given);
    assert_eq!(listed(&without(&text, &keys[0].fingerprint)).len(), 1);
}

#[test]
fn fingerprints_are_those_of_ssh_keygen() {
    let place = tempfile::tempdir().unwrap();
    for (kind, bits) in [("ed25519", "256"), ("ecdsa", "384"), ("rsa", "3072"), ("rsa", "2048")] {
        let file = place.path().join(format!("{kind}{bits}"));
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", kind, "-b", bits, "-N", "", "-C", "a b", "-f"])
            .arg(&file)
            .output();
        let Ok(true) = made.map(|made| made.status.success()) else { return };
        let public = std::fs::read_to_string(file.with_extension("pub")).unwrap();
        if bits == "2048" {
            assert_eq!(PublicKey::parse(&public), Err(KeyError::Weak(2048)));
            continue;
        }
        let key = PublicKey::parse(&public).unwrap();
        let said = Command::new("ssh-keygen").arg("-lf").arg(file.with_extension("pub")).output().unwrap();
        let said = String::from_utf8(said.stdout).unwrap();
        assert!(said.starts_with(&format!("{bits} {} a b (", key.fingerprint())), "{said}");
        assert_eq!(listed(&public)[0].bits.to_string(), bits);
    }
}

proptest! {
    #[test]
    fn no_line_of_anybody_becomes_more_than_one_line(text in "\\PC{0,200}", bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        drop(listed(&text));
        let lossy = String::from_utf8_lossy(&bytes);
        drop(listed(&lossy));
        for line in [text.clone(), format!("ssh-ed25519 {ED} {text}"), format!("ssh-ed25519 {ED} {lossy}")] {
            if let Ok(key) = PublicKey::parse(&line) {
                assert_eq!(key.line().lines().count(), 1);
                assert!(key.line().starts_with("ssh-ed25519 AAAA"));
            }
        }
    }
}
