//! What a capture keeps of a frame: its headers, and nothing of what it carries.
//!
//! Kept are the link header with VLAN tags, ARP, IP headers with options and extensions, the headers of TCP (with options)
//! and UDP, eight bytes of every ICMP message, neighbour discovery whole, and of the packet that an ICMP error
//! quotes the same and at most eight bytes of its TCP or UDP header. Of anything else the headers before it.

use etherparse::{LaxNetSlice, LaxSlicedPacket, TransportSlice};

const ETHERNET: usize = 14;
const UDP_HEADER: usize = 8;
const ICMP_HEADER: usize = 8;
/// Of TCP and UDP alike: ports, and sequence number or length and checksum.
const QUOTED_HEADER: usize = 8;
/// Neighbour discovery and multicast listeners carry addresses only.
const DISCOVERY_MAX: usize = 128;

/// The part of a frame that is kept.
pub(super) fn headers(frame: &[u8]) -> &[u8] {
    let end = match LaxSlicedPacket::from_ethernet(frame) {
        Ok(packet) => end_of(frame, &packet),
        Err(_) => ETHERNET,
    };
    frame.get(..end).unwrap_or(frame)
}

/// Where the headers of a packet end, counted from the beginning of its frame.
fn end_of(frame: &[u8], packet: &LaxSlicedPacket<'_>) -> usize {
    let behind = |part: &[u8], length: usize| offset(frame, part) + length.min(part.len());
    match &packet.transport {
        Some(TransportSlice::Tcp(tcp)) => behind(tcp.slice(), tcp.header_slice().len()),
        Some(TransportSlice::Udp(udp)) => behind(udp.slice(), UDP_HEADER),
        Some(TransportSlice::Icmpv4(icmp)) => match icmp.type_u8() {
            3 | 4 | 5 | 11 | 12 => behind(icmp.slice(), ICMP_HEADER + quoted(rest(icmp.slice()))),
            _ => behind(icmp.slice(), ICMP_HEADER),
        },
        Some(TransportSlice::Icmpv6(icmp)) => match icmp.type_u8() {
            1..=4 => behind(icmp.slice(), ICMP_HEADER + quoted(rest(icmp.slice()))),
            130..=137 | 143 => behind(icmp.slice(), DISCOVERY_MAX),
            _ => behind(icmp.slice(), ICMP_HEADER),
        },
        Some(_) | None => end_of_network(frame, packet),
    }
}

/// Where there is no transport header: a later fragment, one of another protocol, or one that is cut off.
fn end_of_network(frame: &[u8], packet: &LaxSlicedPacket<'_>) -> usize {
    match &packet.net {
        Some(LaxNetSlice::Arp(arp)) => offset(frame, arp.slice()) + arp.slice().len(),
        Some(net) => net.ip_payload_ref().map_or(ETHERNET, |payload| offset(frame, payload.payload)),
        None => packet.ether_payload().map_or(ETHERNET, |payload| offset(frame, payload.payload)),
    }
}

fn rest(icmp: &[u8]) -> &[u8] {
    icmp.get(ICMP_HEADER..).unwrap_or_default()
}

/// How much is kept of the packet that an error quotes.
fn quoted(packet: &[u8]) -> usize {
    let Ok(parsed) = LaxSlicedPacket::from_ip(packet) else { return 0 };
    let end = end_of_network(packet, &parsed);
    let has_ports = parsed.ip_payload().is_some_and(|payload| matches!(payload.ip_number.0, 6 | 17));
    let first = parsed.ip_payload().is_some_and(|payload| !payload.fragmented);
    if has_ports && first { (end + QUOTED_HEADER).min(packet.len()) } else { end }
}

/// Where a part of a buffer begins in it.
fn offset(whole: &[u8], part: &[u8]) -> usize {
    part.as_ptr().addr().saturating_sub(whole.as_ptr().addr()).min(whole.len())
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    use super::*;

    const SECRET: &[u8] = b"what was typed";

    fn holds_secret(bytes: &[u8]) -> bool {
        bytes.windows(4).any(|window| SECRET.windows(4).any(|secret| secret == window))
    }

    fn v4() -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
        PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([192, 0, 2, 1], [192, 0, 2, 2], 64)
    }

    #[test]
    fn of_tcp_and_udp_the_headers_are_kept_and_not_a_byte_behind_them() {
        let mut tcp = Vec::new();
        let options = [etherparse::TcpOptionElement::MaximumSegmentSize(1460)];
        v4().tcp(5000, 443, 1, 1000).options(&options).unwrap().write(&mut tcp, SECRET).unwrap();
        assert!(holds_secret(&tcp));
        assert_eq!(headers(&tcp).len(), 14 + 20 + 24);
        let mut udp = Vec::new();
        PacketBuilder::ethernet2([2; 6], [4; 6])
            .single_vlan(7.try_into().unwrap())
            .ipv6([1; 16], [2; 16], 64)
            .udp(5000, 443)
            .write(&mut udp, SECRET)
            .unwrap();
        assert_eq!(headers(&udp).len(), 18 + 40 + 8);
        assert!(!holds_secret(headers(&tcp)) && !holds_secret(headers(&udp)));
    }

    #[test]
    fn of_an_echo_the_header_is_kept() {
        let mut echo = Vec::new();
        v4().icmpv4_echo_request(1, 2).write(&mut echo, SECRET).unwrap();
        assert_eq!(headers(&echo).len(), 14 + 20 + 8);
    }

    #[test]
    fn of_what_an_error_quotes_the_ports_are_kept() {
        let mut inner = Vec::new();
        PacketBuilder::ipv4([192, 0, 2, 2], [192, 0, 2, 1], 64)
            .tcp(3389, 5000, 1, 1000)
            .write(&mut inner, SECRET)
            .unwrap();
        let mut error = Vec::new();
        v4().icmpv4_raw(3, 1, [0; 4]).write(&mut error, &inner).unwrap();
        assert!(holds_secret(&error));
        assert_eq!(headers(&error).len(), 14 + 20 + 8 + 20 + 8);
        // Routers of old quote eight bytes, others less.
        let short = error.get(..14 + 20 + 8 + 20 + 4).unwrap();
        assert_eq!(headers(short).len(), short.len());
    }

    #[test]
    fn of_later_fragments_and_unknown_protocols_the_ip_header_is_kept() {
        let mut fragment = Vec::new();
        v4().udp(1, 2).write(&mut fragment, SECRET).unwrap();
        fragment[14 + 6..14 + 8].copy_from_slice(&[0, 3]);
        assert_eq!(headers(&fragment).len(), 14 + 20);
        fragment[14 + 6..14 + 8].copy_from_slice(&[0, 0]);
        fragment[14 + 9] = 47;
        assert_eq!(headers(&fragment).len(), 14 + 20);
        let mut strange = vec![2; 12];
        strange.extend([0x88, 0xb5]);
        strange.extend_from_slice(SECRET);
        assert_eq!(headers(&strange).len(), 14);
    }

    proptest! {
        #[test]
        fn whatever_comes_a_payload_of_tcp_never_stays(
            payload in proptest::collection::vec(any::<u8>(), 0..200),
            cut in 0_usize..300,
        ) {
            let mut frame = Vec::new();
            v4().tcp(1, 2, 3, 4).write(&mut frame, &payload).unwrap();
            let frame = frame.get(..cut.min(frame.len())).unwrap();
            prop_assert!(headers(frame).len() <= 54);
        }

        #[test]
        fn noise_is_cut_without_a_fault(noise in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(headers(&noise).len() <= noise.len());
        }
    }
}
