//! The configuration file: what is refused, where, and with what advice; what is filled in; what a reload changes.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use portcullis::config::{
    Config, ConfigError, Finding, LogFormat, Problem, ReloadPlan, Severity, StaTls, TlsFloor, UnmatchedSni,
    check, compare, load, parse,
};
use portcullis_core::policy::{Policy, Rule};
use portcullis_core::profile::Kind;
use portcullis_proto::host_port::HostPort;

/// What the cases below build on; its names can be referred to.
const BASE: &str = r#"
[[certificate]]
name = "main"
chain = "chain.pem"
key = "key.pem"
[[users]]
name = "people"
file = "users"
[[sta]]
name = "sta1"
url = "https://ddc1.example.com"
"#;

const GATEWAY: &str = r#"
[[listener]]
name = "gw"
kind = "gateway"
listen = ["192.0.2.1:443"]
certificates = ["main"]
stas = ["sta1"]
"#;

fn read(text: &str) -> Result<Config, ConfigError> {
    parse(text, Path::new("/etc/portcullis/portcullis.toml"))
}

fn config(text: &str) -> Config {
    read(&format!("{BASE}{text}")).unwrap()
}

/// The only problem of the base with `text`, which must be where `text` has the mark `‸`.
#[track_caller]
fn problem(text: &str) -> Problem {
    let marked = format!("{text}\n{BASE}");
    let before = marked.split_once('‸').expect("a mark").0;
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
    let error = read(&marked.replace('‸', "")).unwrap_err();
    assert_eq!(error.problems.len(), 1, "{error}");
    assert_eq!((error.problems[0].line, error.problems[0].column), (line, column), "{error}");
    error.problems[0].clone()
}

/// Each case: the text, a part of the message, a part of what was expected, the suggestion.
type Case<'a> = (&'a str, &'a str, &'a str, Option<&'a str>);

#[track_caller]
fn refused(cases: &[Case<'_>]) {
    for (text, message, expected, suggestion) in cases {
        let problem = problem(text);
        assert!(problem.message.contains(message), "{problem}");
        assert!(problem.expected.as_deref().unwrap_or("").contains(expected), "{problem}");
        assert_eq!(problem.suggestion.as_deref(), *suggestion, "{problem}");
    }
}

#[test]
fn unknown_keys_are_refused_with_the_nearest_known_one() {
    refused(&[
        ("‸sever = 1", "unknown key `sever` at the top level", "server, control", Some("server")),
        ("[server]\n‸worker = 1", "unknown key `worker` in `server`", "workers, state_dir", Some("workers")),
        ("[log]\n  ‸levle = \"info\"", "unknown key `levle`", "level, format, file", Some("level")),
        ("[server]\n‸idle_timeout = \"1h\"", "unknown key", "", Some("limits.idle_timeout")),
        ("[server]\n‸zzz = 1", "unknown key", "", None),
        ("[dns]\nservers = [\"10.0.0.1\"]\n‸\"odd key\" = 1", "unknown key `odd key`", "", None),
        ("limits.‸sesions = 5", "unknown key `sesions` in `limits`", "", Some("sessions")),
    ]);
}

#[test]
fn wrong_types_are_refused_where_the_value_stands() {
    refused(&[
        ("[server]\nworkers = ‸\"two\"", "`workers` is a string", "a whole number", None),
        ("[limits]\nsessions = ‸1.5", "a number with a fraction", "a whole number", None),
        ("[log]\nlevel = ‸3", "`level` is a whole number", "a string", None),
        ("[dns]\nservers = ‸\"10.0.0.1\"", "`servers` is a string", "an array", Some("[\"10.0.0.1\"]")),
        ("[dns]\nservers = [\"10.0.0.1\", ‸53]", "`servers` is a whole number", "a string", None),
        ("‸[listener]\nname = \"x\"", "`listener` is a table", "`[[listener]]` with double brackets", None),
        ("‸[[server]]\nworkers = 1", "`server` is an array", "one table", None),
        ("server = ‸1979-05-27", "`server` is a date", "one table", None),
    ]);
}

#[test]
fn numbers_and_durations_have_bounds_that_the_message_tells() {
    refused(&[
        ("[server]\nworkers = ‸257", "`workers` is 257", "from 0 to 256", None),
        ("[server]\nworkers = ‸-1", "`workers` is -1", "from 0 to 256", None),
        ("[server]\nworkers = ‸0xffffffffffffffffff", "too large", "", None),
        ("[server]\ndrain_timeout = ‸\"25h\"", "`drain_timeout` is 25h", "from 0s to 1d", None),
        ("[limits]\nconnections = ‸0", "`connections` is 0", "from 1 to 1000000", None),
        ("[limits]\nhandshake_timeout = ‸\"99ms\"", "is 99ms", "from 100ms to 5m", None),
        ("[limits]\ndial_timeout = ‸\"301s\"", "is 301s", "from 100ms to 5m", None),
        ("[limits]\nidle_timeout = ‸\"31d\"", "is 31d", "from 1s to 30d", None),
        ("[dns]\ntimeout = ‸\"30\"", "is no duration", "ms, s, m, h or d", Some("30s")),
        ("[dns]\ntimeout = ‸\"3 s\"", "is no duration", "ms, s, m, h or d", None),
        ("[dns]\ntimeout = ‸\"\"", "is no duration", "", None),
    ]);
}

#[test]
fn the_bounds_themselves_are_accepted() {
    for text in [
        "[server]\nworkers = 256\ndrain_timeout = \"24h\"",
        "[limits]\nconnections = 1\nsessions = 1000000",
        "[limits]\nhandshake_timeout = \"100ms\"\ndial_timeout = \"5m\"\nidle_timeout = \"30d\"",
    ] {
        config(text);
    }
}

#[test]
fn words_outside_a_closed_set_are_refused_with_the_nearest() {
    refused(&[
        (
            "[log]\nlevel = ‸\"warning\"",
            "`level` is \"warning\"",
            "error, warn, info, debug, trace",
            Some("warn"),
        ),
        ("[log]\nformat = ‸\"xml\"", "`format` is \"xml\"", "text, json", None),
        (
            "[[listener]]\nname = \"a\"\nkind = ‸\"gatway\"\nlisten = [\"192.0.2.1:1\"]",
            "`kind` is \"gatway\"",
            "gateway, hdx-only, socks, secure-proxy, relay, ssl-relay",
            Some("gateway"),
        ),
    ]);
    let tls = GATEWAY.to_owned();
    refused(&[
        (&format!("{tls}min_tls = ‸\"1.1\""), "`min_tls` is \"1.1\"", "1.2, 1.3", Some("1.2")),
        (&format!("{tls}unmatched_sni = ‸\"rejekt\""), "is \"rejekt\"", "default, reject", Some("reject")),
    ]);
}

#[test]
fn every_table_needs_what_it_cannot_do_without() {
    refused(&[
        ("‸[[certificate]]\nchain = \"x\"\nkey = \"x\"", "[[certificate]] has no `name`", "`name`", None),
        ("‸[[certificate]]\nname = \"x\"\nkey = \"x\"", "[[certificate]] `x` has no `chain`", "PEM", None),
        ("‸[[certificate]]\nname = \"x\"\nchain = \"x\"", "[[certificate]] `x` has no `key`", "PEM", None),
        ("‸[[users]]\nname = \"x\"", "[[users]] `x` has no `file`", "name:hash", None),
        ("‸[[sta]]\nname = \"x\"", "[[sta]] `x` has no `url`", "https://", None),
        ("‸[metrics]", "[metrics] has no `listen`", "127.0.0.1:9464", None),
        ("‸[sta_server]\nlisten = [\"192.0.2.1:80\"]", "has no `allow_from`", "who may ask", None),
        ("‸[[listener]]\nname = \"x\"\nlisten = [\"192.0.2.1:1\"]", "has no `kind`", "one of gateway", None),
    ]);
}

#[test]
fn each_kind_of_listener_needs_its_keys() {
    let listener = |rest: &str| format!("‸[[listener]]\nname = \"x\"\nlisten = [\"192.0.2.1:1\"]\n{rest}");
    for (rest, message, expected) in [
        (
            "kind = \"gateway\"\nstas = [\"sta1\"]",
            "of kind gateway has no `certificates`",
            "tickets need TLS",
        ),
        (
            "kind = \"hdx-only\"\nstas = [\"sta1\"]",
            "of kind hdx-only has no `certificates`",
            "tickets need TLS",
        ),
        ("kind = \"gateway\"\ncertificates = [\"main\"]", "has no `stas`", "\"local\""),
        ("kind = \"socks\"", "of kind socks has no `allow`", "open proxy"),
        ("kind = \"secure-proxy\"", "of kind secure-proxy has no `allow`", "open proxy"),
        ("kind = \"relay\"\ncertificates = [\"main\"]", "of kind relay has no `allow`", "open proxy"),
        (
            "kind = \"relay\"\nallow = [{ to = [\"10.0.0.0/8\"], ports = [1] }]",
            "of kind relay has no `certificates`",
            "",
        ),
        (
            "kind = \"ssl-relay\"\ncertificates = [\"main\"]",
            "of kind ssl-relay has no `target`",
            "10.0.0.9:1494",
        ),
        ("kind = \"ssl-relay\"\ntarget = \"10.0.0.9:1494\"", "of kind ssl-relay has no `certificates`", ""),
    ] {
        refused(&[(&listener(rest), message, expected, None)]);
    }
}

#[test]
fn keys_that_mean_nothing_for_a_kind_are_refused() {
    let allow = "[[listener.allow]]\nto = [\"10.0.0.0/8\"]\nports = [1]";
    let socks = "[[listener]]\nname = \"x\"\nkind = \"socks\"\nlisten = [\"192.0.2.1:1\"]\n";
    refused(&[
        (
            &format!("{socks}stas = ‸[\"sta1\"]\n{allow}"),
            "`stas` means nothing for the kind socks",
            "gateway",
            None,
        ),
        (&format!("{socks}target = ‸\"a.example:1\"\n{allow}"), "`target` means nothing", "ssl-relay", None),
        (&format!("{socks}min_tls = ‸\"1.3\"\n{allow}"), "nothing without TLS", "certificates", None),
        (
            &format!("{socks}unmatched_sni = ‸\"reject\"\n{allow}"),
            "nothing without TLS",
            "certificates",
            None,
        ),
        (&format!("{GATEWAY}users = ‸\"people\""), "`users` means nothing", "socks, secure-proxy", None),
        (
            &format!(
                "[[listener]]\nname = \"x\"\nkind = \"ssl-relay\"\nlisten = [\"192.0.2.1:1\"]\n\
                 certificates = [\"main\"]\ntarget = \"10.0.0.9:1\"\n‸{allow}"
            ),
            "`allow` means nothing for the kind ssl-relay",
            "",
            None,
        ),
    ]);
}

#[test]
fn references_to_tables_that_do_not_exist_are_refused_with_the_nearest_name() {
    let gateway = |certificates: &str, stas: &str| {
        format!(
            "[[listener]]\nname = \"x\"\nkind = \"gateway\"\nlisten = [\"192.0.2.1:1\"]\n\
             certificates = {certificates}\nstas = {stas}"
        )
    };
    refused(&[
        (&gateway("[‸\"mian\"]", "[\"sta1\"]"), "no [[certificate]] named `mian`", "main", Some("main")),
        (&gateway("[\"main\", ‸\"x\"]", "[\"sta1\"]"), "no [[certificate]] named `x`", "one of main", None),
        (&gateway("[\"main\"]", "[\"sta1\", ‸\"sta2\"]"), "no [[sta]] named `sta2`", "sta1", Some("sta1")),
        (&gateway("[\"main\"]", "[‸\"local\"]"), "there is no [sta_server]", "[sta_server]", None),
        (&gateway("[\"main\", ‸\"main\"]", "[\"sta1\"]"), "`main` stands in `certificates` twice", "", None),
        (&gateway("‸[]", "[\"sta1\"]"), "`certificates` is empty", "at least one", None),
        (
            "[[listener]]\nname = \"x\"\nkind = \"socks\"\nlisten = [\"192.0.2.1:1\"]\nusers = ‸\"peeple\"\n\
             [[listener.allow]]\nto = [\"10.0.0.0/8\"]\nports = [1]",
            "no [[users]] named `peeple`",
            "people",
            Some("people"),
        ),
        (
            "[sta_server]\nlisten = [\"192.0.2.1:80\"]\nallow_from = [\"10.0.0.0/8\"]\ncertificate = ‸\"man\"",
            "no [[certificate]] named `man`",
            "main",
            Some("main"),
        ),
    ]);
    let none = "[[listener]]\nname = \"x\"\nkind = \"gateway\"\nlisten = [\"192.0.2.1:1\"]\ncertificates = [\"a\"]\nstas = [\"b\"]";
    let error = read(none).unwrap_err();
    assert!(error.to_string().contains("the name of a [[certificate]], and there is none"), "{error}");
}

#[test]
fn names_are_distinct_printable_and_not_reserved() {
    let certificate = |name: &str| format!("[[certificate]]\nname = {name}\nchain = \"x\"\nkey = \"x\"");
    let twice = format!("{}\n{}", certificate("\"a\""), certificate("‸\"a\""));
    refused(&[
        (&twice, "a second [[certificate]] is named `a`", "a name of its own", None),
        (&certificate("‸\"\""), "\"\" is no name", "1 to 64", None),
        (&certificate("‸\"a b\""), "\"a b\" is no name", "letters, digits", None),
        (&certificate("‸\"a\\nb\""), "\"a\\nb\" is no name", "", None),
        (&certificate(&format!("‸\"{}\"", "x".repeat(65))), "is no name", "1 to 64", None),
        ("[[sta]]\nname = ‸\"local\"\nurl = \"http://a\"", "cannot be named `local`", "another name", None),
    ]);
}

#[test]
fn two_things_cannot_listen_on_one_address() {
    let second = |listen: &str| {
        format!("{GATEWAY}{}", GATEWAY.replace("\"gw\"", "\"two\"").replace("\"192.0.2.1:443\"", listen))
    };
    refused(&[
        (&second("‸\"192.0.2.1:443\""), "already taken by [[listener]] `gw`", "its own", None),
        (
            &second("‸\"0.0.0.0:443\""),
            "0.0.0.0:443 clashes with 192.0.2.1:443 of [[listener]] `gw`",
            "",
            None,
        ),
        (&second("\"192.0.2.2:1\", ‸\"192.0.2.2:1\""), "already taken by [[listener]] `two`", "", None),
        (
            "[metrics]\nlisten = \"127.0.0.1:9464\"\n[sta_server]\nallow_from = [\"10.0.0.0/8\"]\n\
             listen = [‸\"127.0.0.1:9464\"]",
            "127.0.0.1:9464 is already taken by [metrics]",
            "",
            None,
        ),
    ]);
    let listeners = |text: &str| config(&second(text)).listeners.len();
    assert_eq!(listeners("\"[::]:443\""), 2, "IPv6 sockets take no IPv4");
    assert_eq!(listeners("\"192.0.2.1:444\""), 2);
    assert_eq!(listeners("\"127.0.0.1:0\", \"127.0.0.1:0\""), 2, "port 0 is any free port");
}

#[test]
fn addresses_must_be_addresses() {
    let metrics = |listen: &str| format!("[metrics]\nlisten = {listen}");
    refused(&[
        (&metrics("‸\"443\""), "no address to listen on", "0.0.0.0:443", Some("0.0.0.0:443")),
        (&metrics("‸\":443\""), "no address to listen on", "", Some("0.0.0.0:443")),
        (&metrics("‸\"10.0.0.1\""), "no address to listen on", "", Some("10.0.0.1:443")),
        (&metrics("‸\"localhost:443\""), "no address to listen on", "", None),
        (&metrics("‸\"[::ffff:10.0.0.1]:443\""), "IPv4 address in IPv6 dress", "", Some("10.0.0.1:443")),
        ("[dns]\nservers = [‸\"dns.example\"]", "no address of a name server", "10.0.0.53", None),
        (&format!("{GATEWAY}allow_from = [‸\"10.0.0.7/8\"]"), "no prefix", "10.0.0.0/8", Some("10.0.0.0/8")),
        (&format!("{GATEWAY}allow_from = [‸\"ten\"]"), "no prefix", "10.0.0.0/8", None),
        (&format!("{GATEWAY}allow_from = ‸[]"), "`allow_from` is empty", "", None),
    ]);
}

#[test]
fn access_lists_are_checked_element_by_element() {
    let allow = |to: &str, ports: &str| format!("{GATEWAY}[[listener.allow]]\nto = {to}\nports = {ports}");
    refused(&[
        (&allow("[‸\"*\"]", "[1]"), "neither a prefix nor a name", "", Some("0.0.0.0/0")),
        (&allow("[\"10.0.0.0/8\", ‸\"10.0.0.1/8\"]", "[1]"), "neither", "", Some("10.0.0.0/8")),
        (&allow("[‸\"a..b\"]", "[1]"), "\"a..b\" is neither", "*.farm.example.com", None),
        (&allow("[‸\"a.*.b\"]", "[1]"), "neither", "", None),
        (&allow("‸[]", "[1]"), "`to` is empty", "", None),
        (&allow("[\"10.0.0.0/8\"]", "‸[]"), "`ports` is empty", "", None),
        (&allow("[\"10.0.0.0/8\"]", "[‸0]"), "0 is neither a port", "1 to 65535", None),
        (&allow("[\"10.0.0.0/8\"]", "[‸65536]"), "65536 is neither a port", "", None),
        (&allow("[\"10.0.0.0/8\"]", "[1, ‸\"9-8\"]"), "\"9-8\" is neither", "the lower one first", None),
        (&allow("[\"10.0.0.0/8\"]", "[‸true]"), "`ports` is true or false", "range such as", None),
        (&format!("{GATEWAY}‸[[listener.allow]]\nports = [1]"), "has no `to`", "prefixes, names", None),
        (
            "[[listener]]\nname = \"x\"\nkind = \"socks\"\nlisten = [\"192.0.2.1:1\"]\n\
             ‸[[listener.allow]]\nto = [\"10.0.0.0/8\"]",
            "has no `ports`",
            "1494",
            None,
        ),
    ]);
}

#[test]
fn a_target_that_could_never_be_reached_is_refused() {
    let relay = |target: &str| {
        format!(
            "[[listener]]\nname = \"x\"\nkind = \"ssl-relay\"\nlisten = [\"192.0.2.1:1\"]\ncertificates = [\"main\"]\n\
             target = {target}"
        )
    };
    refused(&[
        (&relay("‸\"10.0.0.9\""), "port is missing", "host and a port", None),
        (&relay("‸\"127.0.0.1:1494\""), "never reached", "permit_loopback", None),
        (&relay("‸\"192.0.2.1:1494\""), "never reached", "permit_own_addresses", None),
        (&relay("‸\"169.254.1.1:1494\""), "never reached", "", None),
    ]);
    config(&relay("\"127.0.0.1:1494\"\npermit_loopback = true"));
    config(&relay("\"192.0.2.1:1494\"\npermit_own_addresses = true"));
    config(&relay("\"vda.example.com:1494\""));
}

#[test]
fn ticket_authorities_are_checked() {
    let sta = |rest: &str| format!("[[sta]]\nname = \"x\"\n{rest}");
    let id = |name: &str, id: &str| {
        format!("[[sta]]\nname = \"{name}\"\nurl = \"http://{name}\"\nauthority_id = {id}\n")
    };
    refused(&[
        (&sta("url = ‸\"ddc1.example.com\""), "is no URL", "http://", Some("http://ddc1.example.com")),
        (&sta("url = ‸\"htps://a\""), "has another scheme", "https://", Some("https://a")),
        (&sta("url = ‸\"http://u:p@a/\""), "no host (and port)", "", None),
        (&sta("url = ‸\"http://a/x?y=1\""), "no path as it should be", "", None),
        (&sta("url = \"http://a\"\nca = ‸\"ca.pem\""), "`ca` means nothing for an http url", "https", None),
        (&sta("url = \"http://a\"\npin_sha256 = ‸\"00\""), "means nothing", "https", None),
        (&sta("url = \"https://a\"\npin_sha256 = ‸\"00\""), "no SHA-256 fingerprint", "64 hex", None),
        (&sta("url = \"https://a\"\nauthority_id = ‸\"STA1\""), "no authority id", "`STA` and 9", None),
        (&sta("url = \"https://a\"\ntimeout = ‸\"2m\""), "is 2m", "from 100ms to 1m", None),
        (&sta("url = \"https://a\"\nconnections = ‸0"), "is 0", "from 1 to 1024", None),
        (
            &format!("{}{}", id("a", "\"STA490101972\""), id("b", "‸\"sta490101972\"")),
            "STA490101972 is used twice",
            "",
            None,
        ),
    ]);
    let both = sta(&format!("url = \"https://a\"\nca = \"ca.pem\"\npin_sha256 = ‸\"{}\"", "0".repeat(64)));
    refused(&[(&both, "contradict each other", "one of them", None)]);
}

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
fn a_security_key_needs_both_its_header_and_its_files() {
    let sta = |rest: &str| format!("[[sta]]\nname = \"x\"\nurl = \"https://a\"\n{rest}");
    refused(&[
        (&sta("security_key_header = ‸\"X-Key\""), "but no `security_key_files`", "both or neither", None),
        (&sta("security_key_files = ‸[\"k\"]"), "but no `security_key_header`", "both or neither", None),
    ]);
    let key = tempfile::NamedTempFile::new().unwrap();
    fs::write(key.path(), "k").unwrap();
    let with = |header: &str| {
        sta(&format!("security_key_header = {header}\nsecurity_key_files = [\"{}\"]", key.path().display()))
    };
    refused(&[
        (&with("‸\"X Key\""), "no name of an HTTP header", "token", None),
        (&with("‸\"Content-Length\""), "has a meaning of its own", "", None),
    ]);
}

#[test]
fn the_control_sockets_path_fits_a_unix_address() {
    let path = |length: usize| format!("[control]\nsocket = ‸\"/{}\"", "x".repeat(length - 1));
    refused(&[(&path(108), "a path of 108 bytes", "at most 107 bytes", None)]);
    config(&path(107).replace('‸', ""));
}

#[test]
fn all_problems_of_a_file_are_reported_at_once_and_in_its_order() {
    let error =
        read("[server]\nworkers = 999\nx = 1\n[log]\nlevel = \"loud\"\n[[sta]]\nname = \"s\"\nurl = 1\n")
            .unwrap_err();
    let places: Vec<_> = error.problems.iter().map(|problem| (problem.line, problem.column)).collect();
    assert_eq!(places, [(2, 11), (3, 1), (5, 9), (8, 7)], "{error}");
    let line = "/etc/portcullis/portcullis.toml:5:9: `level` is \"loud\" (expected one of error, warn, info, debug, trace)";
    assert!(error.to_string().lines().any(|shown| shown == line), "{error}");
    let json = error.to_json();
    assert_eq!(json["problems"][0]["line"], 2);
    assert_eq!(json["problems"][0]["expected"], "a number from 0 to 256");
}

#[test]
fn a_thousand_problems_do_not_make_a_thousand_lines() {
    let text: String = (0..1_000).map(|n| format!("x{n} = 1\n")).collect();
    let error = read(&text).unwrap_err();
    assert_eq!(error.problems.len(), 101);
    assert!(error.to_string().ends_with("900 more problems"), "{error}");
}

#[test]
fn files_that_cannot_be_read_say_why() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("portcullis.toml");
    assert!(load(&path).unwrap_err().to_string().contains("portcullis.toml: cannot be read"));
    fs::write(&path, b"[server]\nstate_dir = \"\xff\"\n").unwrap();
    assert!(load(&path).unwrap_err().to_string().ends_with("portcullis.toml:2:14: not UTF-8 text"));
    fs::write(&path, vec![b'#'; 4 * 1024 * 1024 + 1]).unwrap();
    assert!(load(&path).unwrap_err().to_string().contains("is longer than"));
    fs::write(&path, "[server]\nworkers = 1\n[server]\n").unwrap();
    assert!(load(&path).unwrap_err().to_string().ends_with(":3:2: duplicate key `server`"));
}

#[test]
fn an_empty_file_means_the_documented_defaults() {
    let config = read("").unwrap();
    assert!(config.server.workers >= 1);
    assert_eq!(config.server.state_dir, Path::new("/var/lib/portcullis"));
    assert_eq!(config.server.drain_timeout, Duration::from_secs(30));
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
        parse(include_str!("../portcullis.example.toml"), Path::new("/etc/portcullis/x.toml")).unwrap();
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
    for key in ["sta-new", "sta-old", "own-new", "own-old"] {
        fs::write(directory.path().join("keys").join(key), key).unwrap();
    }
    let is_setting = |line: &str| {
        line.starts_with('[')
            || line
                .split_once(" = ")
                .is_some_and(|(key, _)| key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'))
    };
    let uncommented = include_str!("../portcullis.example.toml")
        .lines()
        .filter(|line| !line.starts_with("# pin_sha256"))
        .map(|line| line.strip_prefix("# ").filter(|line| is_setting(line)).unwrap_or(line))
        .collect::<Vec<_>>()
        .join("\n");
    let config = parse(&uncommented, &directory.path().join("portcullis.toml")).unwrap();
    let server = config.sta_server.unwrap();
    assert_eq!((server.ticket_life, server.max_tickets), (Duration::from_secs(100), 100_000));
    assert_eq!(server.security_key.unwrap().values.len(), 2);
    assert!(matches!(config.stas[0].tls, StaTls::Ca(_)));
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

fn plan(old: &str, new: &str) -> ReloadPlan {
    compare(&config(old), &config(new))
}

#[test]
fn nothing_changed_means_nothing_to_do() {
    assert!(plan(GATEWAY, GATEWAY).is_empty());
    let reordered = GATEWAY.replace("[\"192.0.2.1:443\"]", "[\"192.0.2.2:443\", \"192.0.2.1:443\"]");
    let ordered = GATEWAY.replace("[\"192.0.2.1:443\"]", "[\"192.0.2.1:443\", \"192.0.2.2:443\"]");
    assert!(plan(&ordered, &reordered).is_empty());
}

#[test]
fn what_can_change_under_way_is_live() {
    for (new, expected) in [
        ("[log]\nlevel = \"debug\"\nformat = \"json\"", &["log.level", "log.format"][..]),
        ("[limits]\nsessions = 5", &["limits"]),
        ("[server]\ndrain_timeout = \"1m\"", &["server.drain_timeout"]),
        ("[[certificate]]\nname = \"x\"\nchain = \"c\"\nkey = \"k\"", &["certificate x: added"]),
        ("[[sta]]\nname = \"x\"\nurl = \"http://a\"", &["sta x: added"]),
        ("[[users]]\nname = \"x\"\nfile = \"f\"", &["users x: added"]),
    ] {
        assert_eq!(
            plan("", new),
            ReloadPlan { live: expected.iter().map(|s| s.to_string()).collect(), restart: vec![] }
        );
    }
    let changed = GATEWAY.replace("gateway", "hdx-only")
        + "min_tls = \"1.3\"\nunmatched_sni = \"reject\"\nallow_from = [\"10.0.0.0/8\"]\npermit_loopback = true\n\
           permit_own_addresses = true\n[[listener.allow]]\nto = [\"10.0.0.0/8\"]";
    let plan = plan(GATEWAY, &changed);
    let keys = [
        "kind",
        "min_tls",
        "unmatched_sni",
        "allow_from",
        "allow",
        "permit_loopback",
        "permit_own_addresses",
    ];
    assert_eq!(plan.live, keys.map(|key| format!("listener gw: {key}")));
    assert_eq!(plan.restart, [""; 0]);
}

#[test]
fn what_is_made_at_start_needs_a_restart() {
    let server = "[sta_server]\nlisten = [\"192.0.2.1:80\"]\nallow_from = [\"10.0.0.0/8\"]\n";
    for (old, new, expected) in [
        ("", "[server]\nworkers = 77", "server.workers"),
        ("", "[server]\nstate_dir = \"/x\"", "server.state_dir"),
        ("", "[control]\nsocket = \"/x\"", "control.socket"),
        ("", "[metrics]\nlisten = \"127.0.0.1:1\"", "metrics.listen"),
        ("", "[dns]\ntimeout = \"1s\"", "dns"),
        ("", "[log]\nfile = \"/x\"", "log.file"),
        ("", server, "sta_server: added"),
        (server, "", "sta_server: removed"),
        (server, &server.replace(":80", ":81"), "sta_server.listen"),
        (server, &format!("{server}ticket_life = \"5s\""), "sta_server.ticket_life"),
    ] {
        assert_eq!(plan(old, new), ReloadPlan { live: vec![], restart: vec![expected.to_owned()] });
    }
    assert_eq!(plan("", GATEWAY).restart, ["listener gw: added"]);
    assert_eq!(plan(GATEWAY, "").restart, ["listener gw: removed"]);
    let moved = plan(GATEWAY, &GATEWAY.replace("192.0.2.1:443", "192.0.2.1:444"));
    assert_eq!(moved.restart, ["listener gw: listen"]);
    let live = plan(server, &server.replace("10.0.0.0/8", "10.0.0.0/9"));
    assert_eq!(live, ReloadPlan { live: vec!["sta_server.allow_from".into()], restart: vec![] });
}

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
