//! What may leave: a judgement of what begins something new, for sockets and for packets.
//!
//! Answers pass: whoever asked has been judged when the question came in. Rows are found by protocol and port, then
//! by protocol, then for all; each of these has been given every row that is about it, in order, so the first that
//! is there has the whole answer.

use crate::cause::{Cause, Verdict};
use crate::frame::Frame;
use crate::packet::{Kind, Packet};
use crate::rules::{EGRESS, RuleKey};
use crate::tables::Action;

/// What the judgement asks.
pub trait Outgoing {
    /// What the rows say about the packet's destination. `None`: nothing.
    fn rule(&self, packet: &Packet) -> Option<Action>;

    /// Whether only what a row accepts may leave.
    fn is_closed(&self) -> bool;

    /// Whether the port from which a datagram leaves is open to its destination, so that it is an answer.
    fn is_answer(&self, packet: &Packet) -> bool;
}

/// Where the rows about a destination are, in this order.
#[must_use]
#[inline(always)]
pub const fn egress_keys(protocol: u8, port: u16) -> [RuleKey; 3] {
    [RuleKey::new(EGRESS, protocol, port), RuleKey::new(EGRESS, protocol, 0), RuleKey::new(EGRESS, 0, 0)]
}

/// What becomes of a connection or a datagram that begins, by what the rows say about its destination.
#[must_use]
#[inline(always)]
pub const fn dial(rule: Option<Action>, closed: bool) -> Cause {
    match rule {
        Some(Action::Drop) => Cause::EgressDrops,
        Some(Action::Accept | Action::Limit) => Cause::EgressAccepts,
        None if closed => Cause::EgressClosed,
        None => Cause::EgressOpen,
    }
}

/// What becomes of a frame that leaves, by what the walk has made of it.
#[inline(always)]
pub fn leave<F: Frame + ?Sized, O: Outgoing>(
    frame: &F,
    packet: &Packet,
    refused: Option<Cause>,
    tables: &O,
) -> Cause {
    let Some(cause) = refused else { return judged(packet, tables) };
    if cause.verdict() == Verdict::Pass || !tables.is_closed() || !could_hide(cause) {
        return Cause::Leaves;
    }
    if matches!(cause, Cause::Bogon) && asks_for_an_address(frame) { Cause::Leaves } else { cause }
}

#[inline(always)]
fn judged<O: Outgoing>(packet: &Packet, tables: &O) -> Cause {
    let begins = match packet.kind {
        Kind::Tcp => packet.flags.opens(),
        Kind::Udp => !tables.is_answer(packet),
        Kind::Other => true,
        Kind::Icmp | Kind::IcmpError | Kind::Neighbour | Kind::Fragment => false,
    };
    if begins { dial(tables.rule(packet), tables.is_closed()) } else { Cause::Leaves }
}

/// Whether something new could be begun by a frame that the walk refuses for this. Lengths that contradict each other
/// are refused by whoever gets them, and offloading makes such frames.
#[inline(always)]
const fn could_hide(cause: Cause) -> bool {
    matches!(
        cause,
        Cause::EtherType
            | Cause::VlanDepth
            | Cause::IpHeader
            | Cause::Extension
            | Cause::RoutingHeader
            | Cause::Bogon
            | Cause::FragmentTiny
            | Cause::FragmentOverlap
            | Cause::TcpHeader
            | Cause::TcpFlags
            | Cause::PortZero
    )
}

/// From no address to everybody: DHCP.
#[inline(always)]
fn asks_for_an_address<F: Frame + ?Sized>(frame: &F) -> bool {
    frame.read::<2>(12) == Some([0x08, 0x00])
        && frame.read::<8>(26) == Some([0, 0, 0, 0, 255, 255, 255, 255])
        && frame.read::<1>(23) == Some([17])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{Addresses, Layout, Payload, Ports, TcpFlags};

    struct Tables {
        rule: Option<Action>,
        closed: bool,
        answer: bool,
    }

    impl Outgoing for Tables {
        fn rule(&self, _: &Packet) -> Option<Action> {
            self.rule
        }

        fn is_closed(&self) -> bool {
            self.closed
        }

        fn is_answer(&self, _: &Packet) -> bool {
            self.answer
        }
    }

    const CLOSED: Tables = Tables { rule: None, closed: true, answer: false };
    const PORTS: Ports = Ports { source: 50_000, destination: 80 };

    fn tcp(flags: u8) -> Payload {
        Payload::Tcp { ports: PORTS, flags: TcpFlags(flags), data: 0 }
    }

    fn cause(payload: Payload, tables: &Tables) -> Cause {
        let addresses = Addresses::v4([192, 0, 2, 1], [192, 0, 2, 2]);
        leave(&[0_u8; 64][..], &Packet::new(addresses, payload, None, Layout::default()), None, tables)
    }

    #[test]
    fn what_begins_is_judged_by_the_rows_and_what_goes_on_is_not() {
        for (rule, closed, expected) in [
            (None, false, Cause::EgressOpen),
            (None, true, Cause::EgressClosed),
            (Some(Action::Accept), true, Cause::EgressAccepts),
            (Some(Action::Drop), false, Cause::EgressDrops),
        ] {
            let tables = Tables { rule, closed, answer: false };
            for payload in
                [tcp(TcpFlags::SYN), Payload::Udp { ports: PORTS, data: 1 }, Payload::Other { protocol: 47 }]
            {
                assert_eq!(cause(payload, &tables), expected);
            }
            for payload in [
                tcp(TcpFlags::SYN | TcpFlags::ACK),
                tcp(TcpFlags::ACK),
                tcp(TcpFlags::RST),
                Payload::Icmp,
                Payload::Neighbour,
                Payload::Fragment { protocol: 17, identification: 1 },
            ] {
                assert_eq!(cause(payload, &tables), Cause::Leaves);
            }
            let answers = Tables { answer: true, ..tables };
            assert_eq!(cause(Payload::Udp { ports: PORTS, data: 1 }, &answers), Cause::Leaves);
        }
    }

    #[test]
    fn what_cannot_be_judged_leaves_while_the_rules_are_open() {
        let open = Tables { closed: false, ..CLOSED };
        for cause in Cause::ALL {
            let leaves = |tables: &Tables| leave(&[0_u8; 64][..], &Packet::NONE, Some(*cause), tables);
            assert_eq!(leaves(&open), Cause::Leaves);
            assert_eq!(leaves(&CLOSED), if could_hide(*cause) { *cause } else { Cause::Leaves });
        }
    }

    #[test]
    fn a_machine_may_ask_for_its_address() {
        let mut frame = [0; 64];
        frame[12..15].copy_from_slice(&[0x08, 0x00, 0x45]);
        (frame[23], frame[30], frame[31], frame[32], frame[33]) = (17, 255, 255, 255, 255);
        assert_eq!(leave(&frame[..], &Packet::NONE, Some(Cause::Bogon), &CLOSED), Cause::Leaves);
        frame[26] = 127;
        assert_eq!(leave(&frame[..], &Packet::NONE, Some(Cause::Bogon), &CLOSED), Cause::Bogon);
    }

    #[test]
    fn rows_about_a_port_come_before_those_about_all() {
        let keys = egress_keys(6, 443).map(RuleKey::to_bytes);
        assert_eq!(keys, [[0, 6, 1, 0xbb], [0, 6, 0, 0], [0, 0, 0, 0]]);
    }
}
