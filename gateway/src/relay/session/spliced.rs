//! Directions of a session that go by splice(2).

use std::sync::atomic::Ordering;

use portcullis_core::session::EndReason;

use super::super::direction::{Receiving, Sink, Source};
use super::super::splice::{Outlook, SPLICE_RETRY_BYTES};
use super::super::worker::Shared;
use super::{Op, Session, Side, is_reset};

impl Session {
    /// Lets a direction that moves much go by splicing, if it may and a pipe is free.
    pub(super) fn consider_splicing(&mut self, shared: &mut Shared) {
        if !self.may_splice {
            return;
        }
        for direction in [&mut self.up, &mut self.down] {
            if direction.splice.is_none()
                && direction.copied >= direction.splice_after
                && direction.source == Source::Open
                && direction.sink == Sink::Open
            {
                direction.splice = shared.pipes.take();
                direction.splice_after = direction.copied.saturating_add(SPLICE_RETRY_BYTES);
                if direction.splice.is_some() {
                    shared.again.push(self.key);
                }
            }
        }
    }

    /// Goes on with a spliced direction. `true`: nothing is left to be spliced.
    pub(super) fn splice_to(&mut self, to: Side, shared: &mut Shared) -> bool {
        let (direction, from_socket, to_socket) = match to {
            Side::Server => (&mut self.up, self.client, self.server),
            Side::Client => (&mut self.down, self.server, self.client),
        };
        let Some(mut splice) = direction.splice.take() else { return true };
        if direction.source != Source::Open || direction.sink != Sink::Open {
            shared.pipes.give_back(*splice);
            return true;
        }
        if direction.receiving != Receiving::Off || splice.awaits {
            // What is still received copying goes first.
            direction.splice = Some(splice);
            return false;
        }
        let sockets = (shared.engine.fd(from_socket), shared.engine.fd(to_socket));
        let (Some(from), Some(sink)) = sockets else { return true };
        let (delivered, moved, outlook) = splice.advance(from, sink);
        let counter = match to {
            Side::Server => &self.counters.bytes_up,
            Side::Client => &self.counters.bytes_down,
        };
        counter.fetch_add(delivered, Ordering::Relaxed);
        if moved {
            self.last_activity = shared.now;
        }
        let token = Op::Splice(to).token(self.key);
        match outlook {
            Outlook::AwaitSource => {
                splice.awaits = true;
                shared.engine.ready(from_socket, false, token);
            }
            Outlook::AwaitSink => {
                splice.awaits = true;
                shared.engine.ready(to_socket, true, token);
            }
            Outlook::Again => shared.again.push(self.key),
            Outlook::Ended => direction.source = Source::Ended,
            Outlook::SourceFailed(error) => {
                let reason = match to {
                    Side::Server => EndReason::ClientReset,
                    Side::Client if is_reset(&error) => EndReason::ServerReset,
                    Side::Client => EndReason::ServerClosed,
                };
                direction.source = Source::Failed(reason);
            }
            Outlook::SinkFailed => {
                drop(splice);
                self.abort(if to == Side::Client { EndReason::ClientReset } else { EndReason::ServerReset });
                return false;
            }
        }
        if direction.source == Source::Open {
            direction.splice = Some(splice);
            return false;
        }
        shared.pipes.give_back(*splice);
        true
    }

    /// Gives back what the worker lent.
    pub(in crate::relay) fn release(&mut self, shared: &mut Shared) {
        for direction in [&mut self.up, &mut self.down] {
            if let Some(splice) = direction.splice.take() {
                shared.pipes.give_back(*splice);
            }
        }
    }
}
