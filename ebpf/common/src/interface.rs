//! What the program knows of an interface: one word.

use crate::tables::Role;

/// In a value, that VLANs have roles.
const CARRIES: u8 = 1;
/// In the same byte.
const STAYS: u8 = 2;

/// Value of [`INTERFACES`](crate::tables::INTERFACES), whose key is the interface's index in network order: the place of its counters, its
/// role, the ports from which this machine's own clients speak, whether VLANs of it have roles of their own, and whether
/// its packets are steered. One word, which is loaded at once. Value of [`VLANS`](crate::tables::VLANS) too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Interface(u64);

impl Interface {
    #[must_use]
    pub const fn new(slot: u8, role: Role, client_ports: (u16, u16)) -> Self {
        Self::with(slot, role.to_byte(), client_ports, 0)
    }

    /// One that has no role but those of its VLANs.
    #[must_use]
    pub const fn carrier(slot: u8, client_ports: (u16, u16)) -> Self {
        Self::with(slot, 0, client_ports, CARRIES)
    }

    /// The same interface, of which VLANs have roles of their own.
    #[must_use]
    pub const fn carrying(self) -> Self {
        let [slot, role, a, b, c, d, flags, _] = self.0.to_ne_bytes();
        Self(u64::from_ne_bytes([slot, role, a, b, c, d, flags | CARRIES, 0]))
    }

    /// The same interface, whose packets are steered to the processors that own their flows, as all are at first, or
    /// stay where they come in.
    #[must_use]
    pub const fn steered(self, steered: bool) -> Self {
        let [slot, role, a, b, c, d, flags, _] = self.0.to_ne_bytes();
        let flags = if steered { flags & !STAYS } else { flags | STAYS };
        Self(u64::from_ne_bytes([slot, role, a, b, c, d, flags, 0]))
    }

    /// Its counters without its role, for a VLAN that has none.
    #[must_use]
    #[inline(always)]
    pub const fn of_nobody(self) -> Self {
        let [slot, _, a, b, c, d, flags, _] = self.0.to_ne_bytes();
        Self(u64::from_ne_bytes([slot, 0, a, b, c, d, flags, 0]))
    }

    const fn with(slot: u8, role: u8, client_ports: (u16, u16), flags: u8) -> Self {
        let ([first_high, first_low], [last_high, last_low]) =
            (client_ports.0.to_be_bytes(), client_ports.1.to_be_bytes());
        Self(u64::from_ne_bytes([slot, role, first_high, first_low, last_high, last_low, flags, 0]))
    }

    /// Whether VLANs of it have roles of their own, so that tags say whose a frame is.
    #[must_use]
    #[inline(always)]
    pub const fn carries_vlans(self) -> bool {
        let [_, _, _, _, _, _, flags, _] = self.0.to_ne_bytes();
        flags & CARRIES != 0
    }

    /// Whether packets of admitted flows are steered, where their flows have an owner.
    #[must_use]
    #[inline(always)]
    pub const fn is_steered(self) -> bool {
        let [_, _, _, _, _, _, flags, _] = self.0.to_ne_bytes();
        flags & STAYS == 0
    }

    #[must_use]
    #[inline(always)]
    pub const fn slot(self) -> u8 {
        let [slot, ..] = self.0.to_ne_bytes();
        slot
    }

    /// The role as it stands in keys of rules; 0 is none.
    #[must_use]
    #[inline(always)]
    pub const fn role(self) -> u8 {
        let [_, role, ..] = self.0.to_ne_bytes();
        role
    }

    /// Nothing was written where it lies.
    #[must_use]
    #[inline(always)]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// Whether a socket on that port can be a client's: the kernel gives them higher ones, and a program that chooses
    /// its own chooses higher ones still.
    #[must_use]
    #[inline(always)]
    pub const fn may_be_client_port(self, port: u16) -> bool {
        let [_, _, first_high, first_low, ..] = self.0.to_ne_bytes();
        port >= u16::from_be_bytes([first_high, first_low])
    }

    /// Whether a socket without a peer on that port is a client's.
    #[must_use]
    #[inline(always)]
    pub const fn is_client_port(self, port: u16) -> bool {
        let [_, _, first_high, first_low, last_high, last_low, _, _] = self.0.to_ne_bytes();
        port >= u16::from_be_bytes([first_high, first_low])
            && port <= u16::from_be_bytes([last_high, last_low])
    }

    #[must_use]
    pub const fn to_bytes(self) -> [u8; 8] {
        self.0.to_ne_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_is_steered_until_that_is_ended_and_once_it_begins_again() {
        let plain = Interface::new(3, Role::Edge, (1, 2));
        let stays = plain.carrying().steered(false);
        assert!(plain.is_steered() && plain.carrying().is_steered());
        assert!(!stays.is_steered() && stays.carries_vlans() && !stays.carrying().is_steered());
        assert_eq!(stays.steered(true), plain.carrying());
    }

    #[test]
    fn an_interface_that_carries_vlans_is_there_with_a_role_and_without() {
        let (plain, nobody) = (Interface::new(3, Role::Mgmt, (1, 2)), Interface::carrier(0, (1, 2)));
        assert_eq!(plain.carrying().to_bytes(), [3, 3, 0, 1, 0, 2, 1, 0]);
        assert!(!plain.carries_vlans() && plain.carrying().carries_vlans() && nobody.carries_vlans());
        assert!(!plain.is_none() && !nobody.is_none() && nobody.role() == 0);
    }
}
