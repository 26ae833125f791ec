//! Tunnels by HTTP CONNECT (RFC 9110 §9.3.6) with Basic credentials (RFC 7617), both sides.
//!
//! A target is a server in authority-form, or a ticket in its place (PROTOCOL §4). Other authentication schemes are
//! not read.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use zeroize::Zeroizing;

use crate::Malformed;
use crate::host_port::HostPort;
use crate::http_head::{RequestHead, push_line};
use crate::socks5::Credentials;
use crate::ticket::{TICKET_STRING_MAX_BYTES, TicketString};

const TARGET: &str = "CONNECT target";
const BASIC: &str = "Basic credentials";
/// Longest user name and password, the same as SOCKS allows.
const CREDENTIAL_MAX_BYTES: usize = 255;
/// Clients differ on padding, and nothing depends on it.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What a CONNECT request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConnectTarget {
    Ticket(TicketString),
    Server(HostPort),
}

/// Reads the target of a CONNECT request. A ticket may be percent-encoded and may carry a port, which is ignored.
///
/// # Errors
/// `Illegal` for another method or a target that is neither, `Missing` for a server without a port.
pub fn parse_target(head: &RequestHead) -> Result<ConnectTarget, Malformed> {
    if head.method != "CONNECT" {
        return Err(Malformed::Illegal { what: "HTTP method" });
    }
    let encoded = head.target.get(..3).is_some_and(|start| start.eq_ignore_ascii_case("%3b"));
    if !encoded && !TicketString::is_ticket(&head.target) {
        return HostPort::parse(&head.target).map(ConnectTarget::Server);
    }
    let decoded = percent_decode(&head.target)?;
    let ticket = match decoded.rsplit_once(':') {
        // RFC 9110 §9.3.6: an empty or invalid port must be rejected, even where it says nothing.
        Some((ticket, port)) if is_port(port) => ticket,
        Some(_) => return Err(Malformed::Illegal { what: "port" }),
        None => decoded.as_str(),
    };
    TicketString::parse(ticket).map(ConnectTarget::Ticket)
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u16>().is_ok_and(|port| port != 0)
}

fn percent_decode(text: &str) -> Result<Zeroizing<String>, Malformed> {
    const LIMIT: usize = TICKET_STRING_MAX_BYTES + ":65535".len();
    let mut decoded = Zeroizing::new(String::with_capacity(LIMIT));
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let byte = if byte == b'%' {
            let high = bytes.next().and_then(hexadecimal);
            let low = bytes.next().and_then(hexadecimal);
            let (high, low) = high.zip(low).ok_or(Malformed::Illegal { what: TARGET })?;
            high << 4 | low
        } else {
            byte
        };
        if !byte.is_ascii_graphic() {
            return Err(Malformed::Illegal { what: TARGET });
        }
        if decoded.len() == LIMIT {
            return Err(Malformed::TooLong { what: TARGET, limit: LIMIT });
        }
        decoded.push(char::from(byte));
    }
    Ok(decoded)
}

fn hexadecimal(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// Reads `Proxy-Authorization: Basic …`. `None`: no credentials, or those of another scheme.
///
/// # Errors
/// `Illegal` for more than one such header, bad base64, no colon, or control characters (RFC 7617 §2 forbids
/// them); `TooLong` for a user name or password of more than 255 bytes.
pub fn basic_credentials(head: &RequestHead) -> Result<Option<Credentials>, Malformed> {
    const HEADER: &str = "proxy-authorization";
    const ILLEGAL: Malformed = Malformed::Illegal { what: BASIC };
    match head.count(HEADER) {
        0 => return Ok(None),
        1 => {}
        _ => return Err(ILLEGAL),
    }
    let (scheme, encoded) = head.header(HEADER).and_then(|value| value.split_once(' ')).ok_or(ILLEGAL)?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return Ok(None);
    }
    let decoded = Zeroizing::new(LENIENT.decode(encoded.trim()).map_err(|_| ILLEGAL)?);
    // RFC 7617 §2: a user-id holds no colon, so the first one ends it.
    let colon = decoded.iter().position(|b| *b == b':').ok_or(ILLEGAL)?;
    let (user, password) = decoded.split_at(colon);
    let password = password.strip_prefix(b":").unwrap_or(password);
    if decoded.iter().any(u8::is_ascii_control) {
        return Err(ILLEGAL);
    }
    if user.len() > CREDENTIAL_MAX_BYTES || password.len() > CREDENTIAL_MAX_BYTES {
        return Err(Malformed::TooLong { what: BASIC, limit: CREDENTIAL_MAX_BYTES });
    }
    Ok(Some(Credentials { user: user.to_vec(), password: Zeroizing::new(password.to_vec()) }))
}

/// The answer after which the connection is a tunnel. RFC 9110 §9.3.6: it has no `Content-Length` and no
/// `Transfer-Encoding`.
#[must_use]
pub const fn established() -> &'static [u8] {
    b"HTTP/1.1 200 Connection established\r\n\r\n"
}

/// The request of our own client. Control characters in `target` become spaces, so that it cannot add a line.
#[must_use]
pub fn connect_request(target: &str, basic: Option<&Credentials>) -> Vec<u8> {
    let mut text = String::from("CONNECT ");
    push_line(&mut text, &format!("{target} HTTP/1.1"));
    text.push_str("Host: ");
    push_line(&mut text, target);
    if let Some(credentials) = basic {
        let pair = Zeroizing::new([credentials.user.as_slice(), b":", &credentials.password].concat());
        text.push_str("Proxy-Authorization: Basic ");
        push_line(&mut text, &STANDARD.encode(&*pair));
    }
    text.push_str("\r\n");
    text.into_bytes()
}

#[cfg(test)]
mod tests;
