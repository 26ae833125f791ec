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

mod keys;
mod messages;
#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::Range;

use rustls::{AlertDescription, CipherSuite, ExtractedSecrets, ProtocolVersion, SupportedCipherSuite};

pub use keys::Kernel;
use keys::{Half, Layout};
use messages::{Answer, Heard, Messages};

/// Most plaintext that one record carries.
pub const CONTENT_MAX_BYTES: usize = 16_384;
/// Room in front of the content that [`Records::seal`] wants at most: header and explicit nonce.
pub const FRONT_MAX_BYTES: usize = HEADER_BYTES + EXPLICIT_NONCE_BYTES;
/// Room behind the content that [`Records::seal`] wants at most: content type and tag.
pub const BACK_MAX_BYTES: usize = 1 + TAG_BYTES;
/// Longest record that is looked at: RFC 8446 §5.2, and more than TLS 1.2's suites can fill.
pub const RECORD_MAX_BYTES: usize = HEADER_BYTES + PAYLOAD_MAX_BYTES;

const HEADER_BYTES: usize = 5;
const EXPLICIT_NONCE_BYTES: usize = 8;
const TAG_BYTES: usize = 16;
const PAYLOAD_MAX_BYTES: usize = CONTENT_MAX_BYTES + 256;

/// Records that a key may still seal once it is used up for content: a key update and answers.
const KEY_RESERVE: u64 = 64;
/// No key seals more records than this, whatever its algorithm allows; as in rustls.
const SEQUENCE_MAX: u64 = 0xffff_ffff_ffff_0000;

// Content types (RFC 8446 §5.1), alert levels (§6), the message that changes keys (§4.6.3).
const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;
const WARNING: u8 = 1;
const FATAL: u8 = 2;
const KEY_UPDATE: u8 = 24;

const UNEXPECTED: Alert = Alert::Send(AlertDescription::UnexpectedMessage);

/// The version or the suite is none of ours; rustls has to keep such connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the version of tls or the cipher suite is unknown to the record layer")]
pub struct Unsuitable;

/// Why a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alert {
    /// We have to tell the peer, with [`Records::alert`].
    Send(AlertDescription),
    /// The peer told us; it hears nothing more.
    Received(AlertDescription),
}

/// Why something is not sealed. Nothing has been written then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SealError {
    /// There is no room for the record around its content.
    NoRoom,
    /// A record carries [`CONTENT_MAX_BYTES`].
    TooLong,
    /// The key has sealed enough; [`Records::key_update`] comes first.
    KeyUpdateDue,
    /// The key has sealed enough and there is no next one; the connection ends with `close_notify`.
    Exhausted,
    /// An alert has ended this direction.
    Closed,
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
    /// The peer waits for [`Records::answer`], which comes before the next content is sealed.
    pub reply: bool,
}

/// The record layer of one connection, both directions.
pub struct Records {
    rx: Half,
    tx: Half,
    /// Kept where keys can be updated.
    kernel: Option<Box<Kernel>>,
    layout: Layout,
    /// Records that a key may seal.
    limit: u64,
    messages: Messages,
    peer_closed: bool,
    closed: bool,
}

impl Records {
    /// Whether the record layer knows a suite.
    #[must_use]
    pub fn supports(suite: CipherSuite) -> bool {
        // RFC 8446 §B.4; RFC 5289 §3.2 and RFC 7905 §2, those with ECDHE.
        matches!(u16::from(suite), 0x1301..=0x1303 | 0xc02b | 0xc02c | 0xc02f | 0xc030 | 0xcca8 | 0xcca9)
    }

    /// Goes on where rustls stopped.
    ///
    /// # Errors
    /// [`Unsuitable`]; the connection is lost then, so ask [`Self::supports`] first.
    pub fn new(secrets: ExtractedSecrets, kernel: Kernel) -> Result<Self, Unsuitable> {
        let (rx, tx) = (Half::new(secrets.rx)?, Half::new(secrets.tx)?);
        let (layout, limit) = match kernel.terms() {
            (ProtocolVersion::TLSv1_3, SupportedCipherSuite::Tls13(suite)) => {
                (Layout::Tls13, suite.common.confidentiality_limit)
            }
            (ProtocolVersion::TLSv1_2, SupportedCipherSuite::Tls12(suite)) => {
                let layout = if rx.is_gcm() { Layout::Tls12Gcm } else { Layout::Tls12ChaCha };
                (layout, suite.common.confidentiality_limit)
            }
            _ => return Err(Unsuitable),
        };
        let is_13 = layout == Layout::Tls13;
        Ok(Self {
            rx,
            tx,
            messages: Messages::new(is_13, matches!(kernel, Kernel::Client(_))),
            kernel: is_13.then(|| Box::new(kernel)),
            layout,
            limit: limit.min(SEQUENCE_MAX),
            peer_closed: false,
            closed: false,
        })
    }

    /// Room that a record of this connection takes in front of its content and behind it.
    #[must_use]
    pub const fn room(&self) -> (usize, usize) {
        (HEADER_BYTES + self.layout.explicit(), self.layout.inner_type() + TAG_BYTES)
    }

    /// Opens all whole records at the beginning of the buffer.
    ///
    /// # Errors
    /// Why the connection ends; what was opened in the same call is lost, as in rustls.
    pub fn open(&mut self, buffer: &mut [u8]) -> Result<Opened, Alert> {
        let (mut plaintext, mut consumed) = (0..0, 0);
        while !self.peer_closed {
            let rest = buffer.get(consumed..).unwrap_or_default();
            let Some(header) = rest.first_chunk::<HEADER_BYTES>().copied() else { break };
            let length = self.check_header(header)?;
            let Some(payload) = rest.get(HEADER_BYTES..HEADER_BYTES + length) else { break };
            let mut nonce = self.rx.nonce();
            if self.layout == Layout::Tls12Gcm {
                let explicit = payload.first_chunk::<EXPLICIT_NONCE_BYTES>();
                nonce[4..].copy_from_slice(explicit.ok_or(Alert::Send(AlertDescription::BadRecordMac))?);
            }
            let body = consumed + HEADER_BYTES + self.layout.explicit();
            consumed += HEADER_BYTES + length;
            if plaintext.is_empty() {
                plaintext = body..body;
            }
            // Later plaintexts are moved up to the earlier ones while they are deciphered.
            let at = plaintext.end;
            let record = buffer.get_mut(at..consumed).unwrap_or_default();
            let inner = self.rx.open(self.layout, header, nonce, record, body - at);
            let inner = inner.ok_or(Alert::Send(AlertDescription::BadRecordMac))?;
            let (kind, content) = self.unwrap(header, inner)?;
            match self.messages.take(kind, content)? {
                Heard::Nothing => {}
                Heard::Content => plaintext.end += content.len(),
                Heard::KeyUpdate => {
                    let next = self.kernel.as_mut().and_then(|kernel| kernel.next_rx());
                    self.rx = next.ok_or(Alert::Send(AlertDescription::InternalError))?;
                }
                Heard::Closed => self.peer_closed = true,
            }
        }
        if self.peer_closed {
            // RFC 8446 §6.1: what follows a closure alert is ignored.
            consumed = buffer.len();
        }
        let reply = self.messages.answer.is_some();
        Ok(Opened { plaintext, consumed, closed: self.peer_closed, reply })
    }

    /// The length of what follows a header.
    fn check_header(&self, header: [u8; HEADER_BYTES]) -> Result<usize, Alert> {
        let [kind, major, _, length @ ..] = header;
        if major != 3 || !(CHANGE_CIPHER_SPEC..=APPLICATION_DATA).contains(&kind) {
            return Err(Alert::Send(AlertDescription::DecodeError));
        }
        // Under TLS 1.3 everything looks like content, and change_cipher_spec has its place in the handshake only
        // (RFC 8446 §5).
        if kind == CHANGE_CIPHER_SPEC || (self.layout == Layout::Tls13 && kind != APPLICATION_DATA) {
            return Err(UNEXPECTED);
        }
        match usize::from(u16::from_be_bytes(length)) {
            length if length > PAYLOAD_MAX_BYTES => Err(Alert::Send(AlertDescription::RecordOverflow)),
            length => Ok(length),
        }
    }

    /// The type and the content of what a record protected.
    fn unwrap<'b>(&self, header: [u8; HEADER_BYTES], inner: &'b [u8]) -> Result<(u8, &'b [u8]), Alert> {
        if inner.len() > CONTENT_MAX_BYTES + self.layout.inner_type() {
            return Err(Alert::Send(AlertDescription::RecordOverflow));
        }
        if self.layout != Layout::Tls13 {
            return Ok((header[0], inner));
        }
        // The content type is the last byte that is not padding (RFC 8446 §5.4).
        let at = inner.iter().rposition(|byte| *byte != 0).ok_or(UNEXPECTED)?;
        let (content, rest) = inner.split_at(at);
        Ok((rest.first().copied().unwrap_or_default(), content))
    }

    /// Makes a record of the content, in place: [`Self::room`] says what is written around it.
    ///
    /// # Errors
    /// See [`SealError`].
    pub fn seal(&mut self, buffer: &mut [u8], content: Range<usize>) -> Result<Range<usize>, SealError> {
        if self.closed {
            return Err(SealError::Closed);
        }
        if self.tx.sequence >= self.limit.saturating_sub(KEY_RESERVE) {
            let has_next = self.kernel.is_some() && self.tx.sequence < self.limit;
            return Err(if has_next { SealError::KeyUpdateDue } else { SealError::Exhausted });
        }
        self.seal_as(APPLICATION_DATA, buffer, content)
    }

    fn seal_as(
        &mut self,
        kind: u8,
        buffer: &mut [u8],
        content: Range<usize>,
    ) -> Result<Range<usize>, SealError> {
        let length = content.end.checked_sub(content.start).ok_or(SealError::NoRoom)?;
        if length > CONTENT_MAX_BYTES {
            return Err(SealError::TooLong);
        }
        let (front, back) = self.room();
        let start = content.start.checked_sub(front).ok_or(SealError::NoRoom)?;
        let end = content.end.checked_add(back).ok_or(SealError::NoRoom)?;
        let record = buffer.get_mut(start..end).ok_or(SealError::NoRoom)?;
        let payload = u16::try_from(record.len() - HEADER_BYTES).map_err(|_| SealError::TooLong)?;
        let [high, low] = payload.to_be_bytes();
        let header = [if self.layout == Layout::Tls13 { APPLICATION_DATA } else { kind }, 3, 3, high, low];
        let (head, rest) = record.split_at_mut(front);
        let (inner, tag) = rest.split_at_mut(length + self.layout.inner_type());
        head[..HEADER_BYTES].copy_from_slice(&header);
        if self.layout == Layout::Tls12Gcm {
            head[HEADER_BYTES..].copy_from_slice(&self.tx.nonce()[4..]);
        }
        if let Some(inner_type) = inner.get_mut(length) {
            *inner_type = kind;
        }
        let sealed = self.tx.seal(self.layout, header, inner, length).ok_or(SealError::Exhausted)?;
        tag.copy_from_slice(sealed.as_ref());
        Ok(start..end)
    }

    /// Appends a record to `out`.
    fn append(&mut self, kind: u8, content: &[u8], out: &mut Vec<u8>) -> Result<(), SealError> {
        let (start, (front, back)) = (out.len(), self.room());
        out.resize(start + front, 0);
        out.extend_from_slice(content);
        let end = out.len();
        out.resize(end + back, 0);
        let sealed = self.seal_as(kind, out, start + front..end);
        if sealed.is_err() {
            out.truncate(start);
        }
        sealed.map(drop)
    }

    /// Appends what the peer waits for (see [`Opened::reply`]), if it waits.
    ///
    /// # Errors
    /// As [`Self::key_update`].
    pub fn answer(&mut self, out: &mut Vec<u8>) -> Result<(), SealError> {
        match self.messages.answer.take() {
            Some(_) if self.closed => Err(SealError::Closed),
            Some(Answer::KeyUpdate) => self.key_update(false, out),
            Some(Answer::NoRenegotiation) => {
                self.append(ALERT, &[WARNING, AlertDescription::NoRenegotiation.into()], out)
            }
            None => Ok(()),
        }
    }

    /// Appends a KeyUpdate (RFC 8446 §4.6.3) and seals with the next key from then on; with `request` the peer is
    /// asked to do the same. It answers the peer's request, too.
    ///
    /// # Errors
    /// When the connection is closed or has no next key, as under TLS 1.2.
    pub fn key_update(&mut self, request: bool, out: &mut Vec<u8>) -> Result<(), SealError> {
        if self.closed {
            return Err(SealError::Closed);
        }
        let kernel = self.kernel.as_mut().filter(|_| self.tx.sequence < self.limit);
        let next = kernel.and_then(|kernel| kernel.next_tx()).ok_or(SealError::Exhausted)?;
        self.append(HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, request.into()], out)?;
        self.tx = next;
        self.messages.answer = None;
        Ok(())
    }

    /// Appends the alert that says that we send no more; nothing when an alert has said so already.
    pub fn close_notify(&mut self, out: &mut Vec<u8>) {
        self.end(WARNING, AlertDescription::CloseNotify, out);
    }

    /// Appends the fatal alert that ends the connection; nothing when an alert has ended it already.
    pub fn alert(&mut self, description: AlertDescription, out: &mut Vec<u8>) {
        self.end(FATAL, description, out);
    }

    fn end(&mut self, level: u8, description: AlertDescription, out: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.closed, true) {
            // It fails for the last of 2^64 sequence numbers only.
            self.append(ALERT, &[level, description.into()], out).ok();
        }
    }
}

impl fmt::Debug for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { layout, peer_closed, closed, .. } = self;
        write!(f, "Records({layout:?}, closed: {closed}, by the peer: {peer_closed})")
    }
}
