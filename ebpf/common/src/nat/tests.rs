extern crate std;

use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::packet::Ports;
use crate::{Seen, walk};

/// The checksum as RFC 1071 computes it, over whole bytes in network order.
fn plain(parts: &[&[u8]]) -> u16 {
    let bytes: Vec<u8> = parts.concat();
    let sum: u32 =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap()
}

#[derive(Clone, Copy, Debug)]
struct Ends {
    v6: bool,
    source: [u8; 16],
    destination: [u8; 16],
    ports: Ports,
}

impl Ends {
    fn addresses(&self) -> Addresses {
        if self.v6 {
            return Addresses::v6(self.source, self.destination);
        }
        let v4 = |address: [u8; 16]| *address.first_chunk::<4>().unwrap();
        Addresses::v4(v4(self.source), v4(self.destination))
    }

    fn key(&self, protocol: Protocol) -> FlowKey {
        FlowKey::new(&self.addresses(), protocol, self.ports)
    }

    fn bytes(&self) -> Vec<u8> {
        let length = if self.v6 { 16 } else { 4 };
        [&self.source[..length], &self.destination[..length]].concat()
    }

    /// A whole IP packet with right checksums.
    fn packet(&self, protocol: Protocol, hops: u8, data: &[u8]) -> Vec<u8> {
        let Ports { source, destination } = self.ports;
        let ports = [source.to_be_bytes(), destination.to_be_bytes()].concat();
        let mut segment = match protocol {
            Protocol::Tcp => {
                [&ports[..], &[0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 1, 0, 0, 0, 0, 0], data].concat()
            }
            Protocol::Udp => {
                let length = u16::try_from(8 + data.len()).unwrap().to_be_bytes();
                [&ports[..], &length, &[0, 0], data].concat()
            }
        };
        let at = if protocol == Protocol::Tcp { 16 } else { 6 };
        let sum = self.transport_sum(protocol.number(), &segment).to_be_bytes();
        segment[at..at + 2].copy_from_slice(&sum);
        self.ip(protocol.number(), hops, &segment)
    }

    fn transport_sum(&self, protocol: u8, segment: &[u8]) -> u16 {
        let length = u16::try_from(segment.len()).unwrap().to_be_bytes();
        plain(&[&self.bytes(), &[0, protocol], &length, segment])
    }

    fn ip(&self, protocol: u8, hops: u8, payload: &[u8]) -> Vec<u8> {
        if self.v6 {
            let [l0, l1] = u16::try_from(payload.len()).unwrap().to_be_bytes();
            return [&[0x60, 0, 0, 0, l0, l1, protocol, hops][..], &self.bytes(), payload].concat();
        }
        let [l0, l1] = u16::try_from(20 + payload.len()).unwrap().to_be_bytes();
        let mut header =
            [&[0x45, 0, l0, l1, 0, 7, 0x40, 0, hops, protocol, 0, 0][..], &self.bytes()].concat();
        let sum = plain(&[&header]).to_be_bytes();
        header[10..12].copy_from_slice(&sum);
        [&header, payload].concat()
    }
}

fn framed(v6: bool, packet: &[u8]) -> Vec<u8> {
    let ethertype: [u8; 2] = if v6 { [0x86, 0xdd] } else { [8, 0] };
    [&[2; 12][..], &ethertype, packet].concat()
}

fn seen(frame: &[u8]) -> Packet {
    let Ok(Seen::Ip(packet)) = walk(frame) else { panic!("{:?}", walk(frame)) };
    packet
}

/// Two pairs of ends of the same family, with addresses that can be on a wire.
fn pairs() -> impl Strategy<Value = (Ends, Ends)> {
    let address = any::<[u8; 16]>().prop_map(|mut address| {
        address[0] = 0x20 | address[0] & 0x0f;
        address
    });
    let ends = (address.clone(), address, 1..=u16::MAX, 1..=u16::MAX);
    (any::<bool>(), ends.clone(), ends).prop_map(|(v6, old, new)| {
        let ends = |(source, destination, from, to): ([u8; 16], [u8; 16], u16, u16)| {
            let mut destination = destination;
            // Never the source: that would be no packet at all.
            destination[3] = !source[3];
            Ends { v6, source, destination, ports: Ports { source: from, destination: to } }
        };
        (ends(old), ends(new))
    })
}

proptest! {
    #[test]
    fn a_rewritten_packet_is_the_one_that_its_new_ends_would_have_sent(
        (old, new) in pairs(), udp in any::<bool>(), hops in 2..=u8::MAX,
        data in proptest::collection::vec(any::<u8>(), 0..60),
    ) {
        let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
        let mut frame = framed(old.v6, &old.packet(protocol, hops, &data));
        let packet = seen(&frame);
        prop_assert_eq!(rewrite(frame.as_mut_slice(), &packet, &new.key(protocol)), Ok(()));
        let mut expected = framed(new.v6, &new.packet(protocol, hops - 1, &data));
        // The sum's two zeros are the same number; the plain one of UDP is written as the other.
        let at = usize::try_from(packet.layout.transport).unwrap() + if udp { 6 } else { 16 };
        for frame in [&mut frame, &mut expected] {
            if frame[at..at + 2] == [0xff, 0xff] {
                frame[at..at + 2].fill(0);
            }
        }
        prop_assert_eq!(frame, expected);
    }

    #[test]
    fn an_error_is_rewritten_to_quote_what_its_receiver_sent(
        (theirs, ours) in pairs(), udp in any::<bool>(), router in any::<[u8; 15]>(), data in any::<[u8; 24]>(),
    ) {
        // `ours` is what was sent to the server, rewritten from `theirs`; a router on the way cannot forward it.
        let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
        let mut from = [0x21; 16];
        from[1..].copy_from_slice(&router);
        from[3] = !ours.source[3];
        let outer = Ends { source: from, destination: ours.source, ..ours };
        let quoted = ours.packet(protocol, 63, &data);
        let error = |ends: &Ends, quoted: &[u8]| {
            let (number, kind) = if ends.v6 { (58, 2) } else { (1, 3) };
            let mut message = [&[kind, 4, 0, 0, 0, 0, 5, 0][..], quoted].concat();
            let sum = if ends.v6 { ends.transport_sum(58, &message) } else { plain(&[&message]) };
            message[2..4].copy_from_slice(&sum.to_be_bytes());
            framed(ends.v6, &ends.ip(number, 64, &message))
        };
        let mut frame = error(&outer, &quoted);
        let packet = seen(&frame);
        prop_assert_eq!(packet.kind, Kind::IcmpError);
        // Answers to `ours` are rewritten to answers to `theirs`.
        let out = theirs.key(protocol).reversed();
        prop_assert_eq!(FlowKey::answered_by(&packet.quoted), ours.key(protocol).reversed());
        prop_assert_eq!(rewrite_error(frame.as_mut_slice(), &packet, &out), Ok(()));
        let rewritten = seen(&frame);
        prop_assert_eq!(rewritten.addresses, theirs.addresses().reversed());
        prop_assert_eq!(FlowKey::answered_by(&rewritten.quoted), out);
        let at = usize::try_from(rewritten.layout.transport).unwrap();
        let end = usize::try_from(rewritten.layout.end).unwrap();
        let back = Ends { source: theirs.destination, destination: theirs.source, ..theirs };
        let message = &frame[at..end];
        let sum = if back.v6 { back.transport_sum(58, message) } else { plain(&[message]) };
        prop_assert!(sum == 0 || sum == u16::MAX, "{sum:#x}");
        if !back.v6 {
            prop_assert_eq!(plain(&[&frame[14..34]]), 0);
            prop_assert_eq!(plain(&[&frame[at + 8..at + 28]]), 0);
        }
    }
}

#[test]
fn a_packet_at_the_end_of_its_hops_is_not_forwarded() {
    let ports = Ports { source: 1, destination: 2 };
    let ends = Ends { v6: false, source: [10; 16], destination: [20; 16], ports };
    for hops in [0, 1] {
        let mut frame = framed(false, &ends.packet(Protocol::Tcp, hops, b"x"));
        let packet = seen(&frame);
        let out = ends.key(Protocol::Tcp);
        assert_eq!(rewrite(frame.as_mut_slice(), &packet, &out), Err(Refusal::HopLimit));
    }
}

#[test]
fn udp_without_a_checksum_keeps_none() {
    let ports = Ports { source: 1, destination: 2 };
    let ends = Ends { v6: false, source: [10; 16], destination: [20; 16], ports };
    let mut frame = framed(false, &ends.packet(Protocol::Udp, 9, b"x"));
    frame[40..42].fill(0);
    let packet = seen(&frame);
    let out = FlowKey::new(&Addresses::v4([1; 4], [2; 4]), Protocol::Udp, ports);
    rewrite(frame.as_mut_slice(), &packet, &out).unwrap();
    assert_eq!(frame[40..42], [0, 0]);
}
