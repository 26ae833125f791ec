//! What the appliance itself may contact: rows as written, and what the rest of the configuration needs.
//!
//! A destination that is a name has no address yet when the rows are made: its port is open to every address. A row
//! that is written with prefixes narrows it, because it comes first.

use std::fs;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use portcullis_core::policy::Destination;
use portcullis_ebpf_common::rules::{EGRESS, RuleValue};
use portcullis_ebpf_common::tables::Action;
use portcullis_ebpf_common::{Cause, Protocol, dial};
use portcullis_proto::host_port::{Host, HostPort};

use super::policy::Line;
use crate::config::presets::Passage;
use crate::config::protocols::VRRP;
use crate::config::{Config, SyslogProtocol, XdpConfig};

/// Where the machine's resolvers are, unless the configuration says.
const RESOLVERS: &str = "/etc/resolv.conf";
const DNS_PORT: u16 = 53;

/// One row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgressRow {
    /// 0 for every protocol.
    pub protocol: u8,
    /// All where absent.
    pub ports: Option<RangeInclusive<u16>>,
    /// Everywhere where empty.
    pub to: Vec<IpNet>,
    pub action: Action,
    /// Where it comes from, for people.
    pub origin: String,
}

/// All rows, those that hold first before others.
#[must_use]
pub fn rows(config: &Config, xdp: &XdpConfig) -> Vec<EgressRow> {
    let mut rows = Vec::new();
    for (index, row) in xdp.egress.iter().enumerate() {
        let origin = format!("[[xdp.egress]] {}", index + 1);
        let of = |ports: Option<RangeInclusive<u16>>| EgressRow {
            protocol: row.protocol,
            ports,
            to: row.to.clone(),
            action: row.action,
            origin: origin.clone(),
        };
        rows.extend(row.ports.iter().map(|ports| of(Some(ports.clone()))));
        if row.ports.is_empty() {
            rows.push(of(None));
        }
    }
    for sta in &config.stas {
        rows.push(accept(Protocol::Tcp, server(&sta.url.server), format!("sta {}", sta.name)));
    }
    if let Some(acme) = &config.acme {
        rows.push(accept(Protocol::Tcp, server(&acme.server), "acme".to_owned()));
    }
    if let Some(syslog) = &config.syslog {
        let protocol = match syslog.protocol {
            SyslogProtocol::Tls | SyslogProtocol::Tcp => Protocol::Tcp,
            SyslogProtocol::Udp => Protocol::Udp,
        };
        rows.push(accept(protocol, server(&syslog.server), "syslog".to_owned()));
    }
    for (address, port) in resolvers(config) {
        for protocol in Protocol::ALL {
            rows.push(accept(protocol, (vec![address], port..=port), "dns".to_owned()));
        }
    }
    high_availability(config, &mut rows);
    listeners(config, &mut rows);
    for (row, preset) in xdp.preset.into_iter().flat_map(|preset| preset.rows().map(move |row| (row, preset)))
    {
        if row.passage != Passage::Out {
            continue;
        }
        for (protocol, port) in
            row.protocols.iter().flat_map(|protocol| row.ports.iter().map(move |port| (*protocol, *port)))
        {
            let origin = format!("preset {}: {} → {}", preset.as_str(), row.source, row.destination);
            rows.push(accept(protocol, (Vec::new(), port..=port), origin));
        }
    }
    rows
}

/// What goes to the other of two appliances. keepalived's adverts are no socket of the daemon's, but leave the machine.
fn high_availability(config: &Config, rows: &mut Vec<EgressRow>) {
    let Some(ha) = &config.high_availability else { return };
    let (to, origin) = (vec![IpNet::from(ha.node.peer)], "high_availability".to_owned());
    if let Some(sync) = &ha.node.sync {
        let port = sync.peer.port();
        rows.push(accept(Protocol::Tcp, (to.clone(), port..=port), origin.clone()));
    }
    rows.push(EgressRow { protocol: VRRP, ports: None, to, action: Action::Accept, origin });
}

/// What sessions are relayed to.
fn listeners(config: &Config, rows: &mut Vec<EgressRow>) {
    for listener in &config.listeners {
        if let Some(target) = &listener.target {
            rows.push(accept(Protocol::Tcp, server(target), format!("listener {}: target", listener.name)));
        }
        for (index, rule) in listener.policy.rules().iter().enumerate() {
            let prefix = |to: &Destination| match to {
                Destination::Prefix(prefix) => Some(prefix.trunc()),
                Destination::Name(_) | Destination::Below(_) => None,
            };
            let prefixes: Option<Vec<IpNet>> = rule.to.iter().map(prefix).collect();
            let origin = format!("listener {}: allow {}", listener.name, index + 1);
            for ports in &rule.ports {
                let to = (prefixes.clone().unwrap_or_default(), ports.clone());
                rows.push(accept(Protocol::Tcp, to, origin.clone()));
            }
        }
    }
}

type To = (Vec<IpNet>, RangeInclusive<u16>);

fn accept(protocol: Protocol, (to, ports): To, origin: String) -> EgressRow {
    // All ports are one entry, not 65,535.
    let ports = (ports != (1..=u16::MAX)).then_some(ports);
    EgressRow { protocol: protocol.number(), ports, to, action: Action::Accept, origin }
}

fn server(server: &HostPort) -> To {
    let to = match server.host() {
        Host::Ip(address) => vec![IpNet::from(*address)],
        Host::Name(_) => Vec::new(),
    };
    (to, server.port()..=server.port())
}

fn resolvers(config: &Config) -> Vec<(IpNet, u16)> {
    if !config.dns.servers.is_empty() {
        return config.dns.servers.iter().map(|server| (server.ip().into(), server.port())).collect();
    }
    let text = fs::read_to_string(RESOLVERS).unwrap_or_default();
    text.lines()
        .filter_map(|line| line.strip_prefix("nameserver")?.split_whitespace().next()?.split('%').next())
        .filter_map(|address| Some((address.parse::<std::net::IpAddr>().ok()?.into(), DNS_PORT)))
        .collect()
}

pub(super) fn lines(rows: &[EgressRow]) -> Vec<Line> {
    let line = |row: &EgressRow| Line {
        role: EGRESS,
        protocol: row.protocol,
        ports: row.ports.clone(),
        prefixes: row.to.clone(),
        value: RuleValue::new(row.action),
    };
    rows.iter().map(line).collect()
}

/// What becomes of something that this machine begins, and by which row.
#[must_use]
pub fn test(
    rows: &[EgressRow],
    closed: bool,
    to: std::net::IpAddr,
    protocol: u8,
    port: u16,
) -> (Cause, Option<usize>) {
    let row = lines(rows).iter().position(|line| line.matches(EGRESS, protocol, port, to));
    let action = row.and_then(|row| Some(rows.get(row)?.action));
    (dial(action, closed), row)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const CONFIG: &str = "\
        [[certificate]]\nname = \"m\"\nchain = \"m.pem\"\nkey = \"m.key\"\n\
        [dns]\nservers = [\"192.0.2.53\"]\n\
        [[sta]]\nname = \"a\"\nurl = \"http://192.0.2.9:8080/\"\n\
        [[sta]]\nname = \"b\"\nurl = \"http://sta.example.com/\"\n\
        [[listener]]\nname = \"in\"\nkind = \"gateway\"\nlisten = [\"127.0.0.1:4443\"]\nstas = [\"a\"]\n\
        certificates = [\"m\"]\n\
        [[listener.allow]]\nto = [\"10.10.0.0/16\"]\nports = [1494]\n\
        [xdp]\nallow_no_management = true\negress_policy = \"closed\"\n\
        interface = [{ name = \"e\", role = \"edge\" }]\n\
        [[xdp.egress]]\nto = [\"10.10.9.0/24\"]\naction = \"drop\"\n";

    #[test]
    fn what_the_configuration_needs_is_open_and_the_rest_is_closed() {
        let config = crate::config::parse(CONFIG, Path::new("/x.toml")).unwrap();
        let rows = rows(&config, config.xdp.as_ref().unwrap());
        for (to, protocol, port, expected, origin) in [
            ("192.0.2.9", 6, 8080, Cause::EgressAccepts, "sta a"),
            ("192.0.2.9", 6, 8081, Cause::EgressClosed, ""),
            ("198.51.100.1", 6, 80, Cause::EgressAccepts, "sta b"),
            ("192.0.2.53", 17, 53, Cause::EgressAccepts, "dns"),
            ("192.0.2.54", 17, 53, Cause::EgressClosed, ""),
            ("10.10.0.1", 6, 1494, Cause::EgressAccepts, "listener in: allow 1"),
            ("10.10.9.1", 6, 1494, Cause::EgressDrops, "[[xdp.egress]] 1"),
            ("10.10.9.1", 47, 0, Cause::EgressDrops, "[[xdp.egress]] 1"),
            ("10.11.0.1", 6, 1494, Cause::EgressClosed, ""),
        ] {
            let (cause, row) = test(&rows, true, to.parse().unwrap(), protocol, port);
            let found = row.map_or("", |row| rows[row].origin.as_str());
            assert_eq!((cause, found), (expected, origin), "{to} {protocol} {port}");
        }
    }
}
