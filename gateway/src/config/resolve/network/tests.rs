use std::path::Path;

use crate::config::{NetworkConfig, NetworkKind, parse, parse_settings};

const THREE_ARMS: &str = r#"
[network]
host_name = "Gate1.example.com"
time_zone = "Europe/Berlin"
dns = ["10.77.0.53", "2001:db8::53"]
search = ["example.com"]
ntp = ["10.77.0.1", "ntp.example.com"]

[[network.interface]]
name = "edge"
parent = "eth0"
vlan = 10
addresses = ["203.0.113.10/24", "2001:db8::10/64"]
gateways = ["203.0.113.1", "fe80::1"]

[[network.interface]]
name = "bond0"
members = ["eth1", "eth2"]
mode = "802.3ad"
mtu = 9000
addresses = ["10.77.0.10/24"]
route = [{ to = "10.0.0.0/8", via = "10.77.0.254", metric = 10 }]

[[network.interface]]
name = "eth3"
dhcp = "ipv4"
"#;

fn network(text: &str) -> NetworkConfig {
    let settings = parse_settings(text, Path::new("x.toml")).unwrap_or_else(|error| panic!("{error}"));
    settings.network.unwrap()
}

fn refused(text: &str) -> String {
    parse_settings(text, Path::new("x.toml")).unwrap_err().to_string()
}

#[test]
fn the_daemon_and_the_privileged_job_read_the_same() {
    let seen = network(THREE_ARMS);
    assert_eq!(parse(THREE_ARMS, Path::new("x.toml")).unwrap().settings.network, Some(seen.clone()));
    assert_eq!(seen.host_name.unwrap().as_str(), "gate1.example.com");
    assert!(matches!(seen.interfaces[0].kind, NetworkKind::Vlan { id: 10, .. }));
    assert_eq!(seen.interfaces[1].routes.len(), 1);
    assert_eq!(seen.interfaces[2].dhcp(), "ipv4");
}

#[test]
fn the_privileged_job_looks_at_nothing_else() {
    let others = "[[sta]]\nname = \"a\"\nsecurity_key_files = [\"/etc/shadow\"]\n[nonsense]\nx = 1\n";
    assert_eq!(network(&format!("{THREE_ARMS}{others}")), network(THREE_ARMS));
    assert_eq!(parse_settings(others, Path::new("x")).unwrap().network, None);
}

#[test]
fn each_mistake_has_its_line_and_a_remedy() {
    let interface = |lines: &str| format!("[network]\n[[network.interface]]\nname = \"eth0\"\n{lines}\n");
    for (text, expected) in [
        ("[network]\ninterface = []\n".to_owned(), "x.toml:2:13: `interface` is empty"),
        (interface(""), "x.toml:3:8: `eth0` has neither addresses nor DHCP"),
        (interface("addresses = [\"192.0.2.1\"]"), "did you mean `192.0.2.1/24`?"),
        (interface("addresses = [\"192.0.2.0/24\"]"), "no address of an interface"),
        (interface("addresses = [\"127.0.0.1/8\"]"), "no address of an interface"),
        (
            interface("addresses = [\"192.0.2.1/24\"]\ngateways = [\"10.0.0.1\"]"),
            "in no network of this interface",
        ),
        (interface("addresses = [\"192.0.2.1/24\"]\ngateways = [\"192.0.2.1\"]"), "is this machine itself"),
        (
            interface("addresses = [\"192.0.2.1/24\"]\ngateways = [\"192.0.2.2\", \"192.0.2.3\"]"),
            "x.toml:5:26: a second gateway of the same family",
        ),
        (
            interface("dhcp = \"yes\"\nroute = [{ to = \"10.1.0.0/8\", via = \"192.0.2.2\" }]"),
            "did you mean `10.0.0.0/8`?",
        ),
        (interface("dhcp = \"yes\"\nroute = [{ to = \"::/0\", via = \"192.0.2.2\" }]"), "of another family"),
        (interface("dhcp = \"both\""), "one of no, ipv4, ipv6, yes"),
        (interface("dhcp = \"yes\"\nmtu = 600"), "a number from 1280 to 9216"),
        (interface("dhcp = \"yes\"\nvlan = 4"), "a card, a VLAN or a bond"),
        (interface("dhcp = \"yes\"\nparent = \"eth1\"\nvlan = 4095"), "a number from 1 to 4094"),
        (interface("dhcp = \"yes\"\nparent = \"eth0\"\nvlan = 4"), "the parent `eth0` is a VLAN"),
        (interface("dhcp = \"yes\"\nmembers = [\"eth0\"]"), "the member `eth0` is no card"),
        (interface("dhcp = \"yes\"\nadresses = []"), "did you mean `addresses`?"),
    ] {
        let told = refused(&text);
        assert!(told.contains(expected), "{expected} in {told}");
    }
}

#[test]
fn interfaces_that_contradict_each_other_are_refused() {
    let two = |first: &str, second: &str| {
        format!(
            "[network]\n[[network.interface]]\nname = \"eth0\"\n{first}\n[[network.interface]]\nname = \"eth1\"\n{second}\n"
        )
    };
    for (text, expected) in [
        (
            two("addresses = [\"192.0.2.1/24\"]", "addresses = [\"192.0.2.1/25\"]"),
            "is the address of another interface",
        ),
        (
            two(
                "addresses = [\"192.0.2.1/24\"]\ngateways = [\"192.0.2.9\"]",
                "addresses = [\"10.0.0.1/24\"]\ngateways = [\"10.0.0.9\"]",
            ),
            "`eth0` has a gateway of the same family already",
        ),
        (
            two("dhcp = \"ipv4\"", "dhcp = \"ipv4\"\nmembers = [\"eth0\"]"),
            "is a member of `eth1` and has addresses",
        ),
        (
            two("dhcp = \"ipv4\"\nmembers = [\"a\"]", "dhcp = \"ipv4\"\nmembers = [\"a\"]"),
            "`a` is a member of another bond",
        ),
        (
            two("dhcp = \"ipv4\"\nparent = \"a\"\nvlan = 4", "dhcp = \"ipv4\"\nparent = \"a\"\nvlan = 4"),
            "VLAN 4 of `a` has two names",
        ),
        (
            two("dhcp = \"ipv4\"\nmtu = 1500", "dhcp = \"ipv4\"\nmtu = 9000\nparent = \"eth0\"\nvlan = 4"),
            "`mtu` is larger than that of `eth0` below it",
        ),
    ] {
        let told = refused(&text);
        assert!(told.contains(expected), "{expected} in {told}");
    }
    let same = "[network]\n[[network.interface]]\nname = \"eth0\"\ndhcp = \"yes\"\n".to_owned();
    let twice = same.clone() + same.strip_prefix("[network]\n").unwrap();
    assert!(refused(&twice).contains("a second [[network.interface]] is named `eth0`"));
}

#[test]
fn a_card_that_only_carries_needs_no_address() {
    let text = "[network]\n[[network.interface]]\nname = \"eth0\"\nmtu = 1500\n[[network.interface]]\n\
                name = \"edge\"\nparent = \"eth0\"\nvlan = 7\ndhcp = \"yes\"\n";
    assert!(!network(text).interfaces[0].uses_ipv6());
    assert!(network(text).interfaces[1].accept_ra);
}
