//! Interfaces, as systemd.network(5) and systemd.netdev(5) have them.
//!
//! One `.network` file for each interface, whoever needs it: those of the configuration, parents of VLANs and members of
//! bonds. networkd changes those interfaces whose file has changed and leaves the others alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::HEADER;
use crate::config::{BondMode, InterfaceName, NetworkConfig, NetworkInterface, NetworkKind};

pub(super) const DIRECTORY: &str = "/run/systemd/network";
/// Ours come before those that credentials give the machine, and before the image's own.
pub(super) const PREFIX: &str = "05-portcullis-";
/// The image's own, which uses the first card; an empty file of that name takes its place (systemd.network(5)).
pub(super) const MASKED: &str = "90-default.network";

pub(super) fn add(network: &NetworkConfig, files: &mut BTreeMap<PathBuf, String>) {
    if network.interfaces.is_empty() {
        return;
    }
    let directory = Path::new(DIRECTORY);
    files.insert(directory.join(MASKED), String::new());
    let below = network.interfaces.iter().flat_map(NetworkInterface::below);
    let names: BTreeSet<&InterfaceName> =
        network.interfaces.iter().map(|interface| &interface.name).chain(below).collect();
    for name in names {
        let path = directory.join(format!("{PREFIX}{name}.network"));
        files.insert(path, of_interface(name, network));
    }
    for interface in &network.interfaces {
        if let Some(text) = device(interface) {
            files.insert(directory.join(format!("{PREFIX}{}.netdev", interface.name)), text);
        }
    }
}

/// The interface that the file of a virtual device makes.
pub(super) fn device_of(file_name: &str) -> Option<InterfaceName> {
    InterfaceName::parse(file_name.strip_prefix(PREFIX)?.strip_suffix(".netdev")?)
}

fn device(interface: &NetworkInterface) -> Option<String> {
    let mut text = String::from(HEADER);
    // Writing to a String cannot fail.
    match &interface.kind {
        NetworkKind::Card => return None,
        NetworkKind::Vlan { id, parent } => {
            write!(text, "# On {parent}.\n[NetDev]\nName={}\nKind=vlan\n[VLAN]\nId={id}\n", interface.name)
                .ok();
        }
        NetworkKind::Bond { mode, .. } => {
            write!(
                text,
                "[NetDev]\nName={}\nKind=bond\n[Bond]\nMode={}\nMIIMonitorSec=100ms\n",
                interface.name,
                mode.as_str()
            )
            .ok();
            text.push_str(match mode {
                BondMode::ActiveBackup => "",
                BondMode::BalanceXor => "TransmitHashPolicy=layer3+4\n",
                BondMode::Ieee8023ad => "TransmitHashPolicy=layer3+4\nLACPTransmitRate=fast\n",
            });
        }
    }
    Some(text)
}

fn of_interface(name: &InterfaceName, network: &NetworkConfig) -> String {
    let own = network.interfaces.iter().find(|interface| interface.name == *name);
    let mut text = format!("{HEADER}[Match]\nName={name}\n[Link]\n");
    let mut line = |key: &str, value: &dyn std::fmt::Display| {
        writeln!(text, "{key}={value}").ok();
    };
    if let Some(mtu) = own.and_then(|own| own.mtu) {
        line("MTUBytes", &mtu);
    }
    let told = own.is_some_and(|own| own.dhcp_v4 || own.dhcp_v6 || own.accept_ra);
    let addressed = told || own.is_some_and(|own| !own.addresses.is_empty());
    line("RequiredForOnline", &yes(addressed));
    line("[Network]\nLLMNR=no\nMulticastDNS=no\nDHCP", &own.map_or("no", NetworkInterface::dhcp));
    line("IPv6AcceptRA", &yes(own.is_some_and(|own| own.accept_ra)));
    let ipv6 = own.is_some_and(NetworkInterface::uses_ipv6);
    line("LinkLocalAddressing", &if ipv6 { "ipv6" } else { "no" });
    // Listeners find the addresses there at the start, whether the cable is in or not.
    line("ConfigureWithoutCarrier", &yes(addressed && !told));
    for above in &network.interfaces {
        match &above.kind {
            NetworkKind::Vlan { parent, .. } if parent == name => line("VLAN", &above.name),
            NetworkKind::Bond { members, .. } if members.contains(name) => line("Bond", &above.name),
            _ => {}
        }
    }
    let Some(own) = own else { return text };
    own.addresses.iter().for_each(|address| line("Address", address));
    own.gateways.iter().for_each(|gateway| line("Gateway", gateway));
    for route in &own.routes {
        line("[Route]\nDestination", &route.to);
        line("Gateway", &route.via);
        if let Some(metric) = route.metric {
            line("Metric", &metric);
        }
    }
    if told {
        dynamic(network, &mut text);
    }
    text
}

/// What is taken of those who tell addresses: never the name, and servers only where none are configured.
fn dynamic(network: &NetworkConfig, text: &mut String) {
    let (dns, ntp) = (yes(network.dns.is_empty()), yes(network.ntp.is_empty()));
    for (section, more) in [("DHCPv4", "ClientIdentifier=mac\n"), ("DHCPv6", "")] {
        write!(text, "[{section}]\nUseHostname=no\nUseDNS={dns}\nUseNTP={ntp}\n{more}").ok();
    }
    write!(text, "[IPv6AcceptRA]\nUseDNS={dns}\n").ok();
}

fn yes(is: bool) -> &'static str {
    if is { "yes" } else { "no" }
}

#[cfg(test)]
mod tests {
    use crate::config::parse_settings;

    use super::*;

    fn rendered(text: &str) -> BTreeMap<String, String> {
        let settings = parse_settings(text, Path::new("x.toml")).unwrap();
        let mut files = BTreeMap::new();
        add(settings.network.as_ref().unwrap(), &mut files);
        let name = |path: PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
        files.into_iter().map(|(path, text)| (name(path), text)).collect()
    }

    const ARMS: &str = "[network]\ndns = [\"10.0.0.53\"]\n\
        [[network.interface]]\nname = \"edge\"\nparent = \"eth0\"\nvlan = 10\naddresses = [\"203.0.113.1/24\"]\n\
        gateways = [\"203.0.113.254\"]\n\
        [[network.interface]]\nname = \"farm\"\nmembers = [\"eth1\", \"eth2\"]\nmode = \"802.3ad\"\nmtu = 9000\n\
        addresses = [\"10.77.0.1/24\"]\nroute = [{ to = \"10.0.0.0/8\", via = \"10.77.0.254\", metric = 5 }]\n\
        [[network.interface]]\nname = \"eth3\"\ndhcp = \"yes\"\n";

    #[test]
    fn every_interface_has_a_file_and_the_virtual_ones_two() {
        let files = rendered(ARMS);
        let names: Vec<&str> = files.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            [
                "05-portcullis-edge.netdev",
                "05-portcullis-edge.network",
                "05-portcullis-eth0.network",
                "05-portcullis-eth1.network",
                "05-portcullis-eth2.network",
                "05-portcullis-eth3.network",
                "05-portcullis-farm.netdev",
                "05-portcullis-farm.network",
                "90-default.network",
            ]
        );
        assert_eq!(files["90-default.network"], "");
    }

    #[test]
    fn each_says_what_the_configuration_says() {
        let files = rendered(ARMS);
        for (file, lines) in [
            ("edge.netdev", ["Name=edge\nKind=vlan\n", "[VLAN]\nId=10\n"]),
            ("edge.network", ["Address=203.0.113.1/24\nGateway=203.0.113.254\n", "IPv6AcceptRA=no\n"]),
            ("eth0.network", ["VLAN=edge\n", "LinkLocalAddressing=no\n"]),
            ("eth1.network", ["Bond=farm\n", "RequiredForOnline=no\n"]),
            ("farm.netdev", ["Kind=bond\n[Bond]\nMode=802.3ad\n", "LACPTransmitRate=fast\n"]),
            (
                "farm.network",
                ["MTUBytes=9000\n", "[Route]\nDestination=10.0.0.0/8\nGateway=10.77.0.254\nMetric=5\n"],
            ),
            (
                "eth3.network",
                ["DHCP=yes\nIPv6AcceptRA=yes\n", "[DHCPv4]\nUseHostname=no\nUseDNS=no\nUseNTP=yes\n"],
            ),
        ] {
            let text = &files[&format!("{PREFIX}{file}")];
            for line in lines {
                assert!(text.contains(line), "{line} in {file}: {text}");
            }
        }
    }

    #[test]
    fn a_change_of_one_interface_is_a_change_of_its_file_alone() {
        let (before, after) = (rendered(ARMS), rendered(&ARMS.replace("203.0.113.1/24", "203.0.113.2/24")));
        let changed: Vec<&String> = before.keys().filter(|name| before[*name] != after[*name]).collect();
        assert_eq!(changed, ["05-portcullis-edge.network"]);
    }

    #[test]
    fn devices_are_known_by_their_files() {
        assert_eq!(device_of("05-portcullis-edge.netdev").unwrap().as_str(), "edge");
        assert_eq!(device_of("05-portcullis-edge.network"), None);
        assert_eq!(device_of("05-portcullis-a b.netdev"), None);
    }
}
