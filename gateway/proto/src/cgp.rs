//! The first packet of a session with session reliability (PROTOCOL §1 and §4).
//!
//! Only two things are known of it: its prefix, and that the ticket string stands somewhere inside as ASCII.
//! Everything else is opaque and is forwarded unchanged. That the ticket is in the *first* packet and in ASCII is
//! inferred, so [`find_ticket`] and [`client_hello`] are the only places that rely on it.

use alloc::vec::Vec;

use crate::Malformed;
use crate::ticket::{SECRET_CHARS, TICKET_STRING_MAX_BYTES, TicketString};

/// The bytes that every session begins with.
pub const PREFIX: [u8; 7] = [PREFIX_FIRST_BYTE, b'C', b'G', b'P', b'/', b'0', b'1'];
pub(crate) const PREFIX_FIRST_BYTE: u8 = 0x1A;
/// The ticket must be whole within that many bytes.
pub const FIRST_PACKET_MAX_BYTES: usize = 4096;
/// Digits of the version and of authority ids (see [`crate::ticket`]).
const VERSION_CHARS: usize = 2;
const AUTHORITY_DIGITS: [usize; 2] = [9, 12];

/// A ticket string found among opaque bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundTicket {
    pub ticket: TicketString,
    /// False when the bytes end with the ticket, so that more of it may follow.
    pub complete: bool,
}

/// Looks for the ticket string in the bytes received so far. `Ok(None)`: not there yet; the caller bounds the
/// wait.
///
/// # Errors
/// `Illegal` for another prefix, `TooLong` when the first 4096 bytes hold no whole ticket.
pub fn find_ticket(packet: &[u8]) -> Result<Option<FoundTicket>, Malformed> {
    let Some((prefix, body)) = packet.split_at_checked(PREFIX.len()) else {
        return if PREFIX.starts_with(packet) { Ok(None) } else { Err(WRONG_PREFIX) };
    };
    if prefix != PREFIX {
        return Err(WRONG_PREFIX);
    }
    let searched = body.get(..FIRST_PACKET_MAX_BYTES.saturating_sub(PREFIX.len())).unwrap_or(body);
    let mut rest = searched;
    while let Some(at) = rest.iter().position(|b| *b == b';') {
        let (_, candidate) = rest.split_at(at);
        if let Some((length, complete)) = shape(candidate) {
            let text = candidate.get(..length).and_then(|bytes| core::str::from_utf8(bytes).ok());
            if let Some(ticket) = text.and_then(|text| TicketString::parse(text).ok()) {
                let cut = !complete && packet.len() > FIRST_PACKET_MAX_BYTES;
                return if cut { Err(TOO_LONG) } else { Ok(Some(FoundTicket { ticket, complete })) };
            }
        }
        rest = candidate.split_first().map_or(&[], |(_, rest)| rest);
    }
    if packet.len() >= FIRST_PACKET_MAX_BYTES { Err(TOO_LONG) } else { Ok(None) }
}

const TOO_LONG: Malformed = Malformed::TooLong { what: "CGP first packet", limit: FIRST_PACKET_MAX_BYTES };
const WRONG_PREFIX: Malformed = Malformed::Illegal { what: "CGP prefix" };

/// How many bytes of `candidate`, which begins with a semicolon, have the shape of a ticket string of one or two
/// pairs, and whether its end is certain. Lengths are told by the grammar and not by the next byte that is no
/// word character, since that byte is opaque and may well be one.
fn shape(candidate: &[u8]) -> Option<(usize, bool)> {
    let rest = candidate.strip_prefix(b";")?;
    let (version, rest) = rest.split_at_checked(VERSION_CHARS)?;
    if !version.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let mut rest = rest;
    let mut found = None;
    for _ in 0..2 {
        match pair(rest) {
            Pair::Whole(after) => {
                rest = after;
                found = Some((candidate.len().saturating_sub(after.len()), !after.is_empty()));
            }
            Pair::Unfinished => return found.map(|(length, _)| (length, false)),
            Pair::Other => break,
        }
    }
    found
}

enum Pair<'a> {
    /// A pair, and what follows it.
    Whole(&'a [u8]),
    /// The bytes end inside what may become a pair.
    Unfinished,
    Other,
}

/// Reads `;STA<digits>;<hexadecimal>`.
fn pair(bytes: &[u8]) -> Pair<'_> {
    const LEAD: &[u8] = b";STA";
    let Some((lead, rest)) = bytes.split_at_checked(LEAD.len()) else {
        let matches = LEAD.iter().zip(bytes).all(|(l, b)| b.eq_ignore_ascii_case(l));
        return if matches { Pair::Unfinished } else { Pair::Other };
    };
    if !lead.eq_ignore_ascii_case(LEAD) {
        return Pair::Other;
    }
    let digits = hexadecimal(rest);
    let after = rest.split_at_checked(digits).map_or(&[][..], |(_, after)| after);
    if after.is_empty() {
        return if digits <= AUTHORITY_DIGITS[1] { Pair::Unfinished } else { Pair::Other };
    }
    let Some(secret) = after.strip_prefix(b";").filter(|_| AUTHORITY_DIGITS.contains(&digits)) else {
        return Pair::Other;
    };
    let chars = hexadecimal(secret);
    match secret.split_at_checked(chars) {
        Some((_, after)) if SECRET_CHARS.contains(&chars) => Pair::Whole(after),
        Some((_, [])) if chars < SECRET_CHARS[1] => Pair::Unfinished,
        Some(_) | None => Pair::Other,
    }
}

fn hexadecimal(bytes: &[u8]) -> usize {
    bytes.iter().take(TICKET_STRING_MAX_BYTES).take_while(|b| b.is_ascii_hexdigit()).count()
}

/// What our own client sends: the prefix, the ticket string and a zero byte. The shape is inferred: no document
/// describes the real one, and ours needs no more than what [`find_ticket`] looks for.
#[must_use]
pub fn client_hello(ticket: &TicketString) -> Vec<u8> {
    let mut bytes = Vec::from(PREFIX);
    bytes.extend_from_slice(ticket.expose().as_bytes());
    bytes.push(0);
    bytes
}

#[cfg(test)]
mod tests {
    use alloc::format;
    use alloc::string::{String, ToString as _};

    use proptest::prelude::*;

    use super::*;

    const HEX: &str = "0123456789ABCDEF0123456789ABCD";

    fn packet(ticket: &str, after: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::from(PREFIX);
        bytes.extend_from_slice(&[0x00, 0x2A, b';', 0xFF]);
        bytes.extend_from_slice(ticket.as_bytes());
        bytes.extend_from_slice(after);
        bytes
    }

    fn found(bytes: &[u8]) -> Option<(String, bool)> {
        find_ticket(bytes).unwrap().map(|f| (f.ticket.expose(), f.complete))
    }

    #[test]
    fn a_ticket_is_found_among_opaque_bytes() {
        for secret in [HEX.to_string(), format!("{HEX}01")] {
            let text = format!(";40;STA490101972;{secret}");
            for after in [&b"\x00\x01\x02"[..], b" ", b"z", b";\x00", b"\xFF", b";40;"] {
                assert_eq!(found(&packet(&text, after)), Some((text.clone(), true)), "{after:02x?}");
            }
        }
    }

    #[test]
    fn a_ticket_at_the_end_is_not_complete() {
        let single = format!(";40;STA490101972;{HEX}");
        for after in ["", ";", ";S", ";STA", ";STA1234", ";STA0123456789AB;", ";STA0123456789AB;0123"] {
            assert_eq!(found(&packet(&single, after.as_bytes())), Some((single.clone(), false)), "{after}");
        }
    }

    #[test]
    fn a_double_ticket_keeps_both_pairs() {
        let double = format!(";42;STA490101972;{HEX};STA0123456789AB;{HEX}EF");
        assert_eq!(found(&packet(&double, b"\x00")), Some((double.clone(), true)));
        assert_eq!(found(&packet(&double, b"")), Some((double, false)));
    }

    #[test]
    fn shapes_that_are_no_ticket_are_passed_over() {
        for text in [
            format!(";99;STA490101972;{HEX}"),
            format!(";4x;STA490101972;{HEX}"),
            format!(";40;STB490101972;{HEX}"),
            format!(";40;STA49010197;{HEX}"),
            format!(";40;STAA90101972;{HEX}"),
            format!(";40;STA490101972;{HEX}0"),
            format!(";40;STA490101972;{HEX}012"),
            format!(";40;STA490101972;{}", "0".repeat(29)),
        ] {
            assert_eq!(found(&packet(&text, b"\x00")), None, "{text}");
        }
        let second = format!(";99;STA490101972;{HEX};40;STA490101973;{HEX}");
        assert_eq!(found(&packet(&second, b"\x00")), Some((format!(";40;STA490101973;{HEX}"), true)));
    }

    #[test]
    fn another_prefix_is_refused_and_part_of_it_is_not() {
        assert_eq!(find_ticket(b"\x1ACGP/02"), Err(WRONG_PREFIX));
        assert_eq!(find_ticket(b"\x1AX"), Err(WRONG_PREFIX));
        assert_eq!(find_ticket(b""), Ok(None));
        assert_eq!(find_ticket(&PREFIX[..6]), Ok(None));
        assert_eq!(find_ticket(&PREFIX), Ok(None));
    }

    #[test]
    fn the_search_ends_at_4096_bytes() {
        let ticket = format!(";40;STA490101972;{HEX}");
        let padded = |length: usize| {
            let mut bytes = Vec::from(PREFIX);
            bytes.resize(length - ticket.len(), b'.');
            bytes.extend_from_slice(ticket.as_bytes());
            bytes
        };
        assert_eq!(found(&padded(FIRST_PACKET_MAX_BYTES)), Some((ticket.clone(), false)));
        assert_eq!(find_ticket(&padded(FIRST_PACKET_MAX_BYTES + 1)), Err(TOO_LONG));
        let mut longer = padded(FIRST_PACKET_MAX_BYTES);
        longer.push(b'.');
        assert_eq!(find_ticket(&longer), Err(TOO_LONG));
        let mut opaque = Vec::from(PREFIX);
        opaque.resize(FIRST_PACKET_MAX_BYTES - 1, b';');
        assert_eq!(find_ticket(&opaque), Ok(None));
        opaque.push(b';');
        assert_eq!(find_ticket(&opaque), Err(TOO_LONG));
    }

    #[test]
    fn our_own_hello_is_found() {
        let ticket = TicketString::parse(&format!(";40;STA490101972;{HEX}")).unwrap();
        assert_eq!(find_ticket(&client_hello(&ticket)), Ok(Some(FoundTicket { ticket, complete: true })));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(body: Vec<u8>, ascii in "[;0-9A-FST]{0,200}") {
            let mut bytes = Vec::from(PREFIX);
            bytes.extend(body);
            bytes.extend_from_slice(ascii.as_bytes());
            prop_assert!(find_ticket(&bytes).is_ok());
        }

        #[test]
        fn a_prefix_is_never_malformed_and_never_another_ticket(
            before in proptest::collection::vec(any::<u8>().prop_filter("no semicolon", |b| *b != b';'), 0..64),
            secrets in ("[0-9A-F]{30}", "[0-9A-F]{32}"),
            after: Vec<u8>,
        ) {
            let whole = format!(";42;STA490101972;{};STA0123456789AB;{}", secrets.0, secrets.1);
            let single = format!(";42;STA490101972;{}", secrets.0);
            let mut bytes = Vec::from(PREFIX);
            bytes.extend(before);
            bytes.extend_from_slice(whole.as_bytes());
            bytes.push(0);
            bytes.extend(after);
            for end in 0..=bytes.len() {
                match found(&bytes[..end]) {
                    None => {}
                    Some((text, true)) => prop_assert_eq!(text, whole.clone()),
                    // A secret of 32 characters may look like one of 30 while its end is missing.
                    Some((text, false)) => prop_assert!(whole.starts_with(&text) && text.starts_with(&single)),
                }
            }
            prop_assert_eq!(found(&bytes), Some((whole, true)));
        }
    }
}
