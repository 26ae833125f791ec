//! Which of the gateway's tests run once more behind the packet filter: all in which a client comes over the network to a
//! listener, or a server is reached. The others are named with the reason why not.

/// A module of `tests/it/gateway`.
struct Module {
    name: &'static str,
    place: Place,
}

enum Place {
    /// It runs behind the filter, but for these tests, each with the reason.
    Behind(&'static [(&'static str, &'static str)]),
    /// It does not, for this reason.
    Elsewhere(&'static str),
}

const fn behind(name: &'static str, but: &'static [(&'static str, &'static str)]) -> Module {
    Module { name, place: Place::Behind(but) }
}

const fn elsewhere(name: &'static str, reason: &'static str) -> Module {
    Module { name, place: Place::Elsewhere(reason) }
}

/// One interface has one filter.
const ONE_AT_A_TIME: &str = "two gateways run at once, and behind the filter there is one at a time";
const LOOPBACK_PROGRAM: &str = "its program, which is Python, connects to a name or an address of loopback";
const OWN_PLACES: &str = "its machines are network namespaces of its own";

const MODULES: &[Module] = &[
    elsewhere("acme", "every name leads its issuer to 127.0.0.1, where the gateway has to be"),
    elsewhere("bans", OWN_PLACES),
    elsewhere("certificates", "files and commands; handshakes behind the filter are those of tls"),
    behind("cgp", &[]),
    elsewhere("configure", "files and the control socket; a session that outlives a commit is one of reload"),
    behind("connect", &[]),
    behind(
        "connect_command",
        &[
            ("two_gateways_in_a_row_one_being_the_authority_of_the_other", ONE_AT_A_TIME),
            ("an_authority_whose_certificate_is_not_the_pinned_one_gets_no_ticket", ONE_AT_A_TIME),
            ("the_lab_works_as_it_says_without_any_configuration", "a lab is on loopback by its nature"),
        ],
    ),
    behind("control", &[]),
    behind("drain", &[]),
    behind("engines", &[]),
    behind("fault_backend", &[]),
    elsewhere("fault_machine", "limits of processes and full disks, which know no interface"),
    elsewhere("fault_names", "its name server answers on loopback, with addresses of loopback"),
    behind(
        "fault_sta",
        &[(
            "an_authority_that_is_down_is_shown_as_down_and_as_up_when_it_is_back",
            "its authority comes up later, at an address of loopback that was free",
        )],
    ),
    elsewhere(
        "forward",
        "flows in user space; behind the filter they run in the kernel, as tests/it/xdp/forward tries",
    ),
    elsewhere("high_availability", OWN_PLACES),
    behind("hostile", &[]),
    behind("http", &[]),
    behind(
        "limits",
        &[(
            "connections_of_one_source_past_the_limit_are_closed_and_counted",
            "its second source is another address of loopback",
        )],
    ),
    elsewhere("monitoring", "its Prometheus scrapes a metrics listener on loopback"),
    elsewhere("network", "files of systemd-networkd; no client comes over the network"),
    behind("openssh", &[]),
    elsewhere("prometheus", "its metrics listener is on loopback; scrapes are no sessions"),
    behind(
        "proxies",
        &[
            (
                "a_source_that_the_listener_does_not_list_is_refused",
                "the filter drops what `allow_from` refuses before the listener can close it",
            ),
            ("python_socks_logs_in", LOOPBACK_PROGRAM),
            ("python_socks_with_a_wrong_password_is_refused", LOOPBACK_PROGRAM),
        ],
    ),
    behind("rdp", &[]),
    behind("records", &[]),
    behind("relay", &[("a_server_over_ipv6_is_reached", "it names ::1, and the namespaces have IPv4 only")]),
    behind(
        "reload",
        &[(
            "a_new_policy_applies_to_new_sessions",
            "it looks for a prefix of loopback in the configuration to change it",
        )],
    ),
    behind(
        "server_tls",
        &[
            (
                "the_name_in_the_ticket_is_asked_for_and_checked",
                "its name server answers on loopback, with addresses of loopback",
            ),
            (
                "a_client_without_tls_reaches_a_server_that_speaks_it",
                "its client names the server by an address of loopback",
            ),
        ],
    ),
    elsewhere("shell", "a terminal and the control socket; no client comes over the network"),
    behind("socks", &[("python_socks_inside_tls_reaches_the_server_with_a_ticket", LOOPBACK_PROGRAM)]),
    elsewhere("support_shell", "a terminal and the control socket; no client comes over the network"),
    elsewhere("syslog", "its syslog server, and the gateway that sends to it, are on loopback"),
    behind(
        "tickets",
        &[
            ("a_ticket_for_loopback_is_refused_by_default", "it is about loopback itself"),
            (
                "our_own_authority_serves_the_xml_of_storefront",
                "the gateway's authority listens on the gateway's loopback, where the test is not",
            ),
        ],
    ),
    behind("tls", &[]),
    elsewhere("tools", "what operators look with from the gateway's machine, in namespaces of its own"),
    behind("unknown", &[]),
    behind("websocket", &[("python_websockets_carries", LOOPBACK_PROGRAM)]),
];

/// What does not run behind the filter, and why, for people.
pub(super) fn left_out() -> Vec<String> {
    let line = |name: &str, reason: &str| format!("not behind the filter: {name}: {reason}");
    let mut lines = Vec::new();
    for Module { name, place } in MODULES {
        match place {
            Place::Elsewhere(reason) => lines.push(line(name, reason)),
            Place::Behind(but) => lines.extend(but.iter().map(|(test, reason)| line(test, reason))),
        }
    }
    lines
}

/// Arguments for the gateway's test program: the modules that run behind the filter, and the tests that do not.
pub(super) fn arguments() -> Vec<String> {
    let mut arguments = Vec::new();
    for module in MODULES {
        let Place::Behind(but) = module.place else { continue };
        arguments.push(format!("gateway::{}::", module.name));
        arguments.extend(but.iter().flat_map(|(test, _)| ["--skip".to_owned(), (*test).to_owned()]));
    }
    arguments
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;

    use portcullis_tests::process;

    use super::*;

    fn source(file: &str) -> String {
        fs::read_to_string(process::repository().join("tests/it").join(file)).unwrap()
    }

    #[test]
    fn every_module_is_named_once_with_a_reason_where_it_does_not_run() {
        let program = source("gateway.rs");
        let there = program.lines().filter_map(|line| line.trim().strip_prefix("mod ")?.strip_suffix(';'));
        let there: BTreeSet<&str> = there.filter(|name| *name != "fixture").collect();
        let named: BTreeSet<&str> = MODULES.iter().map(|module| module.name).collect();
        assert_eq!(there, named, "a module of the gateway's tests is missing here, or is not there any more");
        assert_eq!(named.len(), MODULES.len());
        for Module { name, place } in MODULES {
            match place {
                Place::Elsewhere(reason) => assert!(reason.len() > 20, "{name}: why?"),
                Place::Behind(but) => {
                    assert!(but.iter().all(|(_, reason)| reason.len() > 20), "{name}: why?")
                }
            }
        }
    }

    #[test]
    fn tests_that_are_left_out_are_there_and_of_no_other_module() {
        let sources: Vec<(&str, String)> = MODULES
            .iter()
            .map(|module| {
                let mut text = source(&format!("gateway/{}.rs", module.name));
                let parts = fs::read_dir(process::repository().join("tests/it/gateway").join(module.name));
                for part in parts.into_iter().flatten() {
                    text += &fs::read_to_string(part.unwrap().path()).unwrap();
                }
                (module.name, text)
            })
            .collect();
        for Module { name, place } in MODULES {
            let Place::Behind(but) = place else { continue };
            for (test, _) in *but {
                let with: Vec<&str> = sources
                    .iter()
                    .filter(|(_, text)| text.contains(&format!("fn {test}")))
                    .map(|(name, _)| *name)
                    .collect();
                assert_eq!(with, [*name], "{test}");
            }
        }
    }
}
