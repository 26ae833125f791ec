//! TLS records opened and sealed where they lie: the fast half of a TLS connection, after rustls has shaken hands.
//!
//! [`Records`] takes the keys of a finished handshake and protects records of TLS 1.2 (RFC 5246 §6.2, RFC 5288,
//! RFC 7905) and TLS 1.3 (RFC 8446 §5) with AES-GCM or ChaCha20-Poly1305, in the caller's buffers, without a copy and
//! without an allocation. rustls keeps the traffic secrets and derives new keys for key updates. Nothing here shakes
//! hands, reads a socket, resumes or renegotiates.
//!
//! Where rustls and the RFC differ, the stricter holds: the whole header is authenticated under TLS 1.3, content
//! types that are unknown and empty messages are refused. What rustls bounds (empty records, warnings, key updates)
//! is bounded as in rustls or closer.

#[cfg(test)]
pub(crate) mod tests;

use std::fmt;
use std::ops::Range;

use ring::aead::{self, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use rustls::kernel::KernelConnection;
use rustls::{AlertDescription, CipherSuite, ConnectionTrafficSecrets, Error, ExtractedSecrets};
use rustls::{HandshakeType, Side, SupportedCipherSuite};
use zeroize::Zeroizing;

/// Most plaintext that one record carries.
pub const CONTENT_MAX_BYTES: usize = 16_384;
const HEADER_BYTES: usize = 5;
const TAG_BYTES: usize = 16;
/// Records without content in a row, and warnings in a connection; as in rustls.
const QUIET_MAX: u8 = 32;
const WARNINGS_MAX: u8 = 4;

// Content types (RFC 8446 §5.1) and alert levels (§6).
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;
const WARNING: u8 = 1;
const FATAL: u8 = 2;

const UNEXPECTED: Alert = Alert::Send(AlertDescription::UnexpectedMessage);

/// Why a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alert {
    /// The peer has to be told, with [`Records::alert`].
    Send(AlertDescription),
    /// The peer told us; it hears nothing more.
    Received(AlertDescription),
}

/// What [`Records::open`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// Where the plaintext of all records lies in the buffer, in one piece.
    pub plaintext: Range<usize>,
    /// Bytes that are done with; what follows is the beginning of a record.
    pub consumed: usize,
    /// The peer sends no more; whatever else it sends is ignored.
    pub closed: bool,
}

/// The record layer of one connection, both directions.
pub struct Records {
    rx: Half,
    tx: Half,
    /// rustls's part under TLS 1.3: the next key to seal with (`true`) or to open with.
    next_key: Option<Box<dyn FnMut(bool) -> Option<Half> + Send>>,
    /// Records of content that a key may seal. Two more may follow, an answer and an alert.
    limit: u64,
    side: Side,
    state: State,
}

#[derive(Default)]
struct State {
    /// The beginning of a message that is cut over records, never longer than a record.
    partial: Vec<u8>,
    /// Records without content in a row.
    quiet: u8,
    warnings: u8,
    renegotiated: bool,
    peer_closed: bool,
    /// What the peer is to be told before any content.
    refusal_due: bool,
    update_due: bool,
    closed: bool,
}

impl Records {
    /// Whether a suite is known: RFC 8446 §B.4; RFC 5289 §3.2 and RFC 7905 §2, those with ECDHE.
    #[must_use]
    pub fn supports(suite: CipherSuite) -> bool {
        matches!(u16::from(suite), 0x1301..=0x1303 | 0xc02b | 0xc02c | 0xc02f | 0xc030 | 0xcca8 | 0xcca9)
    }

    /// Goes on where rustls stopped. `None`: the connection is lost, so ask [`Self::supports`] first.
    pub fn new<D: Send + 'static>(
        (secrets, mut kernel): (ExtractedSecrets, KernelConnection<D>),
        side: Side,
    ) -> Option<Self> {
        let (is_13, limit) = match kernel.negotiated_cipher_suite() {
            SupportedCipherSuite::Tls12(suite) => (false, suite.common.confidentiality_limit),
            SupportedCipherSuite::Tls13(suite) => (true, suite.common.confidentiality_limit),
        };
        let (rx, tx) = (Half::new(secrets.rx, is_13)?, Half::new(secrets.tx, is_13)?);
        let next_key: Box<dyn FnMut(bool) -> Option<Half> + Send> = Box::new(move |sealing| {
            let next = if sealing { kernel.update_tx_secret() } else { kernel.update_rx_secret() };
            Half::new(next.ok()?, true)
        });
        let (next_key, limit) = (is_13.then_some(next_key), limit.saturating_sub(2));
        Some(Self { rx, tx, next_key, limit, side, state: State::default() })
    }

    /// Opens all whole records at the beginning of the buffer.
    ///
    /// # Errors
    /// Why the connection ends; what was opened in the same call is lost, as in rustls.
    pub fn open(&mut self, buffer: &mut [u8]) -> Result<Opened, Alert> {
        let (mut plaintext, mut consumed) = (0..0, 0);
        let (front, back) = self.rx.room();
        while !self.state.peer_closed {
            let header = buffer.get(consumed..).and_then(<[u8]>::first_chunk);
            let Some(&[kind, major, _, high, low]) = header else { break };
            // Under TLS 1.3 everything looks like content (RFC 8446 §5).
            let is_known = kind == APPLICATION_DATA || (!self.rx.is_13 && matches!(kind, ALERT | HANDSHAKE));
            if major != 3 || !is_known {
                return Err(UNEXPECTED);
            }
            let record = consumed..consumed + HEADER_BYTES + usize::from(u16::from_be_bytes([high, low]));
            if record.len() > front + CONTENT_MAX_BYTES + back {
                return Err(Alert::Send(AlertDescription::RecordOverflow));
            }
            if record.end > buffer.len() {
                break;
            }
            consumed = record.end;
            if plaintext.is_empty() {
                plaintext = record.start + front..record.start + front;
            }
            // Later plaintexts are moved up to the earlier ones while they are deciphered.
            let opened = self.rx.open(buffer, record, plaintext.end);
            let (kind, content) = opened.ok_or(Alert::Send(AlertDescription::BadRecordMac))?;
            self.take(kind, content)?;
            if kind == APPLICATION_DATA {
                plaintext.end += content.len();
            }
        }
        // RFC 8446 §6.1: what follows a closure alert is ignored.
        let consumed = if self.state.peer_closed { buffer.len() } else { consumed };
        Ok(Opened { plaintext, consumed, closed: self.state.peer_closed })
    }

    /// Judges what one record protected.
    fn take(&mut self, kind: u8, content: &[u8]) -> Result<(), Alert> {
        let is_content = kind == APPLICATION_DATA && !content.is_empty();
        self.state.quiet = if is_content { 0 } else { self.state.quiet.saturating_add(1) };
        // RFC 8446 §5.1: nothing comes between the parts of a message.
        let is_between = kind != HANDSHAKE && !self.state.partial.is_empty();
        match (kind, content) {
            _ if is_between || self.state.quiet > QUIET_MAX => Err(UNEXPECTED),
            (APPLICATION_DATA, _) => Ok(()),
            // Nothing else is empty: RFC 8446 §5.4, RFC 5246 §6.2.1.
            (_, []) => Err(UNEXPECTED),
            (ALERT, &[level @ (WARNING | FATAL), description]) => self.take_alert(level, description.into()),
            (ALERT, _) => Err(Alert::Send(AlertDescription::DecodeError)),
            (HANDSHAKE, _) => self.take_messages(content),
            _ => Err(UNEXPECTED),
        }
    }

    fn take_alert(&mut self, level: u8, description: AlertDescription) -> Result<(), Alert> {
        // Of TLS 1.3's alerts that one alone ends nothing (RFC 8446 §6.1).
        let warns = level == WARNING && (!self.rx.is_13 || description == AlertDescription::UserCanceled);
        match description {
            AlertDescription::CloseNotify => self.state.peer_closed = true,
            _ if warns => self.state.warnings = self.state.warnings.saturating_add(1),
            _ => return Err(Alert::Received(description)),
        }
        if self.state.warnings > WARNINGS_MAX { Err(UNEXPECTED) } else { Ok(()) }
    }

    /// Messages may share a record and be cut over records (RFC 8446 §5.1).
    fn take_messages(&mut self, content: &[u8]) -> Result<(), Alert> {
        let messages = [&std::mem::take(&mut self.state.partial), content].concat();
        let mut rest = messages.as_slice();
        while let [kind, high, middle, low, body @ ..] = rest {
            let kind = HandshakeType::from(*kind);
            let most = match (self.rx.is_13, self.side, kind) {
                (true, _, HandshakeType::KeyUpdate) => 1,
                (true, Side::Client, HandshakeType::NewSessionTicket)
                | (false, Side::Client, HandshakeType::HelloRequest)
                | (false, Side::Server, HandshakeType::ClientHello) => CONTENT_MAX_BYTES,
                _ => return Err(UNEXPECTED),
            };
            let length = (usize::from(*high) << 16) | usize::from(u16::from_be_bytes([*middle, *low]));
            if length > most {
                return Err(Alert::Send(AlertDescription::DecodeError));
            }
            let Some((body, after)) = body.split_at_checked(length) else { break };
            rest = after;
            match (kind, body) {
                (HandshakeType::NewSessionTicket, _) => {}
                (HandshakeType::KeyUpdate, [asked @ (0 | 1)]) if rest.is_empty() => {
                    let next = self.next_key.as_mut().and_then(|next| next(false));
                    self.rx = next.ok_or(Alert::Send(AlertDescription::InternalError))?;
                    self.state.update_due |= *asked == 1;
                }
                (HandshakeType::KeyUpdate, [2..=u8::MAX]) => {
                    return Err(Alert::Send(AlertDescription::IllegalParameter));
                }
                // RFC 8446 §5.1: a message before a change of keys ends its record.
                (HandshakeType::KeyUpdate, _) => return Err(UNEXPECTED),
                // As rustls: declined once (RFC 5246 §7.2.2), then refused.
                _ if self.state.renegotiated => return Err(Alert::Send(AlertDescription::HandshakeFailure)),
                _ => {
                    self.state.renegotiated = true;
                    self.state.refusal_due = true;
                }
            }
        }
        self.state.partial = rest.to_vec();
        Ok(())
    }

    /// Makes a record of the content, in place; it takes 13 bytes in front of that at most, and 17 behind. `None`:
    /// nothing was written, and it is [`Self::write`]'s: there is no room, something else comes first, or all is over.
    pub fn seal(&mut self, buffer: &mut [u8], content: Range<usize>) -> Option<Range<usize>> {
        let may = !self.owes() && !self.state.closed && self.tx.sequence < self.limit;
        may.then(|| self.tx.seal(APPLICATION_DATA, buffer, content)).flatten()
    }

    /// Whether the peer waits for something besides content.
    #[must_use]
    pub const fn owes(&self) -> bool {
        self.state.refusal_due || self.state.update_due
    }

    /// Appends what the peer waits for, then records of the content, and a key update wherever one is due.
    ///
    /// # Errors
    /// An alert has ended our direction, or ends it now: its key is used up and has no successor, as under TLS 1.2.
    pub fn write(&mut self, content: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        if std::mem::take(&mut self.state.refusal_due) {
            self.alert(AlertDescription::NoRenegotiation, out);
        }
        if std::mem::take(&mut self.state.update_due) {
            self.key_update(out)?;
        }
        for content in content.chunks(CONTENT_MAX_BYTES) {
            if self.tx.sequence >= self.limit && self.key_update(out).is_err() {
                self.close_notify(out);
            }
            self.append(APPLICATION_DATA, content, out)?;
        }
        Ok(())
    }

    /// Appends a KeyUpdate (RFC 8446 §4.6.3) that asks for none, and seals with the next key from then on.
    fn key_update(&mut self, out: &mut Vec<u8>) -> Result<(), Error> {
        let next = self.next_key.as_mut().and_then(|next| next(true)).ok_or(Error::EncryptError)?;
        self.append(HANDSHAKE, &[HandshakeType::KeyUpdate.into(), 0, 0, 1, 0], out)?;
        self.tx = next;
        Ok(())
    }

    /// Appends the alert that says that we send no more; nothing when an alert has said so already.
    pub fn close_notify(&mut self, out: &mut Vec<u8>) {
        self.alert(AlertDescription::CloseNotify, out);
    }

    /// Appends an alert, unless one has ended our direction. All do but the one that declines a new handshake.
    pub fn alert(&mut self, description: AlertDescription, out: &mut Vec<u8>) {
        let declines = description == AlertDescription::NoRenegotiation;
        let level = if declines || description == AlertDescription::CloseNotify { WARNING } else { FATAL };
        // It fails for the last of 2^64 sequence numbers, too.
        self.append(ALERT, &[level, description.into()], out).ok();
        self.state.closed |= !declines;
    }

    /// Appends a record.
    fn append(&mut self, kind: u8, content: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        let (begin, (front, back)) = (out.len(), self.tx.room());
        let start = begin + front;
        out.resize(start, 0);
        out.extend_from_slice(content);
        out.resize(start + content.len() + back, 0);
        if self.state.closed || self.tx.seal(kind, out, start..start + content.len()).is_none() {
            out.truncate(begin);
            return Err(Error::EncryptError);
        }
        Ok(())
    }
}

impl fmt::Debug for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let State { closed, peer_closed, .. } = &self.state;
        write!(f, "Records({:?}, closed: {closed}, by the peer: {peer_closed})", self.side)
    }
}

/// The key of one direction and how often it was used. ring does not wipe its expanded keys; the rest is wiped.
struct Half {
    key: LessSafeKey,
    iv: Zeroizing<[u8; NONCE_LEN]>,
    sequence: u64,
    /// TLS 1.3 protects the type of the content with it.
    is_13: bool,
    /// Bytes of the nonce that a record carries: AES-GCM under TLS 1.2 has some (RFC 5288 §3).
    explicit: usize,
}

impl Half {
    fn new((sequence, secrets): (u64, ConnectionTrafficSecrets), is_13: bool) -> Option<Self> {
        let (algorithm, explicit, key, iv) = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&aead::AES_128_GCM, 8, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&aead::AES_256_GCM, 8, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&aead::CHACHA20_POLY1305, 0, key, iv),
            _ => return None,
        };
        let key = LessSafeKey::new(UnboundKey::new(algorithm, key.as_ref()).ok()?);
        let iv = Zeroizing::new(iv.as_ref().try_into().ok()?);
        Some(Self { key, iv, sequence, is_13, explicit: if is_13 { 0 } else { explicit } })
    }

    /// What a record has in front of its content and behind it.
    fn room(&self) -> (usize, usize) {
        (HEADER_BYTES + self.explicit, usize::from(self.is_13) + TAG_BYTES)
    }

    /// The nonce of the next record: RFC 8446 §5.3, RFC 7905 §2; rustls makes TLS 1.2's explicit nonces alike.
    fn nonce(&self) -> [u8; NONCE_LEN] {
        let mut nonce = *self.iv;
        for (byte, sequence) in nonce.iter_mut().skip(4).zip(self.sequence.to_be_bytes()) {
            *byte ^= sequence;
        }
        nonce
    }

    /// Counts a record. What follows the offset is authenticated besides its content: the header alone (RFC 8446 §5.2),
    /// or the sequence number and the header with the length of the content (RFC 5246 §6.2.3.3).
    fn count(&mut self, header: [u8; HEADER_BYTES], content: usize) -> Option<([u8; 13], usize)> {
        let mut data = [0; 13];
        data[..8].copy_from_slice(&self.sequence.to_be_bytes());
        data[8..].copy_from_slice(&header);
        self.sequence = self.sequence.checked_add(1)?;
        if self.is_13 {
            return Some((data, 8));
        }
        data[11..].copy_from_slice(&u16::try_from(content).ok()?.to_be_bytes());
        Some((data, 0))
    }

    /// Opens a record and moves what it protected to `to`, which is not behind that: its type and its content. `None`:
    /// it was not sealed with this key and this header, or not as the next one.
    fn open<'b>(&mut self, buffer: &'b mut [u8], record: Range<usize>, to: usize) -> Option<(u8, &'b [u8])> {
        let body = record.start + HEADER_BYTES + self.explicit;
        let length = record.end.checked_sub(body + TAG_BYTES)?;
        let (header, explicit) = buffer.get(record.start..body)?.split_first_chunk()?;
        let mut nonce = self.nonce();
        nonce[NONCE_LEN - self.explicit..].copy_from_slice(explicit);
        let (kind, (data, from)) = (header[0], self.count(*header, length)?);
        let (nonce, data) = (Nonce::assume_unique_for_key(nonce), Aad::from(&data[from..]));
        let inner = self.key.open_within(nonce, data, buffer.get_mut(to..record.end)?, body - to..).ok()?;
        if !self.is_13 {
            return Some((kind, inner));
        }
        // The content type is the last byte that is not padding (RFC 8446 §5.4); nobody knows type 0.
        let at = inner.iter().rposition(|byte| *byte != 0).unwrap_or_default();
        Some((inner.get(at).copied().unwrap_or_default(), inner.get(..at)?))
    }

    /// Makes a record of the content, in place. `None`: there is no room or no sequence number left, or it is too long.
    fn seal(&mut self, kind: u8, buffer: &mut [u8], content: Range<usize>) -> Option<Range<usize>> {
        let (front, back) = self.room();
        let length = content.end.checked_sub(content.start).filter(|length| *length <= CONTENT_MAX_BYTES)?;
        let record = content.start.checked_sub(front)?..content.end.checked_add(back)?;
        let (head, rest) = buffer.get_mut(record.clone())?.split_at_mut(front);
        let (inner, tag) = rest.split_at_mut(length + back - TAG_BYTES);
        let [high, low] = u16::try_from(record.len() - HEADER_BYTES).ok()?.to_be_bytes();
        let header = [if self.is_13 { APPLICATION_DATA } else { kind }, 3, 3, high, low];
        let (nonce, (data, from)) = (self.nonce(), self.count(header, length)?);
        head[..HEADER_BYTES].copy_from_slice(&header);
        head[HEADER_BYTES..].copy_from_slice(&nonce[NONCE_LEN - self.explicit..]);
        inner[length..].fill(kind);
        let (nonce, data) = (Nonce::assume_unique_for_key(nonce), Aad::from(&data[from..]));
        tag.copy_from_slice(self.key.seal_in_place_separate_tag(nonce, data, inner).ok()?.as_ref());
        Some(record)
    }
}
