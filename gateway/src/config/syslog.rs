//! `[syslog]`: a server that gets the log, too.

use portcullis_proto::host_port::HostPort;
use serde_json::{Value, json};

use super::json::digits;
use super::{ServerTlsConfig, ServerTrust};
/// RFC 5424 §6.2.1, with the words of syslog(3).
pub const FACILITIES: [(&str, u8); 11] = [
    ("daemon", 3),
    ("auth", 4),
    ("authpriv", 10),
    ("local0", 16),
    ("local1", 17),
    ("local2", 18),
    ("local3", 19),
    ("local4", 20),
    ("local5", 21),
    ("local6", 22),
    ("local7", 23),
];
/// `daemon`.
pub const FACILITY_DEFAULT: u8 = 3;

/// Where lines of the log go, which, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyslogConfig {
    pub server: HostPort,
    pub protocol: SyslogProtocol,
    /// How the server is recognised; of TLS alone.
    pub tls: ServerTlsConfig,
    pub scope: SyslogScope,
    /// Of syslog(3): this and what is worse.
    pub priority: u8,
    /// Of the gateway's own lines; others keep theirs.
    pub facility: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyslogProtocol {
    /// RFC 5425.
    Tls,
    /// RFC 6587, with octet counting.
    Tcp,
    /// RFC 5426.
    Udp,
}

impl SyslogProtocol {
    pub const ALL: [Self; 3] = [Self::Tls, Self::Tcp, Self::Udp];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }

    #[must_use]
    pub fn port(self) -> u16 {
        match self {
            Self::Tls => 6514,
            Self::Tcp => 601,
            Self::Udp => 514,
        }
    }
}

/// Whose lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyslogScope {
    /// The gateway's: its log with records of sessions, and what the audit log has.
    Gateway,
    /// The whole machine's.
    All,
}

impl SyslogScope {
    pub const ALL: [Self; 2] = [Self::Gateway, Self::All];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::All => "all",
        }
    }
}

/// The words of `level`, with the numbers of syslog(3).
pub(super) const LEVELS: [(&str, u8); 4] = [("error", 3), ("warn", 4), ("info", 6), ("debug", 7)];

impl SyslogConfig {
    pub(super) fn to_json(&self) -> Value {
        let word = |words: &[(&'static str, u8)], number: u8| {
            words.iter().find(|(_, known)| *known == number).map(|(word, _)| *word)
        };
        let (ca, pin) = match &self.tls.trust {
            ServerTrust::Ca(path) => (Some(path), None),
            ServerTrust::Pin(pin) => (None, Some(digits(pin))),
            ServerTrust::PublicRoots | ServerTrust::Anyone => (None, None),
        };
        json!({
            "server": self.server.to_string(),
            "protocol": self.protocol.as_str(),
            "verify": self.tls.trust != ServerTrust::Anyone,
            "ca": ca,
            "pin_sha256": pin,
            "server_name": self.tls.server_name,
            "min_tls": self.tls.min_tls.as_str(),
            "certificate": self.tls.certificate,
            "send": self.scope.as_str(),
            "level": word(&LEVELS, self.priority),
            "facility": word(&FACILITIES, self.facility),
        })
    }
}
