//! `[high_availability]`: what it means, and what is refused.

use std::time::Duration;

use portcullis::config::{Config, compare};

use crate::base::read;

const SECTION: &str = "[high_availability]\ninterface = \"eth1\"\nrouter_id = 51\n\
    [[high_availability.virtual_address]]\naddress = \"203.0.113.10/24\"\ninterface = \"eth0\"\n\
    [[high_availability.virtual_address]]\naddress = \"2001:db8::10/64\"\n\
    [high_availability.node]\npriority = 150\naddress = \"10.0.0.2\"\npeer = \"10.0.0.3\"\n";
const LISTENER: &str = "[[certificate]]\nname = \"c\"\nchain = \"c\"\nkey = \"k\"\n\
    [[listener]]\nname = \"l\"\nkind = \"relay\"\nlisten = [\"0.0.0.0:443\"]\ncertificates = [\"c\"]\n\
    allow = [{ to = [\"203.0.113.0/24\"], ports = [443] }]\n";

fn config(text: &str) -> Config {
    read(text).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn the_defaults_are_those_of_the_example() {
    let ha = config(SECTION).high_availability.unwrap();
    assert_eq!((ha.advertise, ha.preempt), (Duration::from_secs(1), true));
    assert_eq!(ha.directory.to_str(), Some("/run/portcullis-ha"));
    let interfaces: Vec<&str> = ha.addresses.iter().map(|floating| floating.interface.as_str()).collect();
    assert_eq!(interfaces, ["eth0", "eth1"]);
    assert_eq!(ha.node.sync, None, "without a fingerprint nobody is believed");
    let pin = "ab".repeat(32);
    let text = format!("{SECTION}peer_sha256 = \"{pin}\"\nkeep = [\"metrics.listen\"]\n");
    let sync = config(&text).high_availability.unwrap().node.sync.unwrap();
    assert_eq!(
        (sync.listen, sync.peer),
        ("10.0.0.2:9465".parse().unwrap(), "10.0.0.3:9465".parse().unwrap())
    );
    assert_eq!(sync.pin, [0xab; 32]);
    assert_eq!(compare(&config(SECTION), &config(&text)).live, ["high_availability"]);
}

#[test]
fn sessions_do_not_lead_to_a_virtual_address() {
    let listener = |text: &str| config(text).listeners[0].policy.own_addresses().to_vec();
    let address = "203.0.113.10".parse().unwrap();
    assert!(!listener(LISTENER).contains(&address));
    assert!(listener(&format!("{LISTENER}{SECTION}")).contains(&address));
}

#[test]
fn what_cannot_be_meant_is_refused_with_its_place() {
    for (from, to, expected) in [
        ("router_id = 51", "router_id = 256", "3:13: `router_id` is 256"),
        ("router_id = 51\n", "", "[high_availability] has no `router_id`"),
        ("\"eth0\"", "\"eth0; x\"", "is no name of an interface"),
        ("203.0.113.10/24", "203.0.113.10 ", "is no virtual address"),
        ("203.0.113.10/24", "0.0.0.0/0", "is no virtual address"),
        ("2001:db8::10/64", "203.0.113.10/25", "203.0.113.10 is a virtual address twice"),
        ("priority = 150", "priority = 255", "`priority` is 255"),
        ("peer = \"10.0.0.3\"", "peer = \"10.0.0.2\"", "cannot talk to each other"),
        ("peer = \"10.0.0.3\"", "peer = \"2001:db8::3\"", "cannot talk to each other"),
        ("peer = \"10.0.0.3\"", "peer = \"10.0.0.3:1\"", "without a port"),
        (
            "peer = \"10.0.0.3\"",
            "peer = \"10.0.0.3\"\npeer_sha256 = \"x\"",
            "`peer_sha256` is no SHA-256 fingerprint",
        ),
        ("peer = \"10.0.0.3\"", "peer = \"10.0.0.3\"\nkeep = [\"metrics.listn\"]", "did you mean `listen`?"),
        ("router_id = 51", "router_id = 51\ndirectory = \"/run/a b\"", "`directory` is /run/a b"),
        ("router_id = 51", "router_id = 51\nadvertise = \"41s\"", "`advertise` is 41s"),
    ] {
        let text = SECTION.replace(from, to);
        let error = read(&text).expect_err(&text).to_string();
        assert!(error.contains(expected), "{expected} in {error}");
    }
    let section = SECTION.split("[high_availability.node]").next().unwrap();
    assert!(read(section).unwrap_err().to_string().contains("has no `node`"));
}
