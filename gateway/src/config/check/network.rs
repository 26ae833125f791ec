//! What `[network]` says of this machine.

use std::path::Path;

use super::super::{Config, Finding, InterfaceName, NetworkConfig, NetworkInterface, NetworkKind, Severity};
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
        if let Some(xdp) = &config.xdp
            && !interface.addresses.is_empty()
            && !filtered(network, interface, &|name| {
                xdp.interfaces.iter().any(|one| one.name == name.as_str())
            })
        {
            let message = format!("packets are not filtered on `{}`", interface.name);
            add(Severity::Warning, message, "give it a role: an [[xdp.interface]] of that name");
        }
    }
    if let Some(zone) = &network.time_zone
        && !Path::new(ZONES).join(zone.as_str()).is_file()
    {
        let message = format!("there is no time zone `{}`", zone.as_str());
        add(Severity::Error, message, "names are those of the IANA database, such as `Europe/Berlin`");
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
