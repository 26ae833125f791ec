//! The port rules of a configuration with where each comes from: written there, derived from a listener of ours, or
//! of a preset. The first row that matches role, protocol, port and source holds.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use ipnet::IpNet;
use portcullis_ebpf_common::rules::RuleValue;
use portcullis_ebpf_common::tables::{Action, Role};
use portcullis_ebpf_common::{
    Addresses, Bogons, Cause, Layout, Lookup, Packet, Payload, Policy, Ports, Protocol, TcpFlags, is_bogon,
    judge,
};

use super::policy::Line;
use crate::config::presets::Passage;
use crate::config::protocols::VRRP;
use crate::config::{Config, XdpConfig, XdpInterface, XdpRule, interface_of};

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub role: Role,
    /// As in the IP header.
    pub protocol: u8,
    /// Absent where the protocol has none.
    pub ports: Option<RangeInclusive<u16>>,
    /// Sources; everywhere where empty.
    pub from: Vec<IpNet>,
    pub action: Action,
    /// Of a limit: so many a second from each source.
    pub per_second: u32,
    /// Where it comes from, for people.
    pub origin: String,
}

impl Row {
    fn accept(role: Role, protocol: Protocol, port: u16, from: Vec<IpNet>, origin: String) -> Self {
        let (protocol, ports) = (protocol.number(), Some(port..=port));
        Self { role, protocol, ports, from, action: Action::Accept, per_second: 0, origin }
    }
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
            let XdpRule { role, protocol, action, per_second, .. } = *rule;
            let of = |ports| Row {
                role,
                protocol,
                ports,
                from: rule.from.clone(),
                action,
                per_second,
                origin: origin.clone(),
            };
            rows.extend(rule.ports.iter().map(|ports| of(Some(ports.clone()))));
            if rule.ports.is_empty() {
                rows.push(of(None));
            }
        }
        rows.extend(listeners(config, xdp));
        rows.extend(high_availability(config, xdp));
        for (row, preset) in
            xdp.preset.into_iter().flat_map(|preset| preset.rows().map(move |row| (row, preset)))
        {
            let Passage::In(role) = row.passage else { continue };
            let origin = format!("preset {}: {} → {}", preset.as_str(), row.source, row.destination);
            for (protocol, port) in
                row.protocols.iter().flat_map(|protocol| row.ports.iter().map(move |port| (protocol, port)))
            {
                rows.push(Row::accept(role, *protocol, *port, Vec::new(), origin.clone()));
            }
        }
        Self { rows }
    }

    #[must_use]
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The rule that holds: the first one that matches.
    #[must_use]
    pub fn deciding(&self, role: Role, protocol: u8, port: u16, source: IpAddr) -> Option<&Row> {
        let lines = self.lines();
        let row = lines.iter().position(|line| line.matches(role.to_byte(), protocol, port, source))?;
        self.rows.get(row)
    }

    /// The same, for the kernel. The rows of one written rule share its limit.
    pub(super) fn lines(&self) -> Vec<Line> {
        let mut origins: Vec<&str> = Vec::new();
        let mut lines = Vec::new();
        for row in &self.rows {
            if origins.last() != Some(&row.origin.as_str()) {
                origins.push(&row.origin);
            }
            let number = u16::try_from(origins.len()).unwrap_or(u16::MAX);
            let value = match row.action {
                Action::Limit => RuleValue::limit(number, row.per_second),
                Action::Accept | Action::Drop => RuleValue::new(row.action),
            };
            lines.push(Line {
                role: row.role.to_byte(),
                protocol: row.protocol,
                ports: row.ports.clone(),
                prefixes: row.from.clone(),
                value,
            });
        }
        lines
    }

    /// What becomes of a well-formed packet that opens something new, and by which rule.
    #[must_use]
    pub fn test(&self, probe: &Probe) -> (Cause, Option<&Row>) {
        let addresses = match probe.source {
            IpAddr::V4(source) => Addresses::v4(source.octets(), [0; 4]),
            IpAddr::V6(source) => Addresses::v6(source.octets(), [0; 16]),
        };
        let Probe { role, protocol, port, source, .. } = *probe;
        let ports = Ports { source: u16::MAX, destination: port };
        let payload = match protocol {
            6 => Payload::Tcp { ports, flags: TcpFlags(TcpFlags::SYN), data: 0 },
            17 => Payload::Udp { ports, data: 0 },
            1 | 58 => Payload::Icmp,
            protocol => Payload::Other { protocol },
        };
        let packet = Packet::new(addresses, payload, None, Layout::default());
        let cause = judge(&packet, &Asked { table: self, probe }).cause;
        let by_rule = matches!(cause, Cause::RuleAccepts | Cause::RuleDrops);
        (cause, self.deciding(role, protocol, port, source).filter(|_| by_rule))
    }
}

/// A packet to be tried against the rules.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    pub role: Role,
    pub source: IpAddr,
    /// As in the IP header.
    pub protocol: u8,
    /// 0 where the protocol has none.
    pub port: u16,
    pub banned: bool,
    pub bogons: Bogons,
}

struct Asked<'a> {
    table: &'a Table,
    probe: &'a Probe,
}

impl Lookup for Asked<'_> {
    fn is_management(&self) -> bool {
        self.probe.role == Role::Mgmt
    }

    fn is_banned(&self, _: &Addresses) -> bool {
        self.probe.banned
    }

    fn refuses(&self, addresses: &Addresses) -> bool {
        let policy = Policy::new(false, self.probe.bogons, false);
        self.probe.role == Role::Edge && is_bogon(addresses, policy)
    }

    fn rule(&self, _: &Addresses, protocol: u8, port: u16) -> Option<Action> {
        self.table.deciding(self.probe.role, protocol, port, self.probe.source).map(|row| row.action)
    }

    fn is_ours(&self, _: &Packet) -> bool {
        false
    }
}

/// What the daemon itself listens on: on the role of the interface that has the address. Where the address is any, or
/// on no interface (yet), on the role from which the callers come: clients from the edge, those that ask for tickets
/// from the farm, whoever measures from management. What is to be open elsewhere needs a rule that says so.
fn listeners(config: &Config, xdp: &XdpConfig) -> Vec<Row> {
    let mut listening: Vec<(String, Role, SocketAddr, Vec<IpNet>)> = Vec::new();
    for listener in &config.listeners {
        let (origin, from) = (format!("listener {}", listener.name), narrowed(&listener.allow_from));
        listening.extend(listener.listen.iter().map(|at| (origin.clone(), Role::Edge, *at, from.clone())));
    }
    if let Some(sta) = &config.sta_server {
        let from = narrowed(&sta.allow_from);
        listening
            .extend(sta.listen.iter().map(|at| ("sta_server".to_owned(), Role::Farm, *at, from.clone())));
    }
    if let Some(metrics) = &config.metrics {
        listening.push(("metrics".to_owned(), Role::Mgmt, metrics.listen, Vec::new()));
    }
    for at in config.acme.iter().flat_map(|acme| &acme.http_listen) {
        listening.push(("acme".to_owned(), Role::Edge, *at, Vec::new()));
    }
    listening.retain(|(_, _, at, _)| !at.ip().is_loopback() && at.port() != 0);
    let mut rows = Vec::new();
    for (origin, usual, at, from) in listening {
        let role = match role_at(config, xdp, at.ip()) {
            Some(Some(role)) => role,
            // On an interface that is not filtered.
            Some(None) => continue,
            None => usual,
        };
        // Strangers have no use for numbers: who wants it otherwise writes a rule.
        if usual == Role::Mgmt && role == Role::Edge {
            continue;
        }
        rows.push(Row::accept(role, Protocol::Tcp, at.port(), from, origin));
    }
    rows
}

/// The role of the interface that has an address, if any has it and it is filtered.
fn role_at(config: &Config, xdp: &XdpConfig, address: IpAddr) -> Option<Option<Role>> {
    let floating = config.high_availability.as_ref().and_then(|ha| ha.interface_of(address));
    let name = floating.map(str::to_owned).or_else(|| interface_of(address))?;
    Some(xdp.interfaces.iter().find(|interface| interface.name == name).map(|interface| interface.role))
}

/// Whether the metrics are where nobody gets to them: at the edge.
#[must_use]
pub fn metrics_are_at_the_edge(config: &Config, xdp: &XdpConfig) -> bool {
    let at = config.metrics.as_ref().map(|metrics| metrics.listen.ip());
    at.is_some_and(|at| role_at(config, xdp, at) == Some(Some(Role::Edge)))
}

/// What the other of two appliances sends to this one: VRRP, and configurations.
fn high_availability(config: &Config, xdp: &XdpConfig) -> Vec<Row> {
    let Some(ha) = &config.high_availability else { return Vec::new() };
    let filtered = xdp.interfaces.iter().find(|interface| interface.name == ha.interface);
    let Some(XdpInterface { role, .. }) = filtered else { return Vec::new() };
    let (from, origin) = (vec![IpNet::from(ha.node.peer)], "high_availability".to_owned());
    let port = ha.node.sync.as_ref().map(|sync| sync.listen.port());
    let pushed = port.map(|port| Row::accept(*role, Protocol::Tcp, port, from.clone(), origin.clone()));
    let adverts = Row { protocol: VRRP, ports: None, ..Row::accept(*role, Protocol::Tcp, 0, from, origin) };
    [Some(adverts), pushed].into_iter().flatten().collect()
}

/// Source prefixes as a row has them: none where they are everybody.
fn narrowed(allow_from: &[IpNet]) -> Vec<IpNet> {
    let whole = |v4: bool| {
        allow_from.iter().any(|prefix| prefix.prefix_len() == 0 && matches!(prefix, IpNet::V4(_)) == v4)
    };
    if whole(true) && whole(false) { Vec::new() } else { allow_from.iter().map(IpNet::trunc).collect() }
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
        let (source, protocol) = ("192.0.2.1".parse().unwrap(), protocol.number());
        Probe { role, source, protocol, port, banned: false, bogons: Bogons::Martians }
    }

    #[test]
    fn the_deciding_rule_is_named() {
        let table = table(BASE);
        let https = probe(Role::Edge, Protocol::Tcp, 443);
        let (cause, row) = table.test(&https);
        assert_eq!(cause, Cause::RuleAccepts);
        assert_eq!(row.unwrap().origin, "preset gateway: Internet → NetScaler Gateway");
        assert_eq!(table.test(&probe(Role::Edge, Protocol::Udp, 443)), (Cause::NoRule, None));
        assert_eq!(table.test(&probe(Role::Edge, Protocol::Tcp, 22)), (Cause::NoRule, None));
        assert_eq!(table.test(&probe(Role::Mgmt, Protocol::Tcp, 22)).0, Cause::RuleAccepts);
        assert_eq!(table.test(&Probe { banned: true, ..https }), (Cause::Banned, None));
        let martian = Probe { source: "169.254.1.1".parse().unwrap(), ..https };
        assert_eq!(table.test(&martian), (Cause::Bogon, None));
        assert_eq!(table.test(&Probe { bogons: Bogons::Off, ..martian }).0, Cause::RuleAccepts);
    }

    #[test]
    fn a_written_rule_holds_before_a_listener_and_a_preset() {
        let rule =
            "[[xdp.rule]]\nrole = \"edge\"\nprotocol = \"tcp\"\nports = [\"440-449\"]\naction = \"drop\"\n";
        let table = table(&format!("{BASE}{rule}"));
        assert_eq!(table.test(&probe(Role::Edge, Protocol::Tcp, 443)).0, Cause::RuleDrops);
    }

    #[test]
    fn a_rule_is_about_its_sources_and_its_protocol() {
        let rules = "[[xdp.rule]]\nrole = \"edge\"\nprotocol = \"tcp\"\nports = [443]\n\
                     from = [\"192.0.2.0/24\", \"2001:db8::/32\"]\naction = \"drop\"\n\
                     [[xdp.rule]]\nrole = \"farm\"\nprotocol = \"vrrp\"\naction = \"accept\"\n\
                     [[xdp.rule]]\nrole = \"farm\"\nprotocol = 50\naction = \"limit\"\nrate = \"100/s\"\n";
        let table = table(&format!("{BASE}{rules}"));
        let here = probe(Role::Edge, Protocol::Tcp, 443);
        for (source, cause) in [
            ("192.0.2.1", Cause::RuleDrops),
            ("198.51.100.1", Cause::RuleAccepts),
            ("2001:db8::1", Cause::RuleDrops),
            ("2a00::1", Cause::RuleAccepts),
        ] {
            assert_eq!(table.test(&Probe { source: source.parse().unwrap(), ..here }).0, cause, "{source}");
        }
        let farm = |protocol| Probe { role: Role::Farm, protocol, port: 0, ..here };
        assert_eq!(table.test(&farm(112)).0, Cause::RuleAccepts);
        let (cause, row) = table.test(&farm(50));
        assert_eq!((cause, row.unwrap().per_second), (Cause::RuleAccepts, 100));
        assert_eq!(table.test(&farm(51)).0, Cause::OtherProtocol);
    }

    #[test]
    fn the_peer_of_two_is_heard_and_nobody_else() {
        let ha = "[high_availability]\ninterface = \"m\"\nrouter_id = 51\n\
                  virtual_address = [{ address = \"203.0.113.9/24\", interface = \"e\" }]\n\
                  [high_availability.node]\npriority = 100\naddress = \"10.0.0.2\"\npeer = \"10.0.0.3\"\n\
                  peer_sha256 = \"0000000000000000000000000000000000000000000000000000000000000000\"\n";
        let table = table(&format!("{BASE}{ha}"));
        let from = |source: &str, role, protocol, port| {
            let probe =
                Probe { source: source.parse().unwrap(), protocol, port, ..probe(role, Protocol::Tcp, 0) };
            table.test(&probe).0
        };
        assert_eq!(from("10.0.0.3", Role::Mgmt, 112, 0), Cause::RuleAccepts);
        assert_eq!(from("10.0.0.3", Role::Mgmt, 6, 9465), Cause::RuleAccepts);
        assert_eq!(from("10.0.0.4", Role::Mgmt, 112, 0), Cause::OtherProtocol);
        assert_eq!(from("10.0.0.4", Role::Mgmt, 6, 9465), Cause::NoRule);
        assert_eq!(from("10.0.0.3", Role::Edge, 112, 0), Cause::OtherProtocol);
    }

    #[test]
    fn what_listens_everywhere_is_open_where_its_callers_come_from() {
        let listen = "[metrics]\nlisten = \"0.0.0.0:9464\"\n\
                      [[listener]]\nname = \"in\"\nkind = \"gateway\"\nlisten = [\"0.0.0.0:4443\"]\n\
                      stas = [\"a\"]\nallow_from = [\"198.51.100.0/24\"]\ncertificates = [\"m\"]\n\
                      [[certificate]]\nname = \"m\"\nchain = \"m.pem\"\nkey = \"m.key\"\n\
                      [[sta]]\nname = \"a\"\nurl = \"http://192.0.2.9/\"\n";
        let table = table(&format!("{BASE}{listen}"));
        let opens = |role, port, source: &str| {
            let probe = Probe { source: source.parse().unwrap(), ..probe(role, Protocol::Tcp, port) };
            table.test(&probe).0 == Cause::RuleAccepts
        };
        assert!(opens(Role::Edge, 4443, "198.51.100.7") && !opens(Role::Edge, 4443, "192.0.2.7"));
        assert!(!opens(Role::Farm, 4443, "198.51.100.7") && !opens(Role::Mgmt, 4443, "198.51.100.7"));
        assert!(opens(Role::Mgmt, 9464, "192.0.2.7") && !opens(Role::Edge, 9464, "192.0.2.7"));
    }

    #[test]
    fn metrics_at_an_address_of_the_edge_are_not_open_to_strangers() {
        let at = |interface: &str| {
            let text = format!(
                "{BASE}[metrics]\nlisten = \"203.0.113.10:9464\"\n\
                 [high_availability]\ninterface = \"m\"\nrouter_id = 51\n\
                 virtual_address = [{{ address = \"203.0.113.10/24\", interface = \"{interface}\" }}]\n\
                 node = {{ priority = 150, address = \"10.0.0.2\", peer = \"10.0.0.3\" }}\n"
            );
            crate::config::parse(&text, Path::new("/etc/portcullis/x.toml")).unwrap()
        };
        for (interface, role, open) in [("e", Role::Edge, false), ("m", Role::Mgmt, true)] {
            let config = at(interface);
            let xdp = config.xdp.as_ref().unwrap();
            let cause = Table::new(&config, xdp).test(&probe(role, Protocol::Tcp, 9464)).0;
            assert_eq!(cause == Cause::RuleAccepts, open, "{interface}");
            assert_eq!(metrics_are_at_the_edge(&config, xdp), !open);
        }
    }
}
