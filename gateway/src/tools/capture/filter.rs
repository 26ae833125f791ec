//! Which packets a capture is about: a small part of what pcap-filter(7) knows.
//!
//! ```text
//! filter = all { "or" all } ; all = one { ["and"] one } ; one = "not" one | "(" filter ")" | primitive
//! primitive = "tcp" | "udp" | "icmp" | "icmp6" | "arp" | "ip" | "ip6"
//!           | ["src" | "dst"] ("host" ADDRESS | "net" PREFIX | "port" NUMBER)
//! ```
//! `tcp port 443` is `tcp and port 443`. Fragments behind the first have no port.

use std::net::IpAddr;

use etherparse::{LaxNetSlice, LaxSlicedPacket, TransportSlice};
use ipnet::IpNet;

/// Longest expression.
const TEXT_MAX: usize = 512;
const WORDS_MAX: usize = 100;
const DEPTH_MAX: usize = 16;

/// An expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Filter {
    All(Vec<Self>),
    Any(Vec<Self>),
    Not(Box<Self>),
    Protocol(Protocol),
    Net(End, IpNet),
    Port(End, u16),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
    Icmp,
    Icmp6,
    Arp,
    Ip,
    Ip6,
}

/// Which end of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Either,
    Source,
    Destination,
}

impl End {
    fn holds<T>(self, ends: Option<(T, T)>, test: impl Fn(T) -> bool) -> bool {
        ends.is_some_and(|(source, destination)| match self {
            Self::Either => test(source) || test(destination),
            Self::Source => test(source),
            Self::Destination => test(destination),
        })
    }
}

impl Filter {
    /// # Errors
    /// What is wrong, and what may be written.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.len() > TEXT_MAX {
            return Err(format!("a filter has at most {TEXT_MAX} bytes"));
        }
        let spaced = text.replace('(', " ( ").replace(')', " ) ");
        let words: Vec<&str> = spaced.split_whitespace().collect();
        if words.len() > WORDS_MAX {
            return Err(format!("a filter has at most {WORDS_MAX} words"));
        }
        let mut parser = Parser { words: &words, depth: 0 };
        let filter = parser.any()?;
        match parser.words.first() {
            None => Ok(filter),
            Some(word) => Err(wrong(word)),
        }
    }

    /// Whether a frame is one of them.
    pub(crate) fn holds(&self, frame: &[u8]) -> bool {
        LaxSlicedPacket::from_ethernet(frame).is_ok_and(|packet| self.judges(&packet))
    }

    fn judges(&self, packet: &LaxSlicedPacket<'_>) -> bool {
        match self {
            Self::All(all) => all.iter().all(|one| one.judges(packet)),
            Self::Any(any) => any.iter().any(|one| one.judges(packet)),
            Self::Not(one) => !one.judges(packet),
            Self::Protocol(protocol) => protocol.is_of(packet),
            Self::Net(end, net) => end.holds(addresses(packet), |address| net.contains(&address)),
            Self::Port(end, port) => end.holds(ports(packet), |seen| seen == *port),
        }
    }
}

impl Protocol {
    fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "tcp" => Self::Tcp,
            "udp" => Self::Udp,
            "icmp" => Self::Icmp,
            "icmp6" => Self::Icmp6,
            "arp" => Self::Arp,
            "ip" => Self::Ip,
            "ip6" => Self::Ip6,
            _ => return None,
        })
    }

    fn is_of(self, packet: &LaxSlicedPacket<'_>) -> bool {
        let number = |wanted: u8| packet.ip_payload().is_some_and(|payload| payload.ip_number.0 == wanted);
        match self {
            Self::Tcp => number(6),
            Self::Udp => number(17),
            Self::Icmp => number(1),
            Self::Icmp6 => number(58),
            Self::Arp => matches!(packet.net, Some(LaxNetSlice::Arp(_))),
            Self::Ip => matches!(packet.net, Some(LaxNetSlice::Ipv4(_))),
            Self::Ip6 => matches!(packet.net, Some(LaxNetSlice::Ipv6(_))),
        }
    }
}

fn addresses(packet: &LaxSlicedPacket<'_>) -> Option<(IpAddr, IpAddr)> {
    match packet.net.as_ref()? {
        LaxNetSlice::Ipv4(ip) => {
            let header = ip.header();
            Some((header.source_addr().into(), header.destination_addr().into()))
        }
        LaxNetSlice::Ipv6(ip) => {
            let header = ip.header();
            Some((header.source_addr().into(), header.destination_addr().into()))
        }
        LaxNetSlice::Arp(arp) => {
            let address = |bytes: &[u8]| <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from);
            Some((address(arp.sender_protocol_addr())?, address(arp.target_protocol_addr())?))
        }
    }
}

fn ports(packet: &LaxSlicedPacket<'_>) -> Option<(u16, u16)> {
    match packet.transport.as_ref()? {
        TransportSlice::Tcp(tcp) => Some((tcp.source_port(), tcp.destination_port())),
        TransportSlice::Udp(udp) => Some((udp.source_port(), udp.destination_port())),
        _ => None,
    }
}

struct Parser<'a> {
    words: &'a [&'a str],
    depth: usize,
}

impl Parser<'_> {
    fn any(&mut self) -> Result<Filter, String> {
        let mut any = vec![self.all()?];
        while self.take("or") || self.take("||") {
            any.push(self.all()?);
        }
        Ok(if any.len() == 1 { any.remove(0) } else { Filter::Any(any) })
    }

    fn all(&mut self) -> Result<Filter, String> {
        let mut all = vec![self.one()?];
        loop {
            let joined = self.take("and") || self.take("&&");
            if !joined && matches!(self.words.first(), None | Some(&("or" | "||" | ")"))) {
                break;
            }
            all.push(self.one()?);
        }
        Ok(if all.len() == 1 { all.remove(0) } else { Filter::All(all) })
    }

    fn one(&mut self) -> Result<Filter, String> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(format!("a filter is at most {DEPTH_MAX} deep"));
        }
        let one = if self.take("not") || self.take("!") {
            Filter::Not(Box::new(self.one()?))
        } else if self.take("(") {
            let inner = self.any()?;
            if !self.take(")") {
                return Err("a bracket does not close".to_owned());
            }
            inner
        } else {
            self.primitive()?
        };
        self.depth -= 1;
        Ok(one)
    }

    fn primitive(&mut self) -> Result<Filter, String> {
        let word = self.next()?;
        if let Some(protocol) = Protocol::parse(word) {
            return Ok(Filter::Protocol(protocol));
        }
        let (end, kind) = match word {
            "src" => (End::Source, self.next()?),
            "dst" => (End::Destination, self.next()?),
            other => (End::Either, other),
        };
        match kind {
            "host" => {
                let value = self.next()?;
                let address: IpAddr =
                    value.parse().map_err(|_| format!("`{}` is no address", brief(value)))?;
                Ok(Filter::Net(end, address.into()))
            }
            "net" => {
                let value = self.next()?;
                let net: IpNet = value
                    .parse()
                    .map_err(|_| format!("`{}` is no prefix such as 192.0.2.0/24", brief(value)))?;
                Ok(Filter::Net(end, net))
            }
            "port" => {
                let value = self.next()?;
                let port = value.parse().map_err(|_| format!("`{}` is no port", brief(value)))?;
                Ok(Filter::Port(end, port))
            }
            other => Err(wrong(other)),
        }
    }

    fn take(&mut self, wanted: &str) -> bool {
        match self.words.split_first() {
            Some((word, rest)) if *word == wanted => {
                self.words = rest;
                true
            }
            _ => false,
        }
    }

    fn next(&mut self) -> Result<&str, String> {
        let (word, rest) = self.words.split_first().ok_or("the filter ends too early")?;
        self.words = rest;
        Ok(word)
    }
}

fn wrong(word: &str) -> String {
    format!(
        "a filter has no `{}`: it is made of tcp, udp, icmp, icmp6, arp, ip, ip6, host ADDRESS, net PREFIX, port NUMBER, src \
         and dst before these three, and, or, not and brackets",
        brief(word)
    )
}

fn brief(word: &str) -> String {
    word.chars().take(40).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;

    fn segment() -> Vec<u8> {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4([192, 0, 2, 1], [198, 51, 100, 2], 64)
            .tcp(5000, 443, 1, 1000)
            .write(&mut frame, b"x")
            .unwrap();
        frame
    }

    #[test]
    fn expressions_choose_packets() {
        let frame = segment();
        for (text, expected) in [
            ("tcp", true),
            ("udp", false),
            ("tcp port 443", true),
            ("tcp and port 80", false),
            ("host 192.0.2.1 and port 443", true),
            ("src host 198.51.100.2", false),
            ("dst host 198.51.100.2", true),
            ("net 192.0.2.0/24", true),
            ("dst net 192.0.2.0/24", false),
            ("src port 443", false),
            ("dst port 443", true),
            ("not arp", true),
            ("udp or (tcp and not port 22)", true),
            ("!tcp", false),
            ("ip6 or icmp or arp", false),
            ("not (tcp or udp)", false),
        ] {
            if text == "!tcp" {
                // Words are between spaces.
                assert!(Filter::parse(text).is_err());
                continue;
            }
            assert_eq!(Filter::parse(text).unwrap().holds(&frame), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_expression_says_so() {
        let deep = "( ".repeat(40);
        let long = "tcp or ".repeat(60);
        for text in [
            "",
            "tcp and",
            "port x",
            "port 70000",
            "host example.com",
            "net 1",
            "(tcp",
            "tcp)",
            "proto 6",
            "or",
        ] {
            assert!(Filter::parse(text).is_err(), "{text}");
        }
        assert!(Filter::parse(&deep).is_err() && Filter::parse(&long).is_err());
        assert!(Filter::parse("frobnicate").unwrap_err().contains("`frobnicate`"));
    }
}
