//! The port rules of a configuration with where each comes from: written there, derived from a listener of ours, or
//! of a preset. For one role, protocol and port the first of these three holds.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use portcullis_ebpf_common::tables::{Action, RULES_MAX, Role, RuleKey};
use portcullis_ebpf_common::{
    Addresses, Cause, Layout, Lookup, Packet, Payload, Ports, Protocol, TcpFlags, judge,
};

use super::presets::Passage;
use crate::config::{Config, XdpConfig, XdpRule, interface_of};

/// The port of SSH, by which administrators come.
pub const SSH: u16 = 22;

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub role: Role,
    pub protocol: Protocol,
    pub ports: RangeInclusive<u16>,
    pub action: Action,
    /// Where it comes from, for people.
    pub origin: String,
}

/// All rules, those that hold first before others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    rows: Vec<Row>,
}

impl Table {
    #[must_use]
    pub fn new(config: &Config, xdp: &XdpConfig) -> Self {
        let mut rows = Vec::new();
        for (index, rule) in xdp.rules.iter().enumerate() {
            let origin = format!("[[xdp.rule]] {}", index + 1);
            let XdpRule { role, protocol, action, .. } = *rule;
            rows.extend(rule.ports.iter().map(|ports| Row {
                role,
                protocol,
                ports: ports.clone(),
                action,
                origin: origin.clone(),
            }));
        }
        rows.extend(listeners(config, xdp));
        for (row, preset) in
            xdp.preset.into_iter().flat_map(|preset| preset.rows().map(move |row| (row, preset)))
        {
            let Passage::In(role) = row.passage else { continue };
            let origin = format!("preset {}: {} → {}", preset.as_str(), row.source, row.destination);
            for (protocol, port) in
                row.protocols.iter().flat_map(|protocol| row.ports.iter().map(move |port| (protocol, port)))
            {
                rows.push(Row {
                    role,
                    protocol: *protocol,
                    ports: *port..=*port,
                    action: Action::Accept,
                    origin: origin.clone(),
                });
            }
        }
        Self { rows }
    }

    #[must_use]
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The rule that holds.
    #[must_use]
    pub fn deciding(&self, role: Role, protocol: Protocol, port: u16) -> Option<&Row> {
        let holds = |row: &&Row| row.role == role && row.protocol == protocol && row.ports.contains(&port);
        self.rows.iter().find(holds)
    }

    /// One entry for each role, protocol and port, as the kernel has them.
    ///
    /// # Errors
    /// When there are more than the kernel's table holds.
    pub fn entries(&self) -> Result<BTreeMap<RuleKey, Action>, String> {
        let most = usize::try_from(RULES_MAX).unwrap_or(usize::MAX);
        let mut entries = BTreeMap::new();
        // Those that hold come last, over the others.
        for row in self.rows.iter().rev() {
            for port in row.ports.clone() {
                entries.insert(RuleKey::new(row.role.to_byte(), row.protocol.number(), port), row.action);
            }
            if entries.len() > most {
                return Err(format!(
                    "the rules open or close more than {most} single ports; narrow the ranges in [[xdp.rule]]"
                ));
            }
        }
        Ok(entries)
    }

    /// What becomes of a well-formed packet that opens something new, and by which rule.
    #[must_use]
    pub fn test(&self, probe: &Probe) -> (Cause, Option<&Row>) {
        let addresses = match probe.source {
            IpAddr::V4(source) => Addresses::v4(source.octets(), [0; 4]),
            IpAddr::V6(source) => Addresses::v6(source.octets(), [0; 16]),
        };
        let Probe { role, protocol, port, banned, .. } = *probe;
        let ports = Ports { source: u16::MAX, destination: port };
        let payload = match protocol {
            Protocol::Tcp => Payload::Tcp { ports, flags: TcpFlags(TcpFlags::SYN), data: 0 },
            Protocol::Udp => Payload::Udp { ports, data: 0 },
        };
        let packet = Packet::new(addresses, payload, None, Layout::default());
        let cause = judge(&packet, &Asked { table: self, role, banned }).cause;
        let by_rule = matches!(cause, Cause::RuleAccepts | Cause::RuleDrops);
        (cause, self.deciding(role, protocol, port).filter(|_| by_rule))
    }
}

/// A packet to be tried against the rules.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    pub role: Role,
    pub source: IpAddr,
    pub protocol: Protocol,
    pub port: u16,
    pub banned: bool,
}

struct Asked<'a> {
    table: &'a Table,
    role: Role,
    banned: bool,
}

impl Lookup for Asked<'_> {
    fn is_management(&self) -> bool {
        self.role == Role::Mgmt
    }

    fn is_banned(&self, _: &Addresses) -> bool {
        self.banned
    }

    fn rule(&self, _: &Addresses, protocol: u8, port: u16) -> Option<Action> {
        let protocol = Protocol::ALL.into_iter().find(|known| known.number() == protocol)?;
        self.table.deciding(self.role, protocol, port).map(|row| row.action)
    }

    fn is_ours(&self, _: &Packet) -> bool {
        false
    }
}

/// Whether an administrator still gets in by SSH after these rules are in force.
#[must_use]
pub fn keeps_management(roles: &[Role], rules: &[XdpRule]) -> bool {
    let first = rules.iter().find(|rule| {
        rule.protocol == Protocol::Tcp
            && rule.role == Role::Mgmt
            && rule.ports.iter().any(|ports| ports.contains(&SSH))
    });
    roles.contains(&Role::Mgmt) && first.is_some_and(|rule| rule.action == Action::Accept)
}

/// What the daemon itself listens on: on the role of the interface that has the address, or on every role where the
/// address is any, or on no interface (yet).
fn listeners(config: &Config, xdp: &XdpConfig) -> Vec<Row> {
    let mut listening: Vec<(String, std::net::SocketAddr)> = Vec::new();
    for listener in &config.listeners {
        listening.extend(listener.listen.iter().map(|at| (format!("listener {}", listener.name), *at)));
    }
    listening.extend(
        config.sta_server.iter().flat_map(|sta| &sta.listen).map(|at| ("sta_server".to_owned(), *at)),
    );
    listening.extend(config.metrics.iter().map(|metrics| ("metrics".to_owned(), metrics.listen)));
    let mut rows = Vec::new();
    for (origin, at) in listening.into_iter().filter(|(_, at)| !at.ip().is_loopback() && at.port() != 0) {
        let name = interface_of(at.ip());
        let named = xdp.interfaces.iter().find(|interface| Some(&interface.name) == name.as_ref());
        let roles = match (named, name) {
            (Some(interface), _) => vec![interface.role],
            // On an interface that is not filtered.
            (None, Some(_)) => Vec::new(),
            (None, None) => Role::ALL.to_vec(),
        };
        rows.extend(roles.into_iter().map(|role| Row {
            role,
            protocol: Protocol::Tcp,
            ports: at.port()..=at.port(),
            action: Action::Accept,
            origin: origin.clone(),
        }));
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn table(text: &str) -> Table {
        let config = crate::config::parse(text, Path::new("/etc/portcullis/x.toml")).unwrap();
        Table::new(&config, config.xdp.as_ref().unwrap())
    }

    const BASE: &str = "\
        [xdp]\npreset = \"gateway\"\n\
        interface = [{ name = \"e\", role = \"edge\" }, { name = \"m\", role = \"mgmt\" }]\n\
        [[xdp.rule]]\nrole = \"mgmt\"\nprotocol = \"tcp\"\nports = [22]\naction = \"accept\"\n";

    fn probe(role: Role, protocol: Protocol, port: u16) -> Probe {
        Probe { role, source: "192.0.2.1".parse().unwrap(), protocol, port, banned: false }
    }

    #[test]
    fn the_deciding_rule_is_named() {
        let table = table(BASE);
        let (cause, row) = table.test(&probe(Role::Edge, Protocol::Tcp, 443));
        assert_eq!(cause, Cause::RuleAccepts);
        assert_eq!(row.unwrap().origin, "preset gateway: Internet → NetScaler Gateway");
        assert_eq!(table.test(&probe(Role::Edge, Protocol::Udp, 443)), (Cause::NoRule, None));
        assert_eq!(table.test(&probe(Role::Edge, Protocol::Tcp, 22)), (Cause::NoRule, None));
        assert_eq!(table.test(&probe(Role::Mgmt, Protocol::Tcp, 22)).0, Cause::RuleAccepts);
        let banned = Probe { banned: true, ..probe(Role::Edge, Protocol::Tcp, 443) };
        assert_eq!(table.test(&banned), (Cause::Banned, None));
    }

    #[test]
    fn a_written_rule_holds_before_a_listener_and_a_preset() {
        let rule =
            "[[xdp.rule]]\nrole = \"edge\"\nprotocol = \"tcp\"\nports = [\"440-449\"]\naction = \"drop\"\n";
        let table = table(&format!("{BASE}{rule}"));
        assert_eq!(table.test(&probe(Role::Edge, Protocol::Tcp, 443)).0, Cause::RuleDrops);
        let entries = table.entries().unwrap();
        assert_eq!(entries.len(), 11);
        assert_eq!(entries.get(&RuleKey::new(Role::Edge.to_byte(), 6, 443)), Some(&Action::Drop));
    }

    #[test]
    fn an_administrator_must_be_let_in_by_the_first_rule_for_ssh() {
        let rule = |role, action| XdpRule { role, protocol: Protocol::Tcp, ports: vec![20..=22], action };
        let both = [Role::Edge, Role::Mgmt];
        assert!(keeps_management(&both, &[rule(Role::Mgmt, Action::Accept)]));
        assert!(!keeps_management(&both, &[]));
        assert!(!keeps_management(&both, &[rule(Role::Edge, Action::Accept)]));
        assert!(!keeps_management(&[Role::Edge], &[rule(Role::Mgmt, Action::Accept)]));
        let shadowed = [rule(Role::Mgmt, Action::Drop), rule(Role::Mgmt, Action::Accept)];
        assert!(!keeps_management(&both, &shadowed));
    }
}
