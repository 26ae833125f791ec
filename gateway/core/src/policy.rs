//! May this client reach this host and port? The only maker of [`Permit`].
//!
//! A rule names prefixes or names, and ports. A name rule speaks of the name that the ticket or request holds;
//! whatever the name resolves to is checked again: loopback, link-local, multicast and unspecified addresses and
//! the gateway's own are never reached, unless the operator permits the first or the last explicitly.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;

use ipnet::IpNet;
use portcullis_proto::host_port::{Host, HostName, HostPort};

use crate::deny::Deny;
use crate::limits::DIAL_ADDRESSES_MAX;

/// What a rule lets clients reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    Prefix(IpNet),
    Name(HostName),
    /// `*.example.com`: any name below `example.com`, not `example.com` itself.
    Below(HostName),
}

/// One line of the access list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub to: Vec<Destination>,
    pub ports: Vec<RangeInclusive<u16>>,
}

impl Rule {
    /// Any address on the ICA and CGP ports: the default of ticket listeners.
    #[must_use]
    pub fn ica_anywhere() -> Self {
        let everywhere = |address: IpAddr| Destination::Prefix(IpNet::new_assert(address, 0));
        Self {
            to: vec![everywhere(Ipv4Addr::UNSPECIFIED.into()), everywhere(Ipv6Addr::UNSPECIFIED.into())],
            ports: vec![1494..=1494, 2598..=2598],
        }
    }

    fn covers_port(&self, port: u16) -> bool {
        self.ports.iter().any(|range| range.contains(&port))
    }

    fn covers_name(&self, name: &HostName) -> bool {
        self.to.iter().any(|to| match to {
            Destination::Name(allowed) => allowed == name,
            Destination::Below(suffix) => name
                .as_str()
                .strip_suffix(suffix.as_str())
                .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
            Destination::Prefix(_) => false,
        })
    }

    fn covers_address(&self, address: IpAddr) -> bool {
        self.to.iter().any(|to| match to {
            Destination::Prefix(prefix) => prefix.contains(&address),
            Destination::Name(_) | Destination::Below(_) => false,
        })
    }
}

/// The access list of one listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    rules: Vec<Rule>,
    permit_loopback: bool,
    permit_own_addresses: bool,
    own_addresses: Vec<IpAddr>,
}

/// Proof that the policy allows these addresses; [`Policy::permit`] alone makes it, and dialing demands it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permit {
    addresses: Vec<SocketAddr>,
}

impl Permit {
    /// The permitted addresses in the order in which they are to be tried; at least one.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }
}

impl Policy {
    #[must_use]
    pub fn new(rules: Vec<Rule>) -> Self {
        Self { rules, permit_loopback: false, permit_own_addresses: false, own_addresses: Vec::new() }
    }

    #[must_use]
    pub fn with_loopback(mut self, permitted: bool) -> Self {
        self.permit_loopback = permitted;
        self
    }

    /// Sets the gateway's own addresses and whether sessions may be relayed to them.
    #[must_use]
    pub fn with_own_addresses(mut self, own: Vec<IpAddr>, permitted: bool) -> Self {
        self.own_addresses = own.into_iter().map(|address| address.to_canonical()).collect();
        self.permit_own_addresses = permitted;
        self
    }

    /// The access list, for showing it.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    #[must_use]
    pub fn permits_loopback(&self) -> bool {
        self.permit_loopback
    }

    #[must_use]
    pub fn permits_own_addresses(&self) -> bool {
        self.permit_own_addresses
    }

    #[must_use]
    pub fn own_addresses(&self) -> &[IpAddr] {
        &self.own_addresses
    }

    /// Refuses early what no resolution could make right, so that clients cannot use the gateway to look up names.
    ///
    /// # Errors
    /// [`Deny::Forbidden`].
    pub fn before_resolution(&self, target: &HostPort) -> Result<(), Deny> {
        let port = self.rules.iter().any(|rule| rule.covers_port(target.port()));
        if port { Ok(()) } else { Err(Deny::Forbidden) }
    }

    /// Decides for a target and the addresses that its name resolved to (ignored where the target is an address).
    ///
    /// # Errors
    /// [`Deny::Forbidden`] when no address is allowed, [`Deny::NameUnknown`] when a name has none.
    pub fn permit(&self, target: &HostPort, resolved: &[IpAddr]) -> Result<Permit, Deny> {
        let (candidates, name) = match target.host() {
            Host::Ip(address) => (std::slice::from_ref(address), None),
            Host::Name(_) if resolved.is_empty() => return Err(Deny::NameUnknown),
            Host::Name(name) => (resolved, Some(name)),
        };
        let by_name = name.is_some_and(|name| {
            self.rules.iter().any(|rule| rule.covers_port(target.port()) && rule.covers_name(name))
        });
        let addresses: Vec<SocketAddr> = candidates
            .iter()
            .map(|address| address.to_canonical())
            .filter(|address| self.is_reachable(*address))
            .filter(|address| {
                by_name
                    || self
                        .rules
                        .iter()
                        .any(|rule| rule.covers_port(target.port()) && rule.covers_address(*address))
            })
            .take(DIAL_ADDRESSES_MAX)
            .map(|address| SocketAddr::new(address, target.port()))
            .collect();
        if addresses.is_empty() { Err(Deny::Forbidden) } else { Ok(Permit { addresses }) }
    }

    /// Permits the server that the operator named in the configuration itself, wherever it is.
    ///
    /// # Errors
    /// [`Deny::NameUnknown`] when a name has no address.
    pub fn permit_fixed(&self, target: &HostPort, resolved: &[IpAddr]) -> Result<Permit, Deny> {
        let candidates = match target.host() {
            Host::Ip(address) => std::slice::from_ref(address),
            Host::Name(_) => resolved,
        };
        let addresses: Vec<SocketAddr> = candidates
            .iter()
            .take(DIAL_ADDRESSES_MAX)
            .map(|address| SocketAddr::new(*address, target.port()))
            .collect();
        if addresses.is_empty() { Err(Deny::NameUnknown) } else { Ok(Permit { addresses }) }
    }

    /// Permits servers that the operator named in the configuration itself and that were chosen for this flow, in
    /// the order in which they are to be tried.
    ///
    /// # Errors
    /// [`Deny::ServerUnreachable`] when none is left to choose.
    pub fn permit_servers(&self, servers: &[SocketAddr]) -> Result<Permit, Deny> {
        let addresses: Vec<SocketAddr> = servers.iter().take(DIAL_ADDRESSES_MAX).copied().collect();
        if addresses.is_empty() { Err(Deny::ServerUnreachable) } else { Ok(Permit { addresses }) }
    }

    /// The addresses that no rule can open: see the module's first paragraph.
    fn is_reachable(&self, address: IpAddr) -> bool {
        if address.is_loopback() {
            return self.permit_loopback;
        }
        let link_local = match address {
            IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast() || v4.octets().first() == Some(&0),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
        let own = !self.permit_own_addresses && self.own_addresses.contains(&address);
        !(link_local || own || address.is_multicast() || address.is_unspecified())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(text: &str) -> HostPort {
        HostPort::parse(text).unwrap()
    }

    fn rule(to: Destination, port: u16) -> Rule {
        Rule { to: vec![to], ports: vec![port..=port] }
    }

    fn ips(text: &[&str]) -> Vec<IpAddr> {
        text.iter().map(|ip| ip.parse().unwrap()).collect()
    }

    #[test]
    fn the_default_reaches_only_the_ica_ports() {
        let policy = Policy::new(vec![Rule::ica_anywhere()]);
        assert!(policy.permit(&target("10.0.0.1:1494"), &[]).is_ok());
        assert!(policy.permit(&target("[2001:db8::1]:2598"), &[]).is_ok());
        assert_eq!(policy.permit(&target("10.0.0.1:22"), &[]), Err(Deny::Forbidden));
        assert_eq!(policy.before_resolution(&target("a.example:22")), Err(Deny::Forbidden));
    }

    #[test]
    fn special_addresses_are_never_reached_by_default() {
        let own = ips(&["192.0.2.1"]);
        let policy = Policy::new(vec![Rule::ica_anywhere()]).with_own_addresses(own, false);
        for text in [
            "127.0.0.1:1494",
            "127.9.9.9:1494",
            "[::1]:1494",
            "[::ffff:127.0.0.1]:1494",
            "169.254.169.254:1494",
            "[fe80::1]:1494",
            "0.0.0.0:1494",
            "0.1.2.3:1494",
            "[::]:1494",
            "224.0.0.1:1494",
            "255.255.255.255:1494",
            "[ff02::1]:1494",
            "192.0.2.1:1494",
            "[::ffff:192.0.2.1]:1494",
        ] {
            assert_eq!(policy.permit(&target(text), &[]), Err(Deny::Forbidden), "{text}");
        }
    }

    #[test]
    fn loopback_and_own_addresses_open_only_when_permitted_and_covered() {
        let policy = Policy::new(vec![Rule::ica_anywhere()])
            .with_loopback(true)
            .with_own_addresses(ips(&["192.0.2.1"]), true);
        assert!(policy.permit(&target("127.0.0.1:1494"), &[]).is_ok());
        assert!(policy.permit(&target("192.0.2.1:1494"), &[]).is_ok());
        assert_eq!(policy.permit(&target("127.0.0.1:22"), &[]), Err(Deny::Forbidden));
    }

    #[test]
    fn a_name_that_resolves_to_loopback_is_refused_although_the_name_is_allowed() {
        let policy =
            Policy::new(vec![rule(Destination::Name(HostName::parse("vda.example").unwrap()), 1494)]);
        assert_eq!(policy.permit(&target("vda.example:1494"), &ips(&["127.0.0.1"])), Err(Deny::Forbidden));
        let permit = policy.permit(&target("VDA.example:1494"), &ips(&["127.0.0.1", "10.0.0.9"])).unwrap();
        assert_eq!(permit.addresses(), ["10.0.0.9:1494".parse().unwrap()]);
    }

    #[test]
    fn a_suffix_covers_names_below_it_but_not_itself_or_lookalikes() {
        let policy =
            Policy::new(vec![rule(Destination::Below(HostName::parse("farm.example").unwrap()), 1494)]);
        let addresses = ips(&["10.0.0.9"]);
        assert!(policy.permit(&target("a.farm.example:1494"), &addresses).is_ok());
        assert!(policy.permit(&target("farm.example:1494"), &addresses).is_err());
        assert!(policy.permit(&target("evilfarm.example:1494"), &addresses).is_err());
    }

    #[test]
    fn a_prefix_rule_checks_what_the_name_resolved_to() {
        let policy = Policy::new(vec![rule(Destination::Prefix("10.1.0.0/16".parse().unwrap()), 1494)]);
        let permit = policy.permit(&target("any.example:1494"), &ips(&["10.2.0.1", "10.1.0.1"])).unwrap();
        assert_eq!(permit.addresses(), ["10.1.0.1:1494".parse().unwrap()]);
        assert_eq!(policy.permit(&target("any.example:1494"), &[]), Err(Deny::NameUnknown));
    }

    #[test]
    fn at_most_four_addresses_are_tried() {
        let policy = Policy::new(vec![Rule::ica_anywhere()]);
        let many: Vec<IpAddr> = (1..=5).map(|n| IpAddr::from([10, 0, 0, n])).collect();
        assert_eq!(
            policy.permit(&target("a.example:1494"), &many).unwrap().addresses().len(),
            DIAL_ADDRESSES_MAX
        );
    }
}
