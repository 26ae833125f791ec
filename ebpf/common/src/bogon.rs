//! Sources that cannot be right at an interface to the Internet: the special-purpose registries of IANA (RFC 6890
//! and its updates), in two degrees.
//!
//! What is on no wire at all (this network, loopback, multicast and 240/4 as a source) the walk refuses everywhere.

use crate::packet::Addresses;
use crate::rules::Policy;

/// Whether the policy refuses the source. Meant for the edge; a source that is unspecified or link-local is a
/// neighbour's, and the walk has judged it.
#[must_use]
#[inline(always)]
pub fn is_bogon(addresses: &Addresses, policy: Policy) -> bool {
    if !policy.refuses_martians() {
        return false;
    }
    let [a, b] = [u32::from_be(addresses.source[0]), u32::from_be(addresses.source[1])];
    if !addresses.is_v6() {
        return is_martian_v4(a) || (policy.refuses_private() && is_private_v4(a));
    }
    let [c, d] = [u32::from_be(addresses.source[2]), u32::from_be(addresses.source[3])];
    is_martian_v6(a, b, c, d) || (policy.refuses_private() && is_private_v6(a))
}

#[inline(always)]
const fn within(address: u32, prefix: u32, length: u32) -> bool {
    (address ^ prefix) >> (32 - length) == 0
}

/// Link-local (RFC 3927), and of multicast and 240/4 what a walk would let through.
#[inline(always)]
const fn is_martian_v4(address: u32) -> bool {
    within(address, 0xa9fe_0000, 16)
        || within(address, 0, 8)
        || within(address, 0x7f00_0000, 8)
        || address >= 0xe000_0000
}

/// Private (RFC 1918), shared (RFC 6598), protocol assignments, documentation (RFC 5737), 6to4 relays (RFC 7526) and
/// benchmarking (RFC 2544).
#[inline(always)]
const fn is_private_v4(address: u32) -> bool {
    within(address, 0x0a00_0000, 8)
        || within(address, 0xac10_0000, 12)
        || within(address, 0xc0a8_0000, 16)
        || within(address, 0x6440_0000, 10)
        || within(address, 0xc000_0000, 24)
        || within(address, 0xc000_0200, 24)
        || within(address, 0xc058_6300, 24)
        || within(address, 0xc612_0000, 15)
        || within(address, 0xc633_6400, 24)
        || within(address, 0xcb00_7100, 24)
}

/// What is no unicast of IPv6: ::/8 but the unspecified address, which is IPv4 in disguise and NAT64 of other
/// networks' own (RFC 6052, RFC 8215); discarded (RFC 6666); site-local (RFC 3879); multicast.
#[inline(always)]
const fn is_martian_v6(a: u32, b: u32, c: u32, d: u32) -> bool {
    let unspecified = a | b | c | d == 0;
    let well_known_nat64 = a == 0x0064_ff9b && b == 0 && c == 0;
    (within(a, 0, 8) && !unspecified && !well_known_nat64)
        || (a == 0x0100_0000 && b == 0)
        || within(a, 0xfec0_0000, 10)
        || within(a, 0xff00_0000, 8)
}

/// Unique local (RFC 4193), documentation (RFC 3849, RFC 9637), benchmarking (RFC 5180) and ORCHID (RFC 4843).
#[inline(always)]
const fn is_private_v6(a: u32) -> bool {
    within(a, 0xfc00_0000, 7)
        || a == 0x2001_0db8
        || within(a, 0x3fff_0000, 20)
        || a == 0x2001_0002
        || within(a, 0x2001_0010, 28)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::net::IpAddr;

    use super::*;
    use crate::rules::Bogons;

    fn degree(source: &str) -> Option<Bogons> {
        let addresses = match source.parse().unwrap() {
            IpAddr::V4(source) => Addresses::v4(source.octets(), [192, 0, 2, 2]),
            IpAddr::V6(source) => Addresses::v6(source.octets(), [1; 16]),
        };
        let refuses = |bogons| is_bogon(&addresses, Policy::new(false, bogons, false));
        assert!(!refuses(Bogons::Off));
        assert!(refuses(Bogons::Full) || !refuses(Bogons::Martians));
        [Bogons::Martians, Bogons::Full].into_iter().find(|bogons| refuses(*bogons))
    }

    #[test]
    fn each_range_is_refused_in_its_degree_and_its_neighbours_are_not() {
        for (inside, expected) in [
            ("169.254.0.1", Some(Bogons::Martians)),
            ("169.253.255.255", None),
            ("224.0.0.1", Some(Bogons::Martians)),
            ("223.255.255.255", None),
            ("127.0.0.1", Some(Bogons::Martians)),
            ("10.255.255.255", Some(Bogons::Full)),
            ("11.0.0.0", None),
            ("172.16.0.0", Some(Bogons::Full)),
            ("172.31.255.255", Some(Bogons::Full)),
            ("172.32.0.0", None),
            ("192.168.9.9", Some(Bogons::Full)),
            ("100.64.0.1", Some(Bogons::Full)),
            ("100.63.255.255", None),
            ("100.128.0.0", None),
            ("192.0.2.1", Some(Bogons::Full)),
            ("192.0.1.0", None),
            ("198.18.0.1", Some(Bogons::Full)),
            ("198.20.0.0", None),
            ("198.51.100.1", Some(Bogons::Full)),
            ("203.0.113.255", Some(Bogons::Full)),
            ("8.8.8.8", None),
            ("::ffff:8.8.8.8", Some(Bogons::Martians)),
            ("::", None),
            ("::8", Some(Bogons::Martians)),
            ("64:ff9b::808:808", None),
            ("64:ff9b:1::1", Some(Bogons::Martians)),
            ("100::1", Some(Bogons::Martians)),
            ("fec0::1", Some(Bogons::Martians)),
            ("ff02::1", Some(Bogons::Martians)),
            ("fe80::1", None),
            ("fd00::1", Some(Bogons::Full)),
            ("2001:db8::1", Some(Bogons::Full)),
            ("2001:db9::1", None),
            ("2001:2::1", Some(Bogons::Full)),
            ("3fff:fff::1", Some(Bogons::Full)),
            ("2a00:1450::1", None),
        ] {
            assert_eq!(degree(inside), expected, "{inside}");
        }
    }
}
