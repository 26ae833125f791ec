//! `forward` listeners: what is read, what is refused, what `check` doubts, what a reload changes.

use std::time::Duration;

use portcullis::check::check;
use portcullis::config::{Check, CheckTrust, DataPath, ForwardConfig, Severity, compare};
use portcullis_core::balance::health::Thresholds;
use portcullis_core::profile::Kind;

use crate::base::config;
use crate::refusals::refused;

const HEAD: &str = "[[listener]]\nname = \"f\"\nkind = \"forward\"\nlisten = [\"192.0.2.1:443\"]\n";
const ONE: &str = "server = [{ address = \"10.0.0.5:443\" }]\n";

fn forward(keys: &str) -> ForwardConfig {
    let listener = &config(&format!("{HEAD}{keys}")).listeners[0];
    assert_eq!(listener.kind, Kind::Forward);
    listener.forward.clone().unwrap()
}

#[test]
fn a_server_is_enough() {
    let forward = forward(ONE);
    let server = &forward.servers[0];
    assert_eq!((server.name.as_str(), server.weight), ("10.0.0.5:443", 1));
    let health = forward.health.unwrap();
    assert_eq!(health.check, Check::Tcp);
    assert_eq!((health.interval, health.timeout), (Duration::from_secs(5), Duration::from_secs(2)));
    assert_eq!(health.thresholds, Thresholds { rise: 2, fall: 3 });
    assert_eq!((forward.data_path, forward.idle_timeout), (DataPath::Auto, Duration::from_hours(2)));
    assert_eq!((forward.source.len(), forward.source_ports), (0, 20_000..=29_999));
}

#[test]
fn the_idle_timeout_is_that_of_the_limits_unless_it_has_its_own() {
    let text = |own: &str| format!("{HEAD}{own}{ONE}[limits]\nidle_timeout = \"7m\"");
    let idle = |own| config(&text(own)).listeners[0].forward.clone().unwrap().idle_timeout;
    assert_eq!(idle(""), Duration::from_mins(7));
    assert_eq!(idle("idle_timeout = \"9m\"\n"), Duration::from_mins(9));
}

#[test]
fn each_kind_of_check_is_read() {
    let check = |health: &str| forward(&format!("{ONE}health = {{ {health} }}")).health.map(|it| it.check);
    assert_eq!(check("kind = \"none\""), None);
    assert_eq!(check("kind = \"tcp\""), Some(Check::Tcp));
    let Some(Check::Tls(tls)) = check("kind = \"tls\", server_name = \"a.example\", ca = \"ca.pem\"") else {
        panic!("a check by TLS was asked for");
    };
    assert_eq!(tls.server_name.as_deref(), Some("a.example"));
    assert_eq!(tls.trust, CheckTrust::Ca("/etc/portcullis/ca.pem".into()));
    let http = check("kind = \"http\", path = \"/x?y\"");
    let expected = Check::Http { path: "/x?y".into(), expect: 200..=399, host: None, tls: None };
    assert_eq!(http, Some(expected));
    let pin =
        format!("kind = \"https\", path = \"/\", expect = \"204\", pin_sha256 = \"{}\"", "0a".repeat(32));
    let Some(Check::Http { expect, tls: Some(tls), .. }) = check(&pin) else {
        panic!("a check by https was asked for");
    };
    assert_eq!((expect, tls.trust), (204..=204, CheckTrust::Pin([10; 32])));
}

#[test]
fn json_shows_what_is_in_force() {
    let health = "health = { kind = \"https\", path = \"/\", server_name = \"a.example\" }";
    let json = config(&format!("{HEAD}{ONE}{health}")).to_json();
    let forward = &json["listener"][0]["forward"];
    assert_eq!(forward["server"][0]["address"], "10.0.0.5:443");
    assert_eq!(forward["source_ports"], "20000-29999");
    assert_eq!((&forward["health"]["expect"], &forward["health"]["fall"]), (&"200-399".into(), &3.into()));
    assert_eq!(forward["health"]["server_name"], "a.example");
}

#[test]
fn what_cannot_be_is_refused_where_it_stands() {
    let with = |keys: &str| format!("{HEAD}{keys}");
    let server = |row: &str| with(&format!("server = [{row}]"));
    refused(&[
        (&format!("‸{HEAD}"), "of kind forward has no `server`", "[[listener.server]]", None),
        (&server("‸{ weight = 1 }"), "has no `address`", "10.0.0.5:443", None),
        (&server("{ address = ‸\"10.0.0.5\" }"), "no address of a server", "a port", None),
        (&server("{ address = ‸\"10.0.0.5:0\" }"), "no address of a server", "", None),
        (&server("{ address = ‸\"0.0.0.0:1\" }"), "no address of a server", "", None),
        (&server("{ address = ‸\"a.example:1\" }"), "no address of a server", "an IP address", None),
        (&server("{ address = ‸\"[::ffff:10.0.0.5]:1\" }"), "no address", "", Some("10.0.0.5:1")),
        (&server("{ address = \"10.0.0.5:1\", weight = ‸257 }"), "`weight` is 257", "from 0 to 256", None),
        (
            &server("{ address = ‸\"127.0.0.1:1\" }"),
            "is an address that is never reached",
            "permit_loopback",
            None,
        ),
        (&server("{ address = ‸\"192.0.2.1:1\" }"), "never reached", "permit_own_addresses", None),
        (
            &server("{ address = \"10.0.0.5:1\" }, { address = ‸\"10.0.0.5:1\" }"),
            "the server 10.0.0.5:1 stands there twice",
            "`weight`",
            None,
        ),
        (
            &server(
                "{ name = \"a\", address = \"10.0.0.5:1\" }, { name = ‸\"a\", address = \"10.0.0.6:1\" }",
            ),
            "a second server of [[listener]] `f` is named `a`",
            "",
            None,
        ),
        (&with(&format!("{ONE}data_path = ‸\"kernel\"")), "`data_path`", "auto, xdp, user", None),
        (&with(&format!("{ONE}data_path = ‸\"xdp\"")), "there is no [xdp]", "\"auto\" or \"user\"", None),
        (&with(&format!("{ONE}source = [‸\"ten\"]")), "no address of this machine", "", None),
        (
            &with(&format!("{ONE}source = [\"10.0.0.1\", ‸\"10.0.0.2\"]")),
            "two addresses of one family",
            "one of each",
            None,
        ),
        (&with(&format!("{ONE}source_ports = ‸\"80-90\"")), "`source_ports` is", "1024", None),
        (&with(&format!("{ONE}idle_timeout = ‸\"31d\"")), "`idle_timeout` is 31d", "", None),
        (
            &with(&format!("{ONE}certificates = ‸[\"main\"]")),
            "`certificates` means nothing",
            "ssl-relay",
            None,
        ),
        (&with(&format!("{ONE}users = ‸\"people\"")), "`users` means nothing for the kind forward", "", None),
    ]);
}

#[test]
fn checks_have_only_keys_and_values_that_mean_something() {
    let health = |keys: &str| format!("{HEAD}{ONE}health = {{ {keys} }}");
    refused(&[
        (&health("kind = ‸\"icmp\""), "`kind` is \"icmp\"", "none, tcp, tls, http, https", None),
        (&health("interval = ‸\"99ms\""), "`interval` is 99ms", "from 100ms to 1h", None),
        (&health("timeout = ‸\"61s\""), "`timeout` is 61s", "from 100ms to 1m", None),
        (&health("fall = ‸0"), "`fall` is 0", "from 1 to 100", None),
        (
            &health("kind = \"tcp\", path = ‸\"/\""),
            "`path` means nothing for a check of the kind tcp",
            "http",
            None,
        ),
        (&health("kind = \"none\", rise = ‸2"), "`rise` means nothing", "tcp, tls, http, https", None),
        (&health("kind = \"http\", path = \"/\", ca = ‸\"x\""), "`ca` means nothing", "tls, https", None),
        (&health("kind = \"http\", path = ‸\"x\""), "`path` is \"x\"", "absolute", None),
        (&health("kind = \"http\", path = ‸\"/a b\""), "`path` is \"/a b\"", "", None),
        (&health("kind = \"http\", path = \"/\", expect = ‸\"99\""), "`expect` is \"99\"", "200-399", None),
        (&health("kind = \"tls\", server_name = ‸\"a b\""), "no name of a server", "", None),
        (&health("kind = \"tls\", pin_sha256 = ‸\"00\""), "no SHA-256 fingerprint", "64", None),
    ]);
}

#[test]
fn other_kinds_have_no_servers() {
    let other = "[[listener]]\nname = \"x\"\nkind = \"socks\"\nlisten = [\"192.0.2.1:1\"]\n";
    let allow = "[[listener.allow]]\nto = [\"10.0.0.0/8\"]\nports = [1]";
    refused(&[(
        &format!("{other}server = ‸[{{ address = \"10.0.0.5:1\" }}]\n{allow}"),
        "`server` means nothing for the kind socks",
        "forward",
        None,
    )]);
}

const XDP: &str = "[xdp]\nallow_no_management = true\ninterface = [{ name = \"lo\", role = \"edge\" }]\n";

#[test]
fn the_kernel_does_not_translate_between_families_so_asking_for_it_is_a_contradiction() {
    let six = "server = [{ address = \"[2001:db8::5]:443\" }]\n";
    refused(&[(
        &format!("{HEAD}{six}data_path = ‸\"xdp\"\n{XDP}"),
        "between IPv4 and IPv6",
        "servers of the family of `listen`",
        None,
    )]);
    config(&format!("{HEAD}{six}data_path = \"auto\"\n{XDP}"));
    config(&format!("{HEAD}{ONE}data_path = \"xdp\"\n{XDP}"));
}

#[test]
fn check_doubts_what_does_not_fit_this_machine() {
    let servers = "server = [{ address = \"127.0.0.5:443\" }, { address = \"127.0.0.6:443\" }]\npermit_loopback = true\n";
    let text = format!(
        "{HEAD}{servers}source = [\"203.0.113.77\"]\nsource_ports = \"30000-40000\"\n\
         health = {{ kind = \"tls\", ca = \"absent.pem\", interval = \"1s\", timeout = \"2s\" }}\n\
         [[listener]]\nname = \"g\"\nkind = \"forward\"\nlisten = [\"192.0.2.1:31000\"]\n{servers}\
         health = {{ kind = \"none\" }}\n{XDP}"
    );
    let findings = check(&config(&text));
    for (subject, severity, message) in [
        ("listener f", Severity::Warning, "`source` 203.0.113.77 is no address of this machine"),
        ("listener f", Severity::Warning, "overlaps with the ports of this machine's own connections"),
        ("listener f", Severity::Warning, "holds the port of 192.0.2.1:31000"),
        ("listener f", Severity::Error, "absent.pem"),
        ("listener f", Severity::Info, "longer than their `interval`"),
        ("listener g", Severity::Info, "the servers are not checked"),
    ] {
        let found = findings.iter().find(|it| it.subject == subject && it.message.contains(message));
        assert_eq!(found.map(|it| it.severity), Some(severity), "{subject}: {message} in {findings:#?}");
    }
    let zero = config(&format!("{HEAD}server = [{{ address = \"10.0.0.5:443\", weight = 0 }}]"));
    assert!(zero.remarks.iter().any(|it| it.message.contains("weight 0")), "{:?}", zero.remarks);
}

#[test]
fn everything_but_the_addresses_changes_under_way() {
    let old = config(&format!(
        "{HEAD}server = [{{ name = \"a\", address = \"10.0.0.5:443\" }}, {{ name = \"b\", address = \"10.0.0.6:443\" }}]"
    ));
    let new = config(&format!(
        "{HEAD}server = [{{ name = \"a\", address = \"10.0.0.7:443\", weight = 2 }}, {{ name = \"c\", address = \"10.0.0.8:443\" }}]\n\
         data_path = \"user\"\nidle_timeout = \"1m\"\nsource = [\"10.0.0.1\"]\nsource_ports = \"2000-3000\"\n\
         health = {{ kind = \"none\" }}"
    ));
    let plan = compare(&old, &new);
    let changes = [
        "server a: address",
        "server a: weight",
        "server b: removed",
        "server c: added",
        "health",
        "data_path",
        "idle_timeout",
        "source",
        "source_ports",
    ];
    assert_eq!(plan.live, changes.map(|change| format!("listener f: {change}")));
    assert_eq!(plan.restart, [""; 0]);
}
