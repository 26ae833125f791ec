//! Keys and values of the maps: byte arrays in network order, so that neither padding nor endianness can be wrong.
//!
//! User space reads and writes them as plain arrays (`to_bytes`, `from_bytes`), which is all that aya asks for; no
//! type here needs an unsafe promise.

pub use crate::interface::Interface;
use crate::packet::{Addresses, Packet};
pub use crate::rules::{RuleKey, RuleValue};

/// Names of the maps, as both sides spell them.
pub const RULES: &str = "RULES";
/// Sets of prefixes with rules of their own, by family.
pub const RULES_V4: &str = "RULES_V4";
pub const RULES_V6: &str = "RULES_V6";
/// What sources have taken of their limits.
pub const LIMITS: &str = "LIMITS";
pub const INTERFACES: &str = "INTERFACES";
/// The same by index, of those whose index is small.
pub const NEAR_INTERFACES: &str = "NEAR_INTERFACES";
/// VLANs with roles of their own, by interface and tags.
pub const VLANS: &str = "VLANS";
/// Ports that no rule is about.
pub const CLOSED: &str = "CLOSED";
pub const BANS_V4: &str = "BANS_V4";
pub const BANS_V6: &str = "BANS_V6";
pub const COUNTERS: &str = "COUNTERS";
pub const SETTINGS: &str = "SETTINGS";
pub const FLOWS: &str = "FLOWS";
pub const FRAGMENTS: &str = "FRAGMENTS";
pub const CPUS: &str = "CPUS";
pub const SYN_SOURCES: &str = "SYN_SOURCES";
pub const SERVICES: &str = "SERVICES";
pub const SLOTS: &str = "SLOTS";
pub const SERVERS: &str = "SERVERS";
pub const FORWARDS: &str = "FORWARDS";
pub const HALF_OPEN: &str = "HALF_OPEN";
pub const LINKS: &str = "LINKS";
pub const EVENTS: &str = "EVENTS";
pub const SAMPLERS: &str = "SAMPLERS";
/// Name of the program.
pub const PROGRAM: &str = "portcullis";
/// Name of the program for what leaves by an interface.
pub const PROGRAM_EGRESS: &str = "portcullis_out";
/// Names of the programs for what sockets contact: connections and datagrams, IPv4 and IPv6.
pub const PROGRAMS_DIAL: [&str; 4] = ["connect_v4", "connect_v6", "sendmsg_v4", "sendmsg_v6"];

/// Rules by role, protocol and single port; a range takes one each. The table holds two generations of them.
pub const RULES_MAX: u32 = 65_536;
/// Prefixes in sets of rules, for each family and generation.
pub const SOURCES_MAX: u32 = 16_384;
/// Sources whose limits are kept at the same time; whoever was seen longest ago begins anew.
pub const LIMITS_MAX: u32 = 65_536;
/// Filtered interfaces, and VLANs with roles of their own.
pub const INTERFACES_MAX: u32 = 16;
/// Indices of interfaces: theirs, and those of a bond's ports.
pub const INDICES_MAX: u32 = 128;
/// Interfaces with an index below that are found without a hash.
pub const NEAR_INTERFACES_MAX: u32 = 4_096;
/// Words of a set of ports, and how many such sets there are: two generations, four roles, two protocols.
pub const PORT_WORDS: usize = 1_024;
pub const CLOSED_MAX: u32 = 16;
/// Banned prefixes, for each family.
pub const BANS_MAX: u32 = 65_536;
/// Flows that are admitted at the same time, two for each session; the configuration sets another number.
pub const FLOWS_MAX: u32 = 65_536;
/// Datagrams in fragments whose later fragments may come.
pub const FRAGMENTS_MAX: u32 = 4_096;
/// For how long they may, in nanoseconds; the network stack itself waits as long.
pub const FRAGMENTS_TIME: u64 = 30_000_000_000;
/// Drop events that may wait to be read; the configuration sets another number.
pub const EVENTS_MAX: u32 = 4_096;
/// Buckets in which SYNs are counted by source; a power of two. Two sources that share one by chance share a budget.
pub const SYN_SOURCES_MAX: u32 = 262_144;
/// Buckets for listening addresses whose share of SYNs reaches the kernel under pressure; a power of two.
pub const LISTENERS_MAX: u32 = 1_024;
/// SYNs a second that each of them gets: the kernel takes cookies only where it has lately sent one itself.
pub const LISTENER_SYNS: u32 = 10;
/// Counters of one interface; more than there are causes.
pub const CAUSES_MAX: u32 = 96;
/// The interfaces, one more for those without a role, the interfaces again for what leaves, and the daemon's own
/// sockets.
pub const COUNTERS_MAX: u32 = (2 * INTERFACES_MAX + 2) * CAUSES_MAX;
/// Counted for interfaces without a role.
pub const NO_SLOT: u8 = 16;
/// Counted for what leaves by an interface: its slot and that.
pub const EGRESS_SLOT: u8 = 17;
/// Counted for the daemon's own sockets, by what they were to contact.
pub const DIAL_SLOT: u8 = 33;

/// What user space tells the program, by place in [`SETTINGS`]. All are 0 in the beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    /// How many bans there are; none need not be looked for.
    Bans,
    /// Which rules hold: [`crate::Policy`].
    Policy,
    /// SYNs a second from one source; 0 is no bound, as below.
    SynSource,
    /// SYNs a second that come to one processor.
    SynTotal,
    /// Echoes of ICMP a second that come to one processor.
    Icmp,
    /// What becomes of SYNs over the budget, as [`Cookies`] says.
    Cookies,
    /// Whether there are services to be forwarded, or flows of former ones.
    Forward,
    /// Most drop events of one processor within a second.
    EventRate,
    /// How many devices put VLAN tags on frames: answers of the program may need one that a card took off.
    Tags,
    /// A number that nobody else knows, so that nobody can choose whose bucket of SYNs to share.
    Seed,
}

/// Places in [`SETTINGS`], some of them free.
pub const SETTINGS_MAX: u32 = 32;

impl Setting {
    #[must_use]
    #[inline(always)]
    #[allow(clippy::as_conversions, reason = "an enum without fields has no other way to its number")]
    pub const fn index(self) -> u32 {
        self as u32
    }
}

/// Value of [`Setting::Cookies`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cookies {
    /// SYNs over the budget are dropped.
    Off,
    /// SYNs over the budget are answered with cookies.
    On,
    /// All SYNs are, budget or not.
    Always,
}

impl Cookies {
    #[must_use]
    pub const fn to_word(self) -> u64 {
        match self {
            Self::Off => 0,
            Self::On => 1,
            Self::Always => 2,
        }
    }

    /// Whatever is not known is off.
    #[must_use]
    #[inline(always)]
    pub const fn from_word(word: u64) -> Self {
        match word {
            1 => Self::On,
            2 => Self::Always,
            _ => Self::Off,
        }
    }
}

/// Whose SYNs are counted together in [`SYN_SOURCES`]: those of an address of IPv4, or of the first half of one of
/// IPv6, which is one network's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct SourceKey([u32; 3]);

impl SourceKey {
    #[must_use]
    #[inline(always)]
    pub const fn of(addresses: &Addresses) -> Self {
        let [first, second, _, _] = addresses.source;
        Self([first, second, if addresses.is_v6() { 6 } else { 4 }])
    }

    /// The place of its bucket: the words and the seed stirred as SplitMix64 does.
    #[must_use]
    #[inline(always)]
    pub fn place(self, seed: u64) -> u32 {
        let [first, second, family] = self.0;
        let address = u64::from(first) | u64::from(second) << 32;
        let mixed = stir(stir(seed ^ address).wrapping_add(seed.rotate_left(32) ^ u64::from(family)));
        low(mixed) % SYN_SOURCES_MAX
    }
}

#[inline(always)]
const fn stir(state: u64) -> u64 {
    let state = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let state = (state ^ state >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ state >> 31
}

#[inline(always)]
const fn low(word: u64) -> u32 {
    let [a, b, c, d, ..] = word.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// A listening address: destination and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct ListenerKey([u32; 5]);

impl ListenerKey {
    #[must_use]
    #[inline(always)]
    pub fn of(packet: &Packet) -> Self {
        let [a, b, c, d] = packet.addresses.destination;
        Self([a, b, c, d, u32::from(packet.ports.destination)])
    }

    /// The place of its bucket. Two addresses that share one by chance share its SYNs.
    #[must_use]
    #[inline(always)]
    pub fn place(self) -> u32 {
        let [a, b, c, d, port] = self.0;
        let (high, rest) = (u64::from(a) | u64::from(b) << 32, u64::from(c) | u64::from(d) << 32);
        low(stir(stir(high).wrapping_add(rest.rotate_left(17) ^ u64::from(port)))) % LISTENERS_MAX
    }
}

/// Where an interface leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// The Internet.
    Edge,
    /// The servers inside.
    Farm,
    /// Administrators.
    Mgmt,
}

impl Role {
    pub const ALL: [Self; 3] = [Self::Edge, Self::Farm, Self::Mgmt];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Edge => "edge",
            Self::Farm => "farm",
            Self::Mgmt => "mgmt",
        }
    }

    #[must_use]
    pub const fn to_byte(self) -> u8 {
        match self {
            Self::Edge => 1,
            Self::Farm => 2,
            Self::Mgmt => 3,
        }
    }
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Accept,
    Drop,
    /// Accepts so many a second from each source, and drops the others.
    Limit,
}

impl Action {
    pub const ALL: [Self; 3] = [Self::Accept, Self::Drop, Self::Limit];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Drop => "drop",
            Self::Limit => "limit",
        }
    }
}

/// Value of [`BANS_V4`] and [`BANS_V6`]: when the ban ends, in nanoseconds of the monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Ban([u8; 8]);

impl Ban {
    #[must_use]
    pub const fn until(nanoseconds: u64) -> Self {
        Self(nanoseconds.to_be_bytes())
    }

    #[must_use]
    pub const fn from_bytes(bytes: [u8; 8]) -> Self {
        Self(bytes)
    }

    #[must_use]
    #[inline(always)]
    pub const fn ends(self) -> u64 {
        u64::from_be_bytes(self.0)
    }

    #[must_use]
    pub const fn to_bytes(self) -> [u8; 8] {
        self.0
    }
}

/// The place of a counter in [`COUNTERS`].
#[must_use]
#[inline(always)]
pub const fn counter(slot: u8, cause: u32) -> u32 {
    // A u8 times that fits.
    (slot_number(slot) * CAUSES_MAX) + cause
}

#[allow(clippy::as_conversions, reason = "From is not const, and every u8 fits a u32")]
const fn slot_number(slot: u8) -> u32 {
    slot as u32
}

#[cfg(test)]
mod tests {
    use core::mem::{align_of, size_of};

    use super::*;
    use crate::Cause;

    #[test]
    fn keys_and_values_are_bytes_without_padding() {
        assert_eq!((size_of::<RuleKey>(), align_of::<RuleKey>()), (4, 1));
        assert_eq!((size_of::<RuleValue>(), align_of::<RuleValue>()), (8, 8));
        assert_eq!((size_of::<Interface>(), align_of::<Interface>()), (8, 8));
        assert_eq!((size_of::<Ban>(), align_of::<Ban>()), (8, 1));
        assert_eq!(RuleKey::new(1, 6, 443).to_bytes(), [1, 6, 1, 0xbb]);
        assert_eq!(Interface::new(3, Role::Farm, (0x0102, 0x0304)).to_bytes(), [3, 2, 1, 2, 3, 4, 0, 0]);
        assert_eq!(Interface::carrier(0, (0x0102, 0x0304)).to_bytes(), [0, 0, 1, 2, 3, 4, 1, 0]);
        assert_eq!(Ban::until(1).to_bytes(), [0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(Ban::from_bytes(Ban::until(77).to_bytes()).ends(), 77);
    }

    #[test]
    fn cookies_are_off_unless_they_are_known_to_be_on() {
        for cookies in [Cookies::Off, Cookies::On, Cookies::Always] {
            assert_eq!(Cookies::from_word(cookies.to_word()), cookies);
        }
        assert_eq!(Cookies::from_word(7), Cookies::Off);
    }

    #[test]
    fn a_network_of_ipv6_is_one_source_and_an_address_of_ipv4_is_another() {
        let v6 = |last| {
            let mut source = [0x20; 16];
            source[15] = last;
            SourceKey::of(&Addresses::v6(source, [9; 16]))
        };
        let v4 = |last| SourceKey::of(&Addresses::v4([0x20, 0x20, 0x20, last], [9; 4]));
        assert_eq!(v6(1), v6(2));
        assert!(v4(1) != v4(2) && v4(0x20) != v6(1));
    }

    #[test]
    fn sources_are_spread_over_the_buckets_in_a_way_that_depends_on_the_seed() {
        let place = |number: u32, seed| {
            let [_, b, c, d] = number.to_be_bytes();
            SourceKey::of(&Addresses::v4([198, b, c, d], [9; 4])).place(seed)
        };
        let (mut taken, mut different) = ([false; 262_144], 0);
        for number in 0..10_000 {
            let place = usize::try_from(place(number, 7)).unwrap();
            different += u32::from(!core::mem::replace(&mut taken[place], true));
        }
        // By chance 10,000 sources share about 190 places of a quarter of a million.
        assert!(different > 9_600, "{different}");
        let same = (0..1_000).filter(|number| place(*number, 7) == place(*number, 8)).count();
        assert!(same < 10, "{same}");
    }

    #[test]
    fn client_ports_are_a_closed_range() {
        let interface = Interface::new(0, Role::Edge, (32_768, 60_999));
        assert!(interface.is_client_port(32_768) && interface.is_client_port(60_999));
        assert!(!interface.is_client_port(32_767) && !interface.is_client_port(61_000));
    }

    #[test]
    fn every_counter_has_its_own_place_in_the_array() {
        assert_eq!(u32::from(NO_SLOT), INTERFACES_MAX);
        let last = counter(NO_SLOT, Cause::OtherProtocol.index());
        assert_eq!(u32::from(EGRESS_SLOT), INTERFACES_MAX + 1);
        assert_eq!(u32::from(DIAL_SLOT), u32::from(EGRESS_SLOT) + INTERFACES_MAX);
        assert_eq!(counter(DIAL_SLOT, CAUSES_MAX - 1) + 1, COUNTERS_MAX);
        assert!(last < COUNTERS_MAX && counter(1, 0) > counter(0, Cause::OtherProtocol.index()));
    }
}
