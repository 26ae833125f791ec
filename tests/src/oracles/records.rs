//! TLS records: what rustls accepts our record layer accepts with the same plaintext, and what it refuses is refused.

use std::io::Read as _;

use crate::twins::{self, Forger, SUITES};
use portcullis::tls::record::{Alert, Records};
use rustls::crypto::ring::cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256;
use rustls::{AlertDescription, ServerConnection, SupportedCipherSuite};

const HEADER_BYTES: usize = 5;
const CONTENT_MAX_BYTES: usize = 16_384;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;
/// Steps of one script; less than what either side bounds in a row.
const STEPS_MAX: usize = 24;

/// What became of a stream.
#[derive(Debug, Default)]
struct Outcome {
    plaintext: Vec<u8>,
    closed: bool,
    refused: bool,
}

/// The first byte chooses the suite, the second the chunks in which the stream comes. The rest is a script: each step
/// has a code, a length and a type, and what follows is its content. Records are sealed with the peer's keys, so that
/// whatever they say is judged.
pub fn records(bytes: &[u8]) {
    let &[choice, chunk, ref script @ ..] = bytes else { return };
    let suite = SUITES[usize::from(choice) % SUITES.len()];
    let (mut records, forger) = twins::ours(suite);
    let mut wire =
        Wire { forger, bytes: Vec::new(), last: 0, lenient: false, messages: Vec::new(), stricter: false };
    wire.write(suite, script);
    let chunk = usize::from(chunk).max(1).saturating_mul(if chunk > 128 { 257 } else { 1 });
    let ours = open(&mut records, &wire.bytes, chunk);
    let theirs = read(&mut twins::reference(suite), &wire.bytes, chunk);
    wire.compare(suite, &ours, &theirs);
}

/// A stream that is made up, and how the two may differ about it.
struct Wire {
    forger: Forger,
    bytes: Vec<u8>,
    /// Where its last record begins.
    last: usize,
    /// rustls looks into a message that we only decline, or refuses by less than a header.
    lenient: bool,
    /// What its handshake records say.
    messages: Vec<u8>,
    /// Something is in it that the RFC forbids and rustls lets pass.
    stricter: bool,
}

impl Wire {
    fn write(&mut self, suite: SupportedCipherSuite, mut script: &[u8]) {
        let is_13 = suite.tls13().is_some();
        for _ in 0..STEPS_MAX {
            let &[code, length, kind, ref rest @ ..] = script else { return };
            let (content, rest) = rest.split_at(usize::from(length).min(rest.len()));
            script = rest;
            let begins = self.bytes.len();
            match code % 8 {
                // Content, which fuzzing should not have to find.
                0 | 1 => self.seal(is_13, APPLICATION_DATA, content),
                2 => self.seal(is_13, kind, content),
                3 => self.seal(is_13, 20 + kind % 5, content),
                4 => {
                    // Around the longest content, with what follows it as padding.
                    let most = CONTENT_MAX_BYTES - 4 + usize::from(kind % 8);
                    self.seal(
                        is_13,
                        APPLICATION_DATA * (code >> 3 & 1),
                        &[vec![kind; most], content.to_vec()].concat(),
                    );
                }
                5 => {
                    self.seal(is_13, HANDSHAKE, &[24, 0, 0, 1, kind % 3]);
                    self.forger.update();
                }
                6 => {
                    self.bytes.extend_from_slice(content);
                }
                _ => {
                    // A bit of the last record falls over, or its end is lost.
                    let at = self.last + usize::from(length) % (self.bytes.len() - self.last).max(1);
                    match self.bytes.get_mut(at) {
                        Some(byte) if code & 8 == 0 => *byte ^= kind,
                        _ => self.bytes.truncate(at),
                    }
                }
            }
            if self.bytes.len() > begins {
                self.last = begins;
            }
        }
    }

    fn seal(&mut self, is_13: bool, kind: u8, content: &[u8]) {
        let (inside, said) = match content.iter().rposition(|byte| *byte != 0) {
            Some(at) if is_13 && kind == 0 => (content[at], &content[..at]),
            _ => (kind, content),
        };
        if inside == HANDSHAKE {
            // RFC 8446 §5.4 and RFC 5246 §6.2.1 forbid empty ones.
            self.stricter |= said.is_empty();
            self.lenient |= !is_13;
            self.messages.extend_from_slice(said);
        }
        let record = self.forger.seal(kind, content);
        self.bytes.extend_from_slice(&record);
    }

    /// Whether the last message has its head but not all of its body: we refuse by the head.
    fn awaits_body(&self) -> bool {
        let mut rest = self.messages.as_slice();
        while let Some([_, high, middle, low]) = rest.first_chunk::<4>() {
            let length =
                [*high, *middle, *low].iter().fold(0, |length, byte| (length << 8) | usize::from(*byte));
            match rest.get(4 + length..) {
                Some(next) => rest = next,
                None => return true,
            }
        }
        false
    }

    fn compare(&self, suite: SupportedCipherSuite, ours: &Outcome, theirs: &Outcome) {
        let (odd, tail) = self.headers(suite);
        match (ours.refused, theirs.refused) {
            (false, false) => {
                assert!(ours.plaintext == theirs.plaintext, "another plaintext");
                assert_eq!(ours.closed, theirs.closed);
            }
            (true, true) => {
                // Who refuses first has seen less.
                let more = self.lenient && ours.plaintext.starts_with(&theirs.plaintext);
                assert!(more || theirs.plaintext.starts_with(&ours.plaintext), "another plaintext");
            }
            (true, false) => {
                assert!(odd || self.stricter || self.awaits_body(), "refused what rustls accepts");
                assert!(theirs.plaintext.starts_with(&ours.plaintext), "another plaintext");
            }
            (false, true) => assert!(tail || self.lenient, "accepted what rustls refuses"),
        }
    }

    /// Whether a header is odd that rustls would let pass, and whether less than a header is left at the end.
    fn headers(&self, suite: SupportedCipherSuite) -> (bool, bool) {
        let is_13 = suite.tls13().is_some();
        // A tag, and a type (RFC 8446 §5.2) or an explicit nonce (RFC 5288 §3). rustls waits for longer records.
        let is_chacha = suite == TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256;
        let overhead = 16
            + if is_13 {
                1
            } else if is_chacha {
                0
            } else {
                8
            };
        let (mut rest, mut odd) = (self.bytes.as_slice(), false);
        while let Some([kind, major, minor, high, low]) = rest.first_chunk::<HEADER_BYTES>() {
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            odd |= length > CONTENT_MAX_BYTES + overhead;
            // Of these only content of a kind comes under TLS 1.2; the body is not waited for.
            odd |= !matches!(kind, 21..=23);
            // The one version of another major number that rustls knows by name, SSL 2.
            odd |= (*major, *minor) == (0, 2);
            // rustls does not look at these under TLS 1.3, nor authenticate them.
            odd |= is_13 && (*kind, *major, *minor) != (APPLICATION_DATA, 3, 3);
            match rest.get(HEADER_BYTES + length..) {
                Some(next) => rest = next,
                None => return (odd, false),
            }
        }
        (odd, !rest.is_empty())
    }
}

fn open(records: &mut Records, wire: &[u8], chunk: usize) -> Outcome {
    let (mut outcome, mut pending) = (Outcome::default(), Vec::new());
    for part in wire.chunks(chunk) {
        pending.extend_from_slice(part);
        match records.open(&mut pending) {
            Ok(opened) => {
                assert!(opened.consumed <= pending.len() && opened.plaintext.end <= opened.consumed);
                outcome.plaintext.extend_from_slice(&pending[opened.plaintext]);
                pending.drain(..opened.consumed);
                outcome.closed = opened.closed;
                if records.owes() {
                    let mut answer = Vec::new();
                    records.write(&[], &mut answer).expect("nothing is closed on our side");
                    assert!(!answer.is_empty());
                }
            }
            Err(alert) => {
                assert_ne!(alert, Alert::Send(AlertDescription::InternalError));
                outcome.refused = true;
                return outcome;
            }
        }
    }
    outcome
}

fn read(server: &mut ServerConnection, wire: &[u8], chunk: usize) -> Outcome {
    let mut outcome = Outcome::default();
    for mut part in wire.chunks(chunk) {
        while !part.is_empty() && !outcome.closed {
            server.read_tls(&mut part).expect("plaintext is taken");
            let state = server.process_new_packets();
            // `WouldBlock` says that there is no more for now.
            server.reader().read_to_end(&mut outcome.plaintext).ok();
            match state {
                Ok(state) => outcome.closed = state.peer_has_closed(),
                Err(_) => {
                    outcome.refused = true;
                    return outcome;
                }
            }
        }
    }
    outcome
}
