//! SOCKS version 5 (RFC 1928) and its user name and password sub-negotiation (RFC 1929), both sides.
//!
//! Every message has a `…_len` function for the stream and a `parse` for exactly one frame. A domain name may be a
//! ticket string (PROTOCOL §1), so a name is kept as the client wrote it. GSSAPI, BIND and UDP are not spoken; a
//! request for them is still read, so that it can be refused in SOCKS's own words.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use zeroize::Zeroizing;

use crate::Malformed;
use crate::host_port::{Host, HostPort};
use crate::reader::Reader;
use crate::ticket::TicketString;

mod credentials;
mod reply;

pub use credentials::{Credentials, credentials_len, credentials_status, parse_credentials_status};
pub use reply::{Reply, parse_reply, reply_len};

/// RFC 1928 §3: "The values currently defined for METHOD".
pub const METHOD_NONE: u8 = 0x00;
/// RFC 1929.
pub const METHOD_USERNAME_PASSWORD: u8 = 0x02;
/// RFC 1928 §3: no acceptable methods.
pub const METHOD_UNACCEPTABLE: u8 = 0xFF;

const VERSION: u8 = 5;
/// What every length octet can say.
const OCTET_MAX: usize = 255;
/// How an unknown address type is named in [`Malformed`].
const ADDRESS_TYPE: &str = "SOCKS address type";

const ADDRESS_IPV4: u8 = 1;
const ADDRESS_NAME: u8 = 3;
const ADDRESS_IPV6: u8 = 4;

/// The length of the next field sequence, or `None` while its length octet is missing.
fn ready(bytes: &[u8], length: usize) -> Option<usize> {
    (bytes.len() >= length).then_some(length)
}

fn check_version(version: u8, expected: u8, what: &'static str) -> Result<(), Malformed> {
    if version == expected { Ok(()) } else { Err(Malformed::Illegal { what }) }
}

/// The methods that a client offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeting {
    pub methods: Vec<u8>,
}

/// # Errors
/// `Illegal` for another version or for no methods.
pub fn greeting_len(bytes: &[u8]) -> Result<Option<usize>, Malformed> {
    let Some(&version) = bytes.first() else { return Ok(None) };
    check_version(version, VERSION, "SOCKS version")?;
    let Some(&count) = bytes.get(1) else { return Ok(None) };
    if count == 0 {
        return Err(Malformed::Illegal { what: "SOCKS method count" });
    }
    Ok(ready(bytes, usize::from(count).saturating_add(2)))
}

impl Greeting {
    /// # Errors
    /// As [`greeting_len`]; `Truncated` or `Trailing` unless `frame` is exactly one greeting.
    pub fn parse(frame: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(frame);
        check_version(reader.u8("SOCKS version")?, VERSION, "SOCKS version")?;
        let count = reader.u8("SOCKS method count")?;
        if count == 0 {
            return Err(Malformed::Illegal { what: "SOCKS method count" });
        }
        let methods = reader.take(usize::from(count), "SOCKS methods")?.to_vec();
        reader.finish("SOCKS greeting")?;
        Ok(Self { methods })
    }

    #[must_use]
    pub fn offers(&self, method: u8) -> bool {
        self.methods.contains(&method)
    }

    /// # Errors
    /// `Illegal` unless there are 1 to 255 methods.
    pub fn encode(&self) -> Result<Vec<u8>, Malformed> {
        let count = u8::try_from(self.methods.len()).ok().filter(|count| *count > 0);
        let count = count.ok_or(Malformed::Illegal { what: "SOCKS method count" })?;
        let mut bytes = Vec::from([VERSION, count]);
        bytes.extend_from_slice(&self.methods);
        Ok(bytes)
    }
}

/// The server's choice of a method.
#[must_use]
pub const fn method_selection(method: u8) -> [u8; 2] {
    [VERSION, method]
}

/// Reads the server's choice of a method, two bytes.
///
/// # Errors
/// `Illegal` for another version; `Truncated` or `Trailing` for another length.
pub fn parse_method_selection(frame: &[u8]) -> Result<u8, Malformed> {
    let mut reader = Reader::new(frame);
    check_version(reader.u8("SOCKS version")?, VERSION, "SOCKS version")?;
    let method = reader.u8("SOCKS method")?;
    reader.finish("SOCKS method selection")?;
    Ok(method)
}

/// What a client wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Connect,
    Bind,
    UdpAssociate,
    Other(u8),
}

impl From<u8> for Command {
    fn from(code: u8) -> Self {
        match code {
            1 => Self::Connect,
            2 => Self::Bind,
            3 => Self::UdpAssociate,
            other => Self::Other(other),
        }
    }
}

impl From<Command> for u8 {
    fn from(command: Command) -> Self {
        match command {
            Command::Connect => 1,
            Command::Bind => 2,
            Command::UdpAssociate => 3,
            Command::Other(code) => code,
        }
    }
}

/// A domain name as the client wrote it: 1 to 255 printable ASCII characters without spaces. It may be a ticket
/// string, so it is wiped on drop and `Debug` does not print it then.
#[derive(Clone, PartialEq, Eq)]
pub struct Name(Zeroizing<String>);

impl Name {
    /// # Errors
    /// `Missing` for an empty name, `TooLong` past 255 bytes, `Illegal` for anything but printable ASCII.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        const WHAT: &str = "SOCKS domain name";
        if bytes.is_empty() {
            return Err(Malformed::Missing { what: WHAT });
        }
        if bytes.len() > OCTET_MAX {
            return Err(Malformed::TooLong { what: WHAT, limit: OCTET_MAX });
        }
        let text = core::str::from_utf8(bytes).ok().filter(|_| bytes.iter().all(u8::is_ascii_graphic));
        text.map(|text| Self(Zeroizing::new(String::from(text)))).ok_or(Malformed::Illegal { what: WHAT })
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl From<&TicketString> for Name {
    fn from(ticket: &TicketString) -> Self {
        // A ticket string is at most two pairs of bounded length, all printable: 103 bytes.
        Self(Zeroizing::new(ticket.expose()))
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if TicketString::is_ticket(self.as_str()) {
            f.write_str("Name(ticket …)")
        } else {
            f.debug_tuple("Name").field(&self.as_str()).finish()
        }
    }
}

/// Where to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Ip(IpAddr),
    Name(Name),
}

/// A client's request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub command: Command,
    pub address: Address,
    pub port: u16,
}

/// # Errors
/// `Illegal` for another version, a reserved byte that is not zero, or an unknown address type; `Missing` for an
/// empty domain name.
pub fn request_len(bytes: &[u8]) -> Result<Option<usize>, Malformed> {
    // VER, CMD, RSV, ATYP before the address; the port's two octets after it.
    const AROUND: usize = 4 + 2;
    if let Some(&version) = bytes.first() {
        check_version(version, VERSION, "SOCKS version")?;
    }
    if let Some(&reserved) = bytes.get(2) {
        check_version(reserved, 0, "SOCKS reserved byte")?;
    }
    let address = match (bytes.get(3), bytes.get(4)) {
        (Some(&ADDRESS_IPV4), _) => 4,
        (Some(&ADDRESS_IPV6), _) => 16,
        (Some(&ADDRESS_NAME), Some(0)) => return Err(Malformed::Missing { what: "SOCKS domain name" }),
        (Some(&ADDRESS_NAME), Some(&length)) => usize::from(length).saturating_add(1),
        (Some(&ADDRESS_NAME), None) | (None, _) => return Ok(None),
        (Some(_), _) => return Err(Malformed::Illegal { what: ADDRESS_TYPE }),
    };
    Ok(ready(bytes, address.saturating_add(AROUND)))
}

impl Request {
    /// # Errors
    /// As [`request_len`] and [`Name::parse`]; `Truncated` or `Trailing` unless `frame` is exactly one request.
    pub fn parse(frame: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(frame);
        check_version(reader.u8("SOCKS version")?, VERSION, "SOCKS version")?;
        let command = Command::from(reader.u8("SOCKS command")?);
        let (address, port) = address_and_port(&mut reader)?;
        reader.finish("SOCKS request")?;
        Ok(Self { command, address, port })
    }

    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::from([VERSION, u8::from(self.command), 0]);
        match &self.address {
            Address::Ip(IpAddr::V4(address)) => {
                bytes.push(ADDRESS_IPV4);
                bytes.extend_from_slice(&address.octets());
            }
            Address::Ip(IpAddr::V6(address)) => {
                bytes.push(ADDRESS_IPV6);
                bytes.extend_from_slice(&address.octets());
            }
            Address::Name(name) => {
                let name = name.as_str().as_bytes();
                let length = u8::try_from(name.len()).expect("Name::parse bounds it to 255 bytes");
                bytes.extend_from_slice(&[ADDRESS_NAME, length]);
                bytes.extend_from_slice(name);
            }
        }
        bytes.extend_from_slice(&self.port.to_be_bytes());
        bytes
    }

    /// The ticket string, when the domain name is meant as one.
    #[must_use]
    pub fn ticket(&self) -> Option<Result<TicketString, Malformed>> {
        match &self.address {
            Address::Name(name) if TicketString::is_ticket(name.as_str()) => {
                Some(TicketString::parse(name.as_str()))
            }
            Address::Name(_) | Address::Ip(_) => None,
        }
    }

    /// The server that the request names in the clear.
    ///
    /// # Errors
    /// `Illegal` for port 0 and for a domain name that is no host name, as [`Host::parse`].
    pub fn server(&self) -> Result<HostPort, Malformed> {
        let host = match &self.address {
            Address::Ip(address) => Host::Ip(*address),
            Address::Name(name) => Host::parse(name.as_str())?,
        };
        HostPort::new(host, self.port)
    }
}

fn address_and_port(reader: &mut Reader<'_>) -> Result<(Address, u16), Malformed> {
    check_version(reader.u8("SOCKS reserved byte")?, 0, "SOCKS reserved byte")?;
    let address = match reader.u8(ADDRESS_TYPE)? {
        ADDRESS_IPV4 => Address::Ip(IpAddr::V4(Ipv4Addr::from(reader.array::<4>("SOCKS address")?))),
        ADDRESS_IPV6 => Address::Ip(IpAddr::V6(Ipv6Addr::from(reader.array::<16>("SOCKS address")?))),
        ADDRESS_NAME => {
            let length = reader.u8("SOCKS domain name")?;
            Address::Name(Name::parse(reader.take(usize::from(length), "SOCKS domain name")?)?)
        }
        _ => return Err(Malformed::Illegal { what: ADDRESS_TYPE }),
    };
    Ok((address, reader.u16("SOCKS port")?))
}

#[cfg(test)]
mod tests;
