//! What the walk makes of a packet: addresses, payload, and where its parts lie in the frame.

use core::net::IpAddr;

use crate::flow::FlowKey;

/// An IP packet: what [`Payload`] tells, in fields that are always written. A packet goes from one function of the
/// program to the next by its address, and the verifier refuses what is copied or compared without being written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    pub addresses: Addresses,
    pub layout: Layout,
    pub kind: Kind,
    /// Whether it is the first fragment of a datagram.
    pub is_first: bool,
    /// As in the IP header; 0 where nothing asks for it.
    pub protocol: u8,
    /// Of TCP, otherwise none.
    pub flags: TcpFlags,
    /// Of TCP and UDP, otherwise 0.
    pub ports: Ports,
    /// Bytes behind the header of TCP or UDP.
    pub data: u32,
    /// Of a fragment.
    pub identification: u32,
    /// Of an ICMP error.
    pub quoted: Quoted,
    /// What it is looked up by: its flow, the flow that an error is about, or the datagram of a later fragment.
    pub key: FlowKey,
}

/// What a packet carries; see [`Payload`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Tcp,
    Udp,
    IcmpError,
    Icmp,
    Neighbour,
    Fragment,
    Other,
}

impl Packet {
    /// A place for a packet.
    pub const NONE: Self = Self {
        addresses: Addresses::NONE,
        layout: Layout { ip: 0, transport: 0, end: 0 },
        kind: Kind::Other,
        is_first: false,
        protocol: 0,
        flags: TcpFlags(0),
        ports: Ports::NONE,
        data: 0,
        identification: 0,
        quoted: Quoted { addresses: Addresses::NONE, protocol: Protocol::Tcp, ports: Ports::NONE },
        key: FlowKey::NONE,
    };

    /// `first_of` names the datagram that it is the first fragment of, where it is one.
    #[must_use]
    #[inline(always)]
    pub const fn new(addresses: Addresses, payload: Payload, first_of: Option<u32>, layout: Layout) -> Self {
        let mut packet = Self { addresses, layout, ..Self::NONE };
        match payload {
            Payload::Tcp { ports, flags, data } => {
                (packet.kind, packet.protocol) = (Kind::Tcp, Protocol::Tcp.number());
                (packet.ports, packet.flags, packet.data) = (ports, flags, data);
            }
            Payload::Udp { ports, data } => {
                (packet.kind, packet.protocol) = (Kind::Udp, Protocol::Udp.number());
                (packet.ports, packet.data) = (ports, data);
            }
            Payload::IcmpError { quoted } => (packet.kind, packet.quoted) = (Kind::IcmpError, quoted),
            Payload::Icmp => (packet.kind, packet.protocol) = (Kind::Icmp, addresses.icmp()),
            Payload::Neighbour => packet.kind = Kind::Neighbour,
            Payload::Fragment { protocol, identification } => {
                packet.kind = Kind::Fragment;
                (packet.protocol, packet.identification) = (protocol, identification);
            }
            Payload::Other { protocol } => packet.protocol = protocol,
        }
        if let Some(identification) = first_of {
            (packet.is_first, packet.identification) = (true, identification);
        }
        packet.key = match packet.kind {
            Kind::Tcp | Kind::Udp => FlowKey::of_ports(&packet.addresses, packet.protocol, packet.ports),
            Kind::IcmpError => FlowKey::answered_by(&packet.quoted),
            Kind::Fragment => FlowKey::of_fragments(&packet),
            Kind::Icmp | Kind::Neighbour | Kind::Other => FlowKey::NONE,
        };
        packet
    }

    /// Whether it is a segment of a connection that has begun.
    #[must_use]
    #[inline(always)]
    pub const fn goes_on(&self) -> bool {
        matches!(self.kind, Kind::Tcp) && !self.flags.opens()
    }

    /// Whether it is TCP or UDP.
    #[must_use]
    #[inline(always)]
    pub const fn has_ports(&self) -> bool {
        matches!(self.kind, Kind::Tcp | Kind::Udp)
    }
}

/// Where the parts of a packet lie in its frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// The IP header.
    pub ip: u32,
    /// What follows the IP header and its extensions.
    pub transport: u32,
    /// The end of the packet; a short frame has padding behind it.
    pub end: u32,
}

/// Source and destination. All words are written in either family: what is compared and copied has no gaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    pub family: Family,
    /// An IPv4 address is the first word, the others are 0. Bytes are in network order.
    pub source: [u32; 4],
    pub destination: [u32; 4],
}

/// The version of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Addresses {
    const NONE: Self = Self { family: Family::V4, source: [0; 4], destination: [0; 4] };

    #[must_use]
    #[inline(always)]
    pub const fn v4(source: [u8; 4], destination: [u8; 4]) -> Self {
        let source = [u32::from_ne_bytes(source), 0, 0, 0];
        let destination = [u32::from_ne_bytes(destination), 0, 0, 0];
        Self { family: Family::V4, source, destination }
    }

    #[must_use]
    #[inline(always)]
    pub const fn v6(source: [u8; 16], destination: [u8; 16]) -> Self {
        Self { family: Family::V6, source: words(source), destination: words(destination) }
    }

    #[must_use]
    #[inline(always)]
    pub const fn is_v6(&self) -> bool {
        matches!(self.family, Family::V6)
    }

    /// The number of ICMP in this family.
    #[must_use]
    #[inline(always)]
    pub const fn icmp(&self) -> u8 {
        match self.family {
            Family::V4 => 1,
            Family::V6 => 58,
        }
    }

    /// As the other side writes them.
    #[must_use]
    #[inline(always)]
    pub const fn reversed(self) -> Self {
        Self { family: self.family, source: self.destination, destination: self.source }
    }

    #[must_use]
    pub fn source_ip(&self) -> IpAddr {
        self.ip(self.source)
    }

    #[must_use]
    pub fn destination_ip(&self) -> IpAddr {
        self.ip(self.destination)
    }

    /// The 16 bytes of an address.
    #[must_use]
    #[inline(always)]
    pub const fn bytes(words: [u32; 4]) -> [u8; 16] {
        let [a0, a1, a2, a3] = words[0].to_ne_bytes();
        let [b0, b1, b2, b3] = words[1].to_ne_bytes();
        let [c0, c1, c2, c3] = words[2].to_ne_bytes();
        let [d0, d1, d2, d3] = words[3].to_ne_bytes();
        [a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3]
    }

    fn ip(&self, words: [u32; 4]) -> IpAddr {
        match self.family {
            Family::V4 => words[0].to_ne_bytes().into(),
            Family::V6 => Self::bytes(words).into(),
        }
    }
}

/// The words of an address of 16 bytes, in the order of the bytes.
#[inline(always)]
const fn words(address: [u8; 16]) -> [u32; 4] {
    let [a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3] = address;
    [
        u32::from_ne_bytes([a0, a1, a2, a3]),
        u32::from_ne_bytes([b0, b1, b2, b3]),
        u32::from_ne_bytes([c0, c1, c2, c3]),
        u32::from_ne_bytes([d0, d1, d2, d3]),
    ]
}

/// What a packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// `data` bytes follow the header.
    Tcp {
        ports: Ports,
        flags: TcpFlags,
        data: u32,
    },
    Udp {
        ports: Ports,
        data: u32,
    },
    /// An error that quotes a packet with ports, as this machine has sent it.
    IcmpError {
        quoted: Quoted,
    },
    /// An echo, its reply, an error about an echo, multicast listener discovery.
    Icmp,
    Neighbour,
    /// A later fragment of a datagram, by its identification.
    Fragment {
        protocol: u8,
        identification: u32,
    },
    Other {
        protocol: u8,
    },
}

/// Source and destination ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    pub source: u16,
    pub destination: u16,
}

impl Ports {
    const NONE: Self = Self { source: 0, destination: 0 };

    /// As the other side writes them.
    #[must_use]
    #[inline(always)]
    pub const fn reversed(self) -> Self {
        Self { source: self.destination, destination: self.source }
    }
}

/// The packet that an ICMP error is about; its source is this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quoted {
    pub addresses: Addresses,
    pub protocol: Protocol,
    pub ports: Ports,
}

/// The control bits of TCP, RFC 9293 §3.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const ACK: u8 = 0x10;

    #[must_use]
    #[inline(always)]
    pub const fn has(self, bit: u8) -> bool {
        self.0 & bit != 0
    }

    /// The first segment of a connection.
    #[must_use]
    #[inline(always)]
    pub const fn opens(self) -> bool {
        self.0 & (Self::SYN | Self::ACK) == Self::SYN
    }
}

/// A transport with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    pub const ALL: [Self; 2] = [Self::Tcp, Self::Udp];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }

    /// The number in the IP header.
    #[must_use]
    #[inline(always)]
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}
