//! `[listener.server_tls]`: what is read, what is refused, what `check` doubts, what a reload changes.

use portcullis::check::check;
use portcullis::config::{ServerTlsConfig, ServerTrust, Severity, TlsFloor, compare};

use crate::base::{GATEWAY, config};
use crate::refusals::refused;

fn listener(keys: &str) -> String {
    format!("{GATEWAY}[listener.server_tls]\n{keys}\n")
}

fn server_tls(keys: &str) -> ServerTlsConfig {
    config(&listener(keys)).listeners[0].server_tls.clone().unwrap()
}

#[test]
fn without_the_table_servers_are_reached_in_the_clear() {
    assert_eq!(config(GATEWAY).listeners[0].server_tls, None);
}

#[test]
fn an_empty_table_trusts_the_public_authorities() {
    let expected = ServerTlsConfig {
        trust: ServerTrust::PublicRoots,
        server_name: None,
        min_tls: TlsFloor::Tls12,
        certificate: None,
    };
    assert_eq!(server_tls(""), expected);
    assert_eq!(server_tls("verify = true"), expected);
}

#[test]
fn each_way_of_trust_is_read() {
    assert_eq!(server_tls("ca = \"ca.pem\"").trust, ServerTrust::Ca("/etc/portcullis/ca.pem".into()));
    let pin = format!("pin_sha256 = \"{}\"", "0a".repeat(32));
    assert_eq!(server_tls(&pin).trust, ServerTrust::Pin([10; 32]));
    assert_eq!(server_tls("verify = false").trust, ServerTrust::Anyone);
    let all = server_tls("server_name = \"vda.example\"\nmin_tls = \"1.3\"\ncertificate = \"main\"");
    assert_eq!((all.server_name.as_deref(), all.certificate.as_deref()), (Some("vda.example"), Some("main")));
    assert_eq!(all.min_tls, TlsFloor::Tls13);
}

#[test]
fn contradictions_are_refused() {
    // The base comes behind these.
    let head = "[[listener]]\nname = \"s\"\nkind = \"socks\"\nlisten = [\"192.0.2.1:1\"]\n\
                allow = [{ to = [\"10.0.0.0/8\"], ports = [1] }]\n[listener.server_tls]\n";
    let pin = format!("ca = \"a\"\npin_sha256 = ‸\"{}\"", "0a".repeat(32));
    for (keys, message, expected, suggestion) in [
        ("verify = ‸false\nca = \"a\"", "`verify` = false and `ca` contradict", "no `verify`", None),
        (&pin, "`ca` and `pin_sha256` contradict", "one of them", None),
        ("server_name = ‸\"10.0.0.1\"", "is no name of a server", "such as", None),
        ("certificate = ‸\"mian\"", "mian", "", Some("main")),
        ("min_tls = ‸\"1.1\"", "`min_tls` is \"1.1\"", "one of 1.2, 1.3", Some("1.2")),
    ] {
        refused(&[(&format!("{head}{keys}"), message, expected, suggestion)]);
    }
    let forward = "[[listener]]\nname = \"f\"\nkind = \"forward\"\nlisten = [\"192.0.2.1:443\"]\n\
                   server = [{ address = \"10.0.0.5:443\" }]\nserver_tls = ‸{}\n";
    refused(&[(forward, "`server_tls` means nothing for the kind forward", "no `server_tls`", None)]);
}

#[test]
fn check_doubts_servers_that_need_not_prove_who_they_are() {
    let found = |keys: &str, severity, message: &str| {
        let findings = check(&config(&listener(keys)));
        findings
            .iter()
            .any(|it| it.subject == "listener gw" && it.severity == severity && it.message.contains(message))
    };
    assert!(found("verify = false", Severity::Warning, "nobody checks who answers"));
    assert!(!found("", Severity::Warning, "nobody checks who answers"));
    assert!(found("ca = \"nonexistent.pem\"", Severity::Error, "nonexistent.pem cannot be read"));
}

#[test]
fn a_certificate_that_only_servers_see_is_used() {
    let shown = "[[certificate]]\nname = \"mine\"\nchain = \"c\"\nkey = \"k\"\n";
    let text = format!("{}{shown}", listener("certificate = \"mine\""));
    let findings = check(&config(&text));
    assert!(
        !findings.iter().any(|it| it.subject == "certificate mine" && it.message.contains("no listener"))
    );
}

#[test]
fn it_changes_under_way_and_is_shown() {
    let plan = compare(&config(GATEWAY), &config(&listener("ca = \"ca.pem\"")));
    assert_eq!(plan.live, ["listener gw: server_tls"]);
    let json = config(&listener("ca = \"ca.pem\"")).to_json();
    let shown = &json["listener"][0]["server_tls"];
    assert_eq!((shown["verify"].as_bool(), shown["min_tls"].as_str()), (Some(true), Some("1.2")));
}
