//! Flows: the key by which both sides find one, and what the table holds of it.
//!
//! A flow is what comes *in*: its source is the peer and its destination is this machine. A session has two of them,
//! one from its client and one from its server. Keys and values are words, so that neither side copies bytes one by
//! one; both run on the same machine, so the order of bytes within a word is the machine's own.

use crate::packet::{Addresses, Family, Packet, Ports, Protocol, Quoted};

/// Key of the flow table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct FlowKey([u64; 5]);

impl FlowKey {
    /// Nobody's.
    pub const NONE: Self = Self([0; 5]);

    #[must_use]
    #[inline(always)]
    pub const fn new(addresses: &Addresses, protocol: Protocol, ports: Ports) -> Self {
        Self::of_ports(addresses, protocol.number(), ports)
    }

    #[inline(always)]
    pub(crate) const fn of_ports(addresses: &Addresses, protocol: u8, ports: Ports) -> Self {
        let [s0, s1] = ports.source.to_be_bytes();
        let [d0, d1] = ports.destination.to_be_bytes();
        Self::with_tail(addresses, [s0, s1, d0, d1, protocol])
    }

    /// The key of the flow that a quoted packet answers.
    #[must_use]
    #[inline(always)]
    pub const fn answered_by(quoted: &Quoted) -> Self {
        Self::new(&quoted.addresses.reversed(), quoted.protocol, quoted.ports.reversed())
    }

    /// The key of the fragments of one datagram, in a table of their own.
    #[must_use]
    #[inline(always)]
    pub const fn of_fragments(packet: &Packet) -> Self {
        let [i0, i1, i2, i3] = packet.identification.to_be_bytes();
        Self::with_tail(&packet.addresses, [i0, i1, i2, i3, packet.protocol])
    }

    #[inline(always)]
    const fn with_tail(addresses: &Addresses, tail: [u8; 5]) -> Self {
        let [t0, t1, t2, t3, protocol] = tail;
        let family = if addresses.is_v6() { 6 } else { 4 };
        let (s, d) = (&addresses.source, &addresses.destination);
        let tail = u64::from_ne_bytes([t0, t1, t2, t3, protocol, family, 0, 0]);
        Self([pair(s[0], s[1]), pair(s[2], s[3]), pair(d[0], d[1]), pair(d[2], d[3]), tail])
    }

    /// The key of what answers.
    #[must_use]
    #[inline(always)]
    pub const fn reversed(self) -> Self {
        let [w0, w1, w2, w3, tail] = self.0;
        let [s0, s1, d0, d1, protocol, family, _, _] = tail.to_ne_bytes();
        Self([w2, w3, w0, w1, u64::from_ne_bytes([d0, d1, s0, s1, protocol, family, 0, 0])])
    }

    /// The same from another port.
    #[must_use]
    #[inline(always)]
    pub const fn from_port(self, port: u16) -> Self {
        let [w0, w1, w2, w3, tail] = self.0;
        let [s0, s1] = port.to_be_bytes();
        let [_, _, d0, d1, protocol, family, _, _] = tail.to_ne_bytes();
        Self([w0, w1, w2, w3, u64::from_ne_bytes([s0, s1, d0, d1, protocol, family, 0, 0])])
    }

    /// The key of a service: what any client's packets for it have in common.
    #[must_use]
    #[inline(always)]
    pub const fn service(self) -> Self {
        let [_, _, w2, w3, tail] = self.0;
        let [_, _, d0, d1, protocol, family, _, _] = tail.to_ne_bytes();
        Self([0, 0, w2, w3, u64::from_ne_bytes([0, 0, d0, d1, protocol, family, 0, 0])])
    }

    /// The words of source and destination, and that of both ports, all in network order.
    #[must_use]
    #[inline(always)]
    pub const fn words(&self) -> ([u32; 4], [u32; 4], u32) {
        let [w0, w1, w2, w3, tail] = self.0;
        let ([s0, s1], [s2, s3], [d0, d1], [d2, d3]) = (split(w0), split(w1), split(w2), split(w3));
        ([s0, s1, s2, s3], [d0, d1, d2, d3], split(tail)[0])
    }

    /// Addresses, protocol and ports; `None` for what no side writes.
    #[must_use]
    pub fn parts(&self) -> Option<(Addresses, Protocol, Ports)> {
        let [w0, w1, w2, w3, tail] = self.0;
        let [s0, s1, d0, d1, protocol, family, _, _] = tail.to_ne_bytes();
        let protocol = Protocol::ALL.into_iter().find(|known| known.number() == protocol)?;
        let family = match family {
            4 => Family::V4,
            6 => Family::V6,
            _ => return None,
        };
        let ([s0w, s1w], [s2w, s3w], [d0w, d1w], [d2w, d3w]) = (split(w0), split(w1), split(w2), split(w3));
        let addresses = Addresses { family, source: [s0w, s1w, s2w, s3w], destination: [d0w, d1w, d2w, d3w] };
        let ports = Ports { source: u16::from_be_bytes([s0, s1]), destination: u16::from_be_bytes([d0, d1]) };
        Some((addresses, protocol, ports))
    }

    #[must_use]
    pub const fn from_words(words: [u64; 5]) -> Self {
        Self(words)
    }

    #[must_use]
    pub const fn to_words(self) -> [u64; 5] {
        self.0
    }
}

#[inline(always)]
const fn pair(first: u32, second: u32) -> u64 {
    let ([a, b, c, d], [e, f, g, h]) = (first.to_ne_bytes(), second.to_ne_bytes());
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}

#[inline(always)]
const fn split(word: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = word.to_ne_bytes();
    [u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h])]
}

/// Value of the flow table. User space writes it once, when the flow is admitted; the program adds to its counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Flow {
    /// The processor that owns the flow, plus one; 0 where packets stay where they come in.
    pub owner: u64,
    /// Packets that came in.
    pub packets: u64,
    /// Bytes behind the transport header that came in.
    pub bytes: u64,
    /// When the last packet came in, in nanoseconds of the monotonic clock.
    pub seen: u64,
}

impl Flow {
    /// A flow whose packets are handled by that processor, or wherever they come in.
    #[must_use]
    pub fn new(owner: Option<u16>, now: u64) -> Self {
        Self { owner: owner.map_or(0, |owner| u64::from(owner) + 1), packets: 0, bytes: 0, seen: now }
    }

    /// The processor to which a packet has to go; `None` where it may stay.
    #[must_use]
    #[inline(always)]
    pub fn steered_to(owner: u64, here: u32) -> Option<u32> {
        let owner = owner.checked_sub(1)?;
        if owner == u64::from(here) { None } else { u32::try_from(owner).ok() }
    }

    #[must_use]
    pub const fn from_words([owner, packets, bytes, seen]: [u64; 4]) -> Self {
        Self { owner, packets, bytes, seen }
    }

    #[must_use]
    pub const fn to_words(self) -> [u64; 4] {
        [self.owner, self.packets, self.bytes, self.seen]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn addresses() -> impl Strategy<Value = Addresses> {
        let v4 = any::<([u8; 4], [u8; 4])>();
        let v6 = any::<([u8; 16], [u8; 16])>();
        prop_oneof![
            v4.prop_map(|(source, destination)| Addresses::v4(source, destination)),
            v6.prop_map(|(source, destination)| Addresses::v6(source, destination)),
        ]
    }

    fn ports() -> impl Strategy<Value = Ports> {
        any::<(u16, u16)>().prop_map(|(source, destination)| Ports { source, destination })
    }

    proptest! {
        #[test]
        fn a_key_keeps_what_it_was_made_of(addresses in addresses(), ports in ports(), udp in any::<bool>()) {
            let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
            let key = FlowKey::new(&addresses, protocol, ports);
            prop_assert_eq!(key.parts(), Some((addresses, protocol, ports)));
            prop_assert_eq!(FlowKey::from_words(key.to_words()), key);
        }

        #[test]
        fn an_error_is_about_the_flow_that_its_quoted_packet_answers(addresses in addresses(), ports in ports()) {
            let flow = FlowKey::new(&addresses, Protocol::Tcp, ports);
            let quoted =
                Quoted { addresses: addresses.reversed(), protocol: Protocol::Tcp, ports: ports.reversed() };
            prop_assert_eq!(FlowKey::answered_by(&quoted), flow);
        }
    }

    proptest! {
        #[test]
        fn a_key_can_be_turned_around_and_moved_to_another_port(addresses in addresses(), ports in ports()) {
            let key = FlowKey::new(&addresses, Protocol::Tcp, ports);
            prop_assert_eq!(key.reversed(), FlowKey::new(&addresses.reversed(), Protocol::Tcp, ports.reversed()));
            prop_assert_eq!(key.reversed().reversed(), key);
            let moved = Ports { source: 7, ..ports };
            prop_assert_eq!(key.from_port(7), FlowKey::new(&addresses, Protocol::Tcp, moved));
            let nobody = Addresses { source: [0; 4], ..addresses };
            let service = FlowKey::new(&nobody, Protocol::Tcp, Ports { source: 0, ..ports });
            prop_assert_eq!(key.service(), service);
            let (source, destination, both) = key.words();
            prop_assert_eq!((source, destination), (addresses.source, addresses.destination));
            let [s0, s1, d0, d1] = both.to_ne_bytes();
            prop_assert_eq!((u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1])), (ports.source, ports.destination));
        }
    }

    #[test]
    fn a_packet_is_steered_only_to_another_processor() {
        assert_eq!(Flow::steered_to(Flow::new(None, 0).owner, 3), None);
        assert_eq!(Flow::steered_to(Flow::new(Some(3), 0).owner, 3), None);
        assert_eq!(Flow::steered_to(Flow::new(Some(0), 0).owner, 3), Some(0));
    }
}
