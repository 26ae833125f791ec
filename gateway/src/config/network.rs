//! `[network]`: what the machine itself is called and how it is connected.
//!
//! Names are types of their own: one that exists has no character that means something in a configuration of
//! systemd-networkd, systemd-resolved or chrony.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use portcullis_proto::host_port::{Host, HostName};
use serde_json::{Value, json};

/// The name of a network interface: what networkd takes, without patterns.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct InterfaceName(String);

impl InterfaceName {
    /// `IFNAMSIZ` of the kernel, without the final zero.
    pub const MAX_BYTES: usize = 15;
    /// What such a name is, for messages.
    pub const EXPECTED: &'static str =
        "1 to 15 letters, digits, `-`, `_` or `.`, not digits only, and not `lo`";
    /// Names that mean something else where names of interfaces stand.
    const RESERVED: [&'static str; 5] = ["lo", "all", "default", ".", ".."];

    /// `None` for what is no such name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        let fits = (1..=Self::MAX_BYTES).contains(&text.len()) && text.bytes().all(legal);
        let number = text.bytes().all(|byte| byte.is_ascii_digit());
        let legal = fits && !number && !text.starts_with('-') && !Self::RESERVED.contains(&text);
        legal.then(|| Self(text.to_owned()))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a time zone, as in the directory of tzfile(5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimeZone(String);

impl TimeZone {
    const MAX_BYTES: usize = 64;

    /// `None` for what cannot be one; whether there is such a zone is not known here.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'+');
        let part = |part: &str| !part.is_empty() && part.bytes().all(legal);
        (text.len() <= Self::MAX_BYTES && text.split('/').all(part)).then(|| Self(text.to_owned()))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The whole section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkConfig {
    pub host_name: Option<HostName>,
    /// UTC where absent.
    pub time_zone: Option<TimeZone>,
    /// Name servers; those that DHCP tells where empty.
    pub dns: Vec<IpAddr>,
    /// Domains that are tried after short names.
    pub search: Vec<HostName>,
    /// Time servers; the image's own where empty.
    pub ntp: Vec<Host>,
    /// In the order of the file. Parents of VLANs and members of bonds need not be among them. Without any the machine
    /// uses its first card as it does without the section.
    pub interfaces: Vec<NetworkInterface>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkInterface {
    pub name: InterfaceName,
    pub kind: NetworkKind,
    pub dhcp_v4: bool,
    pub dhcp_v6: bool,
    pub accept_ra: bool,
    pub addresses: Vec<IpNet>,
    pub gateways: Vec<IpAddr>,
    pub routes: Vec<NetworkRoute>,
    /// The driver's where absent.
    pub mtu: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkKind {
    /// A card, whoever makes it.
    Card,
    Vlan {
        parent: InterfaceName,
        /// 1 to 4094.
        id: u16,
    },
    Bond {
        members: Vec<InterfaceName>,
        mode: BondMode,
    },
}

/// How a bond uses its members. Only what needs nothing of the network, or what a switch negotiates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BondMode {
    ActiveBackup,
    /// LACP.
    Ieee8023ad,
    BalanceXor,
}

impl BondMode {
    pub const ALL: [Self; 3] = [Self::ActiveBackup, Self::Ieee8023ad, Self::BalanceXor];

    /// As systemd.netdev(5) has it, too.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ActiveBackup => "active-backup",
            Self::Ieee8023ad => "802.3ad",
            Self::BalanceXor => "balance-xor",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkRoute {
    pub to: IpNet,
    pub via: IpAddr,
    pub metric: Option<u32>,
}

impl NetworkInterface {
    /// Whether it has anything of IPv6; link-local addresses are of no use where it has not.
    #[must_use]
    pub fn uses_ipv6(&self) -> bool {
        self.dhcp_v6 || self.accept_ra || self.addresses.iter().any(|address| address.addr().is_ipv6())
    }

    /// The word of the file.
    #[must_use]
    pub fn dhcp(&self) -> &'static str {
        match (self.dhcp_v4, self.dhcp_v6) {
            (false, false) => "no",
            (true, false) => "ipv4",
            (false, true) => "ipv6",
            (true, true) => "yes",
        }
    }

    /// Interfaces below this one.
    #[must_use]
    pub fn below(&self) -> &[InterfaceName] {
        match &self.kind {
            NetworkKind::Card => &[],
            NetworkKind::Vlan { parent, .. } => std::slice::from_ref(parent),
            NetworkKind::Bond { members, .. } => members,
        }
    }

    fn to_json(&self) -> Value {
        let route =
            |route: &NetworkRoute| json!({ "to": route.to, "via": route.via, "metric": route.metric });
        let names = |names: &[InterfaceName]| names.iter().map(InterfaceName::as_str).collect::<Value>();
        let (parent, vlan, members, mode) = match &self.kind {
            NetworkKind::Card => (None, None, None, None),
            NetworkKind::Vlan { parent, id } => (Some(parent.as_str()), Some(*id), None, None),
            NetworkKind::Bond { members, mode } => (None, None, Some(names(members)), Some(mode.as_str())),
        };
        json!({
            "name": self.name.as_str(),
            "dhcp": self.dhcp(),
            "accept_ra": self.accept_ra,
            "addresses": self.addresses,
            "gateways": self.gateways,
            "mtu": self.mtu,
            "parent": parent,
            "vlan": vlan,
            "members": members,
            "mode": mode,
            "route": self.routes.iter().map(route).collect::<Value>(),
        })
    }
}

impl NetworkConfig {
    pub(super) fn to_json(&self) -> Value {
        let texts = |names: &[HostName]| names.iter().map(ToString::to_string).collect::<Value>();
        json!({
            "host_name": self.host_name.as_ref().map(ToString::to_string),
            "time_zone": self.time_zone.as_ref().map(TimeZone::as_str),
            "dns": self.dns,
            "search": texts(&self.search),
            "ntp": self.ntp.iter().map(ToString::to_string).collect::<Value>(),
            "interface": self.interfaces.iter().map(NetworkInterface::to_json).collect::<Value>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_interfaces_are_no_patterns_and_no_options() {
        for name in ["eth0", "eth0.10", "enp3s0f1", "bond-a", "x", "123456789012345x".get(1..).unwrap()] {
            assert!(InterfaceName::parse(name).is_some(), "{name}");
        }
        for name in
            ["", "eth*", "!eth0", "a b", "a\nb", "%i", "12", "lo", "all", "..", "-x", "1234567890123456", "é"]
        {
            assert!(InterfaceName::parse(name).is_none(), "{name}");
        }
    }

    #[test]
    fn zones_are_names_below_one_directory() {
        for zone in ["UTC", "Europe/Berlin", "America/Argentina/Buenos_Aires", "Etc/GMT+1"] {
            assert!(TimeZone::parse(zone).is_some(), "{zone}");
        }
        for zone in ["", "/etc/shadow", "../x", "Europe/../x", "Europe/", "a b", "a\nb"] {
            assert!(TimeZone::parse(zone).is_none(), "{zone}");
        }
    }
}
