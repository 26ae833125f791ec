//! `[bans]`: what is read, its bounds, and that a reload applies it.

use std::time::Duration;

use portcullis::check::check;
use portcullis::config::{Severity, compare};
use portcullis_core::penalty::{Rules, Threshold};

use crate::base::{BASE, config, read};

#[test]
fn without_the_section_nobody_is_banned_by_the_gateway_and_with_it_by_the_defaults() {
    assert_eq!(config("").bans, None);
    let bans = config("[bans]").bans.unwrap();
    assert_eq!((bans.rules, bans.allow), (Rules::default(), vec![]));
}

#[test]
fn every_key_is_read_and_shown_as_it_is_written() {
    let text = "[bans]
bad_tickets = { count = 5, within = \"1m\" }
failed_logins = { count = 0 }
broken_handshakes = { count = 7, within = \"2h\" }
ban_time = \"1m\"
ban_time_most = \"1h\"
ipv4_prefix = 24
ipv6_prefix = 48
allow = [\"192.0.2.0/24\", \"2001:db8::7\"]
";
    let read = config(text);
    let bans = read.bans.as_ref().unwrap();
    assert_eq!(bans.rules.bad_tickets, Threshold { count: 5, within: Duration::from_mins(1) });
    let logins = Rules::default().failed_logins.within;
    assert_eq!(bans.rules.failed_logins, Threshold { count: 0, within: logins });
    assert_eq!(bans.rules.broken_handshakes.within, Duration::from_hours(2));
    assert_eq!(bans.rules.violations, Rules::default().violations);
    assert_eq!((bans.rules.ipv4_prefix, bans.rules.ipv6_prefix), (24, 48));
    let shown = &read.to_json()["bans"];
    assert_eq!(shown["bad_tickets"], serde_json::json!({ "count": 5, "within": "1m" }));
    assert_eq!(shown["ban_time_most"], "1h");
    assert_eq!(shown["allow"], serde_json::json!(["192.0.2.0/24", "2001:db8::7/128"]));
}

#[test]
fn the_longest_ban_is_at_least_as_long_as_the_first() {
    let bans = config("[bans]\nban_time = \"2d\"").bans.unwrap();
    assert_eq!(bans.rules.ban_time_most, Duration::from_hours(48));
}

#[test]
fn what_is_wrong_is_named() {
    for (text, message) in [
        ("bad_tickets = 5", "`bad_tickets` is a whole number"),
        ("bad_tickets = { within = \"5m\" }", "`bad_tickets` has no `count`"),
        ("bad_tickets = { count = -1 }", "`count` is -1"),
        ("bad_tickets = { count = 5, within = \"2d\" }", "`within` is 2d"),
        ("bad_tickets = { count = 5, during = \"5m\" }", "unknown key `during` in `bad_tickets`"),
        ("ban_time = \"0s\"", "`ban_time` is 0s"),
        ("ban_time = \"2h\"\nban_time_most = \"1h\"", "at least `ban_time`, which is 2h"),
        ("ipv4_prefix = 8", "`ipv4_prefix` is 8"),
        ("ipv6_prefix = 129", "`ipv6_prefix` is 129"),
        ("allow = [\"192.0.2.7/24\"]", "no prefix of addresses"),
        ("bantime = \"1h\"", "unknown key `bantime` in `bans`"),
    ] {
        let error = read(&format!("{BASE}[bans]\n{text}")).unwrap_err().to_string();
        assert!(error.contains(message), "{message} in {error}");
    }
}

#[test]
fn a_change_applies_at_once() {
    assert_eq!(compare(&config(""), &config("[bans]")).live, ["bans"]);
    let plan = compare(&config("[bans]"), &config("[bans]\nban_time = \"1m\""));
    assert_eq!((plan.live, plan.restart), (vec!["bans".to_owned()], vec![]));
}

#[test]
fn doubtful_settings_are_pointed_out() {
    let found = |text: &str| -> Vec<(Severity, String)> {
        let findings = check(&config(text));
        let bans = findings.into_iter().filter(|finding| finding.subject == "bans");
        bans.map(|finding| (finding.severity, finding.message)).collect()
    };
    assert_eq!(found("[bans]"), []);
    assert_eq!(found("[bans]\nallow = [\"0.0.0.0/0\"]")[0].0, Severity::Warning);
    assert!(found("[bans]\nipv4_prefix = 24")[0].1.contains("its whole /24"));
    let proxy = "[[listener]]\nname = \"p\"\nkind = \"socks\"\nlisten = [\"192.0.2.1:1080\"]\nusers = \"people\"\n\
                 allow = [{ to = [\"10.0.0.0/8\"], ports = [22] }]\n";
    assert!(found(proxy)[0].1.contains("passwords of listener p"));
    assert_eq!(found(&format!("{proxy}[bans]")), []);
    assert_eq!(found(&proxy.replace("192.0.2.1", "127.0.0.1")), []);
}
