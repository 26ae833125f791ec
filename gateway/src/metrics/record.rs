//! Recording what happens, from the front, the relays, the ticket pool and the authority.
//!
//! Handles are made once per listener, so that counting costs an atomic addition and no look-up.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use ::metrics::{Counter, Histogram, counter, histogram};
use portcullis_core::deny::Deny;
use portcullis_core::penalty::Offence;
use portcullis_core::session::Record;

use super::names;
use super::server_tls::{self, ServerTlsFailure};

/// The stages of setting a session up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// From accept to the end of the TLS handshake.
    Handshake,
    /// From there to a complete request.
    FirstBytes,
    /// Asking the ticket authorities.
    Redeem,
    /// Checking a password.
    Verify,
    /// Resolving the server's name.
    Resolve,
    /// Connecting to the server.
    Dial,
    /// Shaking hands with it.
    ServerTls,
}

impl Stage {
    pub const ALL: [Self; 7] = [
        Self::Handshake,
        Self::FirstBytes,
        Self::Redeem,
        Self::Verify,
        Self::Resolve,
        Self::Dial,
        Self::ServerTls,
    ];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Handshake => "handshake",
            Self::FirstBytes => "first_bytes",
            Self::Redeem => "redeem",
            Self::Verify => "verify",
            Self::Resolve => "resolve",
            Self::Dial => "dial",
            Self::ServerTls => "server_tls",
        }
    }
}

/// Why a TLS handshake failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeFailure {
    Timeout,
    /// The client closed or reset the connection.
    ClientClosed,
    /// The client sent an alert: it does not trust the certificate, or knows no such name.
    ClientAlert,
    /// The bytes are no TLS.
    NotTls,
    NoCommonVersion,
    NoCommonSuite,
    /// No certificate for the name, and the listener rejects such names.
    ServerName,
    /// More bytes than a handshake may take.
    TooLong,
    /// TLS that breaks its own rules.
    Misbehaved,
    Other,
}

impl HandshakeFailure {
    pub const ALL: [Self; 10] = [
        Self::Timeout,
        Self::ClientClosed,
        Self::ClientAlert,
        Self::NotTls,
        Self::NoCommonVersion,
        Self::NoCommonSuite,
        Self::ServerName,
        Self::TooLong,
        Self::Misbehaved,
        Self::Other,
    ];

    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::ClientClosed => "client_closed",
            Self::ClientAlert => "client_alert",
            Self::NotTls => "not_tls",
            Self::NoCommonVersion => "no_common_version",
            Self::NoCommonSuite => "no_common_suite",
            Self::ServerName => "server_name",
            Self::TooLong => "too_long",
            Self::Misbehaved => "misbehaved",
            Self::Other => "other",
        }
    }
}

impl From<&rustls::Error> for HandshakeFailure {
    fn from(error: &rustls::Error) -> Self {
        use rustls::PeerIncompatible as Peer;
        match error {
            rustls::Error::AlertReceived(_) => Self::ClientAlert,
            rustls::Error::InvalidMessage(_) | rustls::Error::InappropriateMessage { .. } => Self::NotTls,
            rustls::Error::PeerIncompatible(
                Peer::NoCipherSuitesInCommon
                | Peer::NoKxGroupsInCommon
                | Peer::NoSignatureSchemesInCommon
                | Peer::NoEcPointFormatsInCommon,
            ) => Self::NoCommonSuite,
            rustls::Error::PeerIncompatible(
                Peer::Tls12NotOffered
                | Peer::Tls12NotOfferedOrEnabled
                | Peer::Tls13RequiredForQuic
                | Peer::SupportedVersionsExtensionRequired,
            ) => Self::NoCommonVersion,
            rustls::Error::PeerMisbehaved(_) | rustls::Error::PeerSentOversizedRecord => Self::Misbehaved,
            // What rustls says when a listener's resolver has no certificate to give.
            rustls::Error::General(text) if text.contains("certificate chain") => Self::ServerName,
            _ => Self::Other,
        }
    }
}

/// What is counted by hand because `render` shows it with live sessions.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) connections: AtomicUsize,
    pub(super) ended_up: AtomicU64,
    pub(super) ended_down: AtomicU64,
    /// What was shown last: a counter never falls, even while a session is on its way from live to ended.
    pub(super) shown_up: AtomicU64,
    pub(super) shown_down: AtomicU64,
}

/// Sums over all listeners.
#[derive(Debug, Default)]
pub(super) struct Totals {
    pub(super) connections: AtomicUsize,
    pub(super) handshakes: AtomicUsize,
}

/// The metrics of one listener. Cheap to clone.
#[derive(Clone)]
pub struct Listener {
    name: Arc<str>,
    ledger: Arc<Ledger>,
    totals: Arc<Totals>,
    connections: Counter,
    /// By [`Deny::ALL`].
    refusals: Arc<[Counter]>,
    /// By [`Stage::ALL`].
    stages: Arc<[Histogram]>,
    /// TLS 1.2 and 1.3, each full and resumed.
    handshakes: [[Counter; 2]; 2],
    /// By [`HandshakeFailure::ALL`].
    handshake_failures: Arc<[Counter]>,
    server_handshakes: Arc<server_tls::Handshakes>,
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listener").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Listener {
    /// All series of a listener exist from its start, so that a rate over the first refusal is right.
    pub(super) fn new(name: &str, ledger: Arc<Ledger>, totals: Arc<Totals>) -> Self {
        let label = || name.to_owned();
        let by_reason = |family: names::Family, reason: &'static str| counter!(family.name, "listener" => label(), "reason" => reason);
        let handshake = |version: &'static str, resumed: &'static str| counter!(names::TLS_HANDSHAKES.name, "listener" => label(), "version" => version, "resumed" => resumed);
        let of_version = |version| [handshake(version, "false"), handshake(version, "true")];
        let stage = |stage: Stage| histogram!(names::SETUP_STAGE_SECONDS.name, "stage" => stage.as_str());
        Self {
            name: name.into(),
            ledger,
            totals,
            connections: counter!(names::CONNECTIONS.name, "listener" => label()),
            refusals: Deny::ALL.iter().map(|deny| by_reason(names::REFUSALS, deny.label())).collect(),
            stages: Stage::ALL.into_iter().map(stage).collect(),
            handshakes: [of_version("1.2"), of_version("1.3")],
            handshake_failures: HandshakeFailure::ALL
                .into_iter()
                .map(|failure| by_reason(names::TLS_HANDSHAKE_FAILURES, failure.label()))
                .collect(),
            server_handshakes: Arc::new(server_tls::Handshakes::new(name)),
        }
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Counts an accepted connection; it is open until the guard is dropped.
    #[must_use]
    pub fn connection(&self) -> ConnectionGuard {
        self.connections.increment(1);
        self.ledger.connections.fetch_add(1, Ordering::Relaxed);
        self.totals.connections.fetch_add(1, Ordering::Relaxed);
        ConnectionGuard { ledger: Arc::clone(&self.ledger), totals: Arc::clone(&self.totals) }
    }

    /// A handshake is in flight until the guard is dropped.
    #[must_use]
    pub fn handshake(&self) -> HandshakeGuard {
        self.totals.handshakes.fetch_add(1, Ordering::Relaxed);
        HandshakeGuard { totals: Arc::clone(&self.totals) }
    }

    pub fn handshake_succeeded(&self, version: rustls::ProtocolVersion, resumed: bool) {
        let [tls12, tls13] = &self.handshakes;
        let [full, again] = if version == rustls::ProtocolVersion::TLSv1_3 { tls13 } else { tls12 };
        if resumed { again } else { full }.increment(1);
    }

    pub fn handshake_failed(&self, failure: HandshakeFailure) {
        let index = HandshakeFailure::ALL.iter().position(|known| *known == failure);
        if let Some(counter) = index.and_then(|index| self.handshake_failures.get(index)) {
            counter.increment(1);
        }
    }

    pub fn server_handshake_succeeded(&self, version: rustls::ProtocolVersion, resumed: bool) {
        self.server_handshakes.succeeded(version, resumed);
    }

    pub fn server_handshake_failed(&self, failure: ServerTlsFailure) {
        self.server_handshakes.failed(failure);
    }

    pub fn refused(&self, deny: Deny) {
        let index = Deny::ALL.iter().position(|known| *known == deny);
        if let Some(counter) = index.and_then(|index| self.refusals.get(index)) {
            counter.increment(1);
        }
    }

    pub fn stage(&self, stage: Stage, took: Duration) {
        let index = Stage::ALL.iter().position(|known| *known == stage);
        if let Some(histogram) = index.and_then(|index| self.stages.get(index)) {
            histogram.record(took);
        }
    }

    /// Counts a session that has left the table.
    pub fn session_ended(&self, record: &Record) {
        let counters = &record.session.counters;
        self.ledger.ended_up.fetch_add(counters.bytes_up.load(Ordering::Relaxed), Ordering::Relaxed);
        self.ledger.ended_down.fetch_add(counters.bytes_down.load(Ordering::Relaxed), Ordering::Relaxed);
        counter!(
            names::SESSIONS.name,
            "listener" => self.name.to_string(),
            "protocol" => record.session.info.protocol.as_str(),
            "reason" => record.reason.as_str()
        )
        .increment(1);
    }
}

/// An open connection.
#[derive(Debug)]
pub struct ConnectionGuard {
    ledger: Arc<Ledger>,
    totals: Arc<Totals>,
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.ledger.connections.fetch_sub(1, Ordering::Relaxed);
        self.totals.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A handshake in flight.
#[derive(Debug)]
pub struct HandshakeGuard {
    totals: Arc<Totals>,
}

impl Drop for HandshakeGuard {
    fn drop(&mut self) {
        self.totals.handshakes.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One request to a ticket authority. `result` is a word of a closed set: `granted`, `refused`, `down`,
/// `timeout`, `garbage`, `overloaded`, or `ok` for health checks.
pub fn sta_request(sta: &str, result: &'static str, took: Duration) {
    counter!(names::STA_REQUESTS.name, "sta" => sta.to_owned(), "result" => result).increment(1);
    histogram!(names::STA_REQUEST_SECONDS.name, "sta" => sta.to_owned()).record(took);
}

/// A refusal by a part that has no [`Listener`]; `listener` is a word of the configuration.
pub fn refused(listener: &str, deny: Deny) {
    counter!(names::REFUSALS.name, "listener" => listener.to_owned(), "reason" => deny.label()).increment(1);
}

/// A client did something that leads to a ban when it is repeated; an [`Offence::label`].
pub fn offence(kind: &'static str) {
    counter!(names::OFFENCES.name, "kind" => kind).increment(1);
}

/// Somebody was banned; an [`Offence::label`], or `hand`.
pub fn ban(kind: &'static str) {
    counter!(names::BANS_MADE.name, "kind" => kind).increment(1);
}

/// Makes the series of offences and bans, so that a rate over the first one is right.
pub fn bans_exist() {
    for kind in Offence::ALL.map(Offence::label) {
        counter!(names::OFFENCES.name, "kind" => kind).increment(0);
        counter!(names::BANS_MADE.name, "kind" => kind).increment(0);
    }
    counter!(names::BANS_MADE.name, "kind" => "hand").increment(0);
}

/// A check of a server of a `forward` listener failed; the names are words of the configuration.
pub fn forward_check_failed(listener: &str, server: &str, reason: &'static str) {
    let (listener, server) = (listener.to_owned(), server.to_owned());
    counter!(
        names::FORWARD_CHECKS_FAILED.name, "listener" => listener, "server" => server, "reason" => reason
    )
    .increment(1);
}

/// Counts flows of a `forward` listener that went to another server than the one chosen for them.
pub fn forward_redialed(listener: &str) -> Counter {
    counter!(names::FORWARD_REDIALED.name, "listener" => listener.to_owned())
}

/// The gateway's own authority issued a ticket.
pub fn ticket_issued() {
    counter!(names::TICKETS_ISSUED.name).increment(1);
}

/// Somebody tried to redeem a ticket at the gateway's own authority. `result` is `granted` or a
/// [`portcullis_core::ticket_store::TicketRefusal::label`].
pub fn ticket_redeemed(result: &'static str) {
    counter!(names::TICKETS_REDEEMED.name, "result" => result).increment(1);
}
