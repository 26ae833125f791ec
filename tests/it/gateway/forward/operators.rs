//! Draining, reloading, checking: what operators do with servers.

use super::farm::{QUICK, Server, UNCHECKED, configure, edge, flow, flows, keys, reload, server, wait_for};
use crate::gateway::fixture::setup;

#[test]
fn a_drained_server_keeps_its_flows_and_gets_no_new_ones_until_it_is_undrained() {
    let (a, b) = (Server::start('a'), Server::start('b'));
    let edge = edge(&[(&a, 1), (&b, 1)], UNCHECKED);
    let mut to_a = std::iter::repeat_with(|| flow(edge.at)).find(|(name, _)| *name == 'a').unwrap().1;
    let drained = edge.gateway.cli_json(["forward", "drain", "a"]).unwrap();
    assert_eq!(drained, serde_json::json!([{ "server": "a", "listener": "edge" }]));
    assert_eq!(flows(edge.at, 30)[&'b'], 30);
    to_a.echo(b"still there").unwrap();
    let row = server(&edge, 'a');
    assert_eq!((&row["drained"], &row["flows"]), (&true.into(), &1.into()), "{row}");
    let weight = edge.gateway.metrics().unwrap().sum("portcullis_forward_server_weight", &["server=\"a\""]);
    assert_eq!(weight, Some(0.0));

    reload(&edge, &keys(&[(&a, 2), (&b, 1)], UNCHECKED));
    assert_eq!(server(&edge, 'a')["drained"], true, "a reload does not undo it");
    assert_eq!(flows(edge.at, 20)[&'b'], 20);
    edge.gateway.cli(["forward", "undrain", "a", "--listener", "edge"]).unwrap().ok().unwrap();
    assert!(flows(edge.at, 60)[&'a'] > 20);
    to_a.echo(b"still there").unwrap();
}

#[test]
fn a_server_that_nobody_has_cannot_be_drained() {
    let a = Server::start('a');
    let edge = edge(&[(&a, 1)], UNCHECKED);
    for arguments in [&["forward", "drain", "z"][..], &["forward", "drain", "a", "--listener", "z"]] {
        let output = edge.gateway.cli(arguments).unwrap();
        assert!(!output.success() && output.stderr.contains("no server of that name"), "{output:?}");
    }
    let output = edge.gateway.cli(["forward", "status", "z"]).unwrap();
    assert!(!output.success() && output.stderr.contains("no listener of the kind forward"), "{output:?}");
}

#[test]
fn servers_and_weights_change_by_a_reload_under_live_flows() {
    let (a, b, c) = (Server::start('a'), Server::start('b'), Server::start('c'));
    let edge = edge(&[(&a, 1), (&b, 1)], QUICK);
    wait_for(&edge, 'a', "up");
    let mut to_a = std::iter::repeat_with(|| flow(edge.at)).find(|(name, _)| *name == 'a').unwrap().1;
    let done = reload(&edge, &keys(&[(&b, 0), (&c, 5)], QUICK));
    let expected = ["server a: removed", "server b: weight", "server c: added"];
    assert_eq!(done["live"], serde_json::json!(expected.map(|change| format!("listener edge: {change}"))));
    assert_eq!(done["restart"], serde_json::json!([]));
    assert_eq!(flows(edge.at, 20)[&'c'], 20);
    to_a.echo(b"its server is gone from the configuration, not from the flow").unwrap();
    assert_eq!(server(&edge, 'b')["state"], "up", "what is known of a server that stays is kept");
    wait_for(&edge, 'c', "up");
}

#[test]
fn a_reload_that_cannot_be_used_changes_nothing() {
    let (a, b) = (Server::start('a'), Server::start('b'));
    let edge = edge(&[(&a, 1)], UNCHECKED);
    configure(&edge, &keys(&[(&b, 1)], "health = { kind = \"tls\", ca = \"absent.pem\" }"));
    let output = edge.gateway.cli(["reload"]).unwrap();
    assert!(!output.success() && output.stderr.contains("absent.pem"), "{output:?}");
    assert_eq!(flows(edge.at, 10)[&'a'], 10);
    reload(&edge, &keys(&[(&b, 1)], UNCHECKED));
    assert_eq!(flows(edge.at, 10)[&'b'], 10);
}

#[test]
fn the_table_for_people_and_the_json_say_the_same() {
    let (a, b) = (Server::start('a'), Server::start('b'));
    let edge = edge(&[(&a, 1), (&b, 3)], QUICK);
    wait_for(&edge, 'a', "up");
    wait_for(&edge, 'b', "up");
    let table = edge.gateway.cli(["forward", "status"]).unwrap().ok().unwrap().stdout;
    let row = table.lines().find(|line| line.contains(&b.address().to_string())).unwrap();
    assert!(row.contains(" up ") && row.contains("75.0 %"), "{table}");
    assert!(table.contains("user") && table.contains("loopback"), "{table}");
    let json = edge.gateway.cli_json(["forward", "status", "edge"]).unwrap();
    assert_eq!((&json[0]["check"], &json[0]["data_path"]), (&"tcp".into(), &"auto".into()));
    let status = edge.gateway.cli(["status"]).unwrap().ok().unwrap().stdout;
    assert!(status.contains("forward (user)"), "{status}");
    let shown = edge.gateway.cli_json(["config", "show"]).unwrap();
    assert_eq!(shown["listener"][0]["forward"]["server"][1]["weight"], 3);
}

#[test]
fn an_address_of_this_machine_is_no_server_unless_it_is_permitted() {
    let mut setup = setup();
    setup.listener("edge", "forward", "server = [{ address = \"127.0.0.1:443\" }]").unwrap();
    let error = setup.start().unwrap_err().to_string();
    assert!(error.contains("the server 127.0.0.1:443 is an address that is never reached"), "{error}");
}
