//! `[network]`: the machine's name, servers and interfaces.
//!
//! Everything that can be said without looking at the machine is checked here, for what it says may be applied at a
//! start at which nobody looks.

use std::net::IpAddr;

use ipnet::IpNet;
use portcullis_proto::host_port::{Host, HostName};

use super::{Resolver, rows};
use crate::config::file;
use crate::config::reader::{Located, shown};
use crate::config::{
    BondMode, InterfaceName, NetworkConfig, NetworkInterface, NetworkKind, NetworkRoute, TimeZone,
};

const INTERFACES_MAX: usize = 64;
const ADDRESSES_MAX: usize = 32;
const ROUTES_MAX: usize = 256;
const MEMBERS_MAX: usize = 8;
const SERVERS_MAX: usize = 8;
/// resolv.conf(5) knows no more.
const SEARCH_MAX: usize = 6;
/// `HOST_NAME_MAX` of the kernel.
const HOST_NAME_MAX_BYTES: usize = 64;
/// The least that IPv6 needs (RFC 8200 §5), and the largest Ethernet frames.
const MTU_LEAST: usize = 1280;
const MTU_MOST: usize = 9216;

impl Resolver<'_> {
    pub(super) fn network(&mut self, Located { value: typed, .. }: Located<file::Network>) -> NetworkConfig {
        let host_name = typed.host_name.and_then(|typed| self.own_name(&typed));
        let time_zone = typed.time_zone.and_then(|typed| {
            let zone = TimeZone::parse(&typed.value);
            self.legal(zone, &typed, "is no time zone", "a name such as \"UTC\" or \"Europe/Berlin\"")
        });
        let dns = self.list("dns", typed.dns, SERVERS_MAX, |resolver, typed| {
            let server = typed.value.parse().ok().filter(is_host);
            resolver.legal(server, typed, "is no address of a name server", "such as \"10.0.0.53\"")
        });
        let search = self.list("search", typed.search, SEARCH_MAX, |resolver, typed| {
            let domain = HostName::parse(&typed.value).ok();
            resolver.legal(domain, typed, "is no domain", "such as \"example.com\"")
        });
        let ntp = self.list("ntp", typed.ntp, SERVERS_MAX, |resolver, typed| {
            let server = Host::parse(&typed.value).ok();
            let expected = "a name or an address, such as \"ntp.example.com\"";
            resolver.legal(server, typed, "is no time server", expected)
        });
        if let Some(typed) = &typed.interface {
            self.check_length("interface", typed.at, typed.value.len(), INTERFACES_MAX);
        }
        let rows = rows(typed.interface).into_iter().take(INTERFACES_MAX);
        let interfaces: Vec<Located<NetworkInterface>> =
            rows.filter_map(|row| self.network_interface(row)).collect();
        self.refuse_contradictions(&interfaces);
        NetworkConfig {
            host_name,
            time_zone,
            dns: values(dns),
            search: values(search),
            ntp: values(ntp),
            interfaces: values(interfaces),
        }
    }

    fn own_name(&mut self, typed: &Located<String>) -> Option<HostName> {
        let name = HostName::parse(&typed.value).ok();
        let name = name.filter(|name| name.as_str().len() <= HOST_NAME_MAX_BYTES);
        let expected = format!("letters, digits, `-` and dots, {HOST_NAME_MAX_BYTES} characters at most");
        self.legal(name, typed, "is no host name", &expected)
    }

    /// Reports what could not be read.
    fn legal<T>(
        &mut self,
        read: Option<T>,
        typed: &Located<String>,
        is_wrong: &str,
        expected: &str,
    ) -> Option<T> {
        if read.is_none() {
            self.problems.add(typed.at, format!("\"{}\" {is_wrong}", shown(&typed.value))).expected(expected);
        }
        read
    }

    fn interface_name(&mut self, typed: &Located<String>) -> Option<InterfaceName> {
        let name = InterfaceName::parse(&typed.value);
        self.legal(name, typed, "is no name of an interface", InterfaceName::EXPECTED)
    }

    fn network_interface(
        &mut self,
        Located { value: typed, at }: Located<file::NetworkInterface>,
    ) -> Option<Located<NetworkInterface>> {
        let table = "[[network.interface]]";
        let name = self.required(typed.name.as_ref(), at, table, "name", "as `show interfaces` tells it");
        let name = name.and_then(|typed| self.interface_name(typed));
        let at = typed.name.as_ref().map_or(at, |typed| typed.at);
        let kind = self.network_kind(&typed, at);
        let words = [("no", (false, false)), ("ipv4", (true, false)), ("ipv6", (false, true))];
        let words = [words.as_slice(), &[("yes", (true, true))]].concat();
        let dhcp = self.choice("dhcp", typed.dhcp.as_ref(), &words).unwrap_or((false, false));
        let addresses = self
            .list("addresses", typed.addresses, ADDRESSES_MAX, |resolver, typed| resolver.own_address(typed));
        let addresses: Vec<IpNet> = values(addresses);
        let dynamic = Dynamic { v4: dhcp.0, v6: dhcp.1 };
        let gateways = self.list("gateways", typed.gateways, 2, |resolver, typed| {
            let gateway = typed.value.parse().ok().filter(is_host);
            let expected = "the address of a router, such as \"192.0.2.1\"";
            let gateway = resolver.legal(gateway, typed, "is no gateway", expected)?;
            resolver.reached(gateway, typed, &addresses, dynamic)
        });
        if let [first, second] = gateways.as_slice()
            && first.value.is_ipv4() == second.value.is_ipv4()
        {
            self.problems
                .add(second.at, "a second gateway of the same family")
                .expected("one for IPv4 and one for IPv6; others are in [[network.interface.route]]");
        }
        if let Some(routes) = &typed.route {
            self.check_length("route", routes.at, routes.value.len(), ROUTES_MAX);
        }
        let routes = rows(typed.route).into_iter().take(ROUTES_MAX);
        let routes = routes.filter_map(|row| self.network_route(row, &addresses, dynamic)).collect();
        let mtu = typed.mtu.map(|typed| self.number("mtu", Some(typed), MTU_LEAST, MTU_LEAST..=MTU_MOST));
        let interface = NetworkInterface {
            name: name?,
            kind: kind?,
            dhcp_v4: dhcp.0,
            dhcp_v6: dhcp.1,
            // DHCPv6 tells no routes: those come by router advertisements (RFC 8415 §4).
            accept_ra: typed.accept_ra.map_or(dhcp.1, |typed| typed.value),
            addresses,
            gateways: values(gateways),
            routes,
            mtu: mtu.and_then(|mtu| u32::try_from(mtu).ok()),
        };
        Some(Located { value: interface, at })
    }

    fn network_kind(&mut self, typed: &file::NetworkInterface, at: usize) -> Option<NetworkKind> {
        match (&typed.parent, &typed.vlan, &typed.members, &typed.mode) {
            (None, None, None, None) => Some(NetworkKind::Card),
            (Some(parent), Some(vlan), None, None) => {
                let id = self.number("vlan", Some(vlan.clone()), 1, 1..=4094);
                let parent = self.interface_name(parent)?;
                Some(NetworkKind::Vlan { parent, id: u16::try_from(id).ok()? })
            }
            (None, None, Some(members), mode) => {
                let modes = BondMode::ALL.map(|mode| (mode.as_str(), mode));
                let mode = self.choice("mode", mode.as_ref(), &modes).unwrap_or(BondMode::ActiveBackup);
                let members = self.list("members", Some(members.clone()), MEMBERS_MAX, |resolver, typed| {
                    resolver.interface_name(typed)
                });
                Some(NetworkKind::Bond { members: values(members), mode })
            }
            _ => {
                self.problems.add(at, "an interface is a card, a VLAN or a bond").expected(
                    "both `parent` and `vlan` for a VLAN, `members` (and `mode`) for a bond, none of them for a card",
                );
                None
            }
        }
    }

    fn own_address(&mut self, typed: &Located<String>) -> Option<IpNet> {
        let address = typed.value.parse::<IpNet>().ok();
        let usable = address.filter(|net| {
            let (ip, length) = (net.addr(), net.prefix_len());
            // Of a network with room for several, its first and last address are nobody's (RFC 3021 for /31).
            let whole = length + 1 < net.max_prefix_len() && net.addr().is_ipv4();
            is_host(&ip) && length > 0 && !(whole && (ip == net.network() || ip == net.broadcast()))
        });
        let bare = typed.value.parse::<IpAddr>().is_ok();
        if usable.is_none() {
            self.problems
                .add(typed.at, format!("\"{}\" is no address of an interface", shown(&typed.value)))
                .expected("the machine's own address with the length of its network's prefix, such as \"192.0.2.10/24\"")
                .suggest(bare.then(|| format!("{}/24", shown(&typed.value))).filter(|text| !text.contains(':')));
        }
        usable
    }

    fn network_route(
        &mut self,
        Located { value: row, at }: Located<file::NetworkRoute>,
        addresses: &[IpNet],
        dynamic: Dynamic,
    ) -> Option<NetworkRoute> {
        let table = "[[network.interface.route]]";
        let to = self.required(row.to, at, table, "to", "a network, such as \"10.0.0.0/8\"");
        let via = self.required(row.via, at, table, "via", "the address of a router");
        let metric = row.metric.map(|typed| self.number("metric", Some(typed), 0, 0..=1_000_000));
        let (to, via) = (to?, via?);
        let net = to.value.parse::<IpNet>().ok();
        let net = self.legal(net, &to, "is no network", "such as \"10.0.0.0/8\" or \"0.0.0.0/0\"")?;
        if net != net.trunc() {
            self.problems
                .add(to.at, format!("{net} has bits behind its prefix"))
                .expected("a network")
                .suggest(Some(net.trunc().to_string()));
        }
        let router = via.value.parse().ok().filter(is_host);
        let router = self.legal(router, &via, "is no router", "an address, such as \"10.0.0.254\"")?;
        if router.is_ipv4() != net.addr().is_ipv4() {
            self.problems.add(via.at, format!("{router} is of another family than {net}"));
            return None;
        }
        let via = self.reached(router, &via, addresses, dynamic)?;
        Some(NetworkRoute { to: net, via, metric: metric.and_then(|metric| u32::try_from(metric).ok()) })
    }

    /// A router that the interface reaches without another one.
    fn reached(
        &mut self,
        router: IpAddr,
        typed: &Located<String>,
        addresses: &[IpNet],
        dynamic: Dynamic,
    ) -> Option<IpAddr> {
        let link_local = matches!(router, IpAddr::V6(v6) if v6.is_unicast_link_local());
        let may_come = if router.is_ipv4() { dynamic.v4 } else { dynamic.v6 };
        if addresses.iter().any(|address| address.addr() == router) {
            self.problems.add(typed.at, format!("{router} is this machine itself"));
            return None;
        }
        if link_local || may_come || addresses.iter().any(|address| address.contains(&router)) {
            return Some(router);
        }
        let own: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        let own = if own.is_empty() { "none".to_owned() } else { own.join(", ") };
        self.problems
            .add(typed.at, format!("{router} is in no network of this interface"))
            .expected(format!("a router in the network of one of its addresses ({own})"));
        None
    }

    /// What no interface can tell by itself.
    fn refuse_contradictions(&mut self, interfaces: &[Located<NetworkInterface>]) {
        let mut routed: [Option<&InterfaceName>; 2] = [None, None];
        for (index, Located { value: interface, at }) in interfaces.iter().enumerate() {
            let earlier = interfaces.get(..index).unwrap_or_default().iter().map(|earlier| &earlier.value);
            if earlier.clone().any(|other| other.name == interface.name) {
                self.problems
                    .add(*at, format!("a second [[network.interface]] is named `{}`", interface.name))
                    .expected("a name of its own");
            }
            for address in &interface.addresses {
                let has =
                    |other: &NetworkInterface| other.addresses.iter().any(|a| a.addr() == address.addr());
                if earlier.clone().any(has) {
                    let message = format!("{} is the address of another interface, too", address.addr());
                    self.problems.add(*at, message);
                }
            }
            for gateway in &interface.gateways {
                let Some(family) = routed.get_mut(usize::from(gateway.is_ipv6())) else { continue };
                if let Some(other) = family.filter(|other| **other != interface.name) {
                    self.problems
                        .add(*at, format!("`{other}` has a gateway of the same family already"))
                        .expected("one gateway; the ways to other networks are [[network.interface.route]]");
                }
                *family = Some(&interface.name);
            }
            self.refuse_wrong_layers(interface, *at, interfaces);
        }
    }

    /// VLANs and bonds: what stands on what.
    fn refuse_wrong_layers(
        &mut self,
        interface: &NetworkInterface,
        at: usize,
        all: &[Located<NetworkInterface>],
    ) {
        let all = || all.iter().map(|row| &row.value);
        let find = |name: &InterfaceName| all().find(|other| other.name == *name);
        let others = || all().filter(|other| other.name != interface.name);
        for below in interface.below() {
            let other = find(below);
            let (is_vlan, is_bond) = other.map_or((false, false), |other| {
                (
                    matches!(other.kind, NetworkKind::Vlan { .. }),
                    matches!(other.kind, NetworkKind::Bond { .. }),
                )
            });
            match &interface.kind {
                NetworkKind::Vlan { .. } if is_vlan || *below == interface.name => {
                    self.problems
                        .add(at, format!("the parent `{below}` is a VLAN"))
                        .expected("a card or a bond");
                }
                NetworkKind::Bond { .. } if is_vlan || is_bond || *below == interface.name => {
                    self.problems.add(at, format!("the member `{below}` is no card")).expected("cards");
                }
                NetworkKind::Bond { .. } if other.is_some_and(has_addresses) => {
                    let message = format!("`{below}` is a member of `{}` and has addresses", interface.name);
                    self.problems.add(at, message).expected("addresses on the bond alone");
                }
                _ => {}
            }
            let taken = others()
                .any(|other| matches!(other.kind, NetworkKind::Bond { .. }) && other.below().contains(below));
            if taken {
                self.problems
                    .add(at, format!("`{below}` is a member of another bond"))
                    .expected("one use of each card");
            }
            if let (Some(own), Some(carrier)) = (interface.mtu, other.and_then(|other| other.mtu))
                && own > carrier
            {
                self.problems.add(at, format!("`mtu` is larger than that of `{below}` below it"));
            }
        }
        let twin = others().any(|other| other.kind == interface.kind);
        if let NetworkKind::Vlan { parent, id } = &interface.kind
            && twin
        {
            self.problems.add(at, format!("VLAN {id} of `{parent}` has two names")).expected("one");
        }
        let carries = others().any(|other| other.below().contains(&interface.name));
        if !carries && !has_addresses(interface) {
            self.problems
                .add(at, format!("`{}` has neither addresses nor DHCP", interface.name))
                .expected("`addresses = [\"192.0.2.10/24\"]`, or `dhcp = \"ipv4\"`");
        }
    }
}

/// Families of which addresses are told by others.
#[derive(Clone, Copy)]
struct Dynamic {
    v4: bool,
    v6: bool,
}

fn has_addresses(interface: &NetworkInterface) -> bool {
    interface.dhcp_v4 || interface.dhcp_v6 || interface.accept_ra || !interface.addresses.is_empty()
}

/// An address that one machine can have.
fn is_host(address: &IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    !broadcast && !address.is_unspecified() && !address.is_loopback() && !address.is_multicast()
}

fn values<T>(located: Vec<Located<T>>) -> Vec<T> {
    located.into_iter().map(|located| located.value).collect()
}

#[cfg(test)]
mod tests;
