//! From the wish to the relay: redeem, resolve, permit, admit, dial.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use portcullis_proto::host_port::{Host, HostPort};
use portcullis_proto::http_connect;
use portcullis_proto::socks5::Reply;
use portcullis_proto::ticket::TicketString;

use super::{DialError, ResolveError, Speech, State, Tunnel, Wish, server_of};
use crate::answer::{TicketAnswer, Unavailable};
use crate::command::Command;
use crate::deny::Deny;
use crate::policy::Permit;
use crate::session::SessionInfo;
use crate::ticket_store::TicketData;

impl Tunnel {
    /// An `ssl-relay` has its server from the configuration.
    pub(super) fn seek_fixed_server(&mut self, now: Instant) {
        let wish = Wish { speech: Speech::Tls, user: None, application: None, target: None };
        match self.profile.target.clone() {
            Some(target) => self.seek_server(wish, target, now),
            None => self.refuse(Speech::Tls, Deny::Forbidden),
        }
    }

    /// The servers of a `forward` listener come from its balancer.
    pub(super) fn seek_chosen_servers(&mut self, servers: &[SocketAddr], now: Instant) {
        let wish = Wish { speech: Speech::Forward, user: None, application: None, target: None };
        match (self.profile.policy.permit_servers(servers), servers.first()) {
            (Ok(permit), Some(first)) => {
                self.extend_deadline(self.profile.limits.dial_timeout, now);
                self.admit(wish, first, permit);
            }
            (Err(reason), _) => self.refuse(Speech::Forward, reason),
            (Ok(_), None) => self.refuse(Speech::Forward, Deny::ServerUnreachable),
        }
    }

    /// The client itself named a server: only a listener with an access list allows that.
    pub(super) fn seek_named_server(&mut self, wish: Wish, target: HostPort, now: Instant) {
        if self.profile.kind.by_access_list() {
            self.seek_server(wish, target, now);
        } else {
            self.refuse(wish.speech, Deny::TicketRequired);
        }
    }

    pub(super) fn redeem(&mut self, wish: Wish, ticket: TicketString, now: Instant) {
        if !self.profile.tickets {
            return self.refuse(wish.speech, Deny::Forbidden);
        }
        let mut tickets = ticket.into_tickets().into_iter();
        let (Some(first), second) = (tickets.next(), tickets.next()) else {
            return self.refuse(wish.speech, Deny::TicketMalformed);
        };
        self.extend_deadline(self.profile.limits.redeem_timeout, now);
        self.state = State::Redeem { wish, second, refused: false };
        self.commands.push_back(Command::Redeem { ticket: first });
    }

    pub(super) fn on_ticket(&mut self, answer: TicketAnswer, now: Instant) {
        let State::Redeem { wish, second, refused } = &mut self.state else { return };
        let reason = match answer {
            TicketAnswer::Granted(data) => {
                let mut wish = wish.clone();
                return self.on_granted(&mut wish, data, now);
            }
            TicketAnswer::Refused(_) => Deny::TicketRefused,
            TicketAnswer::Unavailable(Unavailable::Overloaded) => Deny::Overloaded,
            TicketAnswer::Unavailable(Unavailable::NoAuthority) => Deny::AuthorityUnknown,
            TicketAnswer::Unavailable(Unavailable::Down | Unavailable::Timeout | Unavailable::Garbage) => {
                Deny::AuthorityDown
            }
        };
        // The second authority may know what the first has forgotten or cannot say. Asking on while we are
        // overloaded ourselves would only add load.
        *refused |= reason == Deny::TicketRefused;
        if reason != Deny::Overloaded
            && let Some(ticket) = second.take()
        {
            self.commands.push_back(Command::Redeem { ticket });
            return;
        }
        let reason = if *refused { Deny::TicketRefused } else { reason };
        let speech = wish.speech;
        self.refuse(speech, reason);
    }

    fn on_granted(&mut self, wish: &mut Wish, data: TicketData, now: Instant) {
        let Some(target) = server_of(&data, wish.speech) else {
            return self.refuse(wish.speech, Deny::TicketWithoutServer);
        };
        wish.user = match (data.domain, data.user) {
            (Some(domain), Some(user)) if !domain.is_empty() => Some(format!("{domain}\\{user}")),
            (_, user) => user.or_else(|| wish.user.take()),
        };
        wish.application = data.application;
        self.seek_server(wish.clone(), target, now);
    }

    fn seek_server(&mut self, mut wish: Wish, target: HostPort, now: Instant) {
        self.extend_deadline(self.profile.limits.dial_timeout, now);
        wish.target = Some(target.clone());
        let fixed = wish.speech == Speech::Tls;
        if !fixed && let Err(reason) = self.profile.policy.before_resolution(&target) {
            return self.refuse(wish.speech, reason);
        }
        match target.host() {
            Host::Ip(_) => self.judge(wish, &target, &[]),
            Host::Name(name) => {
                self.commands.push_back(Command::Resolve { name: name.clone() });
                self.state = State::Resolve { wish, target };
            }
        }
    }

    pub(super) fn on_resolved(&mut self, answer: Result<Vec<IpAddr>, ResolveError>, _now: Instant) {
        let State::Resolve { wish, target } = &self.state else { return };
        let (wish, target) = (wish.clone(), target.clone());
        match answer {
            Ok(addresses) => self.judge(wish, &target, &addresses),
            Err(ResolveError::NotFound) => self.refuse(wish.speech, Deny::NameUnknown),
            Err(ResolveError::Timeout) => self.refuse(wish.speech, Deny::ServerTimeout),
            Err(ResolveError::Failed) => self.refuse(wish.speech, Deny::ServerUnreachable),
            Err(ResolveError::Overloaded) => self.refuse(wish.speech, Deny::Overloaded),
        }
    }

    fn judge(&mut self, wish: Wish, target: &HostPort, resolved: &[IpAddr]) {
        let policy = &self.profile.policy;
        let verdict = if wish.speech == Speech::Tls {
            policy.permit_fixed(target, resolved)
        } else {
            policy.permit(target, resolved)
        };
        match verdict {
            Ok(permit) => self.admit(wish, target, permit),
            Err(reason) => self.refuse(wish.speech, reason),
        }
    }

    fn admit(&mut self, wish: Wish, target: &impl ToString, permit: Permit) {
        let info = SessionInfo {
            listener: self.profile.listener.clone(),
            protocol: self.protocol(wish.speech),
            source: self.source,
            user: wish.user.clone(),
            application: wish.application.clone(),
            target: target.to_string(),
        };
        self.commands.push_back(Command::Admit { info });
        self.state = State::Admit { wish, permit };
    }

    pub(super) fn on_admitted(&mut self, answer: Result<(), Deny>) {
        let State::Admit { wish, permit } = &self.state else { return };
        let (wish, permit) = (wish.clone(), permit.clone());
        match answer {
            Ok(()) => {
                let name = wish.target.as_ref().and_then(|target| match target.host() {
                    Host::Name(name) => Some(name.clone()),
                    Host::Ip(_) => None,
                });
                self.commands.push_back(Command::Dial { permit, name });
                self.state = State::Dial { wish };
            }
            Err(reason) => self.refuse(wish.speech, reason),
        }
    }

    pub(super) fn on_dialed(&mut self, result: Result<(), DialError>) {
        let State::Dial { wish } = &self.state else { return };
        let speech = wish.speech;
        match result {
            Ok(()) => {
                match speech {
                    Speech::Socks => self.reply(&Reply::Succeeded.encode()),
                    Speech::Connect => self.reply(http_connect::established()),
                    // These clients hear the server itself.
                    Speech::Cgp | Speech::Tls | Speech::Forward => {}
                }
                self.start_relay();
            }
            Err(DialError::Refused) => self.refuse(speech, Deny::ServerRefused),
            Err(DialError::Unreachable) => self.refuse(speech, Deny::ServerUnreachable),
            Err(DialError::Timeout) => self.refuse(speech, Deny::ServerTimeout),
            Err(DialError::Exhausted) => self.refuse(speech, Deny::Overloaded),
            Err(DialError::Untrusted) => self.refuse(speech, Deny::ServerUntrusted),
            Err(DialError::Tls) => self.refuse(speech, Deny::ServerTls),
        }
    }

    /// A new wait has its own deadline.
    pub(super) fn extend_deadline(&mut self, wait: Duration, now: Instant) {
        self.deadline = now.checked_add(wait).unwrap_or(now);
    }
}
