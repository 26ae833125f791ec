//! Who is never banned: loopback and link-local addresses, the machine's own, the networks of administrators, what the
//! gateway itself depends on, and whom the operator allows.

use std::fmt;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Why an address is never banned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    Loopback,
    /// Routers speak from there; without them there is no IPv6.
    LinkLocal,
    Own,
    Management,
    /// A ticket authority, a name server, the server of a listener: their answers come in from there.
    Needed,
    /// `allow` of the configuration.
    Allowed,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Loopback => "a loopback address",
            Self::LinkLocal => "a link-local address",
            Self::Own => "an address of this machine",
            Self::Management => "in the management network",
            Self::Needed => "a server that this gateway depends on",
            Self::Allowed => "in `bans.allow`",
        })
    }
}

/// The prefixes that are never banned, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exempt {
    prefixes: Vec<(IpNet, Reason)>,
}

impl Exempt {
    /// Loopback and link-local addresses, and these.
    #[must_use]
    pub fn new(more: impl IntoIterator<Item = (IpNet, Reason)>) -> Self {
        let v4 = |a, b, length| IpNet::V4(Ipv4Net::new_assert([a, b, 0, 0].into(), length));
        let v6 = |first, last, length| {
            IpNet::V6(Ipv6Net::new_assert([first, 0, 0, 0, 0, 0, 0, last].into(), length))
        };
        let always = [
            (v4(127, 0, 8), Reason::Loopback),
            (v6(0, 1, 128), Reason::Loopback),
            (v4(169, 254, 16), Reason::LinkLocal),
            (v6(0xfe80, 0, 10), Reason::LinkLocal),
        ];
        Self { prefixes: always.into_iter().chain(more).collect() }
    }

    /// Why the address is never banned; `None`: it may be.
    #[must_use]
    pub fn covers(&self, address: IpAddr) -> Option<Reason> {
        let address = address.to_canonical();
        self.prefixes.iter().find(|(exempt, _)| exempt.contains(&address)).map(|(_, reason)| *reason)
    }

    /// Why all of the prefix is never banned.
    #[must_use]
    pub fn contains(&self, prefix: IpNet) -> Option<Reason> {
        self.prefixes.iter().find(|(exempt, _)| exempt.contains(&prefix)).map(|(_, reason)| *reason)
    }

    /// Whether some of the prefix is never banned.
    #[must_use]
    pub fn overlaps(&self, prefix: IpNet) -> bool {
        self.prefixes.iter().any(|(exempt, _)| exempt.contains(&prefix) || prefix.contains(exempt))
    }

    /// The first prefix that the operator allows or that the gateway needs, and that the given one has a part of.
    #[must_use]
    pub fn promised_within(&self, prefix: IpNet) -> Option<(IpNet, Reason)> {
        let promised = |reason| matches!(reason, Reason::Allowed | Reason::Needed);
        let overlap = |exempt: &IpNet| exempt.contains(&prefix) || prefix.contains(exempt);
        self.prefixes.iter().copied().find(|(exempt, reason)| promised(*reason) && overlap(exempt))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn each_address_is_exempt_for_its_reason_and_others_are_not() {
        let exempt = Exempt::new([
            (net("192.0.2.0/24"), Reason::Allowed),
            (net("2001:db8:1::/64"), Reason::Management),
            (net("203.0.113.1/32"), Reason::Own),
        ]);
        for (address, reason) in [
            ("127.9.9.9", Some(Reason::Loopback)),
            ("::1", Some(Reason::Loopback)),
            ("::ffff:127.0.0.1", Some(Reason::Loopback)),
            ("fe80::1", Some(Reason::LinkLocal)),
            ("169.254.1.1", Some(Reason::LinkLocal)),
            ("192.0.2.200", Some(Reason::Allowed)),
            ("::ffff:192.0.2.200", Some(Reason::Allowed)),
            ("2001:db8:1::9", Some(Reason::Management)),
            ("203.0.113.1", Some(Reason::Own)),
            ("203.0.113.2", None),
            ("2001:db8:2::9", None),
        ] {
            assert_eq!(exempt.covers(address.parse().unwrap()), reason, "{address}");
        }
    }

    #[test]
    fn prefixes_are_compared_both_ways() {
        let exempt = Exempt::new([
            (net("192.0.2.0/24"), Reason::Allowed),
            (net("198.51.100.0/24"), Reason::Management),
        ]);
        assert!(exempt.overlaps(net("192.0.0.0/16")) && exempt.overlaps(net("192.0.2.7/32")));
        assert!(!exempt.overlaps(net("192.0.3.0/24")));
        assert_eq!(exempt.contains(net("192.0.2.128/25")), Some(Reason::Allowed));
        assert_eq!(exempt.contains(net("192.0.0.0/16")), None);
        assert_eq!(exempt.promised_within(net("192.0.0.0/16")), Some((net("192.0.2.0/24"), Reason::Allowed)));
        assert_eq!(exempt.promised_within(net("198.51.0.0/16")), None);
    }
}
