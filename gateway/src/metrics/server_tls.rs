//! TLS handshakes with servers, by their outcome.

use std::io;

use ::metrics::{Counter, counter};
use portcullis_core::session::EndReason;
use portcullis_core::tunnel::DialError;
use rustls::CertificateError as Bad;
use rustls::PeerIncompatible as Peer;

use super::names;

/// Why a TLS handshake with a server failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerTlsFailure {
    Timeout,
    /// The server closed or reset the connection.
    ServerClosed,
    /// The server sent an alert: it refuses what the gateway offers.
    ServerAlert,
    /// The bytes are no TLS.
    NotTls,
    NoCommonVersion,
    NoCommonSuite,
    /// No authority that is trusted has signed the certificate.
    Untrusted,
    /// The certificate is for another name.
    NameMismatch,
    /// The certificate has expired or is not valid yet.
    NotValidNow,
    /// The certificate is not the pinned one.
    PinMismatch,
    Other,
}

impl ServerTlsFailure {
    pub const ALL: [Self; 11] = [
        Self::Timeout,
        Self::ServerClosed,
        Self::ServerAlert,
        Self::NotTls,
        Self::NoCommonVersion,
        Self::NoCommonSuite,
        Self::Untrusted,
        Self::NameMismatch,
        Self::NotValidNow,
        Self::PinMismatch,
        Self::Other,
    ];

    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::ServerClosed => "server_closed",
            Self::ServerAlert => "server_alert",
            Self::NotTls => "not_tls",
            Self::NoCommonVersion => "no_common_version",
            Self::NoCommonSuite => "no_common_suite",
            Self::Untrusted => "untrusted",
            Self::NameMismatch => "name_mismatch",
            Self::NotValidNow => "not_valid_now",
            Self::PinMismatch => "pin_mismatch",
            Self::Other => "other",
        }
    }

    /// What the session's record says, and what the client is told.
    #[must_use]
    pub fn meaning(self) -> (EndReason, DialError) {
        match self {
            Self::Untrusted | Self::NameMismatch | Self::NotValidNow | Self::PinMismatch => {
                (EndReason::ServerUntrusted, DialError::Untrusted)
            }
            Self::Timeout => (EndReason::ServerTls, DialError::Timeout),
            _ => (EndReason::ServerTls, DialError::Tls),
        }
    }
}

impl From<&io::Error> for ServerTlsFailure {
    fn from(error: &io::Error) -> Self {
        if let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            return Self::from(error);
        }
        match error.kind() {
            io::ErrorKind::TimedOut => Self::Timeout,
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                Self::ServerClosed
            }
            _ => Self::Other,
        }
    }
}

impl From<&rustls::Error> for ServerTlsFailure {
    fn from(error: &rustls::Error) -> Self {
        match error {
            rustls::Error::InvalidCertificate(bad) => match bad {
                Bad::NotValidForName | Bad::NotValidForNameContext { .. } => Self::NameMismatch,
                Bad::Expired
                | Bad::ExpiredContext { .. }
                | Bad::NotValidYet
                | Bad::NotValidYetContext { .. } => Self::NotValidNow,
                // What the holder of a pin says.
                Bad::ApplicationVerificationFailure => Self::PinMismatch,
                _ => Self::Untrusted,
            },
            rustls::Error::NoCertificatesPresented => Self::Untrusted,
            rustls::Error::AlertReceived(_) => Self::ServerAlert,
            rustls::Error::InvalidMessage(_) | rustls::Error::InappropriateMessage { .. } => Self::NotTls,
            rustls::Error::PeerIncompatible(
                Peer::ServerDoesNotSupportTls12Or13
                | Peer::ServerTlsVersionIsDisabledByOurConfig
                | Peer::Tls12NotOffered
                | Peer::Tls12NotOfferedOrEnabled,
            ) => Self::NoCommonVersion,
            rustls::Error::PeerIncompatible(_) => Self::NoCommonSuite,
            _ => Self::Other,
        }
    }
}

/// Handshakes of one listener with its servers.
#[derive(Clone)]
pub(super) struct Handshakes {
    /// TLS 1.2 and 1.3, each full and resumed.
    succeeded: [[Counter; 2]; 2],
    /// By [`ServerTlsFailure::ALL`].
    failed: [Counter; ServerTlsFailure::ALL.len()],
}

impl Handshakes {
    pub(super) fn new(listener: &str) -> Self {
        let of = |version: &'static str, resumed: &'static str| {
            let listener = listener.to_owned();
            counter!(
                names::SERVER_TLS_HANDSHAKES.name,
                "listener" => listener, "version" => version, "resumed" => resumed
            )
        };
        let both = |version| [of(version, "false"), of(version, "true")];
        let failed = |failure: ServerTlsFailure| {
            let listener = listener.to_owned();
            counter!(
                names::SERVER_TLS_HANDSHAKE_FAILURES.name,
                "listener" => listener, "reason" => failure.label()
            )
        };
        Self { succeeded: [both("1.2"), both("1.3")], failed: ServerTlsFailure::ALL.map(failed) }
    }

    pub(super) fn succeeded(&self, version: rustls::ProtocolVersion, resumed: bool) {
        let [tls12, tls13] = &self.succeeded;
        let [full, again] = if version == rustls::ProtocolVersion::TLSv1_3 { tls13 } else { tls12 };
        if resumed { again } else { full }.increment(1);
    }

    pub(super) fn failed(&self, failure: ServerTlsFailure) {
        let index = ServerTlsFailure::ALL.iter().position(|known| *known == failure);
        if let Some(counter) = index.and_then(|index| self.failed.get(index)) {
            counter.increment(1);
        }
    }
}
