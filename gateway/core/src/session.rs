//! The table of sessions: who talks to what, since when, how much, and why it ended.
//!
//! The table is touched when a session is admitted, established and ended, never for a byte that moves: byte
//! counters are shared atomics that the relay worker alone writes.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use crate::deny::Deny;
use crate::limits::{ENDED_SESSIONS_KEPT, LABEL_MAX_BYTES, Limits};
use crate::quota::{Over, Quota, source_key};

/// Names one session for the life of the daemon and, by its random upper half, across restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u64);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for SessionId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u64::from_str_radix(text, 16).map(Self)
    }
}

/// How the client spoke before its bytes were relayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    Socks,
    Cgp,
    Connect,
    WebSocketSocks,
    WebSocketCgp,
    Tls,
    /// It did not speak to the gateway at all: its bytes are the server's affair.
    Forward,
}

impl Protocol {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Socks => "socks5",
            Self::Cgp => "cgp",
            Self::Connect => "connect",
            Self::WebSocketSocks => "websocket-socks5",
            Self::WebSocketCgp => "websocket-cgp",
            Self::Tls => "tls",
            Self::Forward => "forward",
        }
    }
}

/// What is known of a session when it is admitted.
#[derive(Clone, Debug)]
pub struct SessionInfo {
    pub listener: String,
    pub protocol: Protocol,
    pub source: SocketAddr,
    pub user: Option<String>,
    pub application: Option<String>,
    /// As the ticket or the request names it; for a forwarded flow the server's address.
    pub target: String,
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndReason {
    ClientClosed,
    ServerClosed,
    ClientReset,
    ServerReset,
    /// The client broke TLS or WebSocket framing.
    ClientViolation,
    /// The server broke TLS, or gave it up with an alert.
    ServerViolation,
    Idle,
    Killed,
    Drained,
    /// The server could not be reached or the gateway refused after admission.
    NotEstablished,
    /// Whoever answered could not prove to be the server.
    ServerUntrusted,
    /// The TLS handshake with the server failed for another reason.
    ServerTls,
}

impl EndReason {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClientClosed => "client_closed",
            Self::ServerClosed => "server_closed",
            Self::ClientReset => "client_reset",
            Self::ServerReset => "server_reset",
            Self::ClientViolation => "client_violation",
            Self::ServerViolation => "server_violation",
            Self::Idle => "idle",
            Self::Killed => "killed",
            Self::Drained => "drained",
            Self::NotEstablished => "not_established",
            Self::ServerUntrusted => "server_untrusted",
            Self::ServerTls => "server_tls",
        }
    }
}

/// Shared by the table, the relay worker and whoever may end the session.
#[derive(Debug, Default)]
pub struct Counters {
    /// Client to server.
    pub bytes_up: AtomicU64,
    /// Server to client.
    pub bytes_down: AtomicU64,
    killed: AtomicBool,
}

impl Counters {
    /// Whether somebody asked for the end of this session.
    #[must_use]
    pub fn is_killed(&self) -> bool {
        self.killed.load(Ordering::Relaxed)
    }
}

/// One row of the table.
#[derive(Clone, Debug)]
pub struct Session {
    pub id: SessionId,
    pub info: SessionInfo,
    pub established: bool,
    pub started: Instant,
    pub started_at: SystemTime,
    pub counters: Arc<Counters>,
}

/// What is left of a session that has ended.
#[derive(Clone, Debug)]
pub struct Record {
    pub session: Session,
    pub duration: Duration,
    pub reason: EndReason,
}

/// Live sessions and the last few that ended.
#[derive(Debug)]
pub struct Table {
    live: HashMap<SessionId, Session>,
    ended: VecDeque<Record>,
    by_source: Quota<IpAddr>,
    by_user: Quota<String>,
    next: u64,
}

impl Table {
    /// `seed` sets the ids apart from those of an earlier run; it need not be secret.
    #[must_use]
    pub fn new(seed: u32) -> Self {
        Self {
            live: HashMap::new(),
            ended: VecDeque::new(),
            by_source: Quota::default(),
            by_user: Quota::default(),
            next: u64::from(seed) << 32,
        }
    }

    /// Admits a session before its server is dialed.
    ///
    /// # Errors
    /// The limit that is met.
    pub fn admit(
        &mut self,
        now: Instant,
        wall: SystemTime,
        mut info: SessionInfo,
        limits: &Limits,
    ) -> Result<Session, Deny> {
        let source = source_key(info.source.ip());
        for label in [&mut info.user, &mut info.application].into_iter().flatten() {
            bound_label(label);
        }
        self.by_source.take(&source, limits.sessions, limits.sessions_per_source).map_err(
            |over| match over {
                Over::Total => Deny::TooManySessions,
                Over::Key => Deny::TooManySessionsFromSource,
            },
        )?;
        if let Some(user) = info.user.as_ref().map(|user| user.to_lowercase())
            && self.by_user.take(&user, usize::MAX, limits.sessions_per_user).is_err()
        {
            self.by_source.release(&source);
            return Err(Deny::TooManySessionsOfUser);
        }
        self.next = self.next.wrapping_add(1);
        let id = SessionId(self.next);
        let session = Session {
            id,
            info,
            established: false,
            started: now,
            started_at: wall,
            counters: Arc::new(Counters::default()),
        };
        self.live.insert(id, session.clone());
        Ok(session)
    }

    /// The server answered and relaying begins.
    pub fn establish(&mut self, id: SessionId) {
        if let Some(session) = self.live.get_mut(&id) {
            session.established = true;
        }
    }

    /// Removes a session and returns its record; `None` when it has ended already.
    pub fn end(&mut self, now: Instant, id: SessionId, reason: EndReason) -> Option<Record> {
        let session = self.live.remove(&id)?;
        self.by_source.release(&source_key(session.info.source.ip()));
        if let Some(user) = &session.info.user {
            self.by_user.release(&user.to_lowercase());
        }
        let record = Record { duration: now.saturating_duration_since(session.started), session, reason };
        if self.ended.len() >= ENDED_SESSIONS_KEPT {
            self.ended.pop_front();
        }
        self.ended.push_back(record.clone());
        Some(record)
    }

    /// The session goes to another server than it was admitted for, because that one did not answer.
    pub fn retarget(&mut self, id: SessionId, target: String) {
        if let Some(session) = self.live.get_mut(&id) {
            session.info.target = target;
        }
    }

    /// Asks for the end of one session; its relay worker ends it. `false`: no such session.
    #[must_use]
    pub fn kill(&self, id: SessionId) -> bool {
        self.live.get(&id).inspect(|session| session.counters.killed.store(true, Ordering::Relaxed)).is_some()
    }

    /// Asks for the end of all sessions that `chosen` picks and says how many.
    pub fn kill_where(&self, chosen: impl Fn(&Session) -> bool) -> usize {
        let picked = self.live.values().filter(|session| chosen(session));
        picked.inspect(|session| session.counters.killed.store(true, Ordering::Relaxed)).count()
    }

    #[must_use]
    pub fn get(&self, id: SessionId) -> Option<&Session> {
        self.live.get(&id)
    }

    /// Live sessions in no order.
    pub fn live(&self) -> impl Iterator<Item = &Session> {
        self.live.values()
    }

    /// Live sessions, oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<Session> {
        let mut sessions: Vec<_> = self.live.values().cloned().collect();
        sessions.sort_unstable_by_key(|session| session.id);
        sessions
    }

    /// Sessions that ended lately, latest last.
    pub fn ended(&self) -> impl Iterator<Item = &Record> {
        self.ended.iter()
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.live.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.live.is_empty()
    }
}

/// Names come from tickets and clients: control characters go, length is bounded.
fn bound_label(label: &mut String) {
    label.retain(|c| !c.is_control());
    let mut end = label.len().min(LABEL_MAX_BYTES);
    while !label.is_char_boundary(end) {
        end = end.saturating_sub(1);
    }
    label.truncate(end);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "a test needs some first instant")]
    fn start() -> (Instant, SystemTime) {
        (Instant::now(), SystemTime::UNIX_EPOCH)
    }

    fn info(source: &str, user: Option<&str>) -> SessionInfo {
        SessionInfo {
            listener: "gateway".into(),
            protocol: Protocol::Cgp,
            source: source.parse().unwrap(),
            user: user.map(Into::into),
            application: None,
            target: "10.0.0.9:2598".into(),
        }
    }

    fn limits(sessions: usize, per_source: usize, per_user: usize) -> Limits {
        Limits { sessions, sessions_per_source: per_source, sessions_per_user: per_user, ..Limits::default() }
    }

    #[test]
    fn each_limit_refuses_one_past_it_with_its_own_reason() {
        let (now, wall) = start();
        let mut table = Table::new(1);
        let limits = limits(3, 2, 1);
        table.admit(now, wall, info("192.0.2.1:1", Some("Ann")), &limits).unwrap();
        let admit =
            |table: &mut Table, source, user| table.admit(now, wall, info(source, user), &limits).err();
        assert_eq!(admit(&mut table, "192.0.2.2:1", Some("ANN")), Some(Deny::TooManySessionsOfUser));
        assert_eq!(admit(&mut table, "192.0.2.1:2", None), None);
        assert_eq!(admit(&mut table, "192.0.2.1:3", None), Some(Deny::TooManySessionsFromSource));
        assert_eq!(admit(&mut table, "192.0.2.2:1", None), None);
        assert_eq!(admit(&mut table, "192.0.2.3:1", None), Some(Deny::TooManySessions));
    }

    #[test]
    fn ending_frees_every_limit_and_happens_once() {
        let (now, wall) = start();
        let mut table = Table::new(1);
        let limits = limits(1, 1, 1);
        for _ in 0..3 {
            let session = table.admit(now, wall, info("192.0.2.1:1", Some("ann")), &limits).unwrap();
            assert!(table.end(now, session.id, EndReason::ClientClosed).is_some());
            assert!(table.end(now, session.id, EndReason::Killed).is_none());
        }
        assert!(table.is_empty());
    }

    #[test]
    fn the_record_names_the_server_that_answered() {
        let (now, wall) = start();
        let mut table = Table::new(1);
        let session = table.admit(now, wall, info("192.0.2.1:1", None), &Limits::default()).unwrap();
        table.retarget(session.id, "10.0.0.8:443".into());
        let record = table.end(now, session.id, EndReason::ClientClosed).unwrap();
        assert_eq!(record.session.info.target, "10.0.0.8:443");
    }

    #[test]
    fn ended_sessions_are_kept_up_to_their_bound() {
        let (now, wall) = start();
        let mut table = Table::new(1);
        for _ in 0..=ENDED_SESSIONS_KEPT {
            let session = table.admit(now, wall, info("192.0.2.1:1", None), &Limits::default()).unwrap();
            table.end(now, session.id, EndReason::ClientClosed);
        }
        assert_eq!(table.ended().count(), ENDED_SESSIONS_KEPT);
    }

    #[test]
    fn labels_lose_control_characters_and_excess() {
        let mut label = format!("a\r\nb\u{1b}[31m{}é", "x".repeat(LABEL_MAX_BYTES));
        bound_label(&mut label);
        assert!(label.starts_with("ab[31m") && label.len() <= LABEL_MAX_BYTES);
    }

    #[test]
    fn a_killed_session_knows_it() {
        let (now, wall) = start();
        let mut table = Table::new(1);
        let session = table.admit(now, wall, info("192.0.2.1:1", None), &Limits::default()).unwrap();
        assert!(!session.counters.is_killed());
        assert!(table.kill(session.id));
        assert!(session.counters.is_killed());
        assert!(!table.kill(SessionId(0)));
    }
}
