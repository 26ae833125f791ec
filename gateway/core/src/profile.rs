//! What a listener is for: which first bytes it understands and what authorises a session there.

use std::fmt;

use crate::limits::Limits;
use crate::policy::Policy;
use portcullis_proto::host_port::HostPort;

/// The kinds of listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Tickets by SOCKS5, CGP, WebSocket or CONNECT; any other HTTP goes to the control plane.
    Gateway,
    /// Tickets only: the far end of optimal HDX routing.
    HdxOnly,
    /// SOCKS5 by access list, with RFC 1929 credentials where users are set.
    Socks,
    /// HTTP CONNECT by access list, with Basic credentials where users are set, or by ticket.
    SecureProxy,
    /// Secure Gateway relay mode: SOCKS5 or CONNECT inside TLS by access list, no ticket.
    Relay,
    /// TLS ends here, bytes go to one fixed server.
    SslRelay,
    /// Bytes go as they are to one of several servers, which ends their encryption itself.
    Forward,
}

impl Kind {
    pub const ALL: [Self; 7] = [
        Self::Gateway,
        Self::HdxOnly,
        Self::Socks,
        Self::SecureProxy,
        Self::Relay,
        Self::SslRelay,
        Self::Forward,
    ];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::HdxOnly => "hdx-only",
            Self::Socks => "socks",
            Self::SecureProxy => "secure-proxy",
            Self::Relay => "relay",
            Self::SslRelay => "ssl-relay",
            Self::Forward => "forward",
        }
    }

    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }

    pub(crate) fn speaks_socks(self) -> bool {
        matches!(self, Self::Gateway | Self::HdxOnly | Self::Socks | Self::Relay)
    }

    pub(crate) fn speaks_cgp(self) -> bool {
        matches!(self, Self::Gateway | Self::HdxOnly)
    }

    pub(crate) fn speaks_websocket(self) -> bool {
        matches!(self, Self::Gateway | Self::HdxOnly)
    }

    pub(crate) fn speaks_connect(self) -> bool {
        matches!(self, Self::Gateway | Self::HdxOnly | Self::SecureProxy | Self::Relay)
    }

    /// Whether a server may be named by the client itself; elsewhere only a ticket names one.
    pub(crate) fn by_access_list(self) -> bool {
        matches!(self, Self::Socks | Self::SecureProxy | Self::Relay)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// All that one connection needs to know of its listener's configuration. Immutable; a reload makes a new one.
#[derive(Clone, Debug)]
pub struct Profile {
    pub listener: String,
    pub kind: Kind,
    /// Whether tickets are redeemed here.
    pub tickets: bool,
    /// Whether clients must show credentials.
    pub credentials: bool,
    /// The server of an `ssl-relay`.
    pub target: Option<HostPort>,
    pub policy: Policy,
    pub limits: Limits,
}
