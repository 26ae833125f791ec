//! The packet walk and the verdict of the kernel side: whatever the frame, no panic, no byte of it invented, and an
//! answer that only what counts can change.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;

use portcullis_ebpf_common::tables::Action;
use portcullis_ebpf_common::{
    Addresses, Cause, Decision, Effect, FlowKey, Frame, Hit, Kind, Lookup, Packet, Seen, Verdict, judge,
    verdict, walk as walk_frame,
};

/// Bytes of an input before its frame: two with answers of the tables, where the frame is cut, the port that has a
/// rule.
const HEAD: usize = 5;
/// A walk reads each header at most twice: Ethernet, two tags, IP in three parts, eight extensions, transport, and
/// the packet that an ICMP error quotes.
const READS_MAX: u32 = 24;
const MACS: usize = 12;

/// For any bytes: a head, then a frame.
pub fn walk(bytes: &[u8]) {
    let Some((head, frame)) = bytes.split_at_checked(HEAD) else { return };
    let &[answers, more, cut, port_high, port_low] = head else { return };
    let port = u16::from_be_bytes([port_high, port_low]);
    let answers = u16::from_be_bytes([more, answers]);
    let seen = walk_watched(frame);
    if let Ok(Seen::Ip(packet)) = &seen {
        lies_in_its_frame(packet, frame);
    }
    nothing_behind_the_packet_counts(frame, usize::from(cut), seen);
    neither_addresses_of_the_link_nor_tags_count(frame, seen);
    match seen {
        Ok(Seen::Ip(packet)) => {
            judged_by_the_tables(&packet, &Tables::new(answers, port));
            judged_by_the_tables(&packet, &Tables::new(0, port));
        }
        Ok(Seen::Arp | Seen::LinkControl) | Err(_) => {
            no_table_counts(frame, seen, &Tables::new(answers, port))
        }
    }
    let tables = Tables::new(answers, port);
    assert_eq!(verdict(frame, &tables), verdict(frame, &tables), "the same frame has two verdicts");
}

/// A frame that notes how it is read.
struct Watched<'a> {
    bytes: &'a [u8],
    reads: Cell<u32>,
}

impl Frame for Watched<'_> {
    fn length(&self) -> u32 {
        self.bytes.length()
    }

    fn read<const N: usize>(&self, at: u32) -> Option<[u8; N]> {
        self.reads.set(self.reads.get() + 1);
        // Nothing can be at a place that only an overflow reaches.
        assert!(at <= 14 + 2 * 4 + 65_535 + 2 * 8 * 256, "a read at {at}");
        self.bytes.read(at)
    }
}

fn walk_watched(bytes: &[u8]) -> Result<Seen, Cause> {
    let frame = Watched { bytes, reads: Cell::new(0) };
    let seen = walk_frame(&frame);
    assert!(frame.reads.get() <= READS_MAX, "{} reads", frame.reads.get());
    assert_eq!(seen, walk_frame(bytes), "the walk depends on more than the frame");
    assert!(seen.is_ok() || seen.is_err_and(|cause| cause.verdict() == Verdict::Drop));
    seen
}

/// What the walk says of a packet stands in the frame, inside the packet's own end.
fn lies_in_its_frame(packet: &Packet, frame: &[u8]) {
    let [ip, transport, end] = [packet.layout.ip, packet.layout.transport, packet.layout.end]
        .map(|at| usize::try_from(at).expect("a place in a frame fits"));
    assert!(ip + 20 <= transport && transport <= end && end <= frame.len(), "{:?}", packet.layout);
    let header = frame.get(ip..).expect("it lies in the frame");
    let (source, destination): (IpAddr, IpAddr) = if packet.addresses.is_v6() {
        let pair: [u8; 32] = *header.get(8..).and_then(|rest| rest.first_chunk()).expect("a header of IPv6");
        let (source, destination) = pair.split_at(16);
        let ip = |bytes: &[u8]| <[u8; 16]>::try_from(bytes).expect("half of 32 bytes").into();
        (ip(source), ip(destination))
    } else {
        let pair: [u8; 8] = *header.get(12..).and_then(|rest| rest.first_chunk()).expect("a header of IPv4");
        let [s0, s1, s2, s3, d0, d1, d2, d3] = pair;
        ([s0, s1, s2, s3].into(), [d0, d1, d2, d3].into())
    };
    assert_eq!((packet.addresses.source_ip(), packet.addresses.destination_ip()), (source, destination));
    assert_ne!(source, destination, "a land attack");
    assert!(!source.is_loopback() && !source.is_multicast() && !destination.is_loopback(), "a bogon");
    if packet.has_ports() {
        let here =
            frame.get(transport..end).and_then(|rest| rest.first_chunk()).expect("ports in the packet");
        let [s0, s1, d0, d1] = *here;
        let ports = (u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1]));
        assert_eq!((packet.ports.source, packet.ports.destination), ports);
        assert!(ports.0 != 0 && ports.1 != 0, "port 0");
        assert!(packet.is_first || transport + usize::try_from(packet.data).unwrap_or(usize::MAX) <= end);
        let (addresses, protocol, parts) = packet.key.parts().expect("a flow's key");
        assert_eq!((addresses, protocol.number(), parts), (packet.addresses, packet.protocol, packet.ports));
    }
    match packet.kind {
        Kind::Fragment => assert_eq!(packet.key, FlowKey::of_fragments(packet)),
        Kind::IcmpError => assert_eq!(packet.key, FlowKey::answered_by(&packet.quoted)),
        Kind::Tcp | Kind::Udp | Kind::Icmp | Kind::Neighbour | Kind::Other => {}
    }
}

/// More bytes behind a frame make a whole packet of half a one, and change nothing else.
fn nothing_behind_the_packet_counts(frame: &[u8], cut: usize, whole: Result<Seen, Cause>) {
    let early = walk_watched(frame.get(..cut).unwrap_or(frame));
    match early {
        Ok(_) => assert_eq!(early, whole, "padding counts"),
        // Too short for what it claims to be.
        Err(Cause::Truncated | Cause::IpLength) => {}
        Err(cause) => {
            assert!(whole.is_err(), "half a frame was dropped ({}), and the whole one not", cause.label())
        }
    }
    if let Ok(Seen::Ip(packet)) = whole {
        let end = usize::try_from(packet.layout.end).expect("a place in a frame fits");
        assert_eq!(
            walk_watched(frame.get(..end).expect("the end lies in the frame")),
            whole,
            "padding counts"
        );
        assert!(walk_watched(frame.get(..end - 1).unwrap_or_default()).is_err(), "a cut packet passes");
    }
}

fn neither_addresses_of_the_link_nor_tags_count(frame: &[u8], seen: Result<Seen, Cause>) {
    let Some((macs, rest)) = frame.split_at_checked(MACS) else { return };
    let others: Vec<u8> = macs.iter().map(|byte| !byte).chain(rest.iter().copied()).collect();
    assert_eq!(walk_watched(&others), seen, "addresses of the link count");
    if rest.len() < 2 {
        return;
    }
    let tagged = [macs, &[0x81, 0x00, 0x00, 0x07], rest].concat();
    match (walk_watched(&tagged), seen) {
        (Err(Cause::VlanDepth), _) => assert!(is_tag(rest) && is_tag(rest.get(4..).unwrap_or_default())),
        (Ok(Seen::Ip(inner)), Ok(Seen::Ip(outer))) => {
            let moved = Packet { layout: outer.layout, ..inner };
            assert_eq!(moved, outer, "a tag counts");
            assert_eq!(inner.layout.transport, outer.layout.transport + 4);
        }
        // With a second tag where there was one and nothing behind it, the frame is too short in another place.
        (inner, outer) => assert_eq!(inner, outer, "a tag counts"),
    }
}

fn is_tag(ethertype: &[u8]) -> bool {
    matches!(ethertype, [0x81, 0x00, ..] | [0x88, 0xa8, ..] | [0x91, 0x00, ..])
}

/// What is no packet, or a malformed one, has its verdict from the walk alone.
fn no_table_counts(frame: &[u8], seen: Result<Seen, Cause>, tables: &Tables) {
    let cause = match seen {
        Ok(Seen::Arp) => Cause::Arp,
        Ok(Seen::LinkControl) => Cause::LinkControl,
        Ok(Seen::Ip(_)) => return,
        Err(cause) => cause,
    };
    assert_eq!(verdict(frame, tables), Decision::from(cause));
    assert!(tables.asked.borrow().is_empty(), "a rule was asked for what is no packet");
}

/// Whatever passes has a reason in the tables, and whatever is dropped for one of them too.
fn judged_by_the_tables(packet: &Packet, tables: &Tables) {
    let Decision { cause, effect, .. } = judge(packet, tables);
    assert_eq!(cause.verdict() == Verdict::Drop, effect == Effect::Drop);
    let tcp_begins = packet.kind == Kind::Tcp && packet.flags.opens();
    let opened = tables.rules.is_some_and(|rule| rule == Action::Accept) && tables.named(packet);
    let begins = opened && tcp_begins && !tables.pressure;
    let holds = match cause {
        Cause::Flow | Cause::Steered => {
            tables.flow && packet.goes_on() && tables.steer == (cause == Cause::Steered)
        }
        Cause::Forwarded => {
            (tables.forwarded && packet.kind == Kind::Tcp)
                || (begins && tables.service == Some(Cause::Forwarded))
        }
        Cause::ForwardNoServer => begins && tables.service == Some(Cause::ForwardNoServer),
        Cause::ForwardedError => tables.forwards && !tables.live && packet.kind == Kind::IcmpError,
        Cause::Banned => tables.banned && !tables.management,
        Cause::RuleAccepts if packet.kind == Kind::Tcp => {
            (begins && tables.service.is_none()) || (opened && tables.ours)
        }
        Cause::RuleAccepts => opened,
        Cause::RuleDrops => tables.rules == Some(Action::Drop) && tables.named(packet),
        Cause::NoFlow if tcp_begins => opened && tables.pressure,
        Cause::NoFlow => opened && packet.kind == Kind::Tcp && !tables.ours,
        Cause::OwnSocket => tables.ours && packet.has_ports() && !tables.named(packet) && !tcp_begins,
        Cause::NoRule => packet.has_ports() && !tables.named(packet) && (!tables.ours || tcp_begins),
        Cause::IcmpError => tables.live && packet.kind == Kind::IcmpError,
        Cause::IcmpUnrelated => !tables.live && !tables.forwards && packet.kind == Kind::IcmpError,
        Cause::Fragment => tables.remembers && packet.kind == Kind::Fragment,
        Cause::FragmentUnknown => !tables.remembers && packet.kind == Kind::Fragment,
        Cause::Icmp => packet.kind == Kind::Icmp,
        Cause::Neighbour => packet.kind == Kind::Neighbour,
        Cause::OtherProtocol => packet.kind == Kind::Other,
        // The walk alone finds these, and this packet has come through it.
        _ => false,
    };
    let forwarded = matches!(effect, Effect::Forward | Effect::ForwardError);
    assert_eq!(forwarded, matches!(cause, Cause::Forwarded | Cause::ForwardedError));
    assert_eq!(effect == Effect::Steer, cause == Cause::Steered);
    assert!(holds, "{} for {packet:?} with {tables:?}", cause.label());
    // Those of a forwarded flow go on alone: what follows them has no ports to find its flow by.
    let goes_on = cause == Cause::Forwarded && tables.forwarded;
    let first_passes = packet.is_first && cause.verdict() == Verdict::Pass && !goes_on;
    assert_eq!(tables.remembered.get().is_some(), first_passes, "first fragments that pass are remembered");
}

/// Tables that know one port.
#[derive(Debug)]
struct Tables {
    management: bool,
    flow: bool,
    banned: bool,
    rules: Option<Action>,
    ours: bool,
    live: bool,
    remembers: bool,
    /// The packet is one of a forwarded flow.
    forwarded: bool,
    /// The port is that of a forwarded service, which has a server or has none.
    service: Option<Cause>,
    /// The quoted packet is one of a forwarded flow.
    forwards: bool,
    /// No connection may begin now.
    pressure: bool,
    steer: bool,
    port: u16,
    asked: RefCell<Vec<(u8, u16)>>,
    remembered: Cell<Option<FlowKey>>,
}

impl Tables {
    fn new(answers: u16, port: u16) -> Self {
        let bit = |place: u8| answers >> place & 1 == 1;
        let service = if bit(10) { Cause::Forwarded } else { Cause::ForwardNoServer };
        let rule = if bit(4) { Action::Accept } else { Action::Drop };
        Self {
            management: bit(0),
            flow: bit(1),
            banned: bit(2),
            rules: bit(3).then_some(rule),
            ours: bit(5),
            live: bit(6),
            remembers: bit(7),
            forwarded: bit(8),
            service: bit(9).then_some(service),
            forwards: bit(11),
            pressure: bit(12),
            steer: bit(13),
            port,
            asked: RefCell::default(),
            remembered: Cell::default(),
        }
    }

    /// Whether the rule, if there is one, is for this packet.
    fn named(&self, packet: &Packet) -> bool {
        self.rules.is_some() && (if packet.has_ports() { packet.ports.destination } else { 0 }) == self.port
    }
}

impl Lookup for Tables {
    fn is_management(&self) -> bool {
        self.management
    }

    fn flow(&self, _: &Packet) -> Option<Hit> {
        self.flow.then_some(Hit { steer: self.steer.then_some(1) })
    }

    fn forwarded(&self, _: &Packet) -> Option<Cause> {
        self.forwarded.then_some(Cause::Forwarded)
    }

    fn forward(&self, _: &Packet) -> Option<Cause> {
        self.service
    }

    fn forwards(&self, _: &Packet) -> bool {
        self.forwards
    }

    fn open(&self, _: &Packet) -> Cause {
        if self.pressure { Cause::NoFlow } else { Cause::RuleAccepts }
    }

    fn is_banned(&self, _: &Addresses) -> bool {
        self.banned
    }

    fn rule(&self, _: &Addresses, protocol: u8, port: u16) -> Option<Action> {
        self.asked.borrow_mut().push((protocol, port));
        self.rules.filter(|_| port == self.port)
    }

    fn continues(&self, _: &Packet) -> Cause {
        if self.ours { Cause::RuleAccepts } else { Cause::NoFlow }
    }

    fn is_ours(&self, _: &Packet) -> bool {
        self.ours
    }

    fn is_live(&self, _: &Packet) -> bool {
        self.live
    }

    fn remember(&self, fragments: &FlowKey) {
        self.remembered.set(Some(*fragments));
    }

    fn remembers(&self, _: &FlowKey) -> bool {
        self.remembers
    }
}
