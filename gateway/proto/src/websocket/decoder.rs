//! Reading frames (RFC 6455 §5).
//!
//! Payloads are not collected: they are unmasked where they lie, and an event says where. What is kept across calls
//! is at most one frame header or one control frame's payload.

use alloc::vec::Vec;
use core::ops::Range;

use super::frame::{CONTROL_MAX_BYTES, mask};

/// Which side reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The peer is a client and must mask.
    Server,
    /// The peer is a server and must not mask.
    Client,
}

/// What the peer sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Part of a binary message: a range, not empty, of the input, already unmasked.
    Data(Range<usize>),
    /// To be answered with a pong of the same payload.
    Ping(Vec<u8>),
    Pong,
    /// The peer's close frame with its status code; whatever follows is ignored.
    Close(Option<u16>),
}

/// The peer broke the protocol; the connection fails with [`Self::close_code`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    #[error("WebSocket frame uses reserved bits or a reserved opcode")]
    Reserved,
    #[error("WebSocket frame is masked by a server or not masked by a client")]
    Masking,
    #[error("WebSocket payload length is illegal")]
    Length,
    #[error("WebSocket control frame is fragmented or longer than 125 bytes")]
    Control,
    #[error("WebSocket message is continued out of turn")]
    Continuation,
    #[error("WebSocket message is text, where only binary is carried")]
    Text,
    #[error("WebSocket close frame has an illegal status code")]
    CloseCode,
    #[error("WebSocket close frame has a reason that is not UTF-8")]
    CloseReason,
}

impl Violation {
    /// The status code for our close frame (RFC 6455 §7.4.1).
    #[must_use]
    pub const fn close_code(self) -> u16 {
        match self {
            Self::Text => 1003,
            Self::CloseReason => 1007,
            Self::Reserved
            | Self::Masking
            | Self::Length
            | Self::Control
            | Self::Continuation
            | Self::CloseCode => 1002,
        }
    }
}

/// Longest frame header: two bytes, a length of eight, a key of four.
const HEADER_MAX_BYTES: usize = 14;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Control {
    Close,
    Ping,
    Pong,
}

#[derive(Debug)]
enum State {
    /// Waits for the rest of a header.
    Header { bytes: [u8; HEADER_MAX_BYTES], have: usize },
    /// Waits for the payload of a data frame.
    Data { left: u64, key: [u8; 4] },
    /// Waits for the payload of a control frame.
    Control { kind: Control, left: usize, key: [u8; 4], payload: Vec<u8> },
    /// The peer has closed.
    Closed,
}

const NEXT_HEADER: State = State::Header { bytes: [0; HEADER_MAX_BYTES], have: 0 };

/// Reads one direction of a WebSocket.
#[derive(Debug)]
pub struct Decoder {
    role: Role,
    state: State,
    /// A message has begun and its last fragment has not.
    in_message: bool,
}

impl Decoder {
    #[must_use]
    pub fn new(role: Role) -> Self {
        Self { role, state: NEXT_HEADER, in_message: false }
    }

    /// Whether the stream stands inside a frame or message, so that its end now would be a truncation.
    #[must_use]
    pub fn pending(&self) -> bool {
        let inside = match self.state {
            State::Header { have, .. } => have > 0,
            State::Data { .. } | State::Control { .. } => true,
            State::Closed => return false,
        };
        inside || self.in_message
    }

    /// Consumes some of `input` and says how much, with what it found; without an event all is consumed and more
    /// is needed. Call again with the rest. Ranges in events count from the start of this call's `input`.
    ///
    /// # Errors
    /// A [`Violation`], after which this decoder must not be used again.
    pub fn decode(&mut self, input: &mut [u8]) -> Result<(usize, Option<Event>), Violation> {
        let mut at = 0;
        while let Some(rest) = input.get_mut(at..).filter(|rest| !rest.is_empty()) {
            let (used, event) = self.step(rest)?;
            let start = at;
            at = at.saturating_add(used);
            match event {
                Some(Event::Data(_)) => return Ok((at, Some(Event::Data(start..at)))),
                Some(event) => return Ok((at, Some(event))),
                None => {}
            }
        }
        Ok((at, None))
    }

    /// Consumes at least one byte, or the end of a frame without a payload.
    fn step(&mut self, input: &mut [u8]) -> Result<(usize, Option<Event>), Violation> {
        match &mut self.state {
            State::Closed => Ok((input.len(), None)),
            State::Header { bytes, have } => {
                let mut used = 0;
                for &byte in &*input {
                    if let Some(slot) = bytes.get_mut(*have) {
                        *slot = byte;
                    }
                    used = usize::saturating_add(used, 1);
                    *have = have.saturating_add(1);
                    if let Some(header) = Header::read(bytes.get(..*have).unwrap_or(bytes), self.role)? {
                        return Ok((used, self.begin(header)?));
                    }
                }
                Ok((used, None))
            }
            State::Data { left, key } => {
                let fits = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                let part = input.get_mut(..fits).unwrap_or_default();
                mask(part, *key, 0);
                // The key is turned instead of counting an offset.
                key.rotate_left(fits & 3);
                *left = left.saturating_sub(u64::try_from(fits).unwrap_or(u64::MAX));
                if *left == 0 {
                    self.state = NEXT_HEADER;
                }
                Ok((fits, Some(Event::Data(0..fits))))
            }
            State::Control { left, payload, .. } => {
                let fits = (*left).min(input.len());
                payload.extend_from_slice(input.get(..fits).unwrap_or_default());
                *left = left.saturating_sub(fits);
                let event = if *left == 0 { self.end_control()? } else { None };
                Ok((fits, event))
            }
        }
    }

    /// Enters a frame whose header is whole.
    fn begin(&mut self, header: Header) -> Result<Option<Event>, Violation> {
        let kind = match header.opcode {
            0x0 if !self.in_message => return Err(Violation::Continuation),
            0x0 => None,
            0x1 | 0x2 if self.in_message => return Err(Violation::Continuation),
            0x1 => return Err(Violation::Text),
            0x2 => None,
            0x8 => Some(Control::Close),
            0x9 => Some(Control::Ping),
            0xA => Some(Control::Pong),
            _ => return Err(Violation::Reserved),
        };
        let Some(kind) = kind else {
            self.in_message = !header.fin;
            self.state = if header.length == 0 {
                NEXT_HEADER
            } else {
                State::Data { left: header.length, key: header.key }
            };
            return Ok(None);
        };
        let left = usize::try_from(header.length).ok().filter(|length| *length <= CONTROL_MAX_BYTES);
        let left = left.filter(|_| header.fin).ok_or(Violation::Control)?;
        self.state = State::Control { kind, left, key: header.key, payload: Vec::with_capacity(left) };
        if left == 0 { self.end_control() } else { Ok(None) }
    }

    /// Leaves a control frame whose payload is whole.
    fn end_control(&mut self) -> Result<Option<Event>, Violation> {
        let State::Control { kind, key, mut payload, .. } = core::mem::replace(&mut self.state, NEXT_HEADER)
        else {
            return Ok(None);
        };
        mask(&mut payload, key, 0);
        Ok(Some(match kind {
            Control::Ping => Event::Ping(payload),
            Control::Pong => Event::Pong,
            Control::Close => {
                self.state = State::Closed;
                Event::Close(close_code(&payload)?)
            }
        }))
    }
}

/// RFC 6455 §5.5.1 and §7.4: no body, or a status code that may be sent and a reason in UTF-8.
fn close_code(payload: &[u8]) -> Result<Option<u16>, Violation> {
    if payload.is_empty() {
        return Ok(None);
    }
    let (code, reason) = payload.split_first_chunk::<2>().ok_or(Violation::CloseCode)?;
    let code = u16::from_be_bytes(*code);
    match code {
        1000..=1003 | 1007..=1014 | 3000..=4999 => {}
        _ => return Err(Violation::CloseCode),
    }
    core::str::from_utf8(reason).map_err(|_| Violation::CloseReason)?;
    Ok(Some(code))
}

struct Header {
    fin: bool,
    opcode: u8,
    length: u64,
    /// Zero without a mask, which masks nothing.
    key: [u8; 4],
}

impl Header {
    /// Reads a header that ends with the last of `bytes`; `None`: it is longer. A fault is found with the first
    /// byte that shows it.
    fn read(bytes: &[u8], role: Role) -> Result<Option<Self>, Violation> {
        let Some((first, rest)) = bytes.split_first() else { return Ok(None) };
        let opcode = first & 0x0F;
        if first & 0x70 != 0 || !matches!(opcode, 0x0..=0x2 | 0x8..=0xA) {
            return Err(Violation::Reserved);
        }
        let Some((second, rest)) = rest.split_first() else { return Ok(None) };
        let masked = second & 0x80 != 0;
        if masked != (role == Role::Server) {
            return Err(Violation::Masking);
        }
        let (length, rest) = match second & 0x7F {
            126 => {
                let Some((length, rest)) = rest.split_first_chunk() else { return Ok(None) };
                (minimal(u64::from(u16::from_be_bytes(*length)), 126)?, rest)
            }
            127 => {
                let Some((length, rest)) = rest.split_first_chunk() else { return Ok(None) };
                (minimal(u64::from_be_bytes(*length), 65_536)?, rest)
            }
            short => (u64::from(short), rest),
        };
        let key = match (masked, rest.first_chunk()) {
            (false, _) => [0; 4],
            (true, Some(key)) => *key,
            (true, None) => return Ok(None),
        };
        Ok(Some(Self { fin: first & 0x80 != 0, opcode, length, key }))
    }
}

/// RFC 6455 §5.2: "the minimal number of bytes MUST be used", and "the most significant bit MUST be 0".
fn minimal(length: u64, least: u64) -> Result<u64, Violation> {
    if length < least || length > u64::MAX / 2 { Err(Violation::Length) } else { Ok(length) }
}
