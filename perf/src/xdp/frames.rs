//! Frames for the generator: junk of three kinds, with checksums that are right.

use std::net::SocketAddrV4;

use super::assembly::Vary;

pub(super) const SOURCE: [u8; 4] = [198, 18, 0, 0];

/// What a flood is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Junk {
    /// A SYN.
    Syn,
    /// A datagram.
    Udp,
    /// SYN and FIN at once: a header that no TCP sends, in a packet whose lengths and checksums are right, so that
    /// no contender is spared its rules by the stack.
    Malformed,
}

impl Junk {
    pub(super) const ALL: [Self; 3] = [Self::Syn, Self::Udp, Self::Malformed];

    pub(super) fn id(self) -> &'static str {
        match self {
            Self::Syn => "syn",
            Self::Udp => "udp",
            Self::Malformed => "malformed",
        }
    }

    /// Which of its fields the generator varies.
    pub(super) fn vary(self) -> Vary {
        let (address_complement, port_complement) = match self {
            // The sequence number.
            Self::Syn | Self::Malformed => (38, 40),
            // The first bytes of the payload.
            Self::Udp => (42, 44),
        };
        Vary { address: 28, header_complement: 18, address_complement, port: 34, port_complement }
    }

    /// A frame for a port of `to`.
    pub(super) fn frame(self, macs: Macs, to: [u8; 4], port: u16) -> Vec<u8> {
        let [p0, p1] = port.to_be_bytes();
        let (protocol, mut payload) = match self {
            Self::Syn | Self::Malformed => {
                let flags = if self == Self::Syn { 0x02 } else { 0x03 };
                let fixed = [0, 0, p0, p1, 0, 0, 0, 0, 0, 0, 0, 0, 0x60, flags, 0xfa, 0xf0, 0, 0, 0, 0];
                // One option, the segment size of Ethernet.
                (6, [&fixed[..], &[2, 4, 5, 0xb4], &[0; 2]].concat())
            }
            Self::Udp => (17, [&[0, 0, p0, p1, 0, 26, 0, 0][..], &[0; 18]].concat()),
        };
        // A SYN with one option is 24 bytes long; what the frame holds behind it is padding.
        let length = if protocol == 6 { 24 } else { payload.len() };
        // As if the generator had varied it by nothing.
        let vary = self.vary();
        for field in [vary.address_complement, vary.port_complement] {
            let at = usize::from(field) - 34;
            if let Some(place) = payload.get_mut(at..at + 2) {
                place.copy_from_slice(&[0xff, 0xff]);
            }
        }
        let at = if protocol == 6 { 16 } else { 6 };
        let sum = transport_sum(protocol, to, payload.get(..length).unwrap_or_default());
        if let Some(place) = payload.get_mut(at..at + 2) {
            place.copy_from_slice(&sum);
        }
        ipv4(macs, protocol, to, length, &payload)
    }
}

/// The mark of packets that the generator sends into a flow: a type of service that nobody else uses here.
pub(super) const MARK: u8 = 0x04;

/// A segment without payload that belongs to a connection.
pub(super) fn segment(macs: Macs, from: SocketAddrV4, to: SocketAddrV4) -> Vec<u8> {
    let ([s0, s1], [d0, d1]) = (from.port().to_be_bytes(), to.port().to_be_bytes());
    let mut payload = [s0, s1, d0, d1, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0xfa, 0xf0, 0, 0, 0, 0].to_vec();
    let (source, destination) = (from.ip().octets(), to.ip().octets());
    let sum = complement(sum(&payload) + sum(&source) + sum(&destination) + 6 + 20);
    if let Some(place) = payload.get_mut(16..18) {
        place.copy_from_slice(&sum);
    }
    // The shortest frame of Ethernet.
    payload.extend([0; 6]);
    let mut frame = ipv4(macs, 6, destination, 20, &payload);
    let mut write = |at: usize, bytes: &[u8]| {
        if let Some(place) = frame.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    };
    write(15, &[MARK]);
    write(24, &[0; 2]);
    write(26, &source);
    let sum = complement(self::sum(frame.get(14..34).unwrap_or_default()));
    if let Some(place) = frame.get_mut(24..26) {
        place.copy_from_slice(&sum);
    }
    frame
}

/// Destination and source of Ethernet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Macs {
    pub(super) to: [u8; 6],
    pub(super) from: [u8; 6],
}

fn ipv4(macs: Macs, protocol: u8, to: [u8; 4], length: usize, payload: &[u8]) -> Vec<u8> {
    let [l0, l1] = u16::try_from(20 + length).unwrap_or(u16::MAX).to_be_bytes();
    let mut header = [[0x45, 0, l0, l1, 0xff, 0xff, 0x40, 0, 64, protocol, 0, 0], [0; 12]].concat();
    header.truncate(12);
    header.extend(SOURCE);
    header.extend(to);
    let sum = complement(sum(&header));
    if let Some(place) = header.get_mut(10..12) {
        place.copy_from_slice(&sum);
    }
    [&macs.to[..], &macs.from, &[8, 0], &header, payload].concat()
}

fn transport_sum(protocol: u8, to: [u8; 4], payload: &[u8]) -> [u8; 2] {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    complement(sum(payload) + sum(&SOURCE) + sum(&to) + u32::from(protocol) + length)
}

/// RFC 1071.
fn sum(bytes: &[u8]) -> u32 {
    let pairs = bytes.chunks(2).map(|pair| match *pair {
        [high, low] => u32::from(u16::from_be_bytes([high, low])),
        [high] => u32::from(high) << 8,
        _ => 0,
    });
    pairs.sum()
}

fn complement(sum: u32) -> [u8; 2] {
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    let [_, _, high, low] = (!folded).to_be_bytes();
    [high, low]
}

/// What the generator's program does to a frame, with a given number.
pub(super) fn varied(mut frame: Vec<u8>, vary: Vary, address: [u8; 2], port: [u8; 2]) -> Vec<u8> {
    let complement = |bytes: [u8; 2]| bytes.map(|byte| !byte);
    for (at, bytes) in [
        (vary.address, address),
        (vary.header_complement, complement(address)),
        (vary.address_complement, complement(address)),
        (vary.port, port),
        (vary.port_complement, complement(port)),
    ] {
        let at = usize::from(at);
        if let Some(place) = frame.get_mut(at..at + 2) {
            place.copy_from_slice(&bytes);
        }
    }
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACS: Macs = Macs { to: [2; 6], from: [4; 6] };
    const TO: [u8; 4] = [203, 0, 113, 1];

    fn is_right(frame: &[u8]) -> bool {
        let (header, rest) = frame[14..].split_at(20);
        let length = usize::from(u16::from_be_bytes([header[2], header[3]])) - 20;
        let payload = &rest[..length];
        let pseudo = sum(&header[12..20]) + u32::from(header[9]) + u32::try_from(length).unwrap();
        complement(sum(header)) == [0, 0] && complement(sum(payload) + pseudo) == [0, 0]
    }

    #[test]
    fn a_segment_of_a_flow_is_right() {
        let frame = segment(MACS, "203.0.113.10:50000".parse().unwrap(), "203.0.113.1:443".parse().unwrap());
        assert!(is_right(&frame) && frame.len() == 60);
    }

    #[test]
    fn checksums_are_right_whatever_the_source() {
        for junk in Junk::ALL {
            let frame = junk.frame(MACS, TO, 9_999);
            assert_eq!(frame.len(), 60, "{junk:?}");
            for (address, port) in
                [([0, 0], [0, 1]), ([0xff, 0xff], [0xff, 0xff]), ([0x12, 0xf4], [0x83, 0x07])]
            {
                let frame = varied(frame.clone(), junk.vary(), address, port);
                assert!(is_right(&frame), "{junk:?} {address:?} {port:?}");
            }
        }
    }
}
