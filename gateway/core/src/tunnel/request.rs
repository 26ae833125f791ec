//! The first bytes: which protocol is it (PROTOCOL §1), and the CGP packet that holds a ticket.

use std::time::Instant;

use portcullis_proto::cgp;
use portcullis_proto::sniff::{FirstBytes, sniff};

use super::{Speech, State, Tunnel, Wish};
use crate::command::Framing;
use crate::deny::Deny;
use crate::limits::AMBIGUITY_WAIT;
use crate::profile::Kind;

impl Tunnel {
    pub(super) fn read_first_bytes(&mut self, now: Instant) {
        let kind = self.profile.kind;
        let framed = matches!(self.framing, Framing::WebSocket(_));
        let Some(first) = sniff(&self.input) else { return };
        self.state = match first {
            FirstBytes::Cgp if kind.speaks_cgp() => State::CgpTicket { settle: None },
            FirstBytes::SocksGreeting if kind.speaks_socks() => State::SocksGreeting,
            FirstBytes::SocksRequest if kind.speaks_socks() => State::SocksRequest { user: None },
            // Ordinary SOCKS clients never leave the greeting out, so a plain SOCKS listener need not wait.
            FirstBytes::SocksGreetingOrRequest if kind == Kind::Socks => State::SocksGreeting,
            FirstBytes::SocksGreetingOrRequest if kind.speaks_socks() => {
                State::FirstBytes { settle: now.checked_add(AMBIGUITY_WAIT) }
            }
            FirstBytes::Http if !framed && (kind == Kind::Gateway || kind.speaks_connect()) => {
                State::HttpHead
            }
            FirstBytes::Cgp
            | FirstBytes::SocksGreeting
            | FirstBytes::SocksRequest
            | FirstBytes::SocksGreetingOrRequest
            | FirstBytes::Http
            | FirstBytes::Http2
            | FirstBytes::Ica
            | FirstBytes::Unknown => return self.refuse(Speech::Cgp, Deny::UnknownProtocol),
        };
    }

    /// Nothing more came in the short wait: the ambiguous beginning is taken for what it most likely is.
    pub(super) fn settle(&mut self, now: Instant) {
        if matches!(self.state, State::FirstBytes { .. }) {
            self.state = State::SocksGreeting;
            self.advance(now);
        } else {
            self.take_cgp_ticket(now, true);
        }
    }

    pub(super) fn read_cgp(&mut self, now: Instant) {
        self.take_cgp_ticket(now, false);
    }

    /// `settled`: a ticket at the very end of the bytes is whole, as no more of it came.
    fn take_cgp_ticket(&mut self, now: Instant, settled: bool) {
        match cgp::find_ticket(&self.input) {
            Ok(Some(found)) if found.complete || settled => {
                let wish = Wish { speech: Speech::Cgp, user: None, application: None, target: None };
                self.redeem(wish, found.ticket, now);
            }
            Ok(Some(_)) => self.state = State::CgpTicket { settle: now.checked_add(AMBIGUITY_WAIT) },
            Ok(None) if self.input.len() > cgp::FIRST_PACKET_MAX_BYTES => {
                self.refuse(Speech::Cgp, Deny::TicketRequired);
            }
            Ok(None) => {}
            Err(_) => self.refuse(Speech::Cgp, Deny::TicketMalformed),
        }
    }
}
