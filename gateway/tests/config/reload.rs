//! What a reload applies and what needs a restart.

use portcullis::config::{ReloadPlan, compare};

use crate::base::{GATEWAY, config};

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
        ("[server]\nrecord_layer = \"rustls\"", &["server.record_layer"]),
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
        ("", "[server]\nrelay_engine = \"epoll\"", "server.relay_engine"),
        ("", "[server]\nrelay_gather = \"1ms\"", "server.relay_gather"),
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
    let moved = plan(server, &server.replace("10.0.0.0/8", "10.0.0.0/9"));
    assert_eq!(moved.restart, ["sta_server.allow_from"]);
}
