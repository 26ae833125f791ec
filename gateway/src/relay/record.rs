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

use std::fmt;
use std::ops::Range;

use ring::aead::{self, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use rustls::client::ClientConnectionData;
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;
use rustls::{
    AlertDescription, CipherSuite, ConnectionTrafficSecrets, ExtractedSecrets, ProtocolVersion,
    SupportedCipherSuite,
};
use zeroize::Zeroize as _;

#[cfg(test)]
mod tests;

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
/// Longest handshake message, as in rustls.
const MESSAGE_MAX_BYTES: usize = 0xffff;

/// Empty records in a row.
const EMPTY_MAX: u8 = 32;
/// Warnings in a connection.
const WARNINGS_MAX: u8 = 4;
/// Post-handshake messages without application data in between.
const MESSAGES_MAX: u8 = 32;
/// Records that a key may still seal once it is used up for application data: a key update and its answers.
const KEY_RESERVE: u64 = 64;
/// No key seals more records than this, whatever its algorithm allows.
const SEQUENCE_MAX: u64 = 0xffff_ffff_ffff_0000;

// Content types (RFC 8446 §5.1), alert levels (§6) and messages (§4; hello_request: RFC 5246 §7.4).
const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;
const WARNING: u8 = 1;
const FATAL: u8 = 2;
const HELLO_REQUEST: u8 = 0;
const CLIENT_HELLO: u8 = 1;
const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;

/// Why rustls has to keep the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unsuitable {
    #[error("the version of tls is unknown to the record layer")]
    Version,
    #[error("the cipher suite is unknown to the record layer")]
    Suite,
}

/// Why a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alert {
    /// We have to tell the peer, with [`Records::alert`].
    Send(AlertDescription),
    /// The peer told us; it hears nothing more.
    Received(AlertDescription),
}

/// Why something is not sealed. Nothing has been written then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    #[error("no room for the record around its content")]
    NoRoom,
    #[error("more content than a record may carry")]
    TooLong,
    /// [`Records::key_update`] comes first.
    #[error("the key has sealed enough records and must be updated")]
    KeyUpdateDue,
    /// The connection ends with `close_notify`.
    #[error("the key has sealed enough records and cannot be updated")]
    Exhausted,
    #[error("an alert has ended this direction")]
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

/// rustls's part of a connection: the secrets from which new keys come.
pub enum Kernel {
    Server(KernelConnection<ServerConnectionData>),
    Client(KernelConnection<ClientConnectionData>),
}

impl Kernel {
    fn terms(&self) -> (ProtocolVersion, SupportedCipherSuite) {
        match self {
            Self::Server(kernel) => (kernel.protocol_version(), kernel.negotiated_cipher_suite()),
            Self::Client(kernel) => (kernel.protocol_version(), kernel.negotiated_cipher_suite()),
        }
    }

    fn next_tx(&mut self) -> Result<(u64, ConnectionTrafficSecrets), rustls::Error> {
        match self {
            Self::Server(kernel) => kernel.update_tx_secret(),
            Self::Client(kernel) => kernel.update_tx_secret(),
        }
    }

    fn next_rx(&mut self) -> Result<(u64, ConnectionTrafficSecrets), rustls::Error> {
        match self {
            Self::Server(kernel) => kernel.update_rx_secret(),
            Self::Client(kernel) => kernel.update_rx_secret(),
        }
    }
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if matches!(self, Self::Server(_)) { "Server" } else { "Client" })
    }
}

/// How a record is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    Tls13,
    /// With an explicit nonce (RFC 5288 §3).
    Tls12Gcm,
    Tls12ChaCha,
}

impl Layout {
    const fn explicit(self) -> usize {
        if matches!(self, Self::Tls12Gcm) { EXPLICIT_NONCE_BYTES } else { 0 }
    }

    /// Bytes of the content type inside the protected part.
    const fn inner_type(self) -> usize {
        if matches!(self, Self::Tls13) { 1 } else { 0 }
    }

    /// What is authenticated besides the content: RFC 8446 §5.2, RFC 5246 §6.2.3.3.
    fn additional(self, header: [u8; HEADER_BYTES], sequence: u64, content: usize) -> ([u8; 13], usize) {
        let mut data = [0; 13];
        if self == Self::Tls13 {
            data[..HEADER_BYTES].copy_from_slice(&header);
            return (data, HEADER_BYTES);
        }
        data[..8].copy_from_slice(&sequence.to_be_bytes());
        data[8..11].copy_from_slice(&header[..3]);
        data[11..].copy_from_slice(&u16::try_from(content).unwrap_or(u16::MAX).to_be_bytes());
        (data, data.len())
    }
}

/// The key of one direction and how often it was used.
struct Half {
    key: LessSafeKey,
    iv: [u8; NONCE_LEN],
    sequence: u64,
}

impl Half {
    fn new((sequence, secrets): (u64, ConnectionTrafficSecrets)) -> Result<Self, Unsuitable> {
        let (algorithm, key, iv) = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&aead::AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&aead::AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&aead::CHACHA20_POLY1305, key, iv),
            _ => return Err(Unsuitable::Suite),
        };
        let key = UnboundKey::new(algorithm, key.as_ref()).map_err(|_| Unsuitable::Suite)?;
        let iv = iv.as_ref().try_into().map_err(|_| Unsuitable::Suite)?;
        Ok(Self { key: LessSafeKey::new(key), iv, sequence })
    }

    /// RFC 8446 §5.3; RFC 7905 §2 and rustls's explicit nonces of TLS 1.2 are made alike.
    fn nonce(&self) -> [u8; NONCE_LEN] {
        let mut nonce = self.iv;
        for (byte, sequence) in nonce.iter_mut().skip(4).zip(self.sequence.to_be_bytes()) {
            *byte ^= sequence;
        }
        nonce
    }
}

impl Drop for Half {
    fn drop(&mut self) {
        self.iv.zeroize();
    }
}

/// A post-handshake message of which a part has come.
#[derive(Debug, Default)]
struct Message {
    head: [u8; 4],
    read: usize,
    left: usize,
}

/// What the peer waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    KeyUpdate,
    NoRenegotiation,
}

/// The record layer of one connection, both directions.
pub struct Records {
    rx: Half,
    tx: Half,
    /// Kept where keys can be updated.
    kernel: Option<Box<Kernel>>,
    layout: Layout,
    is_client: bool,
    /// Records that a key may seal.
    limit: u64,
    message: Message,
    answer: Option<Answer>,
    empty: u8,
    warnings: u8,
    messages: u8,
    renegotiated: bool,
    peer_closed: bool,
    closed: bool,
}

impl Records {
    /// Whether the record layer knows a suite.
    #[must_use]
    pub const fn supports(suite: CipherSuite) -> bool {
        matches!(
            suite,
            CipherSuite::TLS13_AES_128_GCM_SHA256
                | CipherSuite::TLS13_AES_256_GCM_SHA384
                | CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
                | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
                | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
                | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
                | CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384
                | CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
                | CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256
        )
    }

    /// Goes on where rustls stopped.
    ///
    /// # Errors
    /// When the version or the suite is none of ours; the connection is lost then, so ask rustls first.
    pub fn new(secrets: ExtractedSecrets, kernel: Kernel) -> Result<Self, Unsuitable> {
        let (rx, tx) = (Half::new(secrets.rx)?, Half::new(secrets.tx)?);
        let (version, suite) = kernel.terms();
        let (layout, limit) = match suite {
            SupportedCipherSuite::Tls13(suite) if version == ProtocolVersion::TLSv1_3 => {
                (Layout::Tls13, suite.common.confidentiality_limit)
            }
            SupportedCipherSuite::Tls12(suite) if version == ProtocolVersion::TLSv1_2 => {
                let chacha = *rx.key.algorithm() == aead::CHACHA20_POLY1305;
                let layout = if chacha { Layout::Tls12ChaCha } else { Layout::Tls12Gcm };
                (layout, suite.common.confidentiality_limit)
            }
            _ => return Err(Unsuitable::Version),
        };
        let is_client = matches!(kernel, Kernel::Client(_));
        Ok(Self {
            rx,
            tx,
            kernel: (layout == Layout::Tls13).then(|| Box::new(kernel)),
            layout,
            is_client,
            limit: limit.min(SEQUENCE_MAX),
            message: Message::default(),
            answer: None,
            empty: 0,
            warnings: 0,
            messages: 0,
            renegotiated: false,
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
            let Some(explicit) = rest.get(HEADER_BYTES..HEADER_BYTES + length) else { break };
            let mut nonce = self.rx.nonce();
            if self.layout == Layout::Tls12Gcm {
                let explicit = explicit.first_chunk::<EXPLICIT_NONCE_BYTES>();
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
            let (kind, content) = self.open_one(header, nonce, record, body - at)?;
            match kind {
                _ if kind != HANDSHAKE && self.message.read > 0 => return Err(unexpected()),
                APPLICATION_DATA if content.is_empty() => self.empty += 1,
                APPLICATION_DATA => {
                    plaintext.end += content.len();
                    (self.empty, self.messages) = (0, 0);
                    continue;
                }
                _ if content.is_empty() => return Err(unexpected()),
                ALERT => self.take_alert(content)?,
                HANDSHAKE => self.take_handshake(content)?,
                _ => return Err(unexpected()),
            }
            if kind != APPLICATION_DATA {
                self.empty = 0;
            } else if self.empty > EMPTY_MAX {
                return Err(unexpected());
            }
        }
        if self.peer_closed {
            // RFC 8446 §6.1: what follows a closure alert is ignored.
            consumed = buffer.len();
        }
        Ok(Opened { plaintext, consumed, closed: self.peer_closed, reply: self.answer.is_some() })
    }

    /// The length of what follows a header.
    fn check_header(&self, header: [u8; HEADER_BYTES]) -> Result<usize, Alert> {
        let [kind, major, _, length @ ..] = header;
        let is_known = match self.layout {
            Layout::Tls13 => kind == APPLICATION_DATA,
            Layout::Tls12Gcm | Layout::Tls12ChaCha => matches!(kind, ALERT | HANDSHAKE | APPLICATION_DATA),
        };
        // Under TLS 1.3 a change_cipher_spec has its place in the handshake only (RFC 8446 §5).
        if !is_known {
            let is_type = (CHANGE_CIPHER_SPEC..=APPLICATION_DATA).contains(&kind);
            return Err(if is_type { unexpected() } else { Alert::Send(AlertDescription::DecodeError) });
        }
        if major != 3 {
            return Err(Alert::Send(AlertDescription::DecodeError));
        }
        match usize::from(u16::from_be_bytes(length)) {
            length if length > PAYLOAD_MAX_BYTES => Err(Alert::Send(AlertDescription::RecordOverflow)),
            length => Ok(length),
        }
    }

    /// Opens the record whose protected part begins at `from`, into the beginning of `record`.
    fn open_one<'b>(
        &mut self,
        header: [u8; HEADER_BYTES],
        nonce: [u8; NONCE_LEN],
        record: &'b mut [u8],
        from: usize,
    ) -> Result<(u8, &'b [u8]), Alert> {
        let bad = Alert::Send(AlertDescription::BadRecordMac);
        let next = self.rx.sequence.checked_add(1).ok_or(bad)?;
        let length = record.len().checked_sub(from + TAG_BYTES).ok_or(bad)?;
        let (data, used) = self.layout.additional(header, self.rx.sequence, length);
        let data = Aad::from(data.get(..used).unwrap_or_default());
        let nonce = Nonce::assume_unique_for_key(nonce);
        let inner: &[u8] = self.rx.key.open_within(nonce, data, record, from..).map_err(|_| bad)?;
        self.rx.sequence = next;
        if inner.len() > CONTENT_MAX_BYTES + self.layout.inner_type() {
            return Err(Alert::Send(AlertDescription::RecordOverflow));
        }
        if self.layout != Layout::Tls13 {
            return Ok((header[0], inner));
        }
        // The content type is the last byte that is not padding (RFC 8446 §5.4).
        let at = inner.iter().rposition(|byte| *byte != 0).ok_or(unexpected())?;
        let kind = inner.get(at).copied().ok_or(unexpected())?;
        Ok((kind, inner.get(..at).unwrap_or_default()))
    }

    fn take_alert(&mut self, content: &[u8]) -> Result<(), Alert> {
        let &[level, description] = content else {
            return Err(Alert::Send(AlertDescription::DecodeError));
        };
        let description = AlertDescription::from(description);
        if !matches!(level, WARNING | FATAL) {
            return Err(Alert::Send(AlertDescription::IllegalParameter));
        }
        if description == AlertDescription::CloseNotify {
            self.peer_closed = true;
            return Ok(());
        }
        // Of TLS 1.3's alerts that one alone ends nothing (RFC 8446 §6.1).
        let is_tolerable = self.layout != Layout::Tls13 || description == AlertDescription::UserCanceled;
        if level == FATAL || !is_tolerable {
            return Err(Alert::Received(description));
        }
        self.warnings += 1;
        if self.warnings > WARNINGS_MAX { Err(unexpected()) } else { Ok(()) }
    }

    /// Messages may share a record and be cut over records (RFC 8446 §5.1). None is kept, so none is gathered.
    fn take_handshake(&mut self, mut content: &[u8]) -> Result<(), Alert> {
        while let Some((byte, rest)) = content.split_first() {
            if let Some(slot) = self.message.head.get_mut(self.message.read) {
                *slot = *byte;
                content = rest;
                self.message.read += 1;
                if self.message.read < self.message.head.len() {
                    continue;
                }
                self.message.left = self.begin_message()?;
            }
            let (body, rest) = content.split_at(self.message.left.min(content.len()));
            content = rest;
            self.message.left -= body.len();
            if self.message.left == 0 {
                let kind = self.message.head[0];
                self.message = Message::default();
                self.end_message(kind, body, rest.is_empty())?;
            }
        }
        Ok(())
    }

    /// The length of a message whose head has come.
    fn begin_message(&self) -> Result<usize, Alert> {
        let [kind, length @ ..] = self.message.head;
        let [high, middle, low] = length.map(usize::from);
        let length = (high << 16) | (middle << 8) | low;
        let is_expected = match (self.layout, self.is_client) {
            (Layout::Tls13, false) => kind == KEY_UPDATE,
            (Layout::Tls13, true) => matches!(kind, KEY_UPDATE | NEW_SESSION_TICKET),
            (_, false) => kind == CLIENT_HELLO,
            (_, true) => kind == HELLO_REQUEST,
        };
        match length {
            _ if !is_expected => Err(unexpected()),
            1 if kind == KEY_UPDATE => Ok(length),
            0..=MESSAGE_MAX_BYTES if kind != KEY_UPDATE => Ok(length),
            _ => Err(Alert::Send(AlertDescription::DecodeError)),
        }
    }

    fn end_message(&mut self, kind: u8, body: &[u8], ends_record: bool) -> Result<(), Alert> {
        self.messages += 1;
        if self.messages > MESSAGES_MAX {
            return Err(unexpected());
        }
        match kind {
            // RFC 8446 §5.1: a message before a change of keys ends its record.
            KEY_UPDATE if !ends_record => Err(unexpected()),
            KEY_UPDATE => {
                match body {
                    [0] => {}
                    [1] => self.answer = Some(Answer::KeyUpdate),
                    _ => return Err(Alert::Send(AlertDescription::IllegalParameter)),
                }
                let next = self.kernel.as_mut().and_then(|kernel| kernel.next_rx().ok());
                let next = next.and_then(|next| Half::new(next).ok());
                self.rx = next.ok_or(Alert::Send(AlertDescription::InternalError))?;
                Ok(())
            }
            CLIENT_HELLO | HELLO_REQUEST if self.renegotiated => {
                Err(Alert::Send(AlertDescription::HandshakeFailure))
            }
            CLIENT_HELLO | HELLO_REQUEST => {
                self.renegotiated = true;
                self.answer = Some(Answer::NoRenegotiation);
                Ok(())
            }
            _ => Ok(()),
        }
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
        self.seal_one(APPLICATION_DATA, buffer, content)
    }

    fn seal_one(
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
        let sequence = self.tx.sequence;
        let next = sequence.checked_add(1).ok_or(SealError::Exhausted)?;

        let payload = u16::try_from(record.len() - HEADER_BYTES).map_err(|_| SealError::TooLong)?;
        let [high, low] = payload.to_be_bytes();
        let header = [if self.layout == Layout::Tls13 { APPLICATION_DATA } else { kind }, 3, 3, high, low];
        let nonce = self.tx.nonce();
        let (head, rest) = record.split_at_mut(front);
        let (inner, tag) = rest.split_at_mut(length + self.layout.inner_type());
        head[..HEADER_BYTES].copy_from_slice(&header);
        if self.layout == Layout::Tls12Gcm {
            head[HEADER_BYTES..].copy_from_slice(&nonce[4..]);
        }
        if let Some(inner_type) = inner.get_mut(length) {
            *inner_type = kind;
        }
        let (data, used) = self.layout.additional(header, sequence, length);
        let data = Aad::from(data.get(..used).unwrap_or_default());
        let nonce = Nonce::assume_unique_for_key(nonce);
        let sealed = self.tx.key.seal_in_place_separate_tag(nonce, data, inner);
        tag.copy_from_slice(sealed.map_err(|_| SealError::Exhausted)?.as_ref());
        self.tx.sequence = next;
        Ok(start..end)
    }

    /// Appends a record to `out`.
    fn append(&mut self, kind: u8, content: &[u8], out: &mut Vec<u8>) -> Result<(), SealError> {
        let (start, (front, back)) = (out.len(), self.room());
        out.resize(start + front, 0);
        out.extend_from_slice(content);
        let end = out.len();
        out.resize(end + back, 0);
        let sealed = self.seal_one(kind, out, start + front..end);
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
        match self.answer.take() {
            Some(Answer::KeyUpdate) => self.key_update(false, out),
            Some(Answer::NoRenegotiation) if !self.closed => {
                self.append(ALERT, &[WARNING, AlertDescription::NoRenegotiation.into()], out)
            }
            Some(Answer::NoRenegotiation) | None => Ok(()),
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
        if self.tx.sequence >= self.limit {
            return Err(SealError::Exhausted);
        }
        let next = self.kernel.as_mut().and_then(|kernel| kernel.next_tx().ok());
        let next = next.and_then(|next| Half::new(next).ok()).ok_or(SealError::Exhausted)?;
        self.append(HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, request.into()], out)?;
        self.tx = next;
        self.answer = None;
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
        let Self { layout, is_client, peer_closed, closed, .. } = self;
        write!(f, "Records({layout:?}, client: {is_client}, closed: {closed}, by peer: {peer_closed})")
    }
}

fn unexpected() -> Alert {
    Alert::Send(AlertDescription::UnexpectedMessage)
}
