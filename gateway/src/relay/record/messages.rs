//! What a peer says besides content: alerts, and messages after the handshake (RFC 8446 §4.6, §6; RFC 5246 §7.2, §7.4.1).

use rustls::AlertDescription;

use super::{ALERT, APPLICATION_DATA, Alert, FATAL, HANDSHAKE, KEY_UPDATE, UNEXPECTED, WARNING};

pub(super) const HELLO_REQUEST: u8 = 0;
pub(super) const CLIENT_HELLO: u8 = 1;
pub(super) const NEW_SESSION_TICKET: u8 = 4;

/// Longest handshake message, as in rustls.
const MESSAGE_MAX_BYTES: usize = 0xffff;
/// Empty records in a row.
pub(super) const EMPTY_MAX: u8 = 32;
/// Warnings in a connection.
pub(super) const WARNINGS_MAX: u8 = 4;
/// Messages without content in between.
pub(super) const MESSAGES_MAX: u8 = 32;

/// What a record means for the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    Nothing,
    Content,
    /// The peer seals with its next key from now on.
    KeyUpdate,
    Closed,
}

/// What is owed to the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    KeyUpdate,
    NoRenegotiation,
}

/// What one connection's peer has said. Messages are looked at as they come, and none is kept.
#[derive(Debug)]
pub(super) struct Messages {
    is_13: bool,
    is_client: bool,
    /// The head of a message of which a part has come, and what is missing of its body.
    head: [u8; 4],
    read: usize,
    left: usize,
    pub(super) answer: Option<Answer>,
    empty: u8,
    warnings: u8,
    messages: u8,
    renegotiated: bool,
}

impl Messages {
    pub(super) const fn new(is_13: bool, is_client: bool) -> Self {
        Self {
            is_13,
            is_client,
            head: [0; 4],
            read: 0,
            left: 0,
            answer: None,
            empty: 0,
            warnings: 0,
            messages: 0,
            renegotiated: false,
        }
    }

    /// Judges one record.
    pub(super) fn take(&mut self, kind: u8, content: &[u8]) -> Result<Heard, Alert> {
        // RFC 8446 §5.1: nothing comes between the parts of a message.
        if kind != HANDSHAKE && self.read > 0 {
            return Err(UNEXPECTED);
        }
        match kind {
            APPLICATION_DATA if content.is_empty() => {
                self.empty += 1;
                return if self.empty > EMPTY_MAX { Err(UNEXPECTED) } else { Ok(Heard::Nothing) };
            }
            // RFC 8446 §5.4, RFC 5246 §6.2.1.
            _ if content.is_empty() => return Err(UNEXPECTED),
            _ => self.empty = 0,
        }
        match kind {
            APPLICATION_DATA => {
                self.messages = 0;
                Ok(Heard::Content)
            }
            ALERT => self.take_alert(content),
            HANDSHAKE => self.take_messages(content),
            _ => Err(UNEXPECTED),
        }
    }

    fn take_alert(&mut self, content: &[u8]) -> Result<Heard, Alert> {
        let &[level, description] = content else {
            return Err(Alert::Send(AlertDescription::DecodeError));
        };
        let description = AlertDescription::from(description);
        if !matches!(level, WARNING | FATAL) {
            return Err(Alert::Send(AlertDescription::IllegalParameter));
        }
        if description == AlertDescription::CloseNotify {
            return Ok(Heard::Closed);
        }
        // Of TLS 1.3's alerts that one alone ends nothing (RFC 8446 §6.1).
        if level == FATAL || (self.is_13 && description != AlertDescription::UserCanceled) {
            return Err(Alert::Received(description));
        }
        self.warnings += 1;
        if self.warnings > WARNINGS_MAX { Err(UNEXPECTED) } else { Ok(Heard::Nothing) }
    }

    /// Messages may share a record and be cut over records (RFC 8446 §5.1).
    fn take_messages(&mut self, mut content: &[u8]) -> Result<Heard, Alert> {
        let mut heard = Heard::Nothing;
        while let Some((byte, rest)) = content.split_first() {
            if let Some(slot) = self.head.get_mut(self.read) {
                *slot = *byte;
                content = rest;
                self.read += 1;
                if self.read < self.head.len() {
                    continue;
                }
                self.left = self.begin()?;
            }
            let (body, rest) = content.split_at(self.left.min(content.len()));
            content = rest;
            self.left -= body.len();
            if self.left == 0 {
                self.read = 0;
                heard = self.end(body, rest.is_empty())?;
            }
        }
        Ok(heard)
    }

    /// The length of a message whose head has come.
    fn begin(&self) -> Result<usize, Alert> {
        let [kind, length @ ..] = self.head;
        let [high, middle, low] = length.map(usize::from);
        let length = (high << 16) | (middle << 8) | low;
        let is_expected = match (self.is_13, self.is_client) {
            (true, false) => kind == KEY_UPDATE,
            (true, true) => matches!(kind, KEY_UPDATE | NEW_SESSION_TICKET),
            (false, false) => kind == CLIENT_HELLO,
            (false, true) => kind == HELLO_REQUEST,
        };
        match length {
            _ if !is_expected => Err(UNEXPECTED),
            1 if kind == KEY_UPDATE => Ok(length),
            0..=MESSAGE_MAX_BYTES if kind != KEY_UPDATE => Ok(length),
            _ => Err(Alert::Send(AlertDescription::DecodeError)),
        }
    }

    /// A message has come; `body` is the last part of it.
    fn end(&mut self, body: &[u8], ends_record: bool) -> Result<Heard, Alert> {
        self.messages += 1;
        if self.messages > MESSAGES_MAX {
            return Err(UNEXPECTED);
        }
        match (self.head[0], body) {
            // RFC 8446 §5.1: a message before a change of keys ends its record.
            (KEY_UPDATE, _) if !ends_record => Err(UNEXPECTED),
            (KEY_UPDATE, [0]) => Ok(Heard::KeyUpdate),
            (KEY_UPDATE, [1]) => {
                self.answer = Some(Answer::KeyUpdate);
                Ok(Heard::KeyUpdate)
            }
            (KEY_UPDATE, _) => Err(Alert::Send(AlertDescription::IllegalParameter)),
            (NEW_SESSION_TICKET, _) => Ok(Heard::Nothing),
            // As rustls: declined once (RFC 5246 §7.2.2), then refused.
            _ if self.renegotiated => Err(Alert::Send(AlertDescription::HandshakeFailure)),
            _ => {
                self.renegotiated = true;
                self.answer = Some(Answer::NoRenegotiation);
                Ok(Heard::Nothing)
            }
        }
    }
}
