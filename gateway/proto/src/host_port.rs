//! `host:port` as it stands in tickets, CONNECT targets, SOCKS requests and configuration.
//!
//! RFC 3986 §3.2.2: an IPv6 address stands in brackets. RFC 1123 §2.1: a host name is labels of letters, digits
//! and hyphens (underscores are tolerated, as Windows host names use them), at most 253 bytes.

use alloc::string::{String, ToString};
use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::Malformed;

/// Longest textual host name, RFC 1123 §2.1 with RFC 1035 §2.3.4 (255 octets on the wire).
pub const NAME_MAX_BYTES: usize = 253;
/// Longest label, RFC 1035 §2.3.4.
const LABEL_MAX_BYTES: usize = 63;

/// A host name in lower case that is known to be well formed and is not an address in disguise.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostName(String);

impl HostName {
    /// Reads a name; a final dot is accepted and dropped.
    ///
    /// # Errors
    /// `TooLong` past 253 bytes or 63 bytes in a label, `Illegal` for other characters, empty labels, or a last
    /// label of digits only (which would be an address in disguise, WHATWG URL §3.5).
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        let text = text.strip_suffix('.').unwrap_or(text);
        if text.is_empty() {
            return Err(Malformed::Missing { what: "host name" });
        }
        if text.len() > NAME_MAX_BYTES {
            return Err(Malformed::TooLong { what: "host name", limit: NAME_MAX_BYTES });
        }
        let illegal = Malformed::Illegal { what: "host name" };
        for label in text.split('.') {
            if label.len() > LABEL_MAX_BYTES {
                return Err(Malformed::TooLong { what: "host name label", limit: LABEL_MAX_BYTES });
            }
            let legal = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
            if label.is_empty() || label.starts_with('-') || label.ends_with('-') || !label.bytes().all(legal)
            {
                return Err(illegal);
            }
        }
        let last = text.rsplit('.').next().unwrap_or(text);
        let hexadecimal = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
        if last.bytes().all(|b| b.is_ascii_digit())
            || hexadecimal.is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))
        {
            return Err(illegal);
        }
        Ok(Self(text.to_ascii_lowercase()))
    }

    /// The name in lower case, without a final dot.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A host: an address or a name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    Ip(IpAddr),
    Name(HostName),
}

impl Host {
    /// Reads an address (IPv6 with or without brackets) or a name.
    ///
    /// # Errors
    /// As [`HostName::parse`]; `Illegal` for a bracketed text that is no IPv6 address.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        if let Some(inner) = text.strip_prefix('[') {
            let inner = inner.strip_suffix(']').ok_or(Malformed::Illegal { what: "IPv6 address" })?;
            let address: Ipv6Addr = inner.parse().map_err(|_| Malformed::Illegal { what: "IPv6 address" })?;
            return Ok(Self::Ip(IpAddr::V6(address)));
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Ip(address));
        }
        HostName::parse(text).map(Self::Name)
    }
}

impl From<Ipv4Addr> for Host {
    fn from(address: Ipv4Addr) -> Self {
        Self::Ip(IpAddr::V4(address))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(IpAddr::V4(address)) => address.fmt(f),
            Self::Ip(IpAddr::V6(address)) => write!(f, "[{address}]"),
            Self::Name(name) => name.fmt(f),
        }
    }
}

/// A host and a port other than 0.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPort {
    host: Host,
    port: u16,
}

impl HostPort {
    /// # Errors
    /// `Illegal` for port 0, to which nothing can connect.
    pub fn new(host: Host, port: u16) -> Result<Self, Malformed> {
        if port == 0 {
            return Err(Malformed::Illegal { what: "port" });
        }
        Ok(Self { host, port })
    }

    /// Reads `host:port`, where the port must be present.
    ///
    /// # Errors
    /// `Missing` without a port, `Illegal` for anything else that is wrong.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        Self::parse_or_port(text, None)
    }

    /// Reads `host[:port]`; `default_port` stands in for an absent port.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn parse_or_port(text: &str, default_port: Option<u16>) -> Result<Self, Malformed> {
        let missing = Malformed::Missing { what: "port" };
        let whole =
            |text| -> Result<Self, Malformed> { Self::new(Host::parse(text)?, default_port.ok_or(missing)?) };
        let Some((host, port)) = text.rsplit_once(':') else {
            return whole(text);
        };
        if text.starts_with('[') && text.ends_with(']') {
            return whole(text);
        }
        if host.contains(':') && !host.starts_with('[') {
            // An unbracketed IPv6 address: where it ends and the port begins cannot be told.
            return Err(Malformed::Illegal { what: "IPv6 address" });
        }
        let decimal = !port.is_empty() && port.len() <= 5 && port.bytes().all(|b| b.is_ascii_digit());
        if !decimal {
            return Err(Malformed::Illegal { what: "port" });
        }
        let port = port.parse().map_err(|_| Malformed::Illegal { what: "port" })?;
        Self::new(Host::parse(host)?, port)
    }

    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl From<HostPort> for String {
    fn from(value: HostPort) -> Self {
        value.to_string()
    }
}

#[cfg(test)]
mod tests {
    use alloc::format;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn addresses_and_names_round_trip() {
        for text in ["10.0.0.1:1494", "[2001:db8::1]:2598", "vda-7.farm.example.com:1494", "host_1:1"] {
            assert_eq!(HostPort::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn names_compare_without_case_and_final_dot() {
        assert_eq!(HostPort::parse("VDA.Example.COM.:1494"), HostPort::parse("vda.example.com:1494"));
    }

    #[test]
    fn a_default_port_serves_only_where_none_is_written() {
        assert_eq!(HostPort::parse_or_port("[::1]", Some(7)).unwrap().port(), 7);
        assert_eq!(HostPort::parse_or_port("a:9", Some(7)).unwrap().port(), 9);
        assert_eq!(HostPort::parse("a"), Err(Malformed::Missing { what: "port" }));
    }

    #[test]
    fn addresses_in_disguise_and_bad_shapes_are_refused() {
        for text in [
            "127.1:80",
            "0x7f.0x1:80",
            "2130706433:80",
            "a..b:1",
            "-a:1",
            "a:0",
            "a:65536",
            "a:+1",
            "::1:80",
            ":1",
            "[::1:80",
        ] {
            assert!(HostPort::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn names_and_labels_are_bounded() {
        let labels = |n: usize| format!("{}a", "a.".repeat(n));
        assert_eq!(labels(126).len(), NAME_MAX_BYTES);
        assert!(HostName::parse(&labels(126)).is_ok());
        assert!(HostName::parse(&format!("{}.", labels(126))).is_ok());
        let too_long = Malformed::TooLong { what: "host name", limit: NAME_MAX_BYTES };
        assert_eq!(HostName::parse(&format!("a{}", labels(126))), Err(too_long));
        assert!(HostName::parse(&"a".repeat(LABEL_MAX_BYTES)).is_ok());
        let too_long = Malformed::TooLong { what: "host name label", limit: LABEL_MAX_BYTES };
        assert_eq!(HostName::parse(&"a".repeat(LABEL_MAX_BYTES + 1)), Err(too_long));
    }

    proptest! {
        #[test]
        fn any_server_round_trips(
            host in prop_oneof![
                any::<IpAddr>().prop_map(Host::Ip),
                "([a-zA-Z0-9_]([a-zA-Z0-9_-]{0,10}[a-zA-Z0-9_])?\\.){0,3}[a-zA-Z]{1,8}\\.?"
                    .prop_map(|name| Host::parse(&name).unwrap()),
            ],
            port in 1..=u16::MAX,
        ) {
            let server = HostPort::new(host, port).unwrap();
            prop_assert_eq!(HostPort::parse(&server.to_string()), Ok(server));
        }

        #[test]
        fn arbitrary_text_never_panics_and_what_is_read_is_written_the_same(text in "[\\[\\]:.0-9a-fxéA-]{0,40}", any: String) {
            for text in [text, any] {
                for default_port in [None, Some(1)] {
                    if let Ok(server) = HostPort::parse_or_port(&text, default_port) {
                        prop_assert_eq!(HostPort::parse(&server.to_string()), Ok(server));
                    }
                }
            }
        }
    }
}
