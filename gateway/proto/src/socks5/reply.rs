//! A server's answers to requests (RFC 1928 §6).

use super::{ADDRESS_IPV4, ADDRESS_NAME, ADDRESS_TYPE, VERSION, ready, request_len};
use crate::Malformed;

/// A server's answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    Succeeded,
    GeneralFailure,
    NotAllowed,
    NetworkUnreachable,
    HostUnreachable,
    ConnectionRefused,
    TtlExpired,
    CommandNotSupported,
    AddressTypeNotSupported,
}

impl Reply {
    /// The code on the wire.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Succeeded => 0,
            Self::GeneralFailure => 1,
            Self::NotAllowed => 2,
            Self::NetworkUnreachable => 3,
            Self::HostUnreachable => 4,
            Self::ConnectionRefused => 5,
            Self::TtlExpired => 6,
            Self::CommandNotSupported => 7,
            Self::AddressTypeNotSupported => 8,
        }
    }

    /// The whole answer. The bound address is always 0.0.0.0:0: inside addresses are never shown to a client.
    #[must_use]
    pub const fn encode(self) -> [u8; 10] {
        [VERSION, self.code(), 0, ADDRESS_IPV4, 0, 0, 0, 0, 0, 0]
    }

    /// The answer that a request with this fault deserves.
    #[must_use]
    pub fn for_malformed(error: &Malformed) -> Self {
        if *error == (Malformed::Illegal { what: ADDRESS_TYPE }) {
            Self::AddressTypeNotSupported
        } else {
            Self::GeneralFailure
        }
    }
}

/// The length of a server's answer; it has the layout of a request.
///
/// # Errors
/// As [`request_len`], but a domain name may be empty.
pub fn reply_len(bytes: &[u8]) -> Result<Option<usize>, Malformed> {
    match bytes.get(..5) {
        // Some servers answer with an empty bound name; only the code matters to a client.
        Some(&[VERSION, _, 0, ADDRESS_NAME, 0]) => Ok(ready(bytes, 7)),
        Some(_) | None => request_len(bytes),
    }
}

/// Reads a server's answer: its code, where 0 is success. The bound address is checked for its length only.
///
/// # Errors
/// As [`reply_len`]; `Truncated` or `Trailing` unless `frame` is exactly one answer.
pub fn parse_reply(frame: &[u8]) -> Result<u8, Malformed> {
    match reply_len(frame)? {
        None => Err(Malformed::Truncated { what: "SOCKS reply" }),
        Some(length) if length < frame.len() => Err(Malformed::Trailing { what: "SOCKS reply" }),
        Some(_) => frame.get(1).copied().ok_or(Malformed::Truncated { what: "SOCKS reply" }),
    }
}
