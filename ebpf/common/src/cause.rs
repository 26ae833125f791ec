//! Why a packet passed or was dropped: a closed set, counted one by one.

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Pass,
    Drop,
    /// The program answers it itself, and nobody else sees it.
    Answer,
}

impl Verdict {
    /// The label of metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Drop => "drop",
            Self::Answer => "answer",
        }
    }
}

macro_rules! causes {
    ($($(#[doc = $doc:literal])* $name:ident $verdict:ident $label:literal,)*) => {
        /// Why a packet passed or was dropped.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum Cause { $($(#[doc = $doc])* $name,)* }

        impl Cause {
            /// All of them; the place in this list is the place among the counters.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            #[must_use]
            pub const fn verdict(self) -> Verdict {
                match self { $(Self::$name => Verdict::$verdict,)* }
            }

            /// The label of metrics.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)* }
            }

            /// What it means, for people.
            #[must_use]
            pub const fn about(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),*).trim_ascii(),)* }
            }
        }
    };
}

causes! {
    /// it belongs to an admitted flow
    Flow Pass "flow",
    /// it belongs to an admitted flow of another processor and went there
    Steered Pass "steered",
    /// it completes a connection with a SYN cookie of this machine
    Cookie Pass "cookie",
    /// a SYN over the budget, answered with a SYN cookie
    CookieSent Answer "cookie",
    /// it belongs to a forwarded flow
    Forwarded Pass "forwarded",
    /// an ICMP error about a forwarded flow
    ForwardedError Pass "forwarded_error",
    /// it would begin a forwarded flow by an interface that takes no frames of the program, and user space forwards it
    ForwardByUser Pass "forward_no_link",
    /// a rule accepts the port
    RuleAccepts Pass "rule",
    /// it belongs to a connection or a client socket of this machine
    OwnSocket Pass "own_socket",
    /// ARP
    Arp Pass "arp",
    /// echo and multicast listener discovery of ICMP
    Icmp Pass "icmp",
    /// an ICMP error about a flow or a socket of this machine
    IcmpError Pass "icmp_error",
    /// a later fragment of a datagram whose first fragment passed
    Fragment Pass "fragment",
    /// neighbour discovery from this link
    Neighbour Pass "neighbour",
    /// control of the link itself: LLDP, LACP, 802.1X
    LinkControl Pass "link_control",
    /// the interface has no role (yet)
    NoRole Pass "no_role",
    /// no rule accepts it and no socket of ours asked for it
    NoRule Drop "no_rule",
    /// the port is open, and no connection has this segment
    NoFlow Drop "no_flow",
    /// under pressure: no connection has this segment, and it carries no SYN cookie of this machine
    CookieRefused Drop "cookie_refused",
    /// its source opens more connections than the budget of one source allows
    SynSource Drop "syn_source",
    /// more connections are opened than the budget of all together allows
    SynTotal Drop "syn_total",
    /// more echoes of ICMP than the budget allows
    IcmpRate Drop "icmp_rate",
    /// a rule drops the port
    RuleDrops Drop "rule",
    /// it would begin a forwarded flow, and no server is usable
    ForwardNoServer Drop "forward_no_server",
    /// it would begin a forwarded flow, and no port towards the server is free
    ForwardNoPort Drop "forward_no_port",
    /// it would begin a forwarded flow, and the table of flows is full
    ForwardFull Drop "forward_full",
    /// forwarding: nothing routes there, or nobody there answers ARP or neighbour discovery
    ForwardNoRoute Drop "forward_no_route",
    /// forwarding: the way leads by an interface that takes no frames of the program
    ForwardNoLink Drop "forward_no_link",
    /// forwarding: it is larger than the next link takes
    ForwardTooBig Drop "forward_too_big",
    /// forwarding: it has been on its way for too long
    ForwardHopLimit Drop "forward_hop_limit",
    /// its source is banned
    Banned Drop "banned",
    /// shorter than its headers
    Truncated Drop "truncated",
    /// neither IP nor ARP
    EtherType Drop "ethertype",
    /// more VLAN tags than two
    VlanDepth Drop "vlan_depth",
    /// tags of a VLAN without a role, at an interface whose VLANs have roles
    VlanUnknown Drop "vlan_unknown",
    /// no VLAN tag, at an interface that has no role but those of its VLANs
    Untagged Drop "untagged",
    /// an ARP message that is not one of Ethernet and IPv4
    ArpHeader Drop "arp_header",
    /// a wrong version or header length of IP
    IpHeader Drop "ip_header",
    /// a length of IP that contradicts the frame
    IpLength Drop "ip_length",
    /// extension headers of IPv6 that are too many, out of order or too long
    Extension Drop "ipv6_extension",
    /// a routing header of type 0, RFC 5095
    RoutingHeader Drop "ipv6_routing",
    /// a source or destination that cannot be on a wire
    Bogon Drop "bogon",
    /// source and destination are the same (land)
    Land Drop "land",
    /// a later fragment of a datagram whose first fragment was not seen or did not pass
    FragmentUnknown Drop "fragment",
    /// a first fragment without a whole transport header, RFC 1858
    FragmentTiny Drop "fragment_tiny",
    /// a fragment that would overwrite the TCP header, RFC 1858
    FragmentOverlap Drop "fragment_overlap",
    /// a TCP header longer or shorter than can be
    TcpHeader Drop "tcp_header",
    /// TCP flags that no TCP sends together
    TcpFlags Drop "tcp_flags",
    /// a length of UDP that contradicts that of IP
    UdpLength Drop "udp_length",
    /// port 0
    PortZero Drop "port_zero",
    /// ICMP shorter than its header
    IcmpHeader Drop "icmp_header",
    /// an ICMP error that quotes no packet with ports, or too little of it
    IcmpQuote Drop "icmp_quote",
    /// an ICMP error about a packet of no flow and no socket of this machine
    IcmpUnrelated Drop "icmp_unrelated",
    /// ICMP in fragments that is no echo
    IcmpFragment Drop "icmp_fragment",
    /// a type of ICMP that nobody needs: redirects, timestamps, router discovery of IPv4
    IcmpType Drop "icmp_type",
    /// neighbour discovery that came over a router, RFC 4861
    NeighbourFar Drop "neighbour_far",
    /// neither TCP nor UDP nor ICMP
    OtherProtocol Drop "protocol",
    /// more than a rule lets one source begin in a second
    OverLimit Drop "limit",
    /// it leaves, and goes on with what has begun or answers
    Leaves Pass "leaves",
    /// it leaves, and a row of the egress rules accepts it
    EgressAccepts Pass "egress_rule",
    /// it begins something by no row of the egress rules, which are open
    EgressOpen Pass "egress_open",
    /// it would leave, and a row of the egress rules drops it
    EgressDrops Drop "egress_rule",
    /// it would leave, the egress rules are closed and none accepts it
    EgressClosed Drop "egress_closed",
}

impl Cause {
    /// The place among the counters of an interface.
    #[must_use]
    #[allow(clippy::as_conversions, reason = "an enum without fields has no other way to its number")]
    pub const fn index(self) -> u32 {
        self as u32
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::collections::BTreeSet;

    use super::*;
    use crate::tables::CAUSES_MAX;

    #[test]
    fn every_cause_has_its_own_counter_and_its_own_labels() {
        for (index, cause) in Cause::ALL.iter().enumerate() {
            assert_eq!(u32::try_from(index), Ok(cause.index()));
            assert!(cause.index() < CAUSES_MAX && cause.about().len() > 2);
        }
        let labels: BTreeSet<_> =
            Cause::ALL.iter().map(|cause| (cause.verdict().label(), cause.label())).collect();
        assert_eq!(labels.len(), Cause::ALL.len());
    }
}
