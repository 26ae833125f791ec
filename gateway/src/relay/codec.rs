//! What the bytes of one side are wrapped in: nothing, or TLS.
//!
//! Bytes are opened and sealed in the chunk that they came in, so that the same chunk goes on. Where that is not
//! possible (rustls keeps the records, or there is no room) they are copied.

use std::fmt;
use std::ops::Range;

use portcullis_uring::Chunk;
use rustls::AlertDescription;

use super::record::{Alert, CONTENT_MAX_BYTES, Opened, Records, SealError};
use crate::tls::connection::Connection;

/// The peer broke TLS, or it cannot be spoken any longer. What there is to be said of it waits in the codec.
#[derive(Debug)]
pub(super) struct Broken;

/// How the bytes of one side are protected.
pub enum Codec {
    Plain,
    /// By our record layer.
    Sealed(Box<Sealed>),
    /// By rustls, or with something left to send. Every byte is copied.
    Rustls(Box<Connection>),
}

/// A connection whose records are ours.
#[derive(Debug)]
pub struct Sealed {
    records: Records,
    /// The beginning of a record; no memory is kept where there is none.
    carried: Vec<u8>,
    /// The peer waits for an answer of the record layer's own.
    owes_answer: bool,
    alert: Option<AlertDescription>,
}

impl From<Connection> for Codec {
    fn from(tls: Connection) -> Self {
        match tls.into_records() {
            Ok((records, carried)) => {
                Self::Sealed(Box::new(Sealed { records: *records, carried, owes_answer: false, alert: None }))
            }
            Err(tls) => Self::Rustls(tls),
        }
    }
}

impl Codec {
    pub(super) fn is_plain(&self) -> bool {
        matches!(self, Self::Plain)
    }

    /// Takes TLS off the chunk's bytes. `true`: the peer sends no more.
    pub(super) fn open(&mut self, chunk: &mut Chunk, scratch: &mut Vec<u8>) -> Result<bool, Broken> {
        match self {
            Self::Plain => Ok(false),
            Self::Sealed(sealed) => sealed.open(chunk),
            Self::Rustls(tls) => {
                scratch.clear();
                let fed = tls.feed(chunk.bytes());
                tls.read_plaintext(scratch);
                put(chunk, scratch);
                fed.map_err(|_| Broken)?;
                Ok(tls.peer_closed())
            }
        }
    }

    /// Puts TLS on the chunk's bytes with `header` in front of them. What has to go out before comes first.
    pub(super) fn seal(
        &mut self,
        header: &[u8],
        mut chunk: Chunk,
        scratch: &mut Vec<u8>,
    ) -> Result<(Option<Chunk>, Chunk), Broken> {
        match self {
            Self::Plain => prepend(header, &mut chunk),
            Self::Sealed(sealed) => return sealed.seal(header, chunk),
            Self::Rustls(tls) => {
                scratch.clear();
                tls.write(header).map_err(|_| Broken)?;
                tls.write(chunk.bytes()).map_err(|_| Broken)?;
                tls.take_outgoing(scratch);
                put(&mut chunk, scratch);
            }
        }
        Ok((None, chunk))
    }

    /// Appends what is to be said beside the stream, alerts and answers to key updates, and `plaintext`.
    pub(super) fn say(&mut self, plaintext: &[u8], out: &mut Vec<u8>) -> Result<(), Broken> {
        match self {
            Self::Plain => out.extend_from_slice(plaintext),
            Self::Sealed(sealed) => sealed.say(plaintext, out)?,
            Self::Rustls(tls) => {
                let written = if plaintext.is_empty() { Ok(()) } else { tls.write(plaintext) };
                tls.take_outgoing(out);
                written.map_err(|_| Broken)?;
            }
        }
        Ok(())
    }

    pub(super) fn has_to_say(&self) -> bool {
        match self {
            Self::Plain => false,
            Self::Sealed(sealed) => sealed.owes_answer || sealed.alert.is_some(),
            Self::Rustls(tls) => tls.wants_write(),
        }
    }

    /// Nothing more is sent: appends what says so.
    pub(super) fn close(&mut self, out: &mut Vec<u8>) {
        match self {
            Self::Plain => {}
            Self::Sealed(sealed) => sealed.records.close_notify(out),
            Self::Rustls(tls) => {
                tls.close_notify();
                tls.take_outgoing(out);
            }
        }
    }
}

/// Says nothing of keys and bytes.
impl fmt::Debug for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "Plain",
            Self::Sealed(_) => "Sealed",
            Self::Rustls(_) => "Rustls",
        })
    }
}

impl Sealed {
    fn open(&mut self, chunk: &mut Chunk) -> Result<bool, Broken> {
        if !self.carried.is_empty() {
            prepend(&self.carried, chunk);
            self.carried.clear();
        }
        let start = chunk.range().start;
        let bytes = chunk.bytes_mut();
        let Opened { plaintext, consumed, closed, reply } = match self.records.open(bytes) {
            Ok(opened) => opened,
            Err(alert) => {
                if let Alert::Send(description) = alert {
                    self.alert = Some(description);
                }
                return Err(Broken);
            }
        };
        match bytes.get(consumed..) {
            Some(rest) if !rest.is_empty() && !closed => self.carried.extend_from_slice(rest),
            _ => self.carried = Vec::new(),
        }
        self.owes_answer |= reply;
        chunk.set_range(shifted(&plaintext, start));
        Ok(closed)
    }

    fn seal(&mut self, header: &[u8], mut chunk: Chunk) -> Result<(Option<Chunk>, Chunk), Broken> {
        let mut before = Vec::new();
        self.answer(&mut before)?;
        if header.len().saturating_add(chunk.len()) <= CONTENT_MAX_BYTES {
            prepend(header, &mut chunk);
        } else {
            // Too much for one record by as much as the header has: that goes in one of its own.
            self.append(header, &mut before)?;
        }
        let range = chunk.range();
        match self.records.seal(chunk.whole_mut(), range) {
            Ok(range) => chunk.set_range(range),
            // There is no room, or the key is used up.
            Err(SealError::NoRoom | SealError::TooLong | SealError::KeyUpdateDue) => {
                self.append(chunk.bytes(), &mut before)?;
                return Ok((None, Chunk::from_vec(before)));
            }
            Err(SealError::Exhausted | SealError::Closed) => return Err(Broken),
        }
        let before = (!before.is_empty()).then(|| Chunk::from_vec(before));
        Ok((before, chunk))
    }

    /// Appends records with that content, and a key update before one where it is due.
    fn append(&mut self, plaintext: &[u8], out: &mut Vec<u8>) -> Result<(), Broken> {
        let (front, back) = self.records.room();
        for content in plaintext.chunks(CONTENT_MAX_BYTES) {
            let start = out.len();
            let place = |start: usize| {
                let from = start.saturating_add(front);
                from..from.saturating_add(content.len())
            };
            let make = |out: &mut Vec<u8>, start: usize| {
                out.resize(start.saturating_add(front), 0);
                out.extend_from_slice(content);
                out.resize(out.len().saturating_add(back), 0);
            };
            make(out, start);
            match self.records.seal(out, place(start)) {
                Ok(_) => {}
                Err(SealError::KeyUpdateDue) => {
                    out.truncate(start);
                    self.records.key_update(false, out).map_err(|_| Broken)?;
                    let start = out.len();
                    make(out, start);
                    self.records.seal(out, place(start)).map_err(|_| Broken)?;
                }
                Err(_) => return Err(Broken),
            }
        }
        Ok(())
    }

    fn answer(&mut self, out: &mut Vec<u8>) -> Result<(), Broken> {
        if std::mem::take(&mut self.owes_answer) {
            self.records.answer(out).map_err(|_| Broken)?;
        }
        Ok(())
    }

    fn say(&mut self, plaintext: &[u8], out: &mut Vec<u8>) -> Result<(), Broken> {
        self.answer(out)?;
        self.append(plaintext, out)?;
        if let Some(description) = self.alert.take() {
            self.records.alert(description, out);
        }
        Ok(())
    }
}

fn shifted(range: &Range<usize>, by: usize) -> Range<usize> {
    range.start.saturating_add(by)..range.end.saturating_add(by)
}

/// Puts a few bytes in front of the chunk's.
fn prepend(header: &[u8], chunk: &mut Chunk) {
    if header.is_empty() {
        return;
    }
    let range = chunk.range();
    let start = range.start.checked_sub(header.len());
    let room = start.and_then(|start| chunk.whole_mut().get_mut(start..range.start));
    match room {
        Some(room) => {
            room.copy_from_slice(header);
            chunk.set_range(range.start.saturating_sub(header.len())..range.end);
        }
        None => *chunk = Chunk::from_vec([header, chunk.bytes()].concat()),
    }
}

/// Puts other bytes into the chunk, or into a new one where they do not fit.
fn put(chunk: &mut Chunk, bytes: &[u8]) {
    match chunk.whole_mut().get_mut(..bytes.len()) {
        Some(room) => {
            room.copy_from_slice(bytes);
            chunk.set_range(0..bytes.len());
        }
        None => *chunk = Chunk::from_vec(bytes.to_vec()),
    }
}
