//! What would become of a packet under a configuration, in words: where it meets the rules, and which of them decides.

use std::net::IpAddr;

use ipnet::IpNet;
use portcullis_ebpf_common::tables::Role;
use portcullis_ebpf_common::{Cause, Verdict};
use serde::{Deserialize, Serialize};

use super::policy::RuleRow;
use super::rules::{Probe, Table};
use super::{egress, mute};
use crate::config::protocols;
use crate::config::{self, Config, XdpConfig};

/// A packet that begins something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Packet {
    /// One of this machine's own: it goes out.
    pub source: IpAddr,
    /// One of this machine's own says by which interface it comes.
    pub destination: IpAddr,
    /// As in the IP header.
    pub protocol: u8,
    /// 0 where the protocol has none.
    #[serde(default)]
    pub port: u16,
    /// By an interface of that role, whatever the addresses say: `edge`, `farm`, `mgmt`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
}

/// What becomes of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judgement {
    /// `pass`, `drop`.
    pub verdict: String,
    /// `in`, `out`.
    pub direction: String,
    /// Of the interface by which it comes.
    pub role: Option<String>,
    /// One that is not filtered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unfiltered: Option<String>,
    /// As in metrics.
    pub reason: String,
    pub about: String,
    pub rule: Option<RuleRow>,
}

impl Judgement {
    #[must_use]
    pub fn passes(&self) -> bool {
        self.verdict == Verdict::Pass.label()
    }
}

/// Where a packet meets the rules.
enum Way {
    In(Role),
    Out,
    /// It comes by an interface that is not filtered.
    Unfiltered(String),
    /// It comes by a VLAN without a role beside those that have one, or without a tag where only VLANs have roles.
    Mute(Cause),
}

/// Says what becomes of a packet whose source is banned or not.
///
/// # Errors
/// What is wrong with the question.
pub fn judge(config: &Config, xdp: &XdpConfig, packet: &Packet, banned: bool) -> Result<Judgement, String> {
    let (source, destination) = (packet.source.to_canonical(), packet.destination.to_canonical());
    if source.is_ipv4() != destination.is_ipv4() {
        return Err("one address is IPv4 and the other IPv6".to_owned());
    }
    let (protocol, port) = (packet.protocol, packet.port);
    if protocols::has_ports(protocol) == (port == 0) {
        return Err("tcp and udp need a port, and other protocols have none".to_owned());
    }
    let way = way(xdp, packet.role.as_deref(), source, destination)?;
    let (cause, rule) = match &way {
        Way::Unfiltered(_) => (Cause::NoRole, None),
        Way::Mute(cause) => (*cause, None),
        Way::Out => {
            let rows = egress::rows(config, xdp);
            let (cause, row) = egress::test(&rows, xdp.egress_closed, destination, protocol, port);
            (cause, row.and_then(|row| rows.get(row)).map(RuleRow::from))
        }
        Way::In(role) => {
            let table = Table::new(config, xdp);
            let probe = Probe { role: *role, source, protocol, port, banned, bogons: xdp.bogons };
            let (cause, row) = table.test(&probe);
            (cause, row.map(RuleRow::from))
        }
    };
    let (direction, role, unfiltered) = match way {
        Way::In(role) => ("in", Some(role.as_str().to_owned()), None),
        Way::Mute(_) => ("in", None, None),
        Way::Unfiltered(interface) => ("in", None, Some(interface)),
        Way::Out => ("out", None, None),
    };
    Ok(Judgement {
        verdict: cause.verdict().label().to_owned(),
        direction: direction.to_owned(),
        role,
        unfiltered,
        reason: cause.label().to_owned(),
        about: cause.about().to_owned(),
        rule,
    })
}

/// By whose addresses they are: ours as the source means out; ours as the destination, or a neighbour's as the
/// source, means in by that interface.
fn way(xdp: &XdpConfig, role: Option<&str>, source: IpAddr, destination: IpAddr) -> Result<Way, String> {
    if let Some(typed) = role {
        let role = Role::ALL.into_iter().find(|role| role.as_str() == typed);
        return role.map(Way::In).ok_or_else(|| "the role is one of edge, farm and mgmt".to_owned());
    }
    let own = config::own_networks();
    if own.iter().any(|(_, network)| network.addr() == source) {
        return Ok(Way::Out);
    }
    let of = |holds: &dyn Fn(&IpNet) -> bool| own.iter().find(|(_, network)| holds(network));
    let found =
        of(&|network| network.addr() == destination).or_else(|| of(&|network| network.contains(&source)));
    let Some((name, _)) = found else {
        let message = "neither address is this machine's, and neither belongs to a network of it; say the role of the \
                       interface, such as `--role edge`";
        return Err(message.to_owned());
    };
    let filtered = xdp.interfaces.iter().find(|interface| interface.name == *name);
    Ok(filtered.map_or_else(|| without_entry(xdp, name), |interface| Way::In(interface.role)))
}

fn without_entry(xdp: &XdpConfig, name: &str) -> Way {
    let mute = mute(&xdp.interfaces).into_iter().find(|mute| mute.name == name);
    mute.map_or_else(|| Way::Unfiltered(name.to_owned()), |mute| Way::Mute(mute.cause()))
}
