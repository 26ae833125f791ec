//! The ticket string that a client shows (PROTOCOL §2).
//!
//! ```text
//! ;40;STA490101972;<hex>                 one ticket
//! ;42;STA1;<hex>;STA2;<hex>              two tickets of two authorities, tried in order
//! ```
//! A ticket is a bearer secret: nothing here prints one.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use subtle::ConstantTimeEq as _;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::Malformed;

/// Longest ticket string: what a SOCKS5 domain name can carry (RFC 1928 §5).
pub const TICKET_STRING_MAX_BYTES: usize = 255;
/// Versions in the wild; 40 and 42 are current.
pub const VERSIONS: [u16; 6] = [10, 20, 30, 40, 41, 42];
/// The version that our own authority issues.
pub const VERSION_CURRENT: u16 = 40;
/// The lengths of a ticket in hexadecimal characters that are accepted.
pub const SECRET_CHARS: [usize; 2] = [30, 32];

/// The id of a Secure Ticket Authority: `STA` and 9 decimal or 12 hexadecimal digits, in upper case.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AuthorityId(String);

impl AuthorityId {
    /// # Errors
    /// `Illegal` for any other shape.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        let illegal = Malformed::Illegal { what: "authority id" };
        let upper = text.to_ascii_uppercase();
        let digits = upper.strip_prefix("STA").ok_or(illegal)?;
        let legal = match digits.len() {
            9 => digits.bytes().all(|b| b.is_ascii_digit()),
            12 => digits.bytes().all(|b| b.is_ascii_hexdigit()),
            _ => false,
        };
        if legal { Ok(Self(upper)) } else { Err(illegal) }
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AuthorityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The secret part of a ticket in hexadecimal, upper case. Wiped on drop, compared in constant time.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct TicketSecret(String);

impl TicketSecret {
    /// # Errors
    /// `Illegal` unless the text is 30 or 32 hexadecimal characters.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        let legal = SECRET_CHARS.contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
        if legal { Ok(Self(text.to_ascii_uppercase())) } else { Err(Malformed::Illegal { what: "ticket" }) }
    }

    /// Makes a secret of 128 random bits.
    #[must_use]
    pub fn from_random(bytes: [u8; 16]) -> Self {
        let mut text = String::with_capacity(32);
        for nibble in bytes.iter().flat_map(|byte| [byte >> 4, byte & 0x0F]) {
            text.extend(char::from_digit(u32::from(nibble), 16).map(|digit| digit.to_ascii_uppercase()));
        }
        Self(text)
    }

    /// The secret itself, for the message to the authority and for the ICA file only.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl PartialEq for TicketSecret {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}

impl Eq for TicketSecret {}

impl fmt::Debug for TicketSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TicketSecret(…)")
    }
}

/// One ticket and the authority that can redeem it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    pub authority: AuthorityId,
    pub secret: TicketSecret,
}

/// A whole ticket string: a version and one or two tickets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TicketString {
    version: u16,
    first: Ticket,
    second: Option<Ticket>,
}

impl TicketString {
    #[must_use]
    pub fn new(version: u16, first: Ticket, second: Option<Ticket>) -> Self {
        Self { version, first, second }
    }

    /// Whether a host name is meant as a ticket: no host name begins with a semicolon.
    #[must_use]
    pub fn is_ticket(text: &str) -> bool {
        text.starts_with(';')
    }

    /// # Errors
    /// `TooLong` past 255 bytes, `Illegal` for an unknown version, authority id or secret, `Missing` for an
    /// absent part, `Trailing` for a third ticket.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        if text.len() > TICKET_STRING_MAX_BYTES {
            return Err(Malformed::TooLong { what: "ticket string", limit: TICKET_STRING_MAX_BYTES });
        }
        let rest = text.strip_prefix(';').ok_or(Malformed::Illegal { what: "ticket string" })?;
        let mut parts = rest.strip_suffix(';').unwrap_or(rest).split(';');
        let version = parts.next().filter(|v| v.len() == 2 && v.bytes().all(|b| b.is_ascii_digit()));
        let version = version.and_then(|v| v.parse().ok()).filter(|v| VERSIONS.contains(v));
        let version = version.ok_or(Malformed::Illegal { what: "ticket version" })?;
        let first = Self::pair(&mut parts)?.ok_or(Malformed::Missing { what: "ticket" })?;
        let second = Self::pair(&mut parts)?;
        if parts.next().is_some() {
            return Err(Malformed::Trailing { what: "ticket string" });
        }
        Ok(Self { version, first, second })
    }

    fn pair<'a>(parts: &mut impl Iterator<Item = &'a str>) -> Result<Option<Ticket>, Malformed> {
        let Some(authority) = parts.next() else { return Ok(None) };
        let secret = parts.next().ok_or(Malformed::Missing { what: "ticket" })?;
        Ok(Some(Ticket { authority: AuthorityId::parse(authority)?, secret: TicketSecret::parse(secret)? }))
    }

    #[must_use]
    pub fn version(&self) -> u16 {
        self.version
    }

    #[must_use]
    pub fn first(&self) -> &Ticket {
        &self.first
    }

    #[must_use]
    pub fn second(&self) -> Option<&Ticket> {
        self.second.as_ref()
    }

    /// The tickets in the order in which they are to be tried.
    #[must_use]
    pub fn into_tickets(self) -> Vec<Ticket> {
        [Some(self.first), self.second].into_iter().flatten().collect()
    }

    /// The string as a client shows it. It holds secrets.
    #[must_use]
    pub fn expose(&self) -> String {
        let mut text = String::from(";");
        text.push_str(&self.version.to_string());
        for ticket in [Some(&self.first), self.second.as_ref()].into_iter().flatten() {
            text.push(';');
            text.push_str(ticket.authority.as_str());
            text.push(';');
            text.push_str(ticket.secret.expose());
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use alloc::format;

    use proptest::prelude::*;

    use super::*;

    const HEX: &str = "0123456789abcdef0123456789ABCD";

    #[test]
    fn a_single_ticket_round_trips_in_upper_case() {
        let parsed = TicketString::parse(&format!(";40;sta490101972;{HEX}")).unwrap();
        assert_eq!(parsed.version(), 40);
        assert_eq!(parsed.expose(), format!(";40;STA490101972;{}", HEX.to_ascii_uppercase()));
    }

    #[test]
    fn a_double_ticket_keeps_its_order() {
        let parsed = TicketString::parse(&format!(";42;STA0123456789AB;{HEX};STA123456789;{HEX}FF")).unwrap();
        let tickets = parsed.into_tickets();
        assert_eq!(tickets[0].authority.as_str(), "STA0123456789AB");
        assert_eq!(tickets[1].authority.as_str(), "STA123456789");
    }

    #[test]
    fn malformed_ticket_strings_are_refused() {
        for text in [
            "",
            ";",
            ";40",
            ";40;STA490101972",
            &format!("40;STA490101972;{HEX}"),
            &format!(";99;STA490101972;{HEX}"),
            &format!(";+40;STA490101972;{HEX}"),
            &format!(";040;STA490101972;{HEX}"),
            &format!(";40;STA49010197;{HEX}"),
            &format!(";40;STAX90101972;{HEX}"),
            &format!(";40;STA490101972;{HEX}0"),
            &format!(";40;STA490101972;{}", HEX.replace('0', "x")),
            &format!(";42;STA1;{HEX};STA2"),
            &format!(";42;STA490101972;{HEX};STA490101972;{HEX};STA490101972;{HEX}"),
            &format!(";40;STA490101972;{}", "A".repeat(300)),
        ] {
            assert!(TicketString::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn debug_output_holds_no_secret() {
        let parsed = TicketString::parse(&format!(";40;STA490101972;{HEX}")).unwrap();
        assert!(!format!("{parsed:?}").to_ascii_lowercase().contains("0123456789abcdef"));
    }

    fn any_ticket() -> impl Strategy<Value = Ticket> {
        ("STA([0-9]{9}|[0-9A-F]{12})", "[0-9A-F]{30}([0-9A-F]{2})?").prop_map(|(authority, secret)| Ticket {
            authority: AuthorityId::parse(&authority).unwrap(),
            secret: TicketSecret::parse(&secret).unwrap(),
        })
    }

    proptest! {
        #[test]
        fn any_ticket_string_round_trips_in_any_case(
            version in proptest::sample::select(&VERSIONS[..]),
            first in any_ticket(),
            second in proptest::option::of(any_ticket()),
        ) {
            let ticket = TicketString::new(version, first, second);
            let text = ticket.expose();
            prop_assert!(TicketString::is_ticket(&text) && text.len() <= TICKET_STRING_MAX_BYTES);
            prop_assert_eq!(TicketString::parse(&text), Ok(ticket.clone()));
            prop_assert_eq!(TicketString::parse(&text.to_ascii_lowercase()), Ok(ticket));
        }

        #[test]
        fn arbitrary_text_never_panics(text in "(;|;40;STA)?[;0-9A-Fa-fSTé]{0,80}", any: String) {
            drop(TicketString::parse(&text));
            drop(TicketString::parse(&any));
        }

        #[test]
        fn a_random_secret_is_its_bytes(bytes: [u8; 16]) {
            let text: String = bytes.iter().map(|byte| format!("{byte:02X}")).collect();
            let secret = TicketSecret::from_random(bytes);
            prop_assert_eq!(secret.expose(), &text);
            prop_assert_eq!(TicketSecret::parse(&text), Ok(secret));
        }
    }
}
