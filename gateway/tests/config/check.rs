//! What `check` finds in the world around a configuration.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use portcullis::check::check;
use portcullis::config::{Finding, Severity, parse};

use crate::base::config;

fn found<'a>(findings: &'a [Finding], subject: &str, message: &str) -> Option<&'a Finding> {
    findings.iter().find(|finding| finding.subject == subject && finding.message.contains(message))
}

#[test]
fn check_reports_missing_files_doubtful_settings_and_what_nothing_uses() {
    let config = config(
        "[log]\nfile = \"/nonexistent/directory/log\"\n[limits]\nsessions = 500\nsessions_per_user = 501\n\
         [[sta]]\nname = \"plain\"\nurl = \"http://a\"\n\
         [[sta]]\nname = \"own-ca\"\nurl = \"https://a\"\nca = \"nonexistent.pem\"\n\
         [sta_server]\nlisten = [\"192.0.2.1:80\"]\nallow_from = [\"10.0.0.0/8\"]\n\
         [[listener]]\nname = \"open\"\nkind = \"socks\"\nlisten = [\"192.0.2.1:1080\"]\npermit_loopback = true\n\
         [[listener.allow]]\nto = [\"0.0.0.0/0\"]\nports = [\"1-65535\"]\n\
         [[listener]]\nname = \"clear\"\nkind = \"socks\"\nlisten = [\"192.0.2.1:1081\"]\nusers = \"people\"\n\
         [[listener.allow]]\nto = [\"10.0.0.0/8\"]\nports = [1]\n",
    );
    let findings = check(&config);
    for (severity, subject, message) in [
        (Severity::Error, "certificate main", "chain.pem cannot be read"),
        (Severity::Error, "certificate main", "key.pem cannot be read"),
        (Severity::Error, "users people", "cannot be read"),
        (Severity::Error, "sta own-ca", "nonexistent.pem cannot be read"),
        (Severity::Error, "log", "/nonexistent/directory does not exist"),
        (Severity::Warning, "limits", "`sessions_per_user` (501) is never reached"),
        (Severity::Warning, "listener open", "open proxy"),
        (Severity::Warning, "listener open", "loopback"),
        (Severity::Warning, "listener clear", "in the clear"),
        (Severity::Info, "sta plain", "plain http"),
        (Severity::Info, "sta_server", "plain http"),
        (Severity::Info, "certificate main", "no listener uses it"),
        (Severity::Info, "sta sta1", "no listener uses it"),
    ] {
        let finding = found(&findings, subject, message);
        assert_eq!(
            finding.map(|finding| finding.severity),
            Some(severity),
            "{subject}: {message} in {findings:#?}"
        );
        assert!(!finding.unwrap().remedy.is_empty());
    }
    assert!(findings.is_sorted_by(|a, b| a.severity >= b.severity));
    let json = serde_json::to_value(&findings[0]).unwrap();
    assert_eq!(json["severity"], "error");
}

#[test]
fn check_looks_into_users_files() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("portcullis.toml");
    let users = directory.path().join("users");
    let text = "[[users]]\nname = \"people\"\nfile = \"users\"\n";
    let look = |content: &str, mode: u32| {
        fs::write(&users, content).unwrap();
        fs::set_permissions(&users, fs::Permissions::from_mode(mode)).unwrap();
        check(&parse(text, &path).unwrap())
    };
    assert!(found(&look("ann:secret\n", 0o600), "users people", "users:1: no password hash").is_some());
    assert!(found(&look("# nobody\n", 0o600), "users people", "holds no user").is_some());
    let hash = portcullis::authn::local::UserDb::hash(b"secret").unwrap();
    assert!(found(&look(&format!("ann:{hash}\n"), 0o644), "users people", "mode 0644").is_some());
    let clean = look(&format!("ann:{hash}\n"), 0o640);
    assert!(
        clean.iter().all(|finding| finding.severity == Severity::Info || finding.subject != "users people")
    );
}
