//! Which server a flow goes to, when they are well and when they are not.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use portcullis_tests::backend::Hole;
use portcullis_tests::client::Client;
use portcullis_tests::process;

use super::farm::{QUICK, Server, UNCHECKED, edge, flow, flows, keys, server, wait_for};
use crate::gateway::fixture::{Edge, setup, text};

#[test]
fn flows_spread_over_servers_by_their_weights() {
    let (a, b, c) = (Server::start('a'), Server::start('b'), Server::start('c'));
    let edge = edge(&[(&a, 1), (&b, 3), (&c, 0)], UNCHECKED);
    let seen = flows(edge.at, 400);
    // 100 and 300 are fair; the standard deviation of a fair draw is below 9.
    assert!((60..=140).contains(&seen[&'a']) && !seen.contains_key(&'c'), "{seen:?}");
    assert_eq!(server(&edge, 'a')["share"], 25.0);
    assert_eq!(server(&edge, 'c')["share"], 0.0);
}

#[test]
fn a_flow_whose_server_refuses_goes_to_another_and_the_record_says_so() {
    let (a, mut b) = (Server::start('a'), Server::start('b'));
    let edge = edge(&[(&a, 1), (&b, 1)], UNCHECKED);
    b.die();
    assert_eq!(flows(edge.at, 20)[&'a'], 20);
    let records = edge.wait_for_records(20);
    assert!(records.iter().all(|record| text(record, "target") == a.address().to_string()), "{records:?}");
    let redialed = edge.gateway.metrics().unwrap().sum("portcullis_forward_redialed_total", &[]);
    assert!(redialed.is_some_and(|count| count > 0.0), "{redialed:?}");
}

#[test]
fn a_flow_whose_server_is_silent_goes_to_another_within_its_time() {
    let (a, hole) = (Server::start('a'), Hole::dig().unwrap());
    let row = format!("{{ name = \"hole\", address = \"{}\" }}", hole.address());
    let keys = format!("permit_loopback = true\nserver = [{}, {row}]\n{UNCHECKED}", a.row(1));
    let mut setup = setup();
    setup.merge("[limits]\ndial_timeout = \"1s\"").unwrap();
    let edge = Edge::of_setup(setup, "forward", &keys);
    assert_eq!(flows(edge.at, 8)[&'a'], 8);
}

#[test]
fn without_a_server_that_answers_the_flow_is_closed_without_a_byte() {
    let mut a = Server::start('a');
    let edge = edge(&[(&a, 1)], UNCHECKED);
    a.die();
    let (answer, _) = Client::plain(edge.at).unwrap().read_to_end().unwrap();
    assert!(answer.is_empty(), "{answer:?}");
    edge.wait_for_refusals("server_refused", 1.0);
}

#[test]
fn a_server_that_dies_is_noticed_and_its_return_too_while_flows_to_others_live() {
    let (mut a, b) = (Server::start('a'), Server::start('b'));
    let edge = edge(&[(&a, 1), (&b, 1)], QUICK);
    wait_for(&edge, 'a', "up");
    wait_for(&edge, 'b', "up");
    let mut to_b = std::iter::repeat_with(|| flow(edge.at)).find(|(name, _)| *name == 'b').unwrap().1;
    a.die();
    wait_for(&edge, 'a', "down");
    let row = server(&edge, 'a');
    assert!(row["last_error"].as_str().unwrap().contains("cannot be reached"), "{row}");
    assert_eq!((&row["share"], &server(&edge, 'b')["share"]), (&0.0.into(), &100.0.into()));
    let redialed = || edge.gateway.metrics().unwrap().sum("portcullis_forward_redialed_total", &[]);
    let before = redialed();
    assert_eq!(flows(edge.at, 30)[&'b'], 30);
    assert_eq!(redialed(), before, "nobody tries a server that is known to be down");
    let metrics = edge.gateway.metrics().unwrap();
    assert_eq!(metrics.sum("portcullis_forward_server_up", &["server=\"a\""]), Some(0.0));
    let failed =
        metrics.sum("portcullis_forward_checks_failed_total", &["server=\"a\"", "reason=\"connect\""]);
    assert!(failed.is_some_and(|count| count >= 3.0), "{failed:?}");
    a.revive();
    wait_for(&edge, 'a', "up");
    assert!(flows(edge.at, 60).contains_key(&'a'));
    to_b.echo(b"never interrupted").unwrap();
    let log = edge.gateway.log();
    let said = |text: &str| log.lines().filter(|line| line.contains(text)).count();
    assert_eq!(
        said("a server is down"),
        1,
        "a change is logged once, the checks that change nothing are not"
    );
}

#[test]
fn with_every_server_down_nobody_is_asked_and_the_refusal_is_counted() {
    let mut a = Server::start('a');
    let edge = edge(&[(&a, 1)], QUICK);
    wait_for(&edge, 'a', "up");
    a.die();
    wait_for(&edge, 'a', "down");
    let (answer, _) = Client::plain(edge.at).unwrap().read_to_end().unwrap();
    assert!(answer.is_empty(), "{answer:?}");
    edge.wait_for_refusals("server_unreachable", 1.0);
    assert!(edge.gateway.log().contains("no server is left"));
}

#[test]
fn ipv6_clients_reach_ipv6_servers_and_either_family_the_other() {
    let (four, six) = (Server::start('4'), Server::at('6', Ipv6Addr::LOCALHOST.into()));
    let mut setup = setup();
    let at = |ip: IpAddr| SocketAddr::new(ip, process::free_port().unwrap());
    let listen = [at(Ipv6Addr::LOCALHOST.into()), at([127, 0, 0, 1].into())];
    setup.listener_at("edge", "forward", &listen, &keys(&[(&four, 1), (&six, 1)], UNCHECKED)).unwrap();
    let edge = Edge { gateway: setup.start().unwrap(), at: listen[0] };
    for at in listen {
        let seen = flows(at, 60);
        assert!(seen.contains_key(&'4') && seen.contains_key(&'6'), "{at}: {seen:?}");
    }
    let status = edge.gateway.cli_json(["forward", "status"]).unwrap();
    assert_eq!(status[0]["path"], "user");
    assert!(status[0]["path_reason"].as_str().unwrap().contains("address family"), "{status}");
}
