//! What a good configuration means: defaults, the example, rules, secrets, JSON.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use portcullis::config::EngineChoice;
use portcullis::config::{LogFormat, StaTls, TlsFloor, UnmatchedSni, parse};
use portcullis_core::policy::{Policy, Rule};
use portcullis_core::profile::Kind;
use portcullis_proto::host_port::HostPort;

use crate::base::{GATEWAY, config, read};

#[test]
fn pins_are_read_as_openssl_writes_them() {
    let bytes: Vec<String> = (0..32).map(|n| format!("{n:02X}")).collect();
    for pin in [bytes.join(":"), bytes.concat().to_lowercase()] {
        let config = config(&format!("[[sta]]\nname = \"x\"\nurl = \"https://a\"\npin_sha256 = \"{pin}\""));
        let expected: Vec<u8> = (0..32).collect();
        assert_eq!(config.stas[1].tls, StaTls::Pin(expected.try_into().unwrap()));
    }
}

#[test]
fn security_keys_are_read_from_their_files_and_never_shown() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("portcullis.toml");
    let write = |name: &str, content: &[u8], mode: u32| {
        fs::write(directory.path().join(name), content).unwrap();
        fs::set_permissions(directory.path().join(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    write("new", b"c2VjcmV0LW5ldw==\n", 0o600);
    write("old", b"  c2VjcmV0LW9sZA==\r\n", 0o640);
    write("empty", b"\n", 0o600);
    write("long", &[b'x'; 1025], 0o600);
    write("binary", b"a\0b", 0o600);
    let text = |files: &str| {
        format!(
            "[[sta]]\nname = \"x\"\nurl = \"https://a\"\nsecurity_key_header = \"X-Key\"\nsecurity_key_files = {files}\n"
        )
    };
    let config = parse(&text("[\"new\", \"old\"]"), &path).unwrap();
    let key = config.stas[0].security_key.as_ref().unwrap();
    assert_eq!(key.header, "X-Key");
    assert_eq!(
        key.values.iter().map(|key| key.as_str()).collect::<Vec<_>>(),
        ["c2VjcmV0LW5ldw==", "c2VjcmV0LW9sZA=="]
    );
    let shown = format!("{config:?}{}", config.to_json());
    assert!(!shown.contains("c2Vj"), "{shown}");
    assert!(config.remarks[0].message.contains("mode 0640"), "{:?}", config.remarks);
    for (files, message) in [
        ("[\"absent\"]", "cannot be read"),
        ("[\"empty\"]", "holds no key"),
        ("[\"long\"]", "holds no key"),
        ("[\"binary\"]", "holds no key"),
        ("[\"new\", \"old\", \"new\"]", "has 3 elements"),
        ("[\"new\", \"new\"]", "twice"),
        ("[]", "is empty"),
    ] {
        let error = parse(&text(files), &path).unwrap_err();
        assert_eq!((error.problems.len(), error.problems[0].line), (1, 5), "{error}");
        assert!(error.to_string().contains(message), "{error}");
    }
}

#[test]
fn an_empty_file_means_the_documented_defaults() {
    let config = read("").unwrap();
    assert!(config.server.workers >= 1);
    assert_eq!(config.server.record_layer, portcullis::config::RecordLayer::Own);
    assert_eq!(config.server.state_dir, Path::new("/var/lib/portcullis"));
    assert_eq!(config.server.drain_timeout, Duration::from_secs(30));
    assert_eq!(config.server.relay_engine, EngineChoice::Auto);
    assert_eq!(config.server.relay_gather, portcullis::config::Gather::Adaptive);
    assert_eq!(config.control.socket, Path::new("/run/portcullis/control.sock"));
    assert_eq!((config.log.level, config.log.format), (tracing::Level::INFO, LogFormat::Text));
    assert_eq!(config.dns.timeout, Duration::from_secs(3));
    assert_eq!(config.limits, portcullis_core::limits::Limits::default());
    assert!(config.metrics.is_none() && config.sta_server.is_none() && config.log.file.is_none());
    assert!(config.remarks[0].message.contains("no [[listener]]"));
}

#[test]
fn the_example_gives_the_defaults_that_it_says() {
    let config =
        parse(include_str!("../../portcullis.example.toml"), Path::new("/etc/portcullis/x.toml")).unwrap();
    let default = read("").unwrap();
    assert_eq!(config.server, default.server);
    assert_eq!(config.control, default.control);
    assert_eq!(config.log, default.log);
    assert_eq!(config.dns, default.dns);
    assert_eq!(config.limits, default.limits);
    let sta = &config.stas[0];
    let minimal = &self::config("").stas[0];
    assert_eq!(
        (sta.timeout, sta.health_interval, sta.connections),
        (minimal.timeout, minimal.health_interval, minimal.connections)
    );
    assert_eq!(sta.url.path, minimal.url.path);
    let listener = &config.listeners[0];
    let minimal = &self::config(GATEWAY).listeners[0];
    assert_eq!((listener.min_tls, listener.unmatched_sni), (minimal.min_tls, minimal.unmatched_sni));
    assert_eq!(listener.allow_from, minimal.allow_from);
    assert_eq!(config.certificates[0].chain, Path::new("/etc/portcullis/tls/fullchain.pem"));
}

#[test]
fn the_commented_lines_of_the_example_are_good_too() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("keys")).unwrap();
    for key in ["sta-new", "sta-old", "own-new", "own-old", "metrics-token"] {
        fs::write(directory.path().join("keys").join(key), key).unwrap();
    }
    let is_setting = |line: &str| {
        line.starts_with('[')
            || line
                .split_once(" = ")
                .is_some_and(|(key, _)| key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'))
    };
    let uncommented = include_str!("../../portcullis.example.toml")
        .lines()
        // What stands for something else beside it, or for a secret that is not here.
        .filter(|line| {
            !["# pin_sha256", "# token_secret", "# security_key_secrets", "# eab_key"]
                .iter()
                .any(|other| line.starts_with(other))
        })
        .map(|line| line.strip_prefix("# ").filter(|line| is_setting(line)).unwrap_or(line))
        .collect::<Vec<_>>()
        .join("\n");
    let config = parse(&uncommented, &directory.path().join("portcullis.toml")).unwrap();
    let server = config.sta_server.unwrap();
    assert_eq!((server.ticket_life, server.max_tickets), (Duration::from_secs(100), 100_000));
    assert_eq!(server.security_key.unwrap().values.len(), 2);
    assert!(matches!(config.stas[0].tls, StaTls::Ca(_)));
    assert_eq!(config.acme.unwrap().certificates[0].names, ["gw.example.com"]);
    assert_eq!(config.dns.servers, ["10.0.0.53:53".parse().unwrap(), "[2001:db8::53]:53".parse().unwrap()]);
}

#[test]
fn a_gateway_without_access_list_reaches_the_ica_ports_but_not_this_machine() {
    let config = config(GATEWAY);
    let listener = &config.listeners[0];
    assert_eq!(
        (listener.kind, listener.min_tls, listener.unmatched_sni),
        (Kind::Gateway, TlsFloor::Tls12, UnmatchedSni::Default)
    );
    let permit = |target: &str| listener.policy.permit(&HostPort::parse(target).unwrap(), &[]).is_ok();
    assert!(permit("10.0.0.1:1494") && permit("10.0.0.1:2598"));
    assert!(!permit("10.0.0.1:22"));
    assert!(!permit("127.0.0.1:1494"));
    assert!(!permit("192.0.2.1:1494"), "a listen address is an own address");
    assert_eq!(listener.policy.rules(), [Rule::ica_anywhere()]);
}

#[test]
fn an_access_list_becomes_rules_of_the_policy() {
    let config = config(&format!(
        "{GATEWAY}permit_loopback = true\n\
         [[listener.allow]]\nto = [\"10.0.0.0/8\", \"127.0.0.1\"]\nports = [22, \"3000-3010\"]\n\
         [[listener.allow]]\nto = [\"vda.example.com\", \"*.farm.example.com\"]\n"
    ));
    let policy: &Policy = &config.listeners[0].policy;
    let permit = |target: &str, resolved: &str| {
        policy.permit(&HostPort::parse(target).unwrap(), &[resolved.parse().unwrap()]).is_ok()
    };
    assert!(permit("10.1.2.3:22", "0.0.0.0") && permit("10.1.2.3:3005", "0.0.0.0"));
    assert!(permit("127.0.0.1:22", "0.0.0.0"));
    assert!(!permit("10.1.2.3:1494", "0.0.0.0") && !permit("11.1.2.3:22", "0.0.0.0"));
    assert!(permit("vda.example.com:1494", "11.0.0.1") && permit("a.farm.example.com:2598", "11.0.0.1"));
    assert!(!permit("farm.example.com:1494", "11.0.0.1") && !permit("vda.example.com:22", "11.0.0.1"));
}

#[test]
fn json_shows_the_effective_configuration() {
    let json = config(&format!("{GATEWAY}[[listener.allow]]\nto = [\"*.a.example\"]\nports = [1, \"2-3\"]"))
        .to_json();
    assert_eq!(json["limits"]["idle_timeout"], "2h");
    assert_eq!(json["sta"][0]["url"], "https://ddc1.example.com:443/scripts/ctxsta.dll");
    assert_eq!(json["listener"][0]["kind"], "gateway");
    assert_eq!(
        json["listener"][0]["allow"][0],
        serde_json::json!({ "to": ["*.a.example"], "ports": [1, "2-3"] })
    );
    assert_eq!(json["listener"][0]["certificates"][0], "main");
    assert_eq!(json["certificate"][0]["chain"], "/etc/portcullis/chain.pem");
}
