//! What the bytes of one side are wrapped in: nothing, or TLS.
//!
//! Bytes are opened and sealed in the chunk that they came in, so that the same chunk goes on. Where that is not
//! possible (rustls keeps the records, or there is no room) they are copied.

use std::fmt;
use std::ops::Range;

use portcullis_uring::Chunk;
use rustls::AlertDescription;

use super::connection::Connection;
use super::record::{Alert, CONTENT_MAX_BYTES, Opened, Records};

/// The peer broke TLS, or it cannot be spoken any longer. What there is to be said of it waits in the codec.
#[derive(Debug)]
pub(crate) struct Broken;

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
    /// Why the connection ends, which the peer hears behind whatever it still gets.
    alert: Option<AlertDescription>,
}

impl From<Connection> for Codec {
    fn from(tls: Connection) -> Self {
        match tls.into_records() {
            Ok((records, carried)) => {
                Self::Sealed(Box::new(Sealed { records: *records, carried, alert: None }))
            }
            Err(tls) => Self::Rustls(tls),
        }
    }
}

impl Codec {
    pub(crate) fn is_plain(&self) -> bool {
        matches!(self, Self::Plain)
    }

    /// Takes TLS off the chunk's bytes. `true`: the peer sends no more.
    pub(crate) fn open(&mut self, chunk: &mut Chunk, scratch: &mut Vec<u8>) -> Result<bool, Broken> {
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
    pub(crate) fn seal(
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
    pub(crate) fn say(&mut self, plaintext: &[u8], out: &mut Vec<u8>) -> Result<(), Broken> {
        match self {
            Self::Plain => out.extend_from_slice(plaintext),
            Self::Sealed(sealed) => {
                sealed.records.write(plaintext, out).map_err(|_| Broken)?;
                if let Some(description) = sealed.alert.take() {
                    sealed.records.alert(description, out);
                }
            }
            Self::Rustls(tls) => {
                let written = if plaintext.is_empty() { Ok(()) } else { tls.write(plaintext) };
                tls.take_outgoing(out);
                written.map_err(|_| Broken)?;
            }
        }
        Ok(())
    }

    pub(crate) fn has_to_say(&self) -> bool {
        match self {
            Self::Plain => false,
            Self::Sealed(sealed) => sealed.records.owes() || sealed.alert.is_some(),
            Self::Rustls(tls) => tls.wants_write(),
        }
    }

    /// Nothing more is sent: appends what says so.
    pub(crate) fn close(&mut self, out: &mut Vec<u8>) {
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
        let Opened { plaintext, consumed, closed } = match self.records.open(bytes) {
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
        chunk.set_range(shifted(&plaintext, start));
        Ok(closed)
    }

    fn seal(&mut self, header: &[u8], mut chunk: Chunk) -> Result<(Option<Chunk>, Chunk), Broken> {
        let mut before = Vec::new();
        let fits = header.len().saturating_add(chunk.len()) <= CONTENT_MAX_BYTES;
        if fits {
            prepend(header, &mut chunk);
        }
        // Too much for one record by as much as the header has: that goes in one of its own.
        self.records.write(if fits { &[] } else { header }, &mut before).map_err(|_| Broken)?;
        let range = chunk.range();
        match self.records.seal(chunk.whole_mut(), range) {
            Some(range) => chunk.set_range(range),
            None => {
                self.records.write(chunk.bytes(), &mut before).map_err(|_| Broken)?;
                return Ok((None, Chunk::from_vec(before)));
            }
        }
        let before = (!before.is_empty()).then(|| Chunk::from_vec(before));
        Ok((before, chunk))
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

#[cfg(test)]
mod tests {
    use rustls::{Error, Side};

    use super::super::record::tests::{TLS13, pair, received};
    use super::*;

    #[test]
    fn what_is_still_to_be_said_comes_before_the_alert() {
        let (records, mut peer) = pair(TLS13, Side::Server);
        let mut codec = Codec::from(Connection::from_records(Box::new(records), Vec::new()));
        let mut junk = Chunk::from_vec(b"GET / HTTP/1.1\r\n\r\n".to_vec());
        codec.open(&mut junk, &mut Vec::new()).unwrap_err();
        assert!(codec.has_to_say());
        let (before, chunk) = codec.seal(&[], Chunk::from_vec(b"words, ".to_vec()), &mut Vec::new()).unwrap();
        assert!(before.is_none());
        let mut out = chunk.bytes().to_vec();
        codec.say(b"last words", &mut out).unwrap();
        // An alert, its type, and what a record has around them.
        let (content, alert) = out.split_at(out.len() - 24);
        assert_eq!(received(&mut peer, content).unwrap(), b"words, last words");
        let error = received(&mut peer, alert).unwrap_err();
        assert_eq!(error, Error::AlertReceived(AlertDescription::UnexpectedMessage));
        assert!(!codec.has_to_say());
    }
}
