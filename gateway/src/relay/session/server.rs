//! The leg to a server that the gateway speaks TLS to. Without it a session has none of this.

use std::mem;
use std::net::Shutdown;

use portcullis_core::session::EndReason;
use portcullis_uring::{Chunk, Class};

use super::super::direction::{Sink, Source};
use super::super::worker::Shared;
use super::{Op, Session, Side, relieved};
use crate::tls::codec::Codec;

/// TLS with the server.
#[derive(Debug)]
pub(super) struct ServerTls {
    codec: Codec,
    /// The server was told that the client is done.
    told: bool,
    /// We have cut the connection ourselves, so its end says nothing.
    cut: bool,
}

impl ServerTls {
    pub(super) fn new(codec: Codec) -> Option<Box<Self>> {
        (!codec.is_plain()).then(|| Box::new(Self { codec, told: false, cut: false }))
    }
}

impl Session {
    /// Which buffers the server's bytes go to: records in small ones would be cut.
    pub(super) fn server_class(&self) -> Class {
        if self.server_tls.is_some() { Class::Client } else { Class::Server }
    }

    /// Bytes may wait since the handshake, opened already or not.
    pub(super) fn begin_server(&mut self, unread: Vec<u8>, shared: &mut Shared) {
        if self.server_tls.is_some() {
            if !unread.is_empty() {
                self.wrap(Chunk::from_vec(unread), shared);
            }
            self.take_from_server(Chunk::from_vec(Vec::new()), shared);
        }
    }

    /// Bytes of the server as they came.
    pub(super) fn take_from_server(&mut self, mut chunk: Chunk, shared: &mut Shared) {
        let Some(tls) = &mut self.server_tls else { return self.wrap(chunk, shared) };
        match tls.codec.open(&mut chunk, &mut shared.scratch) {
            Ok(ended) => {
                // Records without content become none.
                if !chunk.is_empty() {
                    self.wrap(chunk, shared);
                }
                if ended && self.down.source == Source::Open {
                    self.down.source = Source::Ended;
                }
            }
            Err(_) => self.server_violated(),
        }
    }

    /// Bytes for the server, wrapped as it wants them.
    pub(super) fn push_up(&mut self, chunk: Chunk, shared: &mut Shared) {
        let count = chunk.len();
        let chunk = match &mut self.server_tls {
            Some(tls) if count > 0 => match tls.codec.seal(&[], chunk, &mut shared.scratch) {
                Ok((before, chunk)) => {
                    if let Some(before) = before {
                        self.up.push(before, 0);
                    }
                    chunk
                }
                Err(_) => return self.abort(EndReason::ServerViolation),
            },
            _ => chunk,
        };
        self.up.push(relieved(chunk, Class::Client, shared), count);
    }

    /// What the server is to hear besides the client's bytes goes behind those that are queued.
    pub(super) fn say_to_server(&mut self) {
        let Some(tls) = &mut self.server_tls else { return };
        if tls.told || !tls.codec.has_to_say() {
            return;
        }
        let mut out = Vec::new();
        match tls.codec.say(&[], &mut out) {
            Ok(()) => self.up.push(Chunk::from_vec(out), 0),
            Err(_) => self.abort(EndReason::ServerViolation),
        }
    }

    /// The client is done: says so in TLS's words first. `true`: they are on their way.
    pub(super) fn is_telling_server(&mut self, shared: &mut Shared) -> bool {
        let Some(tls) = &mut self.server_tls else { return false };
        if mem::replace(&mut tls.told, true) {
            return false;
        }
        let mut out = Vec::new();
        tls.codec.close(&mut out);
        // Whatever becomes of these words.
        self.note_end(EndReason::ClientClosed);
        self.up.push(Chunk::from_vec(out), 0);
        self.up.send(&mut shared.engine, self.server, Op::Send(Side::Server).token(self.key));
        !self.up.is_drained()
    }

    pub(super) fn shut_server(&mut self, how: Shutdown, shared: &mut Shared) {
        if let Some(tls) = &mut self.server_tls {
            tls.cut |= how == Shutdown::Both;
        }
        shared.engine.shutdown(self.server, how);
    }

    /// How the end of the server's connection is to be understood: without `close_notify` it may be anybody's doing
    /// (RFC 8446 §6.1), and the client must be able to see that.
    pub(super) fn server_end(&self) -> Source {
        match &self.server_tls {
            Some(tls) if !tls.cut => Source::Failed(EndReason::ServerReset),
            _ => Source::Ended,
        }
    }

    /// The server broke TLS. What it still sends is nothing, and the client's direction tells it why.
    fn server_violated(&mut self) {
        self.up.discard();
        self.down.source = Source::Failed(EndReason::ServerViolation);
        self.shorten_idle();
    }

    /// An alert is on its way to the server, which the end of the session would overtake.
    pub(super) fn is_alerting_server(&self) -> bool {
        let Some(tls) = &self.server_tls else { return false };
        self.down.source == Source::Failed(EndReason::ServerViolation)
            && self.up.sink == Sink::Open
            && (tls.codec.has_to_say() || self.up.is_sending())
    }
}
