extern crate std;

use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::tables::Action;
use crate::{Kind, Lookup, Ports, Quoted, TcpFlags, verdict};

const TCP: u8 = 6;
const UDP: u8 = 17;

fn ethernet(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&[2; 12][..], &ethertype.to_be_bytes(), payload].concat()
}

fn length(bytes: &[u8]) -> u16 {
    u16::try_from(bytes.len()).unwrap()
}

/// An IPv4 packet with these options, flags and fragment offset.
fn v4(protocol: u8, options: &[u8], fragment: u16, payload: &[u8]) -> Vec<u8> {
    let header = 20 + options.len();
    let first = 0x40 | u8::try_from(header / 4).unwrap();
    let total = u16::try_from(header + payload.len()).unwrap().to_be_bytes();
    let [f0, f1] = fragment.to_be_bytes();
    let fixed =
        [first, 0, total[0], total[1], 0, 1, f0, f1, 64, protocol, 0, 0, 192, 0, 2, 1, 198, 51, 100, 2];
    [&fixed[..], options, payload].concat()
}

fn v6_from(source: [u8; 16], next: u8, hop_limit: u8, payload: &[u8]) -> Vec<u8> {
    let [l0, l1] = length(payload).to_be_bytes();
    let mut destination = [0; 16];
    destination[..4].copy_from_slice(&[0x20, 1, 0xd, 0xb8]);
    destination[15] = 2;
    [&[0x60, 0, 0, 0, l0, l1, next, hop_limit][..], &source, &destination, payload].concat()
}

fn v6(next: u8, payload: &[u8]) -> Vec<u8> {
    v6_from([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], next, 64, payload)
}

fn tcp(flags: u8) -> Vec<u8> {
    let mut header = [0; 20];
    header[..4].copy_from_slice(&[0xc3, 0x50, 1, 0xbb]);
    header[12] = 0x50;
    header[13] = flags;
    header.to_vec()
}

fn udp(payload: &[u8]) -> Vec<u8> {
    let [l0, l1] = (length(payload) + 8).to_be_bytes();
    [&[0xc3, 0x50, 0, 53, l0, l1, 0, 0][..], payload].concat()
}

fn seen(frame: &[u8]) -> Result<Seen, Cause> {
    walk(frame)
}

/// What was found, from the packet's fields.
fn payload_of(frame: &[u8]) -> Result<Payload, Cause> {
    let Seen::Ip(packet) = seen(frame)? else { panic!("no IP") };
    let Packet { kind, protocol, ports, flags, data, identification, quoted, .. } = packet;
    Ok(match kind {
        Kind::Tcp => Payload::Tcp { ports, flags, data },
        Kind::Udp => Payload::Udp { ports, data },
        Kind::IcmpError => Payload::IcmpError { quoted },
        Kind::Icmp => Payload::Icmp,
        Kind::Neighbour => Payload::Neighbour,
        Kind::Fragment => Payload::Fragment { protocol, identification },
        Kind::Other => Payload::Other { protocol },
    })
}

const HTTPS: Ports = Ports { source: 50_000, destination: 443 };

/// A segment without data.
fn segment(flags: u8) -> Payload {
    Payload::Tcp { ports: HTTPS, flags: TcpFlags(flags), data: 0 }
}

fn dns(data: u32) -> Payload {
    Payload::Udp { ports: Ports { source: 50_000, destination: 53 }, data }
}

#[test]
fn ports_are_found_behind_options_tags_and_extension_headers() {
    let plain = v4(TCP, &[], 0, &tcp(2));
    assert_eq!(payload_of(&ethernet(0x0800, &plain)), Ok(segment(2)));
    assert_eq!(payload_of(&ethernet(0x0800, &v4(TCP, &[1; 40], 0, &tcp(2)))), Ok(segment(2)));
    let tagged = [&[0, 7, 0x81, 0, 0, 8, 8, 0][..], &plain].concat();
    assert_eq!(payload_of(&ethernet(0x88a8, &tagged)), Ok(segment(2)));
    assert_eq!(payload_of(&ethernet(0x86dd, &v6(UDP, &udp(b"x")))), Ok(dns(1)));
    let options = [&[60, 0, 0, 0, 0, 0, 0, 0][..], &[UDP, 1], &[0; 14], &udp(b"x")].concat();
    assert_eq!(payload_of(&ethernet(0x86dd, &v6(0, &options))), Ok(dns(1)));
    // RFC 6946: a fragment that is all of the packet.
    let atomic = [&[TCP, 0, 0, 0, 0, 0, 0, 1][..], &tcp(0x10)].concat();
    assert_eq!(payload_of(&ethernet(0x86dd, &v6(44, &atomic))), Ok(segment(0x10)));
}

#[test]
fn padding_behind_the_packet_is_no_fault() {
    let frame = [&ethernet(0x0800, &v4(UDP, &[], 0, &udp(b"")))[..], &[0; 18]].concat();
    assert_eq!(payload_of(&frame), Ok(dns(0)));
}

#[test]
fn the_link_has_its_own_traffic() {
    let arp = [&[0, 1, 8, 0, 6, 4, 0, 1][..], &[0; 20]].concat();
    assert_eq!(seen(&ethernet(0x0806, &arp)), Ok(Seen::Arp));
    assert_eq!(seen(&ethernet(0x0806, &[0; 28])), Err(Cause::ArpHeader));
    assert_eq!(seen(&ethernet(0x0806, &arp[..27])), Err(Cause::Truncated));
    assert_eq!(seen(&ethernet(0x88cc, &[])), Ok(Seen::LinkControl));
    assert_eq!(seen(&ethernet(0x8847, &[0; 60])), Err(Cause::EtherType));
    assert_eq!(seen(&ethernet(0x8100, &[0, 1, 0x81, 0, 0, 1, 0x81, 0, 0, 1, 8, 0])), Err(Cause::VlanDepth));
}

#[test]
fn lengths_that_contradict_each_other_are_found() {
    let packet = v4(TCP, &[], 0, &tcp(2));
    assert_eq!(seen(&[0; 13]), Err(Cause::Truncated));
    assert_eq!(seen(&ethernet(0x0800, &packet[..19])), Err(Cause::Truncated));
    assert_eq!(seen(&ethernet(0x0800, &packet[..39])), Err(Cause::IpLength));
    let with = |at: usize, byte: u8| {
        let mut changed = packet.clone();
        changed[at] = byte;
        seen(&ethernet(0x0800, &changed)).map(drop)
    };
    assert_eq!(with(0, 0x44), Err(Cause::IpHeader));
    assert_eq!(with(0, 0x65), Err(Cause::IpHeader));
    assert_eq!(with(3, 19), Err(Cause::IpLength));
    assert_eq!(with(3, 39), Err(Cause::TcpHeader));
    assert_eq!(with(32, 0x40), Err(Cause::TcpHeader));
    assert_eq!(with(32, 0x60), Err(Cause::TcpHeader));
    let mut long = udp(b"abc");
    long[5] = 12;
    assert_eq!(payload_of(&ethernet(0x0800, &v4(UDP, &[], 0, &long))), Err(Cause::UdpLength));
    long[5] = 7;
    assert_eq!(payload_of(&ethernet(0x0800, &v4(UDP, &[], 0, &long))), Err(Cause::UdpLength));
    assert_eq!(payload_of(&ethernet(0x86dd, &v6(TCP, &[]))), Err(Cause::IpLength));
    assert_eq!(payload_of(&ethernet(0x86dd, &v6(0, &[TCP, 9, 0, 0]))), Err(Cause::Extension));
    assert_eq!(payload_of(&ethernet(0x0800, &v4(1, &[], 0, &[8, 0]))), Err(Cause::IcmpHeader));
}

#[test]
fn extension_headers_in_a_wrong_order_or_number_are_found() {
    let hop_by_hop = [60, 0, 0, 0, 0, 0, 0, 0];
    let second = [&hop_by_hop[..], &[0, 0, 0, 0, 0, 0, 0, 0], &tcp(2)].concat();
    assert_eq!(payload_of(&ethernet(0x86dd, &v6(0, &second))), Err(Cause::Extension));
    let many = [&[60, 0, 0, 0, 0, 0, 0, 0].repeat(9)[..], &tcp(2)].concat();
    assert_eq!(payload_of(&ethernet(0x86dd, &v6(60, &many))), Err(Cause::Extension));
    let routed = [&[TCP, 0, 0, 1, 0, 0, 0, 0][..], &tcp(2)].concat();
    assert_eq!(payload_of(&ethernet(0x86dd, &v6(43, &routed))), Err(Cause::RoutingHeader));
}

#[test]
fn only_flags_that_tcp_sends_are_possible() {
    const FIN: u8 = 1;
    const SYN: u8 = 2;
    const RST: u8 = 4;
    const ACK: u8 = 0x10;
    // ECN's two bits go with any of them, RFC 3168.
    for flags in [SYN, SYN | ACK, ACK, ACK | FIN, RST, RST | ACK, ACK | 8, SYN | 0xc0] {
        assert_eq!(
            payload_of(&ethernet(0x0800, &v4(TCP, &[], 0, &tcp(flags)))),
            Ok(segment(flags)),
            "{flags:#x}"
        );
    }
    for flags in [0, FIN, 0x29, SYN | FIN, SYN | RST, FIN | RST, SYN | FIN | ACK, 0x3f, 8, 0x20] {
        let found = payload_of(&ethernet(0x0800, &v4(TCP, &[], 0, &tcp(flags))));
        assert_eq!(found, Err(Cause::TcpFlags), "{flags:#x}");
    }
}

#[test]
fn fragments_are_told_apart() {
    const MORE: u16 = 0x2000;
    let fragment = |protocol, fragment, payload: &[u8]| {
        payload_of(&ethernet(0x0800, &v4(protocol, &[], fragment, payload)))
    };
    let later = |protocol| Payload::Fragment { protocol, identification: 1 };
    assert_eq!(fragment(UDP, MORE, &udp(&[0; 8])), Ok(dns(8)));
    assert_eq!(fragment(UDP, 2, &[0; 5]), Ok(later(UDP)));
    assert_eq!(fragment(1, MORE, &[8, 0, 0, 0, 0, 0, 0, 1]), Ok(Payload::Icmp));
    assert_eq!(fragment(1, MORE, &[3, 4, 0, 0, 0, 0, 0, 1]), Err(Cause::IcmpFragment));
    assert_eq!(fragment(TCP, MORE, &[0; 8]), Err(Cause::FragmentTiny));
    assert_eq!(fragment(TCP, 1 | MORE, &[0; 24]), Err(Cause::FragmentOverlap));
    assert_eq!(fragment(TCP, 3, &[0; 24]), Ok(later(TCP)));
    assert_eq!(fragment(UDP, MORE, &[0; 17]), Err(Cause::IpLength));
    // The "ping of death" ends behind the last byte that a packet can have.
    assert_eq!(fragment(1, 0x1fff, &[0; 40]), Err(Cause::IpLength));
    let first = [&[UDP, 0, 0, 1, 0, 0, 0, 1][..], &udp(&[0; 8])].concat();
    assert_eq!(payload_of(&ethernet(0x86dd, &v6(44, &first))), Ok(dns(8)));
    let next = [&[UDP, 0, 0, 8, 0, 0, 0, 1][..], &[0; 8]].concat();
    assert_eq!(payload_of(&ethernet(0x86dd, &v6(44, &next))), Ok(later(UDP)));
    // The datagram of a first fragment is longer than the packet.
    let long = [&[0xc3, 0x50, 0, 53, 1, 0, 0, 0][..], &[0; 8]].concat();
    let Ok(Seen::Ip(packet)) = seen(&ethernet(0x0800, &v4(UDP, &[], MORE, &long))) else { panic!() };
    assert_eq!((packet.data, packet.is_first, packet.identification), (248, true, 1));
}

#[test]
fn an_error_quotes_the_packet_that_it_is_about() {
    let error = |kind, quoted: &[u8]| {
        let message = [&[kind, 0, 0, 0, 0, 0, 0, 0][..], quoted].concat();
        payload_of(&ethernet(0x0800, &v4(1, &[], 0, &message)))
    };
    let ours = v4(TCP, &[1; 4], 0, &tcp(0x10));
    let addresses = Addresses::v4([192, 0, 2, 1], [198, 51, 100, 2]);
    let quoted = Quoted { addresses, protocol: Protocol::Tcp, ports: HTTPS };
    for kind in [3, 11, 12] {
        assert_eq!(error(kind, &ours[..32]), Ok(Payload::IcmpError { quoted }));
    }
    assert_eq!(error(3, &ours[..31]), Err(Cause::IcmpQuote));
    assert_eq!(error(3, &ours[..10]), Err(Cause::IcmpQuote));
    assert_eq!(error(3, &[&[0x65][..], &ours[1..]].concat()), Err(Cause::IcmpQuote));
    assert_eq!(error(3, &v4(TCP, &[], 1, &tcp(0x10))), Err(Cause::IcmpQuote));
    assert_eq!(error(3, &v4(47, &[], 0, &[0; 8])), Err(Cause::IcmpQuote));
    assert_eq!(error(11, &v4(1, &[], 0, &[8, 0, 0, 0, 0, 0, 0, 0])), Ok(Payload::Icmp));
    let too_big = [&[2, 0, 0, 0, 0, 0, 5, 0][..], &v6(UDP, &udp(b"x"))].concat();
    let found = payload_of(&ethernet(0x86dd, &v6(58, &too_big)));
    let Ok(Payload::IcmpError { quoted }) = found else { panic!("{found:?}") };
    assert_eq!((quoted.protocol, quoted.ports.destination), (Protocol::Udp, 53));
    assert_eq!(payload_of(&ethernet(0x86dd, &v6(58, &too_big[..40]))), Err(Cause::IcmpQuote));
}

#[test]
fn addresses_that_are_on_no_wire_are_found() {
    let packet = v4(TCP, &[], 0, &tcp(2));
    for (at, byte) in [(12, 0), (12, 127), (12, 224), (12, 255), (16, 127), (16, 0)] {
        let mut bogon = packet.clone();
        bogon[at] = byte;
        assert_eq!(seen(&ethernet(0x0800, &bogon)), Err(Cause::Bogon), "{at} {byte}");
    }
    let mut land = packet;
    land.copy_within(12..16, 16);
    assert_eq!(seen(&ethernet(0x0800, &land)), Err(Cause::Land));
    let mut land = v6(TCP, &tcp(2));
    land.copy_within(8..24, 24);
    assert_eq!(seen(&ethernet(0x86dd, &land)), Err(Cause::Land));
    let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1];
    for source in [[0; 16], [0xff; 16], mapped] {
        assert_eq!(payload_of(&ethernet(0x86dd, &v6_from(source, TCP, 64, &tcp(2)))), Err(Cause::Bogon));
    }
}

#[test]
fn icmp_is_judged_by_type_and_neighbours_by_their_distance() {
    let icmp = |kind: u8| payload_of(&ethernet(0x0800, &v4(1, &[], 0, &[kind, 0, 0, 0, 0, 0, 0, 0])));
    for kind in [0, 8] {
        assert_eq!(icmp(kind), Ok(Payload::Icmp));
    }
    for kind in [5, 9, 13, 17] {
        assert_eq!(icmp(kind), Err(Cause::IcmpType));
    }
    let source = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];
    let icmpv6 = |from, kind: u8, hops| {
        payload_of(&ethernet(0x86dd, &v6_from(from, 58, hops, &[kind, 0, 0, 0, 0, 0, 0, 0])))
    };
    assert_eq!(icmpv6(source, 2, 64), Err(Cause::IcmpQuote));
    assert_eq!(icmpv6(source, 128, 64), Ok(Payload::Icmp));
    assert_eq!(icmpv6(source, 137, 255), Err(Cause::IcmpType));
    assert_eq!(icmpv6(source, 135, 255), Ok(Payload::Neighbour));
    assert_eq!(icmpv6(source, 136, 254), Err(Cause::NeighbourFar));
    // Duplicate address detection asks without an address, RFC 4862.
    assert_eq!(icmpv6([0; 16], 135, 255), Ok(Payload::Neighbour));
    // Each ICMP belongs to its own IP.
    assert_eq!(
        payload_of(&ethernet(0x86dd, &v6(1, &[8, 0, 0, 0, 0, 0, 0, 0]))),
        Ok(Payload::Other { protocol: 1 })
    );
}

#[test]
fn port_zero_is_nobodys() {
    let mut segment = tcp(2);
    segment[2..4].fill(0);
    assert_eq!(payload_of(&ethernet(0x0800, &v4(TCP, &[], 0, &segment))), Err(Cause::PortZero));
}

/// Accepts everything that has ports.
struct Open;

impl Lookup for Open {
    fn is_management(&self) -> bool {
        false
    }

    fn is_banned(&self, _: &Addresses) -> bool {
        false
    }

    fn rule(&self, _: &Addresses, protocol: u8, _: u16) -> Option<Action> {
        matches!(protocol, TCP | UDP).then_some(Action::Accept)
    }

    fn continues(&self, _: &Packet) -> Cause {
        Cause::RuleAccepts
    }

    fn is_ours(&self, _: &Packet) -> bool {
        false
    }
}

/// Reads like a slice and remembers whether anything behind the frame was asked for as if it were there.
struct Strict<'a>(&'a [u8]);

impl Frame for Strict<'_> {
    fn length(&self) -> u32 {
        self.0.length()
    }

    fn read<const N: usize>(&self, at: u32) -> Option<[u8; N]> {
        // A length field is 16 bits, so no walk can get further than that and the headers before it.
        assert!(at < 70_000, "{at}");
        self.0.read(at)
    }
}

fn frames() -> impl Strategy<Value = Vec<u8>> {
    let any_bytes = proptest::collection::vec(any::<u8>(), 0..200);
    let valid = prop_oneof![
        Just(ethernet(0x0800, &v4(TCP, &[], 0, &tcp(2)))),
        Just(ethernet(0x0800, &v4(UDP, &[1; 8], 0, &udp(b"payload")))),
        Just(ethernet(
            0x86dd,
            &v6(0, &[&[60, 0, 0, 0, 0, 0, 0, 0][..], &[TCP, 0, 0, 0, 0, 0, 0, 0], &tcp(2)].concat())
        )),
        Just(ethernet(0x86dd, &v6(44, &[&[UDP, 0, 0, 9, 0, 0, 0, 1][..], &udp(b"payload")].concat()))),
    ];
    let changes = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
    let changed = (valid, changes, any::<prop::sample::Index>()).prop_map(|(mut frame, changes, cut)| {
        for (index, byte) in changes {
            let at = index.index(frame.len());
            frame[at] = byte;
        }
        let length = cut.index(frame.len() * 4);
        frame.truncate(length);
        frame
    });
    prop_oneof![any_bytes, changed]
}

proptest! {
    #[test]
    fn any_bytes_have_a_verdict_and_what_passes_is_whole(frame in frames()) {
        let cause = verdict(&Strict(&frame), &Open).cause;
        if cause == Cause::RuleAccepts {
            let shorter = verdict(&Strict(&frame[..frame.len().min(33)]), &Open);
            prop_assert_ne!(shorter.cause, Cause::RuleAccepts);
        }
    }

    #[test]
    fn cutting_a_frame_never_opens_it(frame in frames(), cut in any::<prop::sample::Index>()) {
        let whole = verdict(frame.as_slice(), &Open).cause;
        let part = verdict(&frame[..cut.index(frame.len() + 1)], &Open).cause;
        if part == Cause::RuleAccepts {
            prop_assert_eq!(whole, Cause::RuleAccepts);
        }
    }

    #[test]
    fn a_gate_turns_away_first_segments_and_datagrams_and_nothing_else(frame in frames()) {
        match (walk(frame.as_slice()), walk_past(frame.as_slice(), &Shut)) {
            (Ok(Seen::Ip(packet)), Err(cause)) => {
                prop_assert_eq!(cause, Cause::NoRule);
                let begins = packet.kind == Kind::Tcp && packet.flags.opens();
                prop_assert!(!packet.is_first && (begins || packet.kind == Kind::Udp), "{packet:?}");
            }
            (Ok(Seen::Ip(packet)), Ok(same)) => {
                let begins = packet.kind == Kind::Tcp && packet.flags.opens();
                prop_assert!(packet.is_first || !(begins || packet.kind == Kind::Udp), "{packet:?}");
                prop_assert_eq!(same, Seen::Ip(packet));
            }
            (open, shut) => prop_assert_eq!(open, shut),
        }
    }
}

/// No port is open.
struct Shut;

impl Gate for Shut {
    fn turns_away(&self, _: Protocol, _: u16) -> bool {
        true
    }
}
