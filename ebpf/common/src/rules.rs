//! Port rules as the kernel holds them.
//!
//! One hash finds what holds for a role, a protocol and a port. Where that depends on the address of the other side,
//! it names a set, and the longest prefix of that set which holds the address has the answer: user space has given
//! each prefix the first of its rows that covers it, so the longest one has the first row that matches at all.
//!
//! There are two generations of rules in the tables. [`Policy`], one word, says which one holds: a new policy is
//! written beside the old one and comes into force in one step, and so does the old one when it is taken back.

use crate::packet::{Addresses, Protocol};
use crate::tables::{Action, PORT_WORDS, Role};

/// In the place of a role: what this machine begins itself.
pub const EGRESS: u8 = 0;
/// The bit of the role that tells the generations apart.
const GENERATION: u8 = 0x80;

/// Key of [`crate::tables::RULES`]: role, IP protocol number, port. Port 0 stands for protocols without ports; at
/// egress it stands for every port, and protocol 0 for every protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(transparent)]
pub struct RuleKey([u8; 4]);

impl RuleKey {
    #[must_use]
    #[inline(always)]
    pub const fn new(role: u8, protocol: u8, port: u16) -> Self {
        let [high, low] = port.to_be_bytes();
        Self([role, protocol, high, low])
    }

    /// The port, if it is about one of that role and protocol.
    #[must_use]
    pub const fn port_of(self, role: Role, protocol: Protocol) -> Option<u16> {
        let [own_role, own_protocol, high, low] = self.0;
        if own_role & !GENERATION == role.to_byte() && own_protocol == protocol.number() {
            Some(u16::from_be_bytes([high, low]))
        } else {
            None
        }
    }

    /// The same key among the rules of that generation.
    #[must_use]
    #[inline(always)]
    pub const fn in_generation(self, second: bool) -> Self {
        let [role, protocol, high, low] = self.0;
        Self([if second { role | GENERATION } else { role }, protocol, high, low])
    }

    #[must_use]
    pub const fn from_bytes(bytes: [u8; 4]) -> Self {
        Self(bytes)
    }

    #[must_use]
    pub const fn to_bytes(self) -> [u8; 4] {
        self.0
    }

    /// Whether it is among the rules of the second generation.
    #[must_use]
    pub const fn is_second(self) -> bool {
        self.0[0] & GENERATION != 0
    }
}

/// Value of [`crate::tables::CLOSED`]: ports of one role and protocol that no rule is about, a bit for each. Where nothing
/// was written no port is known to be closed, and the rules are asked.
pub type Ports = [u64; PORT_WORDS];

/// The place of a set of ports among [`crate::tables::CLOSED`].
#[must_use]
#[inline(always)]
pub const fn closed_place(second: bool, role: u8, protocol: Protocol) -> u32 {
    let second = if second { 8 } else { 0 };
    let udp = match protocol {
        Protocol::Tcp => 0,
        Protocol::Udp => 1,
    };
    let [low, ..] = [role & 3, 0, 0, 0];
    second | u32::from_le_bytes([low, 0, 0, 0]) << 1 | udp
}

/// Where a port's bit is: the word and the bit in it.
#[must_use]
#[inline(always)]
pub const fn port_bit(port: u16) -> (u16, u64) {
    (port >> 6, 1 << (port & 63))
}

/// Value of [`crate::tables::RULES`] and of the sets: what is done, and by which row with a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(transparent)]
pub struct RuleValue(u64);

const DROP: u8 = 0;
const ACCEPT: u8 = 1;
const LIMIT: u8 = 2;
const BY_ADDRESS: u8 = 3;

impl RuleValue {
    #[must_use]
    pub const fn new(action: Action) -> Self {
        match action {
            Action::Accept => Self::of(ACCEPT, 0, 0),
            Action::Drop => Self::of(DROP, 0, 0),
            Action::Limit => Self::of(LIMIT, 0, 0),
        }
    }

    /// So many a second from each source; rows count each for itself.
    #[must_use]
    pub const fn limit(row: u16, per_second: u32) -> Self {
        Self::of(LIMIT, row, per_second)
    }

    /// It depends on the address: the answer is in that set.
    #[must_use]
    pub const fn by_address(set: u32) -> Self {
        Self::of(BY_ADDRESS, 0, set)
    }

    const fn of(kind: u8, row: u16, number: u32) -> Self {
        let ([r0, r1], [n0, n1, n2, n3]) = (row.to_ne_bytes(), number.to_ne_bytes());
        Self(u64::from_ne_bytes([kind, 0, r0, r1, n0, n1, n2, n3]))
    }

    /// The set that has the answer.
    #[must_use]
    #[inline(always)]
    pub const fn set(self) -> Option<u32> {
        if self.kind() == BY_ADDRESS { Some(self.number()) } else { None }
    }

    /// Whatever is not known to accept drops.
    #[must_use]
    #[inline(always)]
    pub const fn action(self) -> Action {
        match self.kind() {
            ACCEPT => Action::Accept,
            LIMIT => Action::Limit,
            _ => Action::Drop,
        }
    }

    /// Which row's limit it is.
    #[must_use]
    #[inline(always)]
    pub const fn row(self) -> u16 {
        let [_, _, r0, r1, _, _, _, _] = self.0.to_ne_bytes();
        u16::from_ne_bytes([r0, r1])
    }

    /// How many a second a limit lets pass.
    #[must_use]
    #[inline(always)]
    pub const fn per_second(self) -> u32 {
        self.number()
    }

    #[inline(always)]
    const fn kind(self) -> u8 {
        let [kind, ..] = self.0.to_ne_bytes();
        kind
    }

    #[inline(always)]
    const fn number(self) -> u32 {
        let [_, _, _, _, n0, n1, n2, n3] = self.0.to_ne_bytes();
        u32::from_ne_bytes([n0, n1, n2, n3])
    }

    #[must_use]
    pub const fn from_word(word: u64) -> Self {
        Self(word)
    }

    #[must_use]
    pub const fn to_word(self) -> u64 {
        self.0
    }
}

/// Bits of the set in the keys of [`crate::tables::RULES_V4`] and [`crate::tables::RULES_V6`], before the prefix.
pub const SET_BITS: u32 = 32;

/// Key of [`crate::tables::RULES_V4`].
#[must_use]
#[inline(always)]
pub const fn set_key_v4(set: u32, address: u32) -> [u32; 2] {
    [set, address]
}

/// Key of [`crate::tables::RULES_V6`].
#[must_use]
#[inline(always)]
pub const fn set_key_v6(set: u32, address: [u32; 4]) -> [u32; 5] {
    let [a, b, c, d] = address;
    [set, a, b, c, d]
}

/// Key of [`crate::tables::LIMITS`]: the row with its generation, and the source; of IPv6 its /64, which is one
/// household's or one machine's.
#[must_use]
#[inline(always)]
pub const fn limit_key(row: u16, second: bool, addresses: &Addresses) -> [u32; 4] {
    let [r0, r1] = row.to_ne_bytes();
    let row = u32::from_ne_bytes([r0, r1, if second { 1 } else { 0 }, if addresses.is_v6() { 6 } else { 4 }]);
    [row, addresses.source[0], if addresses.is_v6() { addresses.source[1] } else { 0 }, 0]
}

/// Which sources cannot be right at an interface to the Internet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bogons {
    /// Only those that are on no wire.
    Off,
    /// Those that no router forwards.
    Martians,
    /// Those that nobody has in the Internet: private, shared, documentation and benchmarking ranges too.
    Full,
}

impl Bogons {
    pub const ALL: [Self; 3] = [Self::Off, Self::Martians, Self::Full];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Martians => "martians",
            Self::Full => "full",
        }
    }
}

/// Which policy holds: one word of [`crate::tables::Setting::Policy`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Policy(u64);

impl Policy {
    const SECOND: u64 = 1;
    const MARTIANS: u64 = 2;
    const FULL: u64 = 4;
    const CLOSED: u64 = 8;

    #[must_use]
    pub const fn new(second: bool, bogons: Bogons, egress_closed: bool) -> Self {
        let bogons = match bogons {
            Bogons::Off => 0,
            Bogons::Martians => Self::MARTIANS,
            Bogons::Full => Self::MARTIANS | Self::FULL,
        };
        let second = if second { Self::SECOND } else { 0 };
        let closed = if egress_closed { Self::CLOSED } else { 0 };
        Self(second | bogons | closed)
    }

    /// Whether the rules of the second generation hold.
    #[must_use]
    #[inline(always)]
    pub const fn is_second(self) -> bool {
        self.0 & Self::SECOND != 0
    }

    #[must_use]
    #[inline(always)]
    pub const fn refuses_martians(self) -> bool {
        self.0 & Self::MARTIANS != 0
    }

    #[must_use]
    #[inline(always)]
    pub const fn refuses_private(self) -> bool {
        self.0 & Self::FULL != 0
    }

    /// Whether this machine begins nothing but what a row accepts.
    #[must_use]
    #[inline(always)]
    pub const fn egress_is_closed(self) -> bool {
        self.0 & Self::CLOSED != 0
    }

    #[must_use]
    pub const fn from_word(word: u64) -> Self {
        Self(word)
    }

    #[must_use]
    pub const fn to_word(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_action_drops_and_known_ones_come_back() {
        assert_eq!(RuleValue::from_word(u64::from_ne_bytes([9, 0, 0, 0, 0, 0, 0, 0])).action(), Action::Drop);
        for action in Action::ALL {
            assert_eq!(RuleValue::new(action).action(), action);
            assert_eq!(RuleValue::new(action).set(), None);
        }
        let limit = RuleValue::limit(300, 70_000);
        assert_eq!((limit.action(), limit.row(), limit.per_second()), (Action::Limit, 300, 70_000));
        assert_eq!(RuleValue::by_address(77).set(), Some(77));
    }

    #[test]
    fn generations_have_different_keys_and_one_word_says_which_holds() {
        let key = RuleKey::new(3, 6, 22);
        assert_eq!((key.in_generation(false), key.is_second()), (key, false));
        assert_ne!(key.in_generation(true), key);
        assert!(key.in_generation(true).is_second());
        let policy = Policy::new(true, Bogons::Full, true);
        assert!(policy.is_second() && policy.refuses_private() && policy.egress_is_closed());
        assert_eq!(Policy::from_word(policy.to_word()), policy);
        let policy = Policy::new(false, Bogons::Martians, false);
        assert!(!policy.is_second() && policy.refuses_martians() && !policy.refuses_private());
        assert!(!policy.egress_is_closed());
        assert_eq!(Policy::new(false, Bogons::Off, false).to_word(), 0);
    }

    #[test]
    fn a_limit_counts_addresses_of_ipv4_and_networks_of_ipv6() {
        let v4 = |last| Addresses::v4([192, 0, 2, last], [0; 4]);
        assert_ne!(limit_key(1, false, &v4(1)), limit_key(1, false, &v4(2)));
        let v6 = |net, last| Addresses::v6([0x20, 1, 0, 0, 0, 0, 0, net, 0, 0, 0, 0, 0, 0, 0, last], [0; 16]);
        assert_eq!(limit_key(1, false, &v6(1, 1)), limit_key(1, false, &v6(1, 2)));
        assert_ne!(limit_key(1, false, &v6(1, 1)), limit_key(1, false, &v6(2, 1)));
        assert_ne!(limit_key(1, false, &v6(1, 1)), limit_key(2, false, &v6(1, 1)));
        assert_ne!(limit_key(1, false, &v6(1, 1)), limit_key(1, true, &v6(1, 1)));
    }
}
