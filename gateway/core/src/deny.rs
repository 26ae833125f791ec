//! Why the gateway refuses, and what the client sees of it.
//!
//! One closed set of reasons. Each protocol's words for a reason are chosen here and nowhere else, and none of
//! them holds an inside address.

use portcullis_proto::socks5::Reply;

/// Reasons for which a connection or session is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
pub enum Deny {
    #[error("the first bytes are of no protocol that this listener speaks")]
    UnknownProtocol,
    #[error("the request breaks its protocol")]
    Malformed,
    #[error("no complete request came in time")]
    SlowRequest,
    #[error("the request is longer than the limit")]
    RequestTooLong,
    #[error("the command is not supported")]
    UnsupportedCommand,
    #[error("the WebSocket version is not supported")]
    UnsupportedVersion,
    #[error("this listener takes tickets only")]
    TicketRequired,
    #[error("the ticket is malformed")]
    TicketMalformed,
    #[error("the ticket authority refused the ticket")]
    TicketRefused,
    #[error("no ticket authority with that id is configured")]
    AuthorityUnknown,
    #[error("no ticket authority answered")]
    AuthorityDown,
    #[error("the ticket names no usable server")]
    TicketWithoutServer,
    #[error("credentials are required")]
    CredentialsRequired,
    #[error("the credentials are wrong")]
    CredentialsWrong,
    #[error("the policy forbids that server")]
    Forbidden,
    #[error("the server's name has no address")]
    NameUnknown,
    #[error("the server refused the connection")]
    ServerRefused,
    #[error("the server could not be reached")]
    ServerUnreachable,
    #[error("the server did not answer in time")]
    ServerTimeout,
    #[error("the server could not prove who it is")]
    ServerUntrusted,
    #[error("the TLS handshake with the server failed")]
    ServerTls,
    #[error("the source address is not allowed here")]
    SourceForbidden,
    #[error("the source address is banned")]
    Banned,
    #[error("too many connections")]
    TooManyConnections,
    #[error("too many connections from this source")]
    TooManyConnectionsFromSource,
    #[error("too many handshakes")]
    TooManyHandshakes,
    #[error("too many handshakes from this source")]
    TooManyHandshakesFromSource,
    #[error("too many sessions")]
    TooManySessions,
    #[error("too many sessions from this source")]
    TooManySessionsFromSource,
    #[error("too many sessions of this user")]
    TooManySessionsOfUser,
    #[error("the gateway is overloaded")]
    Overloaded,
    #[error("the gateway is shutting down")]
    Draining,
}

impl Deny {
    pub const ALL: [Self; 32] = [
        Self::UnknownProtocol,
        Self::Malformed,
        Self::SlowRequest,
        Self::RequestTooLong,
        Self::UnsupportedCommand,
        Self::UnsupportedVersion,
        Self::TicketRequired,
        Self::TicketMalformed,
        Self::TicketRefused,
        Self::AuthorityUnknown,
        Self::AuthorityDown,
        Self::TicketWithoutServer,
        Self::CredentialsRequired,
        Self::CredentialsWrong,
        Self::Forbidden,
        Self::NameUnknown,
        Self::ServerRefused,
        Self::ServerUnreachable,
        Self::ServerTimeout,
        Self::ServerUntrusted,
        Self::ServerTls,
        Self::SourceForbidden,
        Self::Banned,
        Self::TooManyConnections,
        Self::TooManyConnectionsFromSource,
        Self::TooManyHandshakes,
        Self::TooManyHandshakesFromSource,
        Self::TooManySessions,
        Self::TooManySessionsFromSource,
        Self::TooManySessionsOfUser,
        Self::Overloaded,
        Self::Draining,
    ];

    /// The reason in metrics and records.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::UnknownProtocol => "unknown_protocol",
            Self::Malformed => "malformed",
            Self::SlowRequest => "slow_request",
            Self::RequestTooLong => "request_too_long",
            Self::UnsupportedCommand => "unsupported_command",
            Self::UnsupportedVersion => "unsupported_version",
            Self::TicketRequired => "ticket_required",
            Self::TicketMalformed => "ticket_malformed",
            Self::TicketRefused => "ticket_refused",
            Self::AuthorityUnknown => "authority_unknown",
            Self::AuthorityDown => "authority_down",
            Self::TicketWithoutServer => "ticket_without_server",
            Self::CredentialsRequired => "credentials_required",
            Self::CredentialsWrong => "credentials_wrong",
            Self::Forbidden => "forbidden",
            Self::NameUnknown => "name_unknown",
            Self::ServerRefused => "server_refused",
            Self::ServerUnreachable => "server_unreachable",
            Self::ServerTimeout => "server_timeout",
            Self::ServerUntrusted => "server_untrusted",
            Self::ServerTls => "server_tls",
            Self::SourceForbidden => "source_forbidden",
            Self::Banned => "banned",
            Self::TooManyConnections => "too_many_connections",
            Self::TooManyConnectionsFromSource => "too_many_connections_from_source",
            Self::TooManyHandshakes => "too_many_handshakes",
            Self::TooManyHandshakesFromSource => "too_many_handshakes_from_source",
            Self::TooManySessions => "too_many_sessions",
            Self::TooManySessionsFromSource => "too_many_sessions_from_source",
            Self::TooManySessionsOfUser => "too_many_sessions_of_user",
            Self::Overloaded => "overloaded",
            Self::Draining => "draining",
        }
    }

    /// RFC 1928 §6. A refused ticket and a forbidden server look alike: 2, not allowed by ruleset.
    #[must_use]
    pub fn socks_reply(self) -> Reply {
        match self {
            Self::UnsupportedCommand => Reply::CommandNotSupported,
            Self::TicketRequired
            | Self::TicketMalformed
            | Self::TicketRefused
            | Self::AuthorityUnknown
            | Self::TicketWithoutServer
            | Self::CredentialsRequired
            | Self::CredentialsWrong
            | Self::Forbidden
            | Self::SourceForbidden
            | Self::Banned => Reply::NotAllowed,
            Self::NameUnknown | Self::ServerUnreachable => Reply::HostUnreachable,
            Self::ServerTimeout => Reply::TtlExpired,
            Self::ServerRefused => Reply::ConnectionRefused,
            Self::UnknownProtocol
            | Self::Malformed
            | Self::SlowRequest
            | Self::RequestTooLong
            | Self::UnsupportedVersion
            | Self::AuthorityDown
            | Self::ServerUntrusted
            | Self::ServerTls
            | Self::TooManyConnections
            | Self::TooManyConnectionsFromSource
            | Self::TooManyHandshakes
            | Self::TooManyHandshakesFromSource
            | Self::TooManySessions
            | Self::TooManySessionsFromSource
            | Self::TooManySessionsOfUser
            | Self::Overloaded
            | Self::Draining => Reply::GeneralFailure,
        }
    }

    /// RFC 9110 §15: status code and reason phrase.
    #[must_use]
    pub fn http_status(self) -> (u16, &'static str) {
        match self {
            Self::Malformed | Self::UnknownProtocol | Self::TicketMalformed => (400, "Bad Request"),
            Self::CredentialsRequired | Self::CredentialsWrong => (407, "Proxy Authentication Required"),
            Self::TicketRequired
            | Self::TicketRefused
            | Self::AuthorityUnknown
            | Self::TicketWithoutServer
            | Self::Forbidden
            | Self::SourceForbidden
            | Self::Banned => (403, "Forbidden"),
            Self::UnsupportedCommand => (405, "Method Not Allowed"),
            Self::UnsupportedVersion => (426, "Upgrade Required"),
            Self::SlowRequest => (408, "Request Timeout"),
            Self::RequestTooLong => (431, "Request Header Fields Too Large"),
            Self::NameUnknown
            | Self::ServerRefused
            | Self::ServerUnreachable
            | Self::ServerUntrusted
            | Self::ServerTls => (502, "Bad Gateway"),
            Self::ServerTimeout => (504, "Gateway Timeout"),
            Self::AuthorityDown
            | Self::TooManyConnections
            | Self::TooManyConnectionsFromSource
            | Self::TooManyHandshakes
            | Self::TooManyHandshakesFromSource
            | Self::TooManySessions
            | Self::TooManySessionsFromSource
            | Self::TooManySessionsOfUser
            | Self::Overloaded
            | Self::Draining => (503, "Service Unavailable"),
        }
    }

    /// RFC 6455 §7.4.1: the code of the close frame.
    #[must_use]
    pub fn websocket_close_code(self) -> u16 {
        match self.http_status().0 {
            400 | 405 | 426 => 1002,
            431 => 1009,
            502..=504 => 1013,
            _ => 1008,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_reason_has_its_own_label() {
        let labels: BTreeSet<_> = Deny::ALL.iter().map(|deny| deny.label()).collect();
        assert_eq!(labels.len(), Deny::ALL.len());
    }

    #[test]
    fn a_refused_ticket_and_a_forbidden_server_cannot_be_told_apart_by_socks_clients() {
        assert_eq!(Deny::TicketRefused.socks_reply(), Deny::Forbidden.socks_reply());
    }
}
