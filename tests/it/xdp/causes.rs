//! That every cause is tried in three ways: by the function on the host, by BPF_PROG_TEST_RUN in the kernel, and by
//! packets on the wire. Most are in the table of frames, which goes to host and kernel, and in that of crafted packets.
//! The others are in the lists here, with the test that tries them or the reason why none does.

use std::fs;

use Cause::*;
use How::{Not, Test};
use portcullis_ebpf_common::Cause;
use portcullis_tests::process;

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
const NEEDS_ROUTES: How =
    Not("a forwarded packet needs routes and neighbours, which a run without a link has not");
const EGRESS_HOST: How = Test("egress.rs", "what_begins_is_judged_by_the_rows_and_what_goes_on_is_not");
const EGRESS_KERNEL: How = Test("policy.rs", "what_leaves_is_judged_when_it_begins_something");
const EGRESS_WIRE: How = Test("policy.rs", "closed_egress_lets_out_what_a_row_accepts_and_nothing_else");
const FORWARD_HOST: How =
    Test("verdict.rs", "a_forwarded_flow_goes_on_whatever_the_rules_say_and_a_new_one_needs_a_rule");
const FORWARD_WIRE: How = Test("forward.rs", "what_cannot_be_forwarded_is_counted_by_its_reason");

const HOST: Rest = &[
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
    (ForwardHopLimit, Test("nat/tests.rs", "a_packet_at_the_end_of_its_hops_is_not_forwarded")),
    (OverLimit, Test("verdict.rs", "a_limit_counts_what_begins_and_lets_go_on_what_has_begun")),
    (Leaves, EGRESS_HOST),
    (EgressAccepts, EGRESS_HOST),
    (EgressOpen, EGRESS_HOST),
    (EgressDrops, EGRESS_HOST),
    (EgressClosed, EGRESS_HOST),
];

const KERNEL: Rest = &[
    (Flow, Test("program.rs", "packets_of_an_admitted_flow_pass_and_are_counted_and_errors_about_it_pass")),
    (
        IcmpError,
        Test("program.rs", "packets_of_an_admitted_flow_pass_and_are_counted_and_errors_about_it_pass"),
    ),
    (OwnSocket, Test("program.rs", "a_client_socket_gets_its_answers_and_a_server_socket_needs_a_rule")),
    (NoRole, Test("program.rs", "an_interface_without_a_role_lets_everything_in")),
    (Forwarded, NEEDS_ROUTES),
    (ForwardedError, NEEDS_ROUTES),
    (ForwardNoServer, NEEDS_ROUTES),
    (ForwardNoPort, NEEDS_ROUTES),
    (ForwardFull, NEEDS_ROUTES),
    (ForwardNoRoute, NEEDS_ROUTES),
    (ForwardTooBig, NEEDS_ROUTES),
    (ForwardHopLimit, NEEDS_ROUTES),
    (OverLimit, Test("policy.rs", "a_limit_counts_each_source_for_itself_and_by_row")),
    (Leaves, EGRESS_KERNEL),
    (EgressAccepts, EGRESS_KERNEL),
    (EgressOpen, EGRESS_KERNEL),
    (EgressDrops, EGRESS_KERNEL),
    (EgressClosed, EGRESS_KERNEL),
];

const WIRE: Rest = &[
    (NoRole, Not("the daemon gives an interface its role before it attaches the program")),
    (
        Forwarded,
        Test(
            "forward.rs",
            "flows_reach_the_servers_by_their_weights_and_neither_side_sees_the_others_addresses",
        ),
    ),
    (ForwardedError, Not("the segments that it is about leave the machine as the next link takes them")),
    (ForwardNoServer, FORWARD_WIRE),
    (ForwardNoPort, Not("it takes all ports towards one server, tens of thousands of flows")),
    (ForwardFull, Not("half-open flows make room for others; only a table that others fill can refuse one")),
    (ForwardNoRoute, Not("servers that do not answer their neighbours are not usable and get no flow")),
    (ForwardTooBig, Not("both links of the lab take packets of the same size")),
    (ForwardHopLimit, FORWARD_WIRE),
    (OverLimit, Test("policy.rs", "a_limit_lets_a_neighbour_begin_so_many_and_no_more")),
    (Leaves, EGRESS_WIRE),
    (EgressAccepts, EGRESS_WIRE),
    (EgressOpen, Test("wire.rs", "the_machines_own_connections_get_their_answers")),
    (
        EgressDrops,
        Not("like a port that no row accepts; the row that decides is looked up in the same place"),
    ),
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
