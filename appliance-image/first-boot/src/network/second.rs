//! Version 2 of `network-config`, which is netplan's.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use yaml_rust2::Yaml;

use super::{Cards, Interface, Network, entries, is_true, list, number, required, text};

/// What says how something is configured elsewhere, and changes nothing here.
const HARMLESS: [&str; 6] =
    ["renderer", "optional", "dhcp-identifier", "wakeonlan", "critical", "ignore-carrier"];

pub(super) fn network(document: &Yaml, cards: &Cards) -> Result<Network> {
    let mut network = Network::default();
    let mut names = BTreeMap::new();
    for (group, devices) in entries(document) {
        for (id, device) in entries(devices) {
            let name = if group == "ethernets" { card(&id, device, cards)? } else { id.clone() };
            names.insert(id, name);
        }
    }
    let name = |id: &str| names.get(id).cloned().unwrap_or_else(|| id.to_owned());
    for (group, devices) in entries(document) {
        match group.as_str() {
            "version" | "renderer" => {}
            "ethernets" | "bonds" | "vlans" => {
                for (id, device) in entries(devices) {
                    let mut interface = Interface::named(name(&id));
                    for (key, value) in entries(device) {
                        let taken = match group.as_str() {
                            "vlans" => of_vlan(&mut interface, &key, value, &name)?,
                            "bonds" => of_bond(&mut interface, &key, value, &name)?,
                            _ => matches!(key.as_str(), "match" | "set-name"),
                        };
                        if !taken {
                            common(&mut network, &mut interface, &key, value)
                                .with_context(|| format!("`{group}.{id}`"))?;
                        }
                    }
                    network.interfaces.push(interface);
                }
            }
            other => bail!("`{other}` is not taken: there are ethernets, bonds and vlans"),
        }
    }
    Ok(network)
}

/// Which card is meant. What it is called is the machine's to say.
fn card(id: &str, device: &Yaml, cards: &Cards) -> Result<String> {
    let found = entries(device).into_iter().find(|(key, _)| key == "match").map(|(_, inner)| inner);
    let Some(found) = found else { return Ok(id.to_owned()) };
    let mut name = None;
    for (key, value) in entries(found) {
        let value = text(value).unwrap_or_default();
        match key.as_str() {
            "macaddress" => return cards.with_address(&value),
            "name" if !value.contains(['*', '?', '[']) => name = Some(value),
            other => bail!(
                "`ethernets.{id}.match.{other}`: cards are matched by `macaddress`, or by a whole `name`"
            ),
        }
    }
    required(name, &format!("`ethernets.{id}.match.macaddress`"))
}

fn of_vlan(
    interface: &mut Interface,
    key: &str,
    value: &Yaml,
    name: &impl Fn(&str) -> String,
) -> Result<bool> {
    match key {
        "id" => interface.vlan = Some(number(value, "id")?),
        "link" => interface.parent = text(value).map(|id| name(&id)),
        _ => return Ok(false),
    }
    Ok(true)
}

fn of_bond(
    interface: &mut Interface,
    key: &str,
    value: &Yaml,
    name: &impl Fn(&str) -> String,
) -> Result<bool> {
    match key {
        "interfaces" => interface.members = list(value, key)?.iter().map(|id| name(id)).collect(),
        "parameters" => {
            for (key, value) in entries(value) {
                match key.as_str() {
                    "mode" => interface.mode = text(value),
                    // As the appliance has them anyway.
                    "mii-monitor-interval" | "lacp-rate" | "transmit-hash-policy" => {}
                    other => bail!("`parameters.{other}` of bonds is not taken"),
                }
            }
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn common(network: &mut Network, interface: &mut Interface, key: &str, value: &Yaml) -> Result<()> {
    match key {
        "dhcp4" => interface.ask_dhcp(is_true(value), false),
        "dhcp6" => interface.ask_dhcp(false, is_true(value)),
        "accept-ra" => interface.accept_ra = Some(is_true(value)),
        "mtu" => interface.mtu = Some(number(value, key)?),
        "addresses" => interface.addresses = list(value, key)?,
        "gateway4" | "gateway6" => interface.gateways.extend(text(value)),
        "nameservers" => {
            let (mut addresses, mut domains) = (Vec::new(), Vec::new());
            for (key, value) in entries(value) {
                match key.as_str() {
                    "addresses" => addresses = list(value, &key)?,
                    "search" => domains = list(value, &key)?,
                    other => bail!("`nameservers.{other}` is not taken"),
                }
            }
            network.add_servers(&addresses, &domains);
        }
        "routes" => {
            for route in value.as_vec().into_iter().flatten() {
                let (mut to, mut via, mut metric) = (None, None, None);
                for (key, value) in entries(route) {
                    match key.as_str() {
                        "to" => to = text(value),
                        "via" => via = text(value),
                        "metric" => metric = Some(number(value, &key)?),
                        other => bail!("`routes.{other}` is not taken"),
                    }
                }
                interface.add_route(
                    &required(to, "`routes.to`")?,
                    &required(via, "`routes.via`")?,
                    metric,
                )?;
            }
        }
        harmless if HARMLESS.contains(&harmless) => {}
        other => bail!("`{other}` is not taken"),
    }
    Ok(())
}
