//! Which protocol a connection speaks, told from its first decrypted bytes (PROTOCOL §1).
//!
//! It only recognises: whether the rest is well formed is for the protocol's own parser, and whether a listener
//! wants the protocol is policy. It decides by 24 bytes at the latest.

use crate::cgp;

/// The greeting of a raw ICA server.
const ICA_GREETING: [u8; 6] = [0x7F, 0x7F, b'I', b'C', b'A', 0x00];
/// RFC 9113 §3.4, the longest pattern here.
const HTTP2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Longest method that is taken for HTTP; the longest registered one is `UPDATEREDIRECTREF`.
const METHOD_MAX_BYTES: usize = 17;
const SOCKS_VERSION: u8 = 5;

/// What the first bytes are the beginning of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FirstBytes {
    /// The CGP prefix.
    Cgp,
    /// A SOCKS5 CONNECT request without a method greeting before it.
    SocksRequest,
    /// A SOCKS5 method greeting, perhaps with a request right behind it.
    SocksGreeting,
    /// `05 01 00` and nothing more: a greeting, unless a request follows within a short wait.
    SocksGreetingOrRequest,
    /// A request line of HTTP/1.
    Http,
    /// The connection preface of HTTP/2.
    Http2,
    /// A raw ICA greeting.
    Ica,
    /// None of these.
    Unknown,
}

/// Names the protocol; `None`: the bytes are the beginning of something known, more are needed.
#[must_use]
pub fn sniff(bytes: &[u8]) -> Option<FirstBytes> {
    match bytes.first()? {
        &cgp::PREFIX_FIRST_BYTE => pattern(bytes, &cgp::PREFIX, FirstBytes::Cgp),
        &SOCKS_VERSION => socks(bytes),
        0x7F => pattern(bytes, &ICA_GREETING, FirstBytes::Ica),
        b'A'..=b'Z' => http(bytes),
        _ => Some(FirstBytes::Unknown),
    }
}

fn pattern(bytes: &[u8], whole: &[u8], found: FirstBytes) -> Option<FirstBytes> {
    if bytes.starts_with(whole) {
        Some(found)
    } else if whole.starts_with(bytes) {
        None
    } else {
        Some(FirstBytes::Unknown)
    }
}

fn socks(bytes: &[u8]) -> Option<FirstBytes> {
    match bytes {
        [_] | [_, 1] => None,
        [_, 1, 0] => Some(FirstBytes::SocksGreetingOrRequest),
        // Address types: IPv4, domain name, IPv6.
        [_, 1, 0, 1 | 3 | 4, ..] => Some(FirstBytes::SocksRequest),
        [_, 1, 0, SOCKS_VERSION, ..] => Some(FirstBytes::SocksGreeting),
        [_, 1, 0, ..] => Some(FirstBytes::Unknown),
        _ => Some(FirstBytes::SocksGreeting),
    }
}

fn http(bytes: &[u8]) -> Option<FirstBytes> {
    if HTTP2_PREFACE.starts_with(bytes) && bytes.len() < HTTP2_PREFACE.len() {
        return None;
    }
    if bytes.starts_with(HTTP2_PREFACE) {
        return Some(FirstBytes::Http2);
    }
    // Methods are case-sensitive (RFC 9110 §9.1) and every registered one is in capitals and hyphens.
    let method = bytes.iter().take_while(|b| b.is_ascii_uppercase() || **b == b'-').count();
    if method > METHOD_MAX_BYTES {
        return Some(FirstBytes::Unknown);
    }
    match bytes.get(method) {
        None => None,
        Some(b' ') => Some(FirstBytes::Http),
        Some(_) => Some(FirstBytes::Unknown),
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    const EXAMPLES: [(&[u8], FirstBytes); 12] = [
        (b"\x1ACGP/01", FirstBytes::Cgp),
        (b"\x05\x01\x00\x03\x04", FirstBytes::SocksRequest),
        (b"\x05\x01\x00\x01", FirstBytes::SocksRequest),
        (b"\x05\x01\x00\x04", FirstBytes::SocksRequest),
        (b"\x05\x01\x00\x05\x01\x00\x03", FirstBytes::SocksGreeting),
        (b"\x05\x01\x02", FirstBytes::SocksGreeting),
        (b"\x05\x02\x00\x02", FirstBytes::SocksGreeting),
        (b"GET / HTTP/1.1\r\n", FirstBytes::Http),
        (b"CONNECT a:1 HTTP/1.1\r\n", FirstBytes::Http),
        (b"VERSION-CONTROL /", FirstBytes::Http),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", FirstBytes::Http2),
        (b"\x7F\x7FICA\x00", FirstBytes::Ica),
    ];

    #[test]
    fn every_known_beginning_is_named() {
        for (bytes, expected) in EXAMPLES {
            assert_eq!(sniff(bytes), Some(expected), "{bytes:02x?}");
        }
    }

    #[test]
    fn three_bytes_of_socks_may_still_become_either() {
        assert_eq!(sniff(&[5, 1, 0]), Some(FirstBytes::SocksGreetingOrRequest));
    }

    #[test]
    fn anything_else_is_unknown_at_once() {
        let cases: [&[u8]; 9] = [
            b"\x16\x03\x01",
            b"\x1ACGP/02",
            b"\x04\x01",
            b"\x7F\x7FICB",
            b"get / HTTP/1.1",
            b"SSH-2.0-x",
            b"\x05\x01\x00\x02",
            b"G\x00",
            b" ",
        ];
        for bytes in cases {
            assert_eq!(sniff(bytes), Some(FirstBytes::Unknown), "{bytes:02x?}");
        }
    }

    #[test]
    fn the_longest_method_is_seventeen_bytes() {
        assert_eq!(sniff(b"UPDATEREDIRECTREF /"), Some(FirstBytes::Http));
        assert_eq!(sniff(b"UPDATEREDIRECTREF"), None);
        assert_eq!(sniff(b"UPDATEREDIRECTREFS"), Some(FirstBytes::Unknown));
    }

    #[test]
    fn a_preface_that_goes_wrong_is_a_request_of_http_1() {
        assert_eq!(sniff(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r"), None);
        assert_eq!(sniff(b"PRI * HTTP/1.1\r\n"), Some(FirstBytes::Http));
    }

    #[test]
    fn a_prefix_of_a_known_beginning_never_names_another_protocol() {
        for (bytes, expected) in EXAMPLES {
            for end in 0..bytes.len() {
                let early = sniff(&bytes[..end]);
                let fine = early.is_none()
                    || early == Some(expected)
                    || early == Some(FirstBytes::SocksGreetingOrRequest);
                assert!(fine, "{:02x?}: {early:?}", &bytes[..end]);
            }
        }
    }

    proptest! {
        #[test]
        fn it_decides_by_24_bytes(bytes in proptest::collection::vec(any::<u8>(), 24..40)) {
            prop_assert!(sniff(&bytes).is_some());
        }

        #[test]
        fn it_decides_by_24_bytes_of_text(text in "[A-Z -]{24}") {
            prop_assert!(sniff(text.as_bytes()).is_some());
        }

        #[test]
        fn a_decision_stands_when_more_bytes_come(bytes in proptest::collection::vec(any::<u8>(), 0..32), more: Vec<u8>) {
            if let Some(early) = sniff(&bytes).filter(|e| *e != FirstBytes::SocksGreetingOrRequest) {
                let mut longer = bytes;
                longer.extend(more);
                prop_assert_eq!(sniff(&longer), Some(early));
            }
        }
    }
}
