//! What `[network]` says of this machine.

use std::path::Path;

use portcullis_ebpf_common::Protocol;
use portcullis_ebpf_common::tables::Action;

use crate::config::{
    Config, Finding, InterfaceName, NetworkConfig, NetworkInterface, NetworkKind, Severity, XdpConfig,
    XdpRule,
};
use crate::settings;

/// Interfaces as the kernel shows them.
const INTERFACES: &str = "/sys/class/net";
const ZONES: &str = "/usr/share/zoneinfo";

pub(super) fn check(config: &Config, network: &NetworkConfig, findings: &mut Vec<Finding>) {
    let mut add = |severity, message: String, remedy: &str| {
        findings.push(Finding::new(severity, "network", message, remedy));
    };
    if !settings::are_applied() {
        let message = "nobody applies it on this machine: only the appliance does".to_owned();
        add(Severity::Warning, message, "remove the section, and set the network up the machine's own way");
        return;
    }
    for interface in &network.interfaces {
        for name in cards(interface) {
            if !made(network, name) && !Path::new(INTERFACES).join(name.as_str()).exists() {
                let message = format!("there is no interface `{name}` on this machine");
                add(Severity::Error, message, "`show interfaces` lists them");
            }
        }
        if let Some(xdp) = &config.xdp {
            check_filter(network, interface, xdp, &mut add);
        }
    }
    if let Some(zone) = &network.time_zone
        && !Path::new(ZONES).join(zone.as_str()).is_file()
    {
        let message = format!("there is no time zone `{}`", zone.as_str());
        add(Severity::Error, message, "names are those of the IANA database, such as `Europe/Berlin`");
    }
}

/// What the packet filter does to an interface.
fn check_filter(
    network: &NetworkConfig,
    interface: &NetworkInterface,
    xdp: &XdpConfig,
    add: &mut impl FnMut(Severity, String, &str),
) {
    let found = |name: &InterfaceName| xdp.interfaces.iter().find(|one| one.name == name.as_str());
    let dynamic = interface.dhcp_v4 || interface.dhcp_v6;
    if !filtered(network, interface, &|name| found(name).is_some()) {
        if dynamic || !interface.addresses.is_empty() {
            let message = format!("packets are not filtered on `{}`", interface.name);
            add(Severity::Warning, message, "give it a role: an [[xdp.interface]] of that name");
        }
        return;
    }
    let Some(role) =
        std::iter::once(&interface.name).chain(interface.below()).find_map(found).map(|one| one.role)
    else {
        return;
    };
    for (asks, port) in [(interface.dhcp_v4, 68), (interface.dhcp_v6, 546)] {
        let lets_in = |rule: &XdpRule| {
            rule.role == role
                && rule.action != Action::Drop
                && rule.protocol == Protocol::Udp.number()
                && rule.ports.iter().any(|ports| ports.contains(&port))
        };
        if asks && !xdp.rules.iter().any(lets_in) {
            let message =
                format!("`{}` asks for its address by DHCP, and answers are dropped", interface.name);
            let remedy = format!("an [[xdp.rule]] of role {} that accepts udp {port}", role.as_str());
            add(Severity::Warning, message, &remedy);
        }
    }
}

/// Interfaces that must be there before this one can be.
fn cards(interface: &NetworkInterface) -> &[InterfaceName] {
    match &interface.kind {
        NetworkKind::Card => std::slice::from_ref(&interface.name),
        NetworkKind::Vlan { .. } | NetworkKind::Bond { .. } => interface.below(),
    }
}

/// Whether the configuration itself makes it.
fn made(network: &NetworkConfig, name: &InterfaceName) -> bool {
    let mut all = network.interfaces.iter();
    all.any(|interface| interface.name == *name && interface.kind != NetworkKind::Card)
}

/// Whether the filter is on it, or on everything that it stands on.
fn filtered(
    network: &NetworkConfig,
    interface: &NetworkInterface,
    named: &impl Fn(&InterfaceName) -> bool,
) -> bool {
    let below = |name: &InterfaceName| {
        let found = network.interfaces.iter().find(|other| other.name == *name);
        // The configuration has two such layers at most: a VLAN on a bond.
        named(name) || found.is_some_and(|other| !other.below().is_empty() && other.below().iter().all(named))
    };
    named(&interface.name) || (!interface.below().is_empty() && interface.below().iter().all(below))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_nobody_applies_it_the_check_says_so() {
        let text = "[network]\n[[network.interface]]\nname = \"nowhere0\"\ndhcp = \"ipv4\"\n";
        let config = crate::config::parse(text, Path::new("x")).unwrap();
        let mut findings = Vec::new();
        check(&config, config.settings.network.as_ref().unwrap(), &mut findings);
        let told: Vec<String> = findings.iter().map(ToString::to_string).collect();
        let expected = if settings::are_applied() {
            "no interface `nowhere0`"
        } else {
            "nobody applies it on this machine"
        };
        assert!(told.len() == 1 && told[0].contains(expected), "{told:?}");
    }

    #[test]
    fn answers_of_dhcp_servers_must_be_let_in() {
        let text = |rule: &str| {
            format!(
                "[network]\n[[network.interface]]\nname = \"eth0\"\ndhcp = \"ipv4\"\n[xdp]\nallow_no_management = true\n\
                 [[xdp.interface]]\nname = \"eth0\"\nrole = \"edge\"\n{rule}"
            )
        };
        let rule = "[[xdp.rule]]\nrole = \"edge\"\nprotocol = \"udp\"\nports = [68]\naction = \"accept\"\n";
        for (text, warned) in [(text(""), 1), (text(rule), 0)] {
            let config = crate::config::parse(&text, Path::new("x")).unwrap();
            let network = config.settings.network.as_ref().unwrap();
            let mut told = Vec::new();
            let mut add = |_: Severity, message: String, _: &str| told.push(message);
            check_filter(network, &network.interfaces[0], config.xdp.as_ref().unwrap(), &mut add);
            assert_eq!(told.len(), warned, "{told:?}");
        }
    }

    #[test]
    fn a_vlan_on_a_bond_is_filtered_where_its_cards_are() {
        let text = "[network]\n[[network.interface]]\nname = \"bond0\"\nmembers = [\"a\", \"b\"]\n\
            [[network.interface]]\nname = \"edge\"\nparent = \"bond0\"\nvlan = 4\naddresses = [\"192.0.2.1/24\"]\n";
        let settings = crate::config::parse_settings(text, Path::new("x")).unwrap();
        let network = settings.network.unwrap();
        let edge = &network.interfaces[1];
        let seen = |names: &[&str]| filtered(&network, edge, &|name| names.contains(&name.as_str()));
        assert!(seen(&["a", "b"]) && seen(&["bond0"]) && seen(&["edge"]));
        assert!(!seen(&["a"]) && !seen(&[]));
        assert!(made(&network, &InterfaceName::parse("bond0").unwrap()));
        assert!(!made(&network, &InterfaceName::parse("a").unwrap()));
    }
}
