//! The verdict: bans, then port rules, then sockets of our own, else drop.

use crate::cause::Cause;
use crate::frame::Frame;
use crate::tables::Action;
use crate::walk::{Addresses, Packet, Payload, Protocol, Seen, walk};

/// What the verdict asks. In the kernel these are maps and the socket lookup.
pub trait Lookup {
    /// Whether the packet came in where administrators come from: no ban holds there.
    fn is_management(&self) -> bool;

    /// Whether the packet's source is banned now.
    fn is_banned(&self, addresses: &Addresses) -> bool;

    /// What the rules of the interface's role say about a destination port.
    fn rule(&self, protocol: Protocol, port: u16) -> Option<Action>;

    /// Whether a connection or a client's socket of this machine owns the packet. A listening socket does not: it
    /// is the rules that open ports.
    fn is_ours(&self, packet: &Packet) -> bool;
}

/// What becomes of a frame, and why.
#[inline(always)]
pub fn verdict<F: Frame + ?Sized, L: Lookup>(frame: &F, tables: &L) -> Cause {
    match walk(frame) {
        Ok(Seen::Ip(packet)) => judge(&packet, tables),
        Ok(Seen::Arp) => Cause::Arp,
        Ok(Seen::LinkControl) => Cause::LinkControl,
        Err(cause) => cause,
    }
}

/// What becomes of a well-formed packet, and why.
#[inline(always)]
pub fn judge<L: Lookup>(packet: &Packet, tables: &L) -> Cause {
    if !tables.is_management() && tables.is_banned(&packet.addresses) {
        return Cause::Banned;
    }
    let (protocol, port) = match packet.payload {
        Payload::Ports { protocol, destination, .. } => (protocol, destination),
        Payload::Icmp => return Cause::Icmp,
        Payload::Neighbour => return Cause::Neighbour,
        Payload::Fragment => return Cause::Fragment,
        Payload::Other => return Cause::OtherProtocol,
    };
    match tables.rule(protocol, port) {
        Some(Action::Accept) => Cause::RuleAccepts,
        Some(Action::Drop) => Cause::RuleDrops,
        None if tables.is_ours(packet) => Cause::OwnSocket,
        None => Cause::NoRule,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Tables {
        management: bool,
        banned: bool,
        rule: Option<Action>,
        ours: bool,
    }

    impl Lookup for Tables {
        fn is_management(&self) -> bool {
            self.management
        }

        fn is_banned(&self, _: &Addresses) -> bool {
            self.banned
        }

        fn rule(&self, protocol: Protocol, port: u16) -> Option<Action> {
            self.rule.filter(|_| (protocol, port) == (Protocol::Tcp, 443))
        }

        fn is_ours(&self, _: &Packet) -> bool {
            self.ours
        }
    }

    fn packet(payload: Payload) -> Packet {
        let addresses = Addresses::V4 { source: [192, 0, 2, 1], destination: [192, 0, 2, 2] };
        Packet { addresses, payload }
    }

    const HTTPS: Payload = Payload::Ports { protocol: Protocol::Tcp, source: 50_000, destination: 443 };

    #[test]
    fn a_ban_comes_before_a_rule_and_a_rule_before_a_socket() {
        let both = [false, true];
        for (banned, ours) in both.into_iter().flat_map(|banned| both.map(|ours| (banned, ours))) {
            for rule in [None, Some(Action::Accept), Some(Action::Drop)] {
                let expected = match (banned, rule, ours) {
                    (true, _, _) => Cause::Banned,
                    (false, Some(Action::Accept), _) => Cause::RuleAccepts,
                    (false, Some(Action::Drop), _) => Cause::RuleDrops,
                    (false, None, true) => Cause::OwnSocket,
                    (false, None, false) => Cause::NoRule,
                };
                assert_eq!(
                    judge(&packet(HTTPS), &Tables { management: false, banned, rule, ours }),
                    expected
                );
            }
        }
    }

    #[test]
    fn nobody_is_banned_from_management() {
        let tables = Tables { management: true, banned: true, rule: Some(Action::Accept), ours: false };
        assert_eq!(judge(&packet(HTTPS), &tables), Cause::RuleAccepts);
    }

    #[test]
    fn what_has_no_ports_is_judged_by_what_it_is() {
        let open = Tables { management: false, banned: false, rule: Some(Action::Accept), ours: true };
        for (payload, cause) in [
            (Payload::Icmp, Cause::Icmp),
            (Payload::Neighbour, Cause::Neighbour),
            (Payload::Fragment, Cause::Fragment),
            (Payload::Other, Cause::OtherProtocol),
        ] {
            assert_eq!(judge(&packet(payload), &open), cause);
        }
    }
}
