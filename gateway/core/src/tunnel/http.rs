//! HTTP: CONNECT (RFC 9110 §9.3.6), WebSocket (RFC 6455 §4), and all the rest for the control plane.

use std::mem;
use std::time::Instant;

use portcullis_proto::http_connect::{self, ConnectTarget};
use portcullis_proto::http_head::{self, RequestHead};
use portcullis_proto::websocket::{self, Decoder, Role, UpgradeError};

use super::{Speech, State, Tunnel, Wish};
use crate::command::{Command, Framing};
use crate::deny::Deny;
use crate::profile::Kind;

impl Tunnel {
    pub(super) fn read_http_head(&mut self, now: Instant) {
        let len = match http_head::head_len(&self.input) {
            Ok(Some(len)) => len,
            Ok(None) => return,
            Err(error) => {
                let too_long = matches!(error, portcullis_proto::Malformed::TooLong { .. });
                return self.refuse_http(if too_long { Deny::RequestTooLong } else { Deny::Malformed });
            }
        };
        let head = self.input.get(..len).unwrap_or_default();
        let Ok(head) = RequestHead::parse(head) else {
            return self.refuse_http(Deny::Malformed);
        };
        if head.method == "CONNECT" && self.profile.kind.speaks_connect() {
            self.take_input(len);
            return self.read_connect(&head, now);
        }
        let upgrade = if self.profile.kind.speaks_websocket() { websocket::upgrade(&head) } else { Ok(None) };
        match upgrade {
            Ok(Some(upgrade)) if head.target == "/" => {
                self.take_input(len);
                // The 101 itself is not framed, so it goes out before the framing changes.
                self.reply(&websocket::switching_protocols(&upgrade, None));
                self.framing = Framing::WebSocket(Decoder::new(Role::Server));
                self.undecoded = mem::take(&mut self.input);
                self.state = State::FirstBytes { settle: None };
                self.unframe();
            }
            Ok(_) if self.profile.kind == Kind::Gateway => {
                self.state = State::Done;
                let bytes = mem::take(&mut self.input);
                self.commands.push_back(Command::HandToWeb { bytes });
            }
            Ok(_) => self.refuse_http(Deny::UnsupportedCommand),
            Err(UpgradeError::UnsupportedVersion) => self.refuse_http(Deny::UnsupportedVersion),
            Err(UpgradeError::Malformed(_)) => self.refuse_http(Deny::Malformed),
        }
    }

    fn read_connect(&mut self, head: &RequestHead, now: Instant) {
        let Ok(target) = http_connect::parse_target(head) else {
            return self.refuse_http(Deny::Malformed);
        };
        // A ticket authorises by itself; who names a server must be somebody.
        if !self.profile.credentials || matches!(target, ConnectTarget::Ticket(_)) {
            return self.connect_to(target, None, now);
        }
        match http_connect::basic_credentials(head) {
            Ok(Some(credentials)) => {
                let user = String::from_utf8_lossy(&credentials.user).into_owned();
                self.extend_deadline(self.profile.limits.redeem_timeout, now);
                self.state = State::ConnectVerify { target, user: user.clone() };
                self.commands.push_back(Command::Verify { user, password: credentials.password.clone() });
            }
            Ok(None) => self.refuse_http(Deny::CredentialsRequired),
            Err(_) => self.refuse_http(Deny::Malformed),
        }
    }

    pub(super) fn connect_to(&mut self, target: ConnectTarget, user: Option<String>, now: Instant) {
        let wish = Wish { speech: Speech::Connect, user, application: None, target: None };
        match target {
            ConnectTarget::Ticket(ticket) => self.redeem(wish, ticket, now),
            ConnectTarget::Server(target) => self.seek_named_server(wish, target, now),
        }
    }

    /// Refuses in HTTP's words (RFC 9110 §15) and ends.
    pub(super) fn refuse_http(&mut self, reason: Deny) {
        let (status, phrase) = reason.http_status();
        let headers: &[(&str, &str)] = match status {
            407 => &[("Proxy-Authenticate", "Basic realm=\"gateway\", charset=\"UTF-8\"")],
            426 => &[("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")],
            405 => &[("Allow", "CONNECT")],
            _ => &[],
        };
        let bytes = http_head::response(status, phrase, headers, "");
        self.commands.push_back(Command::Reply { bytes });
        self.finish(Some(reason));
    }
}
