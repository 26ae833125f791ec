//! The verdict: live flows, then bans, then port rules, then sockets of our own, else drop.
//!
//! Live flows come first: they are most packets, one look finds them, and neither a flood nor the ban of an address
//! that many share may cut them.

use crate::cause::{Cause, Verdict};
use crate::flow::FlowKey;
use crate::frame::Frame;
use crate::packet::{Addresses, Kind, Packet};
use crate::tables::Action;
use crate::walk::{Seen, walk};

/// What becomes of a packet, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    pub cause: Cause,
    pub effect: Effect,
    /// Where [`Effect::Steer`] leads, otherwise 0.
    pub processor: u32,
}

/// What is done with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    Pass,
    Drop,
    /// It passes, on another processor.
    Steer,
    /// The program answers it.
    Answer,
    /// It is rewritten and sent on.
    Forward,
    /// So is the error and what it quotes.
    ForwardError,
}

impl From<Cause> for Decision {
    #[inline(always)]
    fn from(cause: Cause) -> Self {
        let effect = match (cause, cause.verdict()) {
            (Cause::Forwarded, _) => Effect::Forward,
            (Cause::ForwardedError, _) => Effect::ForwardError,
            (_, Verdict::Pass) => Effect::Pass,
            (_, Verdict::Drop) => Effect::Drop,
            (_, Verdict::Answer) => Effect::Answer,
        };
        Self { cause, effect, processor: 0 }
    }
}

/// A flow that was found; its packet has been counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hit {
    /// The other processor that has to handle the packet.
    pub steer: Option<u32>,
}

/// What the verdict asks. In the kernel these are maps and the socket lookup. The answers that are given here are
/// those of a machine without flows, connections and pressure.
pub trait Lookup {
    /// Whether the packet came in where administrators come from: no ban holds there.
    fn is_management(&self) -> bool;

    /// The flow that a packet belongs to; counts the packet there.
    fn flow(&self, packet: &Packet) -> Option<Hit> {
        let _ = packet;
        None
    }

    /// What becomes of a packet of a flow that is forwarded, which is counted there; `None` where it is of none.
    fn forwarded(&self, packet: &Packet) -> Option<Cause> {
        let _ = packet;
        None
    }

    /// What becomes of a first segment for a service that is forwarded; `None` where it is for none.
    fn forward(&self, packet: &Packet) -> Option<Cause> {
        let _ = packet;
        None
    }

    /// Whether a packet that was quoted by an error is one of a forwarded flow.
    fn forwards(&self, error: &Packet) -> bool {
        let _ = error;
        false
    }

    /// Whether the packet's source is banned now.
    fn is_banned(&self, addresses: &Addresses) -> bool;

    /// What the rules of the interface's role say about a protocol and destination port (0 where there is none).
    fn rule(&self, addresses: &Addresses, protocol: u8, port: u16) -> Option<Action>;

    /// Whether a client's socket of this machine may be on a port.
    fn may_be_client_port(&self, port: u16) -> bool {
        let _ = port;
        true
    }

    /// Which addresses cannot be right where the packet came in.
    fn refuses(&self, addresses: &Addresses) -> bool {
        let _ = addresses;
        false
    }

    /// Whether the source may begin one more within the limit of the rule that [`Lookup::rule`] found; takes it.
    fn is_within_limit(&self, packet: &Packet) -> bool {
        let _ = packet;
        true
    }

    /// Whether one more echo of ICMP may come in now: [`Cause::Icmp`], or why not.
    fn echo(&self) -> Cause {
        Cause::Icmp
    }

    /// Whether a first segment for an open port may come in now: [`Cause::RuleAccepts`], or why not.
    fn open(&self, packet: &Packet) -> Cause {
        let _ = packet;
        Cause::RuleAccepts
    }

    /// Whether a segment for an open port belongs to a connection, one that is being opened or closed included, or
    /// completes one with a SYN cookie of this machine: [`Cause::RuleAccepts`], [`Cause::Cookie`], or why not.
    fn continues(&self, packet: &Packet) -> Cause {
        let _ = packet;
        Cause::NoFlow
    }

    /// Whether a connection or a client's socket of this machine owns the packet. A listening socket does not: it
    /// is the rules that open ports.
    fn is_ours(&self, packet: &Packet) -> bool;

    /// Whether a packet that was quoted by an error is one of a live flow or of a socket of this machine.
    fn is_live(&self, error: &Packet) -> bool {
        let _ = error;
        false
    }

    /// Remembers the datagram of a first fragment that passed.
    fn remember(&self, fragments: &FlowKey) {
        let _ = fragments;
    }

    /// Whether the first fragment of the datagram passed, not long ago.
    fn remembers(&self, fragments: &FlowKey) -> bool {
        let _ = fragments;
        false
    }
}

/// What becomes of a frame, and why.
#[inline(always)]
pub fn verdict<F: Frame + ?Sized, L: Lookup>(frame: &F, tables: &L) -> Decision {
    match walk(frame).and_then(Seen::packet) {
        Ok(packet) => judge(&packet, tables),
        Err(cause) => cause.into(),
    }
}

/// What becomes of a well-formed packet, and why.
#[inline(always)]
pub fn judge<L: Lookup>(packet: &Packet, tables: &L) -> Decision {
    // Flows are of TCP, and begin before they are in the table: what a flood is made of need not be looked for.
    if packet.goes_on()
        && let Some(hit) = tables.flow(packet)
    {
        remember_first(packet, tables);
        return match hit.steer {
            Some(processor) => Decision { cause: Cause::Steered, effect: Effect::Steer, processor },
            None => Cause::Flow.into(),
        };
    }
    if packet.kind == Kind::Tcp
        && let Some(cause) = tables.forwarded(packet)
    {
        return cause.into();
    }
    let cause = judge_stranger(packet, tables);
    if cause.verdict() == Verdict::Pass {
        remember_first(packet, tables);
    }
    cause.into()
}

#[inline(always)]
fn remember_first<L: Lookup>(packet: &Packet, tables: &L) {
    if packet.is_first {
        tables.remember(&FlowKey::of_fragments(packet));
    }
}

/// What belongs to no flow of the table.
#[inline(always)]
fn judge_stranger<L: Lookup>(packet: &Packet, tables: &L) -> Cause {
    if tables.refuses(&packet.addresses) {
        return Cause::Bogon;
    }
    if !tables.is_management() && tables.is_banned(&packet.addresses) {
        return Cause::Banned;
    }
    match packet.kind {
        Kind::Icmp => return tables.echo(),
        Kind::Neighbour => return Cause::Neighbour,
        Kind::IcmpError if tables.is_live(packet) => return Cause::IcmpError,
        Kind::IcmpError if tables.forwards(packet) => return Cause::ForwardedError,
        Kind::IcmpError => return Cause::IcmpUnrelated,
        Kind::Fragment if tables.remembers(&packet.key) => return Cause::Fragment,
        Kind::Fragment => return Cause::FragmentUnknown,
        Kind::Tcp | Kind::Udp | Kind::Other => {}
    }
    match tables.rule(&packet.addresses, packet.protocol, packet.ports.destination) {
        Some(Action::Limit) if !within_limit(packet, tables) => Cause::OverLimit,
        Some(Action::Accept | Action::Limit) => accepted(packet, tables),
        Some(Action::Drop) => Cause::RuleDrops,
        None if !packet.has_ports() => Cause::OtherProtocol,
        // Nothing that we begin is answered by a first segment.
        None if packet.kind == Kind::Tcp && packet.flags.opens() => Cause::NoRule,
        None if packet.kind == Kind::Udp && !tables.may_be_client_port(packet.ports.destination) => {
            Cause::NoRule
        }
        None if tables.is_ours(packet) => Cause::OwnSocket,
        None => Cause::NoRule,
    }
}

/// Connections are counted when they begin; what has no connections, packet by packet.
#[inline(always)]
fn within_limit<L: Lookup>(packet: &Packet, tables: &L) -> bool {
    packet.goes_on() || tables.is_within_limit(packet)
}

/// A packet for an open port: a connection begins, goes on, or is none.
#[inline(always)]
fn accepted<L: Lookup>(packet: &Packet, tables: &L) -> Cause {
    if packet.kind != Kind::Tcp {
        Cause::RuleAccepts
    } else if packet.flags.opens() {
        match tables.open(packet) {
            Cause::RuleAccepts => tables.forward(packet).unwrap_or(Cause::RuleAccepts),
            refused => refused,
        }
    } else {
        tables.continues(packet)
    }
}

#[cfg(test)]
mod tests {
    use core::cell::Cell;

    use super::*;
    use crate::packet::{Layout, Payload, Ports, Protocol, Quoted, TcpFlags};

    /// Tables that give one answer each, whatever they are asked.
    #[derive(Clone, Default)]
    struct Tables {
        management: bool,
        flow: Option<Hit>,
        banned: bool,
        rule: Option<Action>,
        ours: bool,
        continues: bool,
        live: bool,
        refused: bool,
        exhausted: bool,
        forwarded: bool,
        forward: Option<Cause>,
        remembered: Cell<Option<FlowKey>>,
    }

    impl Lookup for Tables {
        fn is_management(&self) -> bool {
            self.management
        }

        fn flow(&self, _: &Packet) -> Option<Hit> {
            self.flow
        }

        fn forwarded(&self, _: &Packet) -> Option<Cause> {
            self.forwarded.then_some(Cause::Forwarded)
        }

        fn forward(&self, _: &Packet) -> Option<Cause> {
            self.forward
        }

        fn forwards(&self, _: &Packet) -> bool {
            self.forwarded
        }

        fn is_banned(&self, _: &Addresses) -> bool {
            self.banned
        }

        fn rule(&self, _: &Addresses, protocol: u8, port: u16) -> Option<Action> {
            self.rule.filter(|_| matches!((protocol, port), (6 | 17, 443) | (112, 0)))
        }

        fn open(&self, _: &Packet) -> Cause {
            Cause::RuleAccepts
        }

        fn continues(&self, _: &Packet) -> Cause {
            if self.continues { Cause::Cookie } else { Cause::NoFlow }
        }

        fn refuses(&self, _: &Addresses) -> bool {
            self.refused
        }

        fn is_within_limit(&self, _: &Packet) -> bool {
            !self.exhausted
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

        fn remembers(&self, fragments: &FlowKey) -> bool {
            self.remembered.get() == Some(*fragments)
        }
    }

    const ADDRESSES: Addresses = Addresses::v4([192, 0, 2, 1], [192, 0, 2, 2]);
    const PORTS: Ports = Ports { source: 50_000, destination: 443 };
    const SYN: Payload = Payload::Tcp { ports: PORTS, flags: TcpFlags(TcpFlags::SYN), data: 0 };
    const ACK: Payload = Payload::Tcp { ports: PORTS, flags: TcpFlags(TcpFlags::ACK), data: 9 };
    const DATAGRAM: Payload = Payload::Udp { ports: PORTS, data: 9 };

    fn packet(payload: Payload) -> Packet {
        Packet::new(ADDRESSES, payload, None, Layout::default())
    }

    fn cause(payload: Payload, tables: &Tables) -> Cause {
        judge(&packet(payload), tables).cause
    }

    #[test]
    fn a_ban_comes_before_a_rule_and_a_rule_before_a_socket() {
        let both = [false, true];
        for (banned, ours) in both.into_iter().flat_map(|banned| both.map(|ours| (banned, ours))) {
            for rule in [None, Some(Action::Accept), Some(Action::Drop), Some(Action::Limit)] {
                let expected = match (banned, rule, ours) {
                    (true, _, _) => Cause::Banned,
                    (false, Some(Action::Accept | Action::Limit), _) => Cause::RuleAccepts,
                    (false, Some(Action::Drop), _) => Cause::RuleDrops,
                    (false, None, true) => Cause::OwnSocket,
                    (false, None, false) => Cause::NoRule,
                };
                assert_eq!(cause(DATAGRAM, &Tables { banned, rule, ours, ..Tables::default() }), expected);
            }
        }
    }

    #[test]
    fn a_live_flow_comes_before_everything() {
        let hit = Some(Hit { steer: None });
        let tables = Tables { flow: hit, banned: true, rule: Some(Action::Drop), ..Tables::default() };
        assert_eq!(judge(&packet(ACK), &tables), Cause::Flow.into());
        let tables = Tables { flow: Some(Hit { steer: Some(1) }), ..Tables::default() };
        let steered = Decision { cause: Cause::Steered, effect: Effect::Steer, processor: 1 };
        assert_eq!(judge(&packet(ACK), &tables), steered);
    }

    #[test]
    fn a_forwarded_flow_goes_on_whatever_the_rules_say_and_a_new_one_needs_a_rule() {
        let closed = Tables { banned: true, forwarded: true, ..Tables::default() };
        assert_eq!(judge(&packet(ACK), &closed).effect, Effect::Forward);
        let service = Tables { forward: Some(Cause::Forwarded), ..Tables::default() };
        assert_eq!(cause(SYN, &service), Cause::NoRule);
        let open = Tables { rule: Some(Action::Accept), ..service };
        assert_eq!(judge(&packet(SYN), &open), Cause::Forwarded.into());
        assert_eq!(cause(ACK, &open), Cause::NoFlow);
        assert_eq!(cause(SYN, &Tables { banned: true, ..open.clone() }), Cause::Banned);
        let full = Tables { forward: Some(Cause::ForwardFull), ..open };
        assert_eq!(judge(&packet(SYN), &full).effect, Effect::Drop);
    }

    #[test]
    fn an_error_about_a_forwarded_flow_is_forwarded() {
        let quoted = Quoted { addresses: ADDRESSES.reversed(), protocol: Protocol::Tcp, ports: PORTS };
        let tables = Tables { forwarded: true, ..Tables::default() };
        assert_eq!(judge(&packet(Payload::IcmpError { quoted }), &tables).effect, Effect::ForwardError);
    }

    #[test]
    fn nobody_is_banned_from_management() {
        let tables =
            Tables { management: true, banned: true, rule: Some(Action::Accept), ..Tables::default() };
        assert_eq!(cause(SYN, &tables), Cause::RuleAccepts);
    }

    #[test]
    fn at_an_open_port_a_segment_belongs_to_a_connection_or_is_dropped() {
        let open = Tables { rule: Some(Action::Accept), ..Tables::default() };
        assert_eq!(cause(ACK, &open), Cause::NoFlow);
        assert_eq!(cause(DATAGRAM, &open), Cause::RuleAccepts);
        assert_eq!(cause(ACK, &Tables { continues: true, ..open }), Cause::Cookie);
    }

    #[test]
    fn a_limit_counts_what_begins_and_lets_go_on_what_has_begun() {
        let within = Tables { rule: Some(Action::Limit), continues: true, ..Tables::default() };
        let over = Tables { exhausted: true, ..within.clone() };
        for payload in [SYN, DATAGRAM] {
            assert_eq!(cause(payload, &within), Cause::RuleAccepts);
            assert_eq!(cause(payload, &over), Cause::OverLimit);
        }
        assert_eq!(cause(ACK, &over), Cause::Cookie);
        assert_eq!(cause(ACK, &Tables { continues: false, ..over }), Cause::NoFlow);
    }

    #[test]
    fn a_source_that_cannot_be_right_begins_nothing_and_a_flow_goes_on() {
        let refused = Tables { refused: true, rule: Some(Action::Accept), ..Tables::default() };
        assert_eq!(cause(SYN, &refused), Cause::Bogon);
        assert_eq!(cause(ACK, &Tables { flow: Some(Hit { steer: None }), ..refused }), Cause::Flow);
    }

    #[test]
    fn a_first_segment_belongs_to_no_flow_and_no_socket() {
        let tables = Tables { flow: Some(Hit { steer: None }), ours: true, ..Tables::default() };
        assert_eq!(cause(SYN, &tables), Cause::NoRule);
        assert_eq!(cause(ACK, &tables), Cause::Flow);
        assert_eq!(cause(ACK, &Tables { flow: None, ..tables }), Cause::OwnSocket);
    }

    #[test]
    fn an_error_passes_for_a_live_flow_only() {
        let quoted = Quoted { addresses: ADDRESSES.reversed(), protocol: Protocol::Tcp, ports: PORTS };
        let error = Payload::IcmpError { quoted };
        assert_eq!(cause(error, &Tables::default()), Cause::IcmpUnrelated);
        assert_eq!(cause(error, &Tables { live: true, ..Tables::default() }), Cause::IcmpError);
    }

    #[test]
    fn later_fragments_share_the_fate_of_the_first() {
        let later = packet(Payload::Fragment { protocol: 17, identification: 7 });
        let first_of = |payload, id| Packet::new(ADDRESSES, payload, Some(id), Layout::default());
        let first = first_of(DATAGRAM, 7);
        let closed = Tables::default();
        assert_eq!(judge(&first, &closed).cause, Cause::NoRule);
        assert_eq!(judge(&later, &closed).cause, Cause::FragmentUnknown);
        let open = Tables { rule: Some(Action::Accept), ..Tables::default() };
        assert_eq!(judge(&later, &open).cause, Cause::FragmentUnknown);
        assert_eq!(judge(&first, &open).cause, Cause::RuleAccepts);
        assert_eq!(judge(&later, &open).cause, Cause::Fragment);
        let other = packet(Payload::Fragment { protocol: 17, identification: 8 });
        assert_eq!(judge(&other, &open).cause, Cause::FragmentUnknown);
        let echo = first_of(Payload::Icmp, 9);
        assert_eq!(judge(&echo, &open).cause, Cause::Icmp);
        let later = packet(Payload::Fragment { protocol: 1, identification: 9 });
        assert_eq!(judge(&later, &open).cause, Cause::Fragment);
    }

    #[test]
    fn what_has_no_ports_is_judged_by_what_it_is() {
        let open = Tables { rule: Some(Action::Accept), ours: true, ..Tables::default() };
        for (payload, expected) in [
            (Payload::Icmp, Cause::Icmp),
            (Payload::Neighbour, Cause::Neighbour),
            (Payload::Other { protocol: 47 }, Cause::OtherProtocol),
            (Payload::Other { protocol: 112 }, Cause::RuleAccepts),
        ] {
            assert_eq!(cause(payload, &open), expected);
        }
    }
}
