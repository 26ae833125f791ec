//! The listener for metrics: who may ask.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use portcullis::check::check;
use portcullis::config::{Config, Finding, Severity, compare, parse};
use tempfile::TempDir;

use crate::base::BASE;
use crate::refusals::refused;

const TOKEN: &str = "c2VjcmV0LXRva2Vu";

/// A configuration in a directory with a token and an authority that is none.
fn with_files(keys: &str) -> (TempDir, Config) {
    let directory = tempfile::tempdir().unwrap();
    let token = directory.path().join("token");
    fs::write(&token, format!("{TOKEN}\n")).unwrap();
    fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(directory.path().join("ca.pem"), "no PEM").unwrap();
    let text = format!("[metrics]\n{keys}\n{BASE}");
    let config = parse(&text, &directory.path().join("portcullis.toml")).unwrap();
    (directory, config)
}

#[test]
fn keys_that_do_not_go_together_or_name_nothing_are_refused() {
    let listen = "[metrics]\nlisten = \"127.0.0.1:9464\"";
    refused(&[
        (&format!("{listen}\nclient_ca = ‸\"ca.pem\""), "`client_ca` but no `certificate`", "both", None),
        (&format!("{listen}\ncertificate = ‸\"mian\""), "mian", "", Some("main")),
        (
            &format!("{listen}\ntoken_file = ‸\"none\""),
            "token /etc/portcullis/none: cannot be read",
            "1024",
            None,
        ),
    ]);
}

#[test]
fn the_token_is_read_and_shown_nowhere() {
    let (_directory, config) = with_files("listen = \"127.0.0.1:9464\"\ntoken_file = \"token\"");
    let metrics = config.metrics.as_ref().unwrap();
    assert!(metrics.token.as_ref().unwrap().is_shown_by(format!("Bearer {TOKEN}").as_bytes()));
    for shown in [format!("{config:?}"), config.to_json().to_string()] {
        assert!(!shown.contains(TOKEN), "{shown}");
    }
    assert_eq!(config.to_json()["metrics"]["token"], true);
}

#[test]
fn who_may_ask_changes_under_way_and_the_address_does_not() {
    let plan = |old: &str, new: &str| {
        let plan = compare(&with_files(old).1, &with_files(new).1);
        // Certificates and users are in another directory each time.
        let live: Vec<_> = plan.live.into_iter().filter(|what| what.starts_with("metrics")).collect();
        (live.join(" "), plan.restart.join(" "))
    };
    let listen = "listen = \"127.0.0.1:9464\"";
    let own = |what: &str| (what.to_owned(), String::new());
    assert_eq!(plan(listen, &format!("{listen}\ntoken_file = \"token\"")), own("metrics.token_file"));
    assert_eq!(plan(listen, &format!("{listen}\ncertificate = \"main\"")), own("metrics.certificate"));
    assert_eq!(plan(listen, "listen = \"127.0.0.1:9465\""), (String::new(), "metrics.listen".into()));
}

#[test]
fn check_tells_of_metrics_for_everybody_and_of_a_token_in_the_clear() {
    let look = |keys: &str| check(&with_files(keys).1);
    let of_metrics = |findings: Vec<Finding>| {
        findings.into_iter().find(|finding| finding.subject == "metrics").map(|finding| finding.severity)
    };
    let public = "listen = \"192.0.2.1:9464\"";
    let tls = format!("{public}\ncertificate = \"main\"");
    assert_eq!(of_metrics(look("listen = \"127.0.0.1:9464\"")), None);
    assert_eq!(of_metrics(look(public)), Some(Severity::Info));
    assert_eq!(of_metrics(look(&tls)), Some(Severity::Info));
    assert_eq!(of_metrics(look(&format!("{public}\ntoken_file = \"token\""))), Some(Severity::Warning));
    assert_eq!(of_metrics(look(&format!("{tls}\ntoken_file = \"token\""))), None);
    let bad = look(&format!("{tls}\nclient_ca = \"ca.pem\""));
    assert_eq!(of_metrics(bad), Some(Severity::Error));
    assert!(
        !look(&tls)
            .iter()
            .any(|finding| finding.message == "no listener uses it" && finding.subject == "certificate main")
    );
}
