//! Certificates without files, those that come by ACME, and secrets by name.

use std::path::Path;
use std::time::Duration;

use portcullis::check::check;
use portcullis::config::{AcmeChallenge, Severity, compare, parse};
use portcullis::secrets::Vault;

use crate::base::{GATEWAY, config, read};
use crate::refusals::refused;

const ACME: &str = "[acme]\ndirectory = \"https://ca.example.com/dir\"\nterms_agreed = true";
const WANTED: &str = "[[certificate]]\nname = \"web\"\nacme_names = [\"GW.example.com\"]";

#[test]
fn a_certificate_without_files_is_kept_in_the_state_directory() {
    let text = "[server]\nstate_dir = \"/srv/gate\"\n[[certificate]]\nname = \"web\"\n";
    let config = read(text).unwrap();
    assert_eq!(config.certificates[0].chain, Path::new("/srv/gate/certificates/web.pem"));
    assert_eq!(config.certificates[0].key, config.certificates[0].chain);
}

#[test]
fn what_comes_by_acme_has_defaults_and_names_in_lower_case() {
    let config = read(&format!("{ACME}\n{WANTED}")).unwrap();
    let acme = config.acme.unwrap();
    assert_eq!((acme.challenge, acme.http_listen.len()), (AcmeChallenge::TlsAlpn01, 0));
    assert_eq!(acme.renew_before, Duration::from_hours(30 * 24));
    assert_eq!(acme.server.to_string(), "ca.example.com:443");
    assert_eq!(
        (acme.certificates[0].name.as_str(), acme.certificates[0].names[0].as_str()),
        ("web", "gw.example.com")
    );
    let by_page = read(&format!("{ACME}\nchallenge = \"http-01\"\n{WANTED}")).unwrap().acme.unwrap();
    let listen: Vec<String> = by_page.http_listen.iter().map(ToString::to_string).collect();
    assert_eq!(listen, ["0.0.0.0:80", "[::]:80"]);
}

#[test]
fn what_acme_cannot_do_is_refused() {
    let certificate = |names: &str| format!("{ACME}\n[[certificate]]\nname = \"web\"\nacme_names = {names}");
    refused(&[
        (
            &format!("‸[acme]\ndirectory = \"https://a/\"\n{WANTED}"),
            "does not agree",
            "terms_agreed = true",
            None,
        ),
        ("[acme]\ndirectory = ‸\"http://a/\"\nterms_agreed = true", "`directory` is", "https URL", None),
        (&format!("{ACME}\ncontact = [‸\"op@example.com\"]"), "`contact` has", "mailto:", None),
        (&format!("{ACME}\nhttp_listen = ‸[\"[::]:80\"]"), "`http_listen` means something", "", None),
        (&format!("{ACME}\neab_key_id = ‸\"kid\""), "has one of", "both", None),
        (&certificate("[‸\"*.example.com\"]"), "cannot be proven", "wildcards", None),
        (&certificate("[‸\"192.0.2.1\"]"), "cannot be proven", "addresses", None),
        (
            "[[certificate]]\nname = \"web\"\nacme_names = ‸[\"a.example.com\"]",
            "there is no [acme]",
            "[acme] section",
            None,
        ),
        (
            &format!(
                "{ACME}\n[[certificate]]\nname = \"web\"\nchain = \"c\"\nkey = \"k\"\nacme_names = ‸[\"a.b\"]"
            ),
            "has files and `acme_names`",
            "either",
            None,
        ),
    ]);
}

#[test]
fn a_certificate_that_has_yet_to_come_is_no_error_and_a_changed_order_is_live() {
    let text = format!("{ACME}\n{WANTED}\n{}", GATEWAY.replace("\"main\"", "\"web\""));
    let before = config(&text);
    let about = |what: &str| {
        let findings = check(&before);
        findings
            .into_iter()
            .filter(|finding| finding.subject.contains(what))
            .map(|finding| finding.severity)
            .collect::<Vec<_>>()
    };
    assert_eq!(about("certificate web"), []);
    assert_eq!(about("acme"), [Severity::Info], "nobody to write to");
    let after = config(&text.replace("GW.", "other."));
    assert_eq!(
        (compare(&before, &after).live.join(" ").as_str(), compare(&before, &after).restart.len()),
        ("acme", 0)
    );
    assert!(!before.to_json()["acme"]["certificates"][0]["names"].is_null());
}

#[test]
fn secrets_are_opened_by_name_and_shown_nowhere() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("portcullis.toml");
    let vault = Vault::new(&directory.path().join("state"));
    vault.set("new", "c2VjcmV0LW5ldw").unwrap();
    vault.set("old", "c2VjcmV0LW9sZA").unwrap();
    vault.set("words", "two words").unwrap();
    let text = |secrets: &str| {
        format!(
            "[server]\nstate_dir = \"state\"\n[[sta]]\nname = \"x\"\nurl = \"https://a\"\n\
             security_key_header = \"X-Key\"\nsecurity_key_secrets = {secrets}\n"
        )
    };
    let config = parse(&text("[\"new\", \"old\"]"), &path).unwrap();
    let values = &config.stas[0].security_key.as_ref().unwrap().values;
    assert_eq!(
        values.iter().map(|key| key.as_str()).collect::<Vec<_>>(),
        ["c2VjcmV0LW5ldw", "c2VjcmV0LW9sZA"]
    );
    assert_eq!(config.secrets.iter().collect::<Vec<_>>(), ["new", "old"]);
    let shown = format!("{config:?}{}", config.to_json());
    assert!(!shown.contains("c2Vj"), "{shown}");
    for (secrets, message) in [
        ("[\"absent\"]", "`secret set absent` makes it"),
        ("[\"words\"]", "holds no key"),
        ("[\"a/b\"]", "name has"),
        ("[\"new\"]\nsecurity_key_files = [\"k\"]", "`security_key_files` and `security_key_secrets`"),
    ] {
        let error = parse(&text(secrets), &path).unwrap_err();
        assert!(error.problems.len() == 1 && error.to_string().contains(message), "{error}");
    }
    let metrics =
        "[server]\nstate_dir = \"state\"\n[metrics]\nlisten = \"127.0.0.1:1\"\ntoken_secret = \"new\"\n";
    let token = parse(metrics, &path).unwrap().metrics.unwrap().token.unwrap();
    assert!(token.is_shown_by(b"Bearer c2VjcmV0LW5ldw"));
}
