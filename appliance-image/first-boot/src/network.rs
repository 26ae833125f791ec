//! The machine's network: as `[network]` of the gateway's configuration has it, and how it is read from `network-config`
//! of NoCloud, version 2 (netplan) and version 1 (what Proxmox writes).
//!
//! A network is taken whole or not at all: a machine with half of it is reached by nobody who expects the other half.

mod first;
mod second;

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use ipnet::IpNet;
use serde::Serialize;
use yaml_rust2::Yaml;

use crate::yaml::{entries, is_true, read, text, texts};

/// The section. What its values must be is the gateway's to say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Network {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dns: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ntp: Vec<String>,
    #[serde(rename = "interface", skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<Interface>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Interface {
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dhcp: Option<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gateways: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accept_ra: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vlan: Option<i64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    #[serde(rename = "route", skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Route {
    pub to: String,
    pub via: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metric: Option<i64>,
}

/// The cards of this machine: names by hardware addresses.
#[derive(Debug, Clone, Default)]
pub struct Cards(BTreeMap<String, String>);

impl Cards {
    #[must_use]
    pub fn find(sys: &Path) -> Self {
        let mut cards = BTreeMap::new();
        for entry in fs::read_dir(sys.join("class/net")).into_iter().flatten().flatten() {
            let address = fs::read_to_string(entry.path().join("address")).unwrap_or_default();
            if entry.path().join("device").exists() {
                cards.insert(
                    address.trim().to_ascii_lowercase(),
                    entry.file_name().to_string_lossy().into_owned(),
                );
            }
        }
        Self(cards)
    }

    /// In the order of their names.
    #[must_use]
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.0.values().map(String::as_str).collect();
        names.sort_by_key(|name| (name.len(), *name));
        names
    }

    fn with_address(&self, address: &str) -> Result<String> {
        let found = self.0.get(&address.to_ascii_lowercase());
        found.cloned().with_context(|| format!("no card has the hardware address {address}"))
    }
}

/// Reads `network-config`.
///
/// # Errors
/// What of it is not taken.
pub fn parse(data: &str, cards: &Cards) -> Result<Network> {
    let document = read(data)?;
    let inner = entries(&document).into_iter().find(|(key, _)| key == "network").map(|(_, inner)| inner);
    let document = inner.unwrap_or(&document);
    let version =
        entries(document).into_iter().find(|(key, _)| key == "version").and_then(|(_, value)| text(value));
    let mut network = match version.as_deref() {
        Some("1") => first::network(document, cards)?,
        Some("2") => second::network(document, cards)?,
        _ => bail!("it has no `version` 1 or 2"),
    };
    network.drop_unused();
    Ok(network)
}

impl Network {
    /// As TOML.
    ///
    /// # Errors
    /// Never, as all keys are texts.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(&BTreeMap::from([("network", self)])).context("write the network")
    }

    /// Those without an address that carry nothing else either.
    fn drop_unused(&mut self) {
        let carried: Vec<String> =
            self.interfaces.iter().flat_map(|one| one.parent.iter().chain(&one.members)).cloned().collect();
        let used = |one: &Interface| {
            one.dhcp.is_some()
                || one.accept_ra == Some(true)
                || !one.addresses.is_empty()
                || carried.contains(&one.name)
        };
        self.interfaces.retain(used);
    }

    fn add_servers(&mut self, addresses: &[String], domains: &[String]) {
        for (servers, new) in [(&mut self.dns, addresses), (&mut self.search, domains)] {
            for one in new {
                if !servers.contains(one) {
                    servers.push(one.clone());
                }
            }
        }
    }
}

impl Interface {
    fn named(name: String) -> Self {
        Self { name, ..Self::default() }
    }

    fn ask_dhcp(&mut self, v4: bool, v6: bool) {
        let (had_v4, had_v6) = match self.dhcp {
            Some("yes") => (true, true),
            Some("ipv4") => (true, false),
            Some("ipv6") => (false, true),
            _ => (false, false),
        };
        self.dhcp = match (v4 || had_v4, v6 || had_v6) {
            (true, true) => Some("yes"),
            (true, false) => Some("ipv4"),
            (false, true) => Some("ipv6"),
            (false, false) => None,
        };
    }

    /// A way to a network, or to everything.
    fn add_route(&mut self, to: &str, via: &str, metric: Option<i64>) -> Result<()> {
        let router: IpAddr =
            via.parse().ok().with_context(|| format!("`{via}` is no address of a router"))?;
        let everything = matches!(to, "default" | "0.0.0.0/0" | "::/0" | "0/0");
        if everything && metric.is_none() {
            self.gateways.push(via.to_owned());
            return Ok(());
        }
        let all = if router.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
        let to = if everything { all } else { to };
        let net = to.parse::<IpNet>().or_else(|_| to.parse::<IpAddr>().map(IpNet::from));
        let net = net.ok().with_context(|| format!("`{to}` is no network"))?;
        self.routes.push(Route { to: net.trunc().to_string(), via: via.to_owned(), metric });
        Ok(())
    }
}

fn required(value: Option<String>, what: &str) -> Result<String> {
    value.with_context(|| format!("{what} is missing"))
}

fn number(yaml: &Yaml, what: &str) -> Result<i64> {
    let number = text(yaml).and_then(|text| text.parse().ok());
    number.with_context(|| format!("`{what}` is no number"))
}

fn list(yaml: &Yaml, what: &str) -> Result<Vec<String>> {
    texts(yaml).with_context(|| format!("`{what}` is no list of texts"))
}

#[cfg(test)]
mod tests;
