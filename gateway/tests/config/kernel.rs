//! `[xdp]`: what is read, and that nobody is locked out by mistake.

use portcullis::config::presets::Preset;
use portcullis::config::{XdpMode, compare};

use crate::base::{BASE, config, read};

const EDGE: &str = "[[xdp.interface]]\nname = \"eth0\"\nrole = \"edge\"\n";
const MGMT: &str = "[[xdp.interface]]\nname = \"eth1.100\"\nrole = \"mgmt\"\n";
const SSH: &str = "[[xdp.rule]]\nrole = \"mgmt\"\nprotocol = \"tcp\"\nports = [22]\naction = \"accept\"\n";

fn errors(text: &str) -> String {
    read(&format!("{text}\n{BASE}")).unwrap_err().to_string()
}

#[test]
fn without_the_section_nothing_is_filtered() {
    assert_eq!(config("").xdp, None);
}

#[test]
fn interfaces_rules_and_a_preset_are_read() {
    let config = config(&format!("{EDGE}{MGMT}{SSH}[xdp]\npreset = \"hdx-only\"\nmode = \"driver\""));
    let xdp = config.xdp.unwrap();
    assert_eq!((xdp.interfaces.len(), xdp.rules.len()), (2, 1));
    assert_eq!((xdp.preset, xdp.mode), (Some(Preset::HdxOnly), XdpMode::Driver));
    assert_eq!(xdp.pins.to_str(), Some("/sys/fs/bpf/portcullis"));
    assert_eq!(xdp.rules[0].ports, [22..=22]);
}

#[test]
fn a_configuration_without_ssh_for_administrators_is_refused_unless_it_is_meant() {
    let edge_only = SSH.replace("mgmt", "edge");
    let closed = SSH.replace("accept", "drop");
    for text in
        [EDGE.to_owned(), format!("{EDGE}{SSH}"), format!("{EDGE}{MGMT}"), format!("{EDGE}{edge_only}")]
    {
        assert!(errors(&text).contains("lock administrators out"), "{text}");
        config(&format!("{text}[xdp]\nallow_no_management = true"));
    }
    assert!(errors(&format!("{EDGE}{MGMT}{closed}{SSH}")).contains("lock administrators out"));
}

#[test]
fn what_is_wrong_is_named() {
    let base = format!("{EDGE}{MGMT}{SSH}");
    for (text, message) in [
        (base.replace("edge", "wan"), "`role` is \"wan\""),
        (base.replace("tcp", "smoke"), "\"smoke\""),
        (base.replace("accept", "allow"), "`action` is \"allow\""),
        (base.replace("[22]", "[0]"), "0 is neither a port nor a range"),
        (base.replace("eth1.100", "eth0"), "a second [[xdp.interface]] is named `eth0`"),
        (base.replace("eth0", "a/b"), "\"a/b\" is no name of an interface"),
        (base.replace("role = \"edge\"\n", ""), "[[xdp.interface]] has no `role`"),
        (format!("{base}[xdp]\npreset = \"gatway\""), "`preset` is \"gatway\""),
        ("[xdp]\nallow_no_management = true".to_owned(), "[xdp] has no `interface`"),
    ] {
        assert!(errors(&text).contains(message), "{message} in {}", errors(&text));
    }
}

#[test]
fn a_change_needs_a_restart() {
    let (old, new) = (config(""), config(&format!("{EDGE}{MGMT}{SSH}")));
    assert_eq!(compare(&old, &new).restart, ["xdp: added"]);
}

#[test]
fn it_is_shown_as_it_is_written() {
    let shown = config(&format!("{EDGE}{MGMT}{SSH}")).to_json();
    assert_eq!(shown["xdp"]["interface"][1]["name"], "eth1.100");
    assert_eq!(shown["xdp"]["rule"][0]["ports"][0], 22);
    assert_eq!(shown["xdp"]["mode"], "auto");
}
