//! SOCKS5: RFC 1928 with RFC 1929, and the bare request with a ticket that ICA clients send.

use std::time::Instant;

use portcullis_proto::socks5;

use super::{Speech, State, Tunnel, Wish};
use crate::command::Command;
use crate::deny::Deny;

impl Tunnel {
    pub(super) fn read_greeting(&mut self, _now: Instant) {
        let frame = match socks5::greeting_len(&self.input) {
            Ok(Some(len)) => self.take_input(len),
            Ok(None) => return,
            Err(_) => return self.finish(Some(Deny::Malformed)),
        };
        let Ok(greeting) = socks5::Greeting::parse(&frame) else {
            return self.finish(Some(Deny::Malformed));
        };
        let wanted =
            if self.profile.credentials { socks5::METHOD_USERNAME_PASSWORD } else { socks5::METHOD_NONE };
        if !greeting.offers(wanted) {
            self.reply(&socks5::method_selection(socks5::METHOD_UNACCEPTABLE));
            return self.finish(Some(Deny::CredentialsRequired));
        }
        self.reply(&socks5::method_selection(wanted));
        self.state = if self.profile.credentials {
            State::SocksCredentials
        } else {
            State::SocksRequest { user: None }
        };
    }

    pub(super) fn read_credentials(&mut self, now: Instant) {
        let frame = match socks5::credentials_len(&self.input) {
            Ok(Some(len)) => zeroize::Zeroizing::new(self.take_input(len)),
            Ok(None) => return,
            Err(_) => return self.finish(Some(Deny::Malformed)),
        };
        let Ok(credentials) = socks5::Credentials::parse(&frame) else {
            return self.finish(Some(Deny::Malformed));
        };
        let user = String::from_utf8_lossy(&credentials.user).into_owned();
        self.extend_deadline(self.profile.limits.redeem_timeout, now);
        self.state = State::SocksVerify { user: user.clone() };
        self.commands.push_back(Command::Verify { user, password: credentials.password.clone() });
    }

    pub(super) fn read_socks_request(&mut self, now: Instant) {
        let frame = match socks5::request_len(&self.input) {
            Ok(Some(len)) => self.take_input(len),
            Ok(None) => return,
            Err(_) => return self.refuse(Speech::Socks, Deny::Malformed),
        };
        let Ok(request) = socks5::Request::parse(&frame) else {
            return self.refuse(Speech::Socks, Deny::Malformed);
        };
        let State::SocksRequest { user } = &mut self.state else { return };
        let wish = Wish { speech: Speech::Socks, user: user.take(), application: None, target: None };
        if request.command != socks5::Command::Connect {
            return self.refuse(Speech::Socks, Deny::UnsupportedCommand);
        }
        if self.profile.credentials && wish.user.is_none() {
            return self.refuse(Speech::Socks, Deny::CredentialsRequired);
        }
        match (request.ticket(), request.server()) {
            (Some(Ok(ticket)), _) => self.redeem(wish, ticket, now),
            (Some(Err(_)), _) => self.refuse(Speech::Socks, Deny::TicketMalformed),
            (None, Ok(target)) => self.seek_named_server(wish, target, now),
            (None, Err(_)) => self.refuse(Speech::Socks, Deny::Malformed),
        }
    }

    /// Removes the first `len` bytes of the input.
    pub(super) fn take_input(&mut self, len: usize) -> Vec<u8> {
        self.input.drain(..len.min(self.input.len())).collect()
    }
}
