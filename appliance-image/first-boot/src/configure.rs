//! Makes the gateway's configuration at the first boot.
//!
//! The configuration itself is that of the credential, else that of the seed, else the image's own. `[network]` is added to
//! one that has none: from the seed, or what a factory reset has kept. What the gateway would refuse is left out, and told.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::unistd::{Group, User};
use toml_edit::{Array, ArrayOfTables, DocumentMut, Item, Table, value};

use crate::network::{Cards, Network};
use crate::seed::{self, Seed};
use crate::{Places, portcullis, put, taken};

/// How long a machine that was told nothing else waits for a volume.
const PATIENCE: Duration = Duration::from_secs(10);
/// Of the gateway.
const USER: &str = "portcullis";
const KEPT: &str = "/var/lib/appliance/network/network.toml";

/// Makes the configuration, and lets those in whom a seed names.
///
/// # Errors
/// When something cannot be written; the next boot tries again.
pub fn run(places: &Places, tell: &mut dyn FnMut(&str)) -> Result<()> {
    let patience = if places.has_keys() { Duration::ZERO } else { PATIENCE };
    let mut seed = Seed::default();
    if let Some(device) = seed::find(&places.dev, patience) {
        match seed::read_volume(&device, &places.root, &Cards::find(&places.sys)) {
            Ok(read) => seed = read,
            Err(error) => tell(&format!("the NoCloud volume is not taken: {error:#}")),
        }
    }
    follow(places, &seed, tell)
}

/// The same with a seed that was read.
///
/// # Errors
/// As [`run`].
pub fn follow(places: &Places, seed: &Seed, tell: &mut dyn FnMut(&str)) -> Result<()> {
    let default =
        fs::read_to_string(places.configuration_default()).context("read the image's own configuration")?;
    let given = places.credentials.as_ref().map(|directory| directory.join("appliance.configuration"));
    let given = given.and_then(|path| fs::read_to_string(path).ok()).unwrap_or_else(|| default.clone());
    seed.told.notes.iter().for_each(|note| tell(&format!("NoCloud: {note}")));
    let_in(places, seed, tell)?;
    let text = compose(places, &given, &default, seed, &mut *tell);
    install(places, &text)
}

/// Writes down whose keys open the door, unless a credential has said so.
fn let_in(places: &Places, seed: &Seed, tell: &mut dyn FnMut(&str)) -> Result<()> {
    if seed.told.keys.is_empty() {
        return Ok(());
    }
    if places.has_keys() {
        tell("NoCloud: its keys are not taken: a credential has told whose are");
        return Ok(());
    }
    let mut keys = Vec::new();
    for key in &seed.told.keys {
        match taken(places, &["--judge-key"], key) {
            Ok(()) => keys.push(key.as_str()),
            Err(why) => tell(&format!("NoCloud: a key is not taken: {why:#}")),
        }
    }
    if keys.is_empty() {
        return Ok(());
    }
    let text = keys.join("\n") + "\n";
    put(&places.keys(), &text, 0o644, None).context("write the administrators' keys")?;
    tell(&format!("NoCloud: {} keys may log in as admin", keys.len()));
    Ok(())
}

/// The text of the configuration, of what the gateway takes.
fn compose(places: &Places, given: &str, default: &str, seed: &Seed, tell: &mut dyn FnMut(&str)) -> String {
    let is_default = given == default;
    let base = match &seed.configuration {
        Some(own) if !is_default => {
            tell("NoCloud: portcullis.toml is not taken: a credential has a configuration");
            given
        }
        Some(own) => match judge(places, own) {
            Ok(()) => own,
            Err(error) => {
                tell(&format!("NoCloud: portcullis.toml is not taken: {error}"));
                given
            }
        },
        None => given,
    };
    let kept = fs::read_to_string(places.at(KEPT)).ok();
    let told = seed.network();
    let section = match (&told, kept) {
        (Some(network), _) => network.to_toml().ok().map(|text| ("NoCloud", text)),
        (None, Some(kept)) => Some(("the network that was kept", kept)),
        (None, None) => None,
    };
    let Some((whose, section)) = section else { return base.to_owned() };
    let used = told.as_ref().filter(|_| base == default);
    match with_network(base, &section, used) {
        Ok(None) => {
            tell(&format!("{whose}: its network is not taken: the configuration has [network]"));
            base.to_owned()
        }
        Ok(Some(text)) => match judge(places, &text) {
            Ok(()) => text,
            Err(error) => {
                tell(&format!("{whose}: its network is not taken, the machine uses DHCP: {error}"));
                base.to_owned()
            }
        },
        Err(error) => {
            tell(&format!("{whose}: its network is not taken: {error:#}"));
            base.to_owned()
        }
    }
}

/// A configuration with a section `[network]`; `None` when it has one already. In the image's own configuration every
/// card that is used besides the one of the administrators is an edge, where nothing is open until somebody says so.
pub(crate) fn with_network(base: &str, section: &str, used: Option<&Network>) -> Result<Option<String>> {
    let mut document: DocumentMut = base.parse().context("the configuration is no TOML")?;
    if document.contains_key("network") {
        return Ok(None);
    }
    let section: DocumentMut = section.parse().context("the network is no TOML")?;
    let network = section.get("network").context("it has no [network]")?;
    // Answers of DHCP servers are let in where one is asked.
    let mut asks = false;
    if let Some(tables) = document.get_mut("xdp").and_then(|xdp| xdp.get_mut("interface"))
        && let Some(tables) = tables.as_array_of_tables_mut()
    {
        let named = |tables: &ArrayOfTables, name: &str| {
            tables.iter().any(|table| table.get("name").and_then(Item::as_str) == Some(name))
        };
        let cards = used.into_iter().flat_map(|network| &network.interfaces);
        let more: Vec<_> = cards
            .filter(|one| one.parent.is_none() && one.members.is_empty() && !named(tables, &one.name))
            .collect();
        asks = more.iter().any(|card| card.dhcp.is_some());
        for card in more {
            let mut table = Table::new();
            table.insert("name", value(&card.name));
            table.insert("role", value("edge"));
            tables.push(table);
        }
    }
    if asks
        && let Some(xdp) = document.get_mut("xdp").and_then(Item::as_table_mut)
        && let Some(rules) =
            xdp.entry("rule").or_insert(Item::ArrayOfTables(ArrayOfTables::new())).as_array_of_tables_mut()
    {
        let mut rule = Table::new();
        rule.insert("role", value("edge"));
        rule.insert("protocol", value("udp"));
        rule.insert("ports", value(Array::from_iter([68_i64, 546])));
        rule.insert("action", value("accept"));
        rules.push(rule);
    }
    let mut lone = DocumentMut::new();
    lone.insert("network", network.clone());
    Ok(Some(format!("{}\n{lone}", document.to_string().trim_end())))
}

/// What the gateway says of a text: of what it cannot read, and of the network.
pub(crate) fn judge(places: &Places, text: &str) -> Result<(), String> {
    let path = places.configuration().with_extension("trial");
    put(&path, text, 0o600, None).map_err(|error| format!("it cannot be written: {error}"))?;
    let said = portcullis(places, &["--json", "check", "--file", &path.to_string_lossy()], "");
    fs::remove_file(&path).ok();
    let said = match said {
        Ok(said) => said,
        Err((None, why)) => return Err(why),
        Err((Some(_), said)) => said,
    };
    let said: serde_json::Value = serde_json::from_str(&said).map_err(|_| said)?;
    let problems = said.get("problems").and_then(|problems| problems.get("problems").or(Some(problems)));
    let findings = said.get("findings").and_then(|findings| findings.as_array()).cloned().unwrap_or_default();
    let of = |one: &serde_json::Value, key: &str| {
        one.get(key).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned()
    };
    let network =
        |one: &&serde_json::Value| of(one, "subject") == "network" && of(one, "severity") == "error";
    let wrong: Vec<String> = problems
        .and_then(serde_json::Value::as_array)
        .into_iter()
        .flatten()
        .map(|one| format!("{}{}", of(one, "message"), hint(&of(one, "expected"))))
        .chain(findings.iter().filter(network).map(|one| of(one, "message")))
        .collect();
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
}

fn hint(expected: &str) -> String {
    if expected.is_empty() { String::new() } else { format!(" (expected {expected})") }
}

fn install(places: &Places, text: &str) -> Result<()> {
    let user = User::from_name(USER).ok().flatten().map(|user| user.uid.as_raw());
    let group = Group::from_name(USER).ok().flatten().map(|group| group.gid.as_raw());
    let owner = user.zip(group);
    put(&places.configuration(), text, 0o640, owner).context("write the configuration")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULT: &str = include_str!("../../overlay/usr/lib/credstore/appliance.configuration");

    #[test]
    fn the_image_s_own_configuration_opens_nothing_on_more_cards() {
        let network = Network {
            interfaces: ["eth0", "eth1"]
                .map(|name| crate::network::Interface {
                    name: name.to_owned(),
                    dhcp: Some("ipv4"),
                    ..Default::default()
                })
                .into(),
            ..Network::default()
        };
        let text = with_network(DEFAULT, &network.to_toml().unwrap(), Some(&network)).unwrap().unwrap();
        let seen: toml::Table = text.parse().unwrap_or_else(|error| panic!("{error}\n{text}"));
        let roles = seen["xdp"]["interface"].as_array().unwrap();
        assert_eq!(roles.len(), 2);
        let rules = seen["xdp"]["rule"].as_array().unwrap();
        assert_eq!(rules.last().unwrap()["role"].as_str(), Some("edge"), "{text}");
        assert_eq!((roles[0]["role"].as_str(), roles[1]["role"].as_str()), (Some("mgmt"), Some("edge")));
        assert_eq!(seen["network"]["interface"].as_array().unwrap().len(), 2);
        assert!(text.starts_with("# The configuration of a machine that was told nothing"));
        assert_eq!(with_network(&text, &network.to_toml().unwrap(), Some(&network)).unwrap(), None);
    }
}
