//! Each refusal: where, what was expected, and the nearest thing that exists.

use std::fs;

use portcullis::config::Problem;

use crate::base::{BASE, GATEWAY, config, read};

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
pub(crate) type Case<'a> = (&'a str, &'a str, &'a str, Option<&'a str>);

#[track_caller]
pub(crate) fn refused(cases: &[Case<'_>]) {
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
        (
            "[server]\n‸worker = 1",
            "unknown key `worker` in `server`",
            "workers, record_layer",
            Some("workers"),
        ),
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
        ("[server]\nrelay_gather = ‸\"11ms\"", "`relay_gather` is 11ms", "from 0s to 10ms", None),
        (
            "[server]\nrelay_gather = ‸\"often\"",
            "`relay_gather` is \"often\"",
            "one of adaptive, a duration up to 10ms",
            None,
        ),
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
            "gateway, hdx-only, socks, secure-proxy, relay, ssl-relay, forward",
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
fn a_security_key_needs_both_its_header_and_its_values() {
    let sta = |rest: &str| format!("[[sta]]\nname = \"x\"\nurl = \"https://a\"\n{rest}");
    refused(&[
        (&sta("security_key_header = ‸\"X-Key\""), "but no key", "security_key_secrets", None),
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
