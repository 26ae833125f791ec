//! Version 1 of `network-config`, of cloud-init's own.

use anyhow::{Context as _, Result, bail};
use ipnet::IpNet;
use std::net::IpAddr;
use yaml_rust2::Yaml;

use super::{Cards, Interface, Network, entries, is_true, list, number, required, text};

pub(super) fn network(document: &Yaml, cards: &Cards) -> Result<Network> {
    let mut network = Network::default();
    let items = entries(document).into_iter().find(|(key, _)| key == "config").map(|(_, items)| items);
    for item in items.and_then(Yaml::as_vec).context("it has no list `config`")? {
        let kind =
            entries(item).into_iter().find(|(key, _)| key == "type").and_then(|(_, value)| text(value));
        let kind = required(kind, "`type`")?;
        match kind.as_str() {
            "nameserver" => servers(&mut network, item)?,
            "physical" | "vlan" | "bond" => {
                let interface = interface(&mut network, item, cards).with_context(|| format!("`{kind}`"))?;
                network.interfaces.push(interface);
            }
            other => bail!("the type `{other}` is not taken"),
        }
    }
    Ok(network)
}

fn servers(network: &mut Network, item: &Yaml) -> Result<()> {
    for (key, value) in entries(item) {
        match key.as_str() {
            "type" | "interface" => {}
            "address" => network.add_servers(&list(value, &key)?, &[]),
            "search" => network.add_servers(&[], &list(value, &key)?),
            other => bail!("`{other}` of a name server is not taken"),
        }
    }
    Ok(())
}

fn interface(network: &mut Network, item: &Yaml, cards: &Cards) -> Result<Interface> {
    let mut interface = Interface::default();
    let mut address = None;
    for (key, value) in entries(item) {
        match key.as_str() {
            "type" => {}
            "name" => interface.name = text(value).unwrap_or_default(),
            "mac_address" => address = text(value),
            "mtu" => interface.mtu = Some(number(value, &key)?),
            "accept-ra" => interface.accept_ra = Some(is_true(value)),
            "vlan_link" => interface.parent = text(value),
            "vlan_id" => interface.vlan = Some(number(value, &key)?),
            "bond_interfaces" => interface.members = list(value, &key)?,
            "params" => {
                for (key, value) in entries(value) {
                    match key.as_str() {
                        "bond-mode" => interface.mode = text(value),
                        "bond-miimon" | "bond_miimon" | "bond-lacp-rate" | "bond-xmit-hash-policy" => {}
                        other => bail!("`params.{other}` is not taken"),
                    }
                }
            }
            "subnets" => {
                for subnet in value.as_vec().into_iter().flatten() {
                    self::subnet(network, &mut interface, subnet)?;
                }
            }
            other => bail!("`{other}` is not taken"),
        }
    }
    if let Some(address) = address.filter(|_| interface.parent.is_none() && interface.members.is_empty()) {
        interface.name = cards.with_address(&address)?;
    }
    Ok(interface)
}

fn subnet(network: &mut Network, interface: &mut Interface, subnet: &Yaml) -> Result<()> {
    let of =
        |wanted: &str| entries(subnet).into_iter().find(|(key, _)| key == wanted).map(|(_, value)| value);
    let texts = |key: &str| of(key).map_or(Ok(Vec::new()), |value| list(value, key));
    let known =
        ["type", "address", "netmask", "gateway", "dns_nameservers", "dns_search", "routes", "control"];
    if let Some((key, _)) = entries(subnet).into_iter().find(|(key, _)| !known.contains(&key.as_str())) {
        bail!("`subnets.{key}` is not taken");
    }
    network.add_servers(&texts("dns_nameservers")?, &texts("dns_search")?);
    match of("type").and_then(text).as_deref() {
        Some("dhcp" | "dhcp4") => interface.ask_dhcp(true, false),
        Some("dhcp6" | "ipv6_dhcpv6-stateful") => interface.ask_dhcp(false, true),
        Some("ipv6_slaac" | "ipv6_dhcpv6-stateless") => interface.accept_ra = Some(true),
        Some("static" | "static6") => {
            let address = required(of("address").and_then(text), "`subnets.address`")?;
            interface.addresses.push(with_prefix(&address, of("netmask").and_then(text).as_deref())?);
            interface.gateways.extend(of("gateway").and_then(text));
            for route in of("routes").and_then(Yaml::as_vec).into_iter().flatten() {
                let of = |wanted: &str| {
                    let found = entries(route).into_iter().find(|(key, _)| key == wanted);
                    found.and_then(|(_, value)| text(value))
                };
                let to = required(of("network").or_else(|| of("destination")), "`routes.network`")?;
                let to = match of("netmask") {
                    Some(mask) => with_prefix(&to, Some(&mask))?,
                    None => to,
                };
                interface.add_route(&to, &required(of("gateway"), "`routes.gateway`")?, None)?;
            }
        }
        Some("manual") => {}
        other => bail!("the type `{}` of a subnet is not taken", other.unwrap_or_default()),
    }
    Ok(())
}

fn with_prefix(address: &str, mask: Option<&str>) -> Result<String> {
    let Some(mask) = mask.filter(|_| !address.contains('/')) else { return Ok(address.to_owned()) };
    let wrong = || format!("`{address}` with the mask `{mask}` is no address");
    let own: IpAddr = address.parse().ok().with_context(wrong)?;
    let net = match (mask.parse::<u8>(), mask.parse::<IpAddr>()) {
        (Ok(length), _) => IpNet::new(own, length).ok(),
        (_, Ok(mask)) => IpNet::with_netmask(own, mask).ok(),
        _ => None,
    };
    net.map(|net| net.to_string()).with_context(wrong)
}
