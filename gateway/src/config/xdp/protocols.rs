//! Names of the protocols above IP that a rule can name, by IANA's registry.

/// The Virtual Router Redundancy Protocol (RFC 5798).
pub const VRRP: u8 = 112;

/// The usual ones; all others have a number only.
const NAMES: [(&str, u8); 16] = [
    ("tcp", 6),
    ("udp", 17),
    ("icmp", 1),
    ("icmpv6", 58),
    ("igmp", 2),
    ("ipip", 4),
    ("ipv6", 41),
    ("gre", 47),
    ("esp", 50),
    ("ah", 51),
    ("eigrp", 88),
    ("ospf", 89),
    ("pim", 103),
    ("vrrp", VRRP),
    ("l2tp", 115),
    ("sctp", 132),
];

/// The number of a protocol, by its name or as digits; not 0, which is none that a packet has.
#[must_use]
pub fn number(name: &str) -> Option<u8> {
    let named = NAMES.iter().find(|(known, _)| *known == name).map(|(_, number)| *number);
    named.or_else(|| name.parse().ok()).filter(|number| *number != 0)
}

/// For people; 0 stands for every protocol.
#[must_use]
pub fn shown(number: u8) -> String {
    let named = NAMES.iter().find(|(_, known)| *known == number).map(|(name, _)| (*name).to_owned());
    let unnamed = || if number == 0 { "any".to_owned() } else { number.to_string() };
    named.unwrap_or_else(unnamed)
}

/// Whether rules about it have ports.
#[must_use]
pub fn has_ports(number: u8) -> bool {
    matches!(number, 6 | 17)
}

/// Judged by its types, not by rules.
#[must_use]
pub fn is_icmp(number: u8) -> bool {
    matches!(number, 1 | 58)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_lead_to_each_other() {
        for (name, known) in NAMES {
            assert_eq!((number(name), shown(known).as_str()), (Some(known), name));
        }
        assert_eq!((number("50"), shown(99).as_str(), shown(0).as_str()), (Some(50), "99", "any"));
        assert_eq!((number("0"), number("256"), number("TCP")), (None, None, None));
    }
}
