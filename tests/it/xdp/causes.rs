//! That every cause is tried in three ways: by the function on the host, by BPF_PROG_TEST_RUN in the kernel, and by
//! packets on the wire. Most are in the table of frames, which goes to host and kernel, and in that of crafted packets.
//! The others are in the lists here, with the test that tries them or the reason why none does.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use Cause::*;
use How::{Not, Test};
use portcullis_ebpf_common::Cause;
use portcullis_tests::process;
use portcullis_tests::wait::{self, PATIENCE};
use socket2::{Domain, Protocol, Socket, Type};

use crate::wire::{OPEN, Scene};
use crate::{program, scapy};

#[derive(Clone, Copy)]
enum How {
    /// A file below `ebpf/common/src` or `tests/it/xdp`, and a test in it.
    Test(&'static str, &'static str),
    /// There is no such test, for this reason.
    Not(&'static str),
}

type Rest = &'static [(Cause, How)];

const IN_TABLES: How = Not("which server is chosen is looked up in the kernel's maps; the function is told");
const FORWARD_KERNEL: How = Test("forward_program.rs", "what_cannot_begin_is_dropped_by_its_reason");
const ERROR_KERNEL: How = Test("forward_program.rs", "errors_are_forwarded_and_what_is_too_big_is_answered");
const SENDERS_LEARN: How = Test("forward.rs", "senders_learn_how_much_the_next_link_takes");
const NO_LINK_KERNEL: How =
    Test("vlan_program.rs", "what_cannot_leave_is_left_to_user_space_when_it_begins_and_dropped_otherwise");
const NO_LINK_WIRE: How =
    Test("vlan.rs", "a_flow_whose_way_is_no_filtered_interface_is_forwarded_by_user_space");
const BUDGETS: How = Not("budgets and cookies are counted in the kernel's maps; the function is told");
const COOKIES_KERNEL: How = Test("flood.rs", "a_cookie_comes_back_and_is_known_and_another_number_is_not");
const TOTAL_KERNEL: How = Test("flood.rs", "all_together_open_so_many_connections_and_echo_so_often");
const COOKIES_WIRE: How = Test(
    "flood.rs",
    "under_a_flood_clients_connect_by_cookies_and_sessions_go_on_and_then_everything_is_as_before",
);
const EGRESS_HOST: How = Test("egress.rs", "what_begins_is_judged_by_the_rows_and_what_goes_on_is_not");
const EGRESS_KERNEL: How = Test("policy.rs", "what_leaves_is_judged_when_it_begins_something");
const EGRESS_WIRE: How = Test("policy.rs", "closed_egress_lets_out_what_a_row_accepts_and_nothing_else");
const FORWARD_HOST: How =
    Test("verdict.rs", "a_forwarded_flow_goes_on_whatever_the_rules_say_and_a_new_one_needs_a_rule");
const FORWARD_WIRE: How = Test("forward.rs", "what_cannot_be_forwarded_is_counted_by_its_reason");

const VLANS_KERNEL: How =
    Test("vlan_roles_program.rs", "what_is_no_vlan_s_is_dropped_and_counted_at_the_interface");
const VLANS_WIRE: How =
    Test("vlan_roles.rs", "each_vlan_of_a_card_is_judged_by_its_own_role_and_counted_under_its_name");

const HOST: Rest = &[
    (VlanUnknown, Test("vlan.rs", "a_frame_is_its_vlan_s_by_all_of_its_tags_whatever_their_priorities")),
    (Untagged, Test("vlan.rs", "a_frame_without_a_number_is_the_interface_s_own_where_that_has_a_role")),
    (Flow, Test("verdict.rs", "a_live_flow_comes_before_everything")),
    (Forwarded, FORWARD_HOST),
    (ForwardedError, Test("verdict.rs", "an_error_about_a_forwarded_flow_is_forwarded")),
    (OwnSocket, Test("verdict.rs", "a_ban_comes_before_a_rule_and_a_rule_before_a_socket")),
    (IcmpError, Test("verdict.rs", "an_error_passes_for_a_live_flow_only")),
    (NoRole, Not("the program looks the interface up before it asks the function")),
    (ForwardNoServer, IN_TABLES),
    (ForwardNoPort, IN_TABLES),
    (ForwardFull, FORWARD_HOST),
    (ForwardNoRoute, Not("the kernel's route lookup says so, after the verdict")),
    (ForwardTooBig, Not("the kernel's route lookup says so, after the verdict")),
    (ForwardByUser, Not("the kernel's route lookup says so, after the verdict")),
    (ForwardNoLink, Not("the kernel's route lookup says so, after the verdict")),
    (ForwardHopLimit, Test("nat/tests.rs", "a_packet_at_the_end_of_its_hops_is_not_forwarded")),
    (Steered, Test("verdict.rs", "a_live_flow_comes_before_everything")),
    (Cookie, Test("verdict.rs", "at_an_open_port_a_segment_belongs_to_a_connection_or_is_dropped")),
    (CookieSent, BUDGETS),
    (CookieRefused, BUDGETS),
    (SynSource, BUDGETS),
    (SynTotal, BUDGETS),
    (IcmpRate, BUDGETS),
    (OverLimit, Test("verdict.rs", "a_limit_counts_what_begins_and_lets_go_on_what_has_begun")),
    (Leaves, EGRESS_HOST),
    (EgressAccepts, EGRESS_HOST),
    (EgressOpen, EGRESS_HOST),
    (EgressDrops, EGRESS_HOST),
    (EgressClosed, EGRESS_HOST),
];

const KERNEL: Rest = &[
    (VlanUnknown, VLANS_KERNEL),
    (Untagged, VLANS_KERNEL),
    (Flow, Test("program.rs", "packets_of_an_admitted_flow_pass_and_are_counted_and_errors_about_it_pass")),
    (
        IcmpError,
        Test("program.rs", "packets_of_an_admitted_flow_pass_and_are_counted_and_errors_about_it_pass"),
    ),
    (OwnSocket, Test("program.rs", "a_client_socket_gets_its_answers_and_a_server_socket_needs_a_rule")),
    (NoRole, Test("program.rs", "an_interface_without_a_role_lets_everything_in")),
    (Forwarded, FORWARD_KERNEL),
    (ForwardedError, ERROR_KERNEL),
    (ForwardNoServer, FORWARD_KERNEL),
    (ForwardNoPort, FORWARD_KERNEL),
    (ForwardFull, FORWARD_KERNEL),
    (ForwardNoRoute, FORWARD_KERNEL),
    (ForwardTooBig, ERROR_KERNEL),
    (ForwardByUser, NO_LINK_KERNEL),
    (ForwardNoLink, NO_LINK_KERNEL),
    (ForwardHopLimit, ERROR_KERNEL),
    (
        Steered,
        Test("steer.rs", "a_packet_goes_to_the_processor_that_owns_its_flow_or_passes_where_it_cannot"),
    ),
    (Cookie, COOKIES_KERNEL),
    (CookieSent, TOTAL_KERNEL),
    (CookieRefused, COOKIES_KERNEL),
    (SynSource, Test("flood.rs", "one_source_opens_so_many_connections_and_another_as_many")),
    (SynTotal, TOTAL_KERNEL),
    (IcmpRate, TOTAL_KERNEL),
    (OverLimit, Test("policy.rs", "a_limit_counts_each_source_for_itself_and_by_row")),
    (Leaves, EGRESS_KERNEL),
    (EgressAccepts, EGRESS_KERNEL),
    (EgressOpen, EGRESS_KERNEL),
    (EgressDrops, EGRESS_KERNEL),
    (EgressClosed, EGRESS_KERNEL),
];

const WIRE: Rest = &[
    (VlanUnknown, VLANS_WIRE),
    (Untagged, VLANS_WIRE),
    (NoRole, Test("rare.rs", "an_interface_that_has_lost_its_role_cuts_nobody_off")),
    (
        Forwarded,
        Test(
            "forward.rs",
            "flows_reach_the_servers_by_their_weights_and_neither_side_sees_the_others_addresses",
        ),
    ),
    (ForwardedError, SENDERS_LEARN),
    (ForwardNoServer, FORWARD_WIRE),
    (ForwardNoPort, Test("forward_wire.rs", "a_flow_without_a_port_towards_its_server_does_not_begin")),
    (ForwardFull, Test("forward.rs", "a_flow_without_a_place_does_not_begin_until_another_has_ended")),
    (
        ForwardNoRoute,
        Test("forward_wire.rs", "an_answer_to_a_client_that_nobody_knows_is_dropped_as_without_a_route"),
    ),
    (ForwardTooBig, SENDERS_LEARN),
    (ForwardByUser, NO_LINK_WIRE),
    (ForwardNoLink, NO_LINK_WIRE),
    (ForwardHopLimit, FORWARD_WIRE),
    (Steered, Test("steer.rs", "a_connection_whose_packets_change_the_processor_loses_nothing")),
    (Cookie, COOKIES_WIRE),
    (CookieSent, COOKIES_WIRE),
    (CookieRefused, Test("rare.rs", "a_segment_with_a_wrong_cookie_is_refused_while_cookies_are_on")),
    (SynSource, Test("causes.rs", "who_uses_up_a_budget_is_counted_under_it")),
    (SynTotal, Test("rare.rs", "without_cookies_what_is_over_the_budget_of_all_is_dropped")),
    (IcmpRate, Test("causes.rs", "who_uses_up_a_budget_is_counted_under_it")),
    (OverLimit, Test("policy.rs", "a_limit_lets_a_neighbour_begin_so_many_and_no_more")),
    (Leaves, EGRESS_WIRE),
    (EgressAccepts, EGRESS_WIRE),
    (EgressOpen, Test("wire.rs", "the_machines_own_connections_get_their_answers")),
    (EgressDrops, Test("outgoing.rs", "what_a_row_drops_does_not_leave_and_is_counted")),
    (EgressClosed, EGRESS_WIRE),
];

/// That a cause is in the table or in the list, and not in both; and that the tests of the list are there.
fn assert_complete(way: &str, table: &[Cause], rest: Rest) {
    for cause in Cause::ALL {
        let listed = rest.iter().filter(|(listed, _)| listed == cause).count();
        let times = usize::from(table.contains(cause)) + listed;
        assert_eq!(times, 1, "{cause:?} is tried {way} by one table or one line of this file");
    }
    for (cause, how) in rest {
        match how {
            Test(file, name) => assert!(is_test(file, name), "{cause:?} {way}: no test {name} in {file}"),
            Not(reason) => assert!(reason.len() > 20, "{cause:?} {way}: why?"),
        }
    }
}

fn is_test(file: &str, name: &str) -> bool {
    let places =
        ["ebpf/common/src", "tests/it/xdp"].map(|place| process::repository().join(place).join(file));
    let texts = places.iter().filter_map(|path| fs::read_to_string(path).ok());
    texts.into_iter().any(|text| text.contains(&format!("fn {name}()")))
}

#[test]
fn every_cause_is_tried_on_the_host_in_the_kernel_and_on_the_wire() {
    // Each frame of this table is judged by the function and by the loaded program.
    let frames: Vec<Cause> = program::frames().into_iter().map(|(_, cause)| cause).collect();
    assert_complete("on the host", &frames, HOST);
    assert_complete("in the kernel", &frames, KERNEL);
    let packets: Vec<Cause> = scapy::tried().collect();
    assert_complete("on the wire", &packets, WIRE);
}

#[test]
fn who_uses_up_a_budget_is_counted_under_it() {
    const MANY: usize = 60;
    let Some(scene) = Scene::build() else { return };
    let gateway = scene.start("flood = { syn_per_source = \"2/s\", icmp_total = \"2/s\" }");
    let connect = |ip: &IpAddr| {
        let at = SocketAddr::new(*ip, OPEN);
        let socket = Socket::new(Domain::for_address(at), Type::STREAM, None).unwrap();
        // Its first segment is all that is wanted.
        drop(socket.connect_timeout(&at.into(), Duration::from_millis(5)));
    };
    let ask = |ip: &IpAddr| {
        let (domain, protocol, kind) = match ip {
            IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 8),
            IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 128),
        };
        let socket = Socket::new(domain, Type::RAW, Some(protocol)).unwrap();
        for _ in 0..MANY {
            socket.send_to(&[kind, 0, 0, 0, 0, 0, 0, 0], &SocketAddr::new(*ip, 0).into()).unwrap();
        }
    };
    for ip in scene.edge() {
        type Send<'a> = &'a (dyn Fn(&IpAddr) + Sync);
        let ways: [(&str, Send<'_>); 2] = [("syn_source", &connect), ("icmp_rate", &ask)];
        for (reason, send) in ways {
            let before = scene.dropped(&gateway, "edge", reason);
            let times = if reason == "icmp_rate" { 1 } else { MANY };
            let all = || {
                (0..times).for_each(|_| send(&ip));
                Ok(())
            };
            scene.lab.outside.enter(all).unwrap();
            let grown = || scene.dropped(&gateway, "edge", reason) > before;
            wait::until(PATIENCE, "the drops to be counted", grown)
                .unwrap_or_else(|error| panic!("{reason} of {ip}: {error:#}"));
        }
    }
}
