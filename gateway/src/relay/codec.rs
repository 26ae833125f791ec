//! What the client's bytes are wrapped in: nothing, or TLS.
//!
//! Bytes are opened and sealed in the chunk that they came in, so that the same chunk goes on.

use std::fmt;
use std::io::{ErrorKind, Read as _, Write as _};

use portcullis_uring::Chunk;
use rustls::ServerConnection;

/// The client broke TLS, or it cannot be spoken any longer. What there is to be said of it waits in the codec.
#[derive(Debug)]
pub(super) struct Broken;

/// One client's TLS, where it speaks it.
pub(super) enum Codec {
    Plain,
    /// rustls as it is: every byte is copied through it.
    Rustls(Box<ServerConnection>),
}

impl Codec {
    pub(super) fn is_plain(&self) -> bool {
        matches!(self, Self::Plain)
    }

    /// Takes TLS off the chunk's bytes. `true`: the client sends no more.
    pub(super) fn open(&mut self, chunk: &mut Chunk, scratch: &mut Vec<u8>) -> Result<bool, Broken> {
        match self {
            Self::Plain => Ok(false),
            Self::Rustls(tls) => {
                scratch.clear();
                let ended = read(tls, chunk.bytes(), scratch)?;
                put(chunk, scratch);
                Ok(ended)
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
            Self::Rustls(tls) => {
                scratch.clear();
                write(tls, header, scratch)?;
                write(tls, chunk.bytes(), scratch)?;
                put(&mut chunk, scratch);
            }
        }
        Ok((None, chunk))
    }

    /// Appends what is to be said beside the stream, alerts and answers to key updates, behind `plaintext`.
    pub(super) fn say(&mut self, plaintext: &[u8], out: &mut Vec<u8>) -> Result<(), Broken> {
        match self {
            Self::Plain => out.extend_from_slice(plaintext),
            Self::Rustls(tls) => {
                write(tls, plaintext, out)?;
                take_records(tls, out)?;
            }
        }
        Ok(())
    }

    pub(super) fn has_to_say(&self) -> bool {
        match self {
            Self::Plain => false,
            Self::Rustls(tls) => tls.wants_write(),
        }
    }

    /// Nothing more is sent: appends what says so.
    pub(super) fn close(&mut self, out: &mut Vec<u8>) -> Result<(), Broken> {
        match self {
            Self::Plain => Ok(()),
            Self::Rustls(tls) => {
                tls.send_close_notify();
                take_records(tls, out)
            }
        }
    }
}

/// Says nothing of keys.
impl fmt::Debug for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "Plain",
            Self::Rustls(_) => "Rustls",
        })
    }
}

/// Puts a few bytes in front of the chunk's.
fn prepend(header: &[u8], chunk: &mut Chunk) {
    if header.is_empty() {
        return;
    }
    let range = chunk.range();
    let start = range.start.checked_sub(header.len());
    match start.and_then(|start| chunk.whole_mut().get_mut(start..range.start)) {
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

fn read(tls: &mut ServerConnection, mut network: &[u8], plaintext: &mut Vec<u8>) -> Result<bool, Broken> {
    loop {
        let outcome = tls.process_new_packets();
        // `Ok` says that the client has ended its side; bytes may have come before that.
        let ended = match tls.reader().read_to_end(plaintext) {
            Ok(_) => true,
            Err(error) => error.kind() != ErrorKind::WouldBlock,
        };
        if outcome.is_err() {
            return Err(Broken);
        }
        if ended || network.is_empty() {
            return Ok(ended);
        }
        tls.read_tls(&mut network).map_err(|_| Broken)?;
    }
}

fn write(tls: &mut ServerConnection, mut plaintext: &[u8], out: &mut Vec<u8>) -> Result<(), Broken> {
    while !plaintext.is_empty() {
        let written = tls.writer().write(plaintext).map_err(|_| Broken)?;
        plaintext = plaintext.get(written..).unwrap_or_default();
        take_records(tls, out)?;
    }
    Ok(())
}

fn take_records(tls: &mut ServerConnection, out: &mut Vec<u8>) -> Result<(), Broken> {
    while tls.wants_write() {
        tls.write_tls(out).map_err(|_| Broken)?;
    }
    Ok(())
}
