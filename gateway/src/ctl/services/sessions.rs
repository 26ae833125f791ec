//! Answers about sessions, live and ended, and their end by an operator.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use portcullis_core::session::{Record, Session, SessionId};
use portcullis_core::ticket_store::TicketData;

use super::{Outcome, Services, prefix};
use crate::ctl::protocol::{
    ErrorCode, Failure, KillWhich, Killed, SESSIONS_PER_ANSWER, SessionFilter, SessionRow,
};
use crate::log;
use crate::sync::lock;

/// By listener and protocol.
type SessionCounts = BTreeMap<(String, &'static str), usize>;
/// Up and down, by listener.
type SessionBytes = BTreeMap<String, (u64, u64)>;

impl Services {
    pub(super) fn sessions(&self, filter: &SessionFilter) -> Outcome<Vec<SessionRow>> {
        let source = filter.source.as_deref().map(prefix).transpose()?;
        let after = filter.after.as_deref().map(session_id).transpose()?;
        let user = filter.user.as_ref().map(|user| user.to_lowercase());
        let wanted = |session: &Session| {
            let of_user =
                |user: &String| session.info.user.as_ref().is_some_and(|name| name.to_lowercase() == *user);
            user.as_ref().is_none_or(of_user)
                && source.is_none_or(|source| source.contains(&session.info.source.ip().to_canonical()))
                && after.is_none_or(|after| session.id > after)
        };
        let table = lock(&self.sessions);
        let rows: Vec<SessionRow> = if filter.ended {
            table.ended().filter(|record| wanted(&record.session)).map(ended_row).collect()
        } else {
            table.list().iter().filter(|session| wanted(session)).map(live_row).collect()
        };
        Ok(rows.into_iter().take(SESSIONS_PER_ANSWER).collect())
    }

    pub(super) fn session(&self, id: &str) -> Outcome<SessionRow> {
        let id = session_id(id)?;
        let table = lock(&self.sessions);
        let ended = || table.ended().find(|record| record.session.id == id).map(ended_row);
        table.get(id).map(live_row).or_else(ended).ok_or_else(|| no_session(id))
    }

    pub(super) fn kill(&self, which: &KillWhich) -> Outcome<Killed> {
        let table = lock(&self.sessions);
        let mut owner = Owner::default();
        let killed = match which {
            KillWhich { id: Some(id), user: None, all: false, .. } => {
                let id = session_id(id)?;
                let session = table.get(id).ok_or_else(|| no_session(id))?;
                owner = Owner::of(session);
                usize::from(table.kill(id))
            }
            KillWhich { id: None, user: Some(user), all: false, .. } => {
                owner.user = Some(user.to_lowercase());
                table.kill_where(|session| session.info.user.as_ref().is_some_and(|name| owner.is_user(name)))
            }
            KillWhich { id: None, user: None, all: true, .. } => table.kill_where(|_| true),
            _ => return Err(Failure::bad_request("name exactly one of id, user and all")),
        };
        drop(table);
        // Before who is told to end comes back with another ticket.
        let authority = self.authority.as_ref().filter(|_| which.revoke);
        let revoked = authority.map(|authority| authority.revoke(|data| which.all || owner.has(data)));
        self.relay.look_for_killed();
        tracing::info!(killed, revoked, "sessions were told to end by an operator");
        Ok(Killed { killed, revoked: revoked.or_else(|| which.revoke.then_some(0)) })
    }

    /// Live sessions by listener and protocol, their bytes up and down by listener, and how many they are.
    pub(super) fn session_totals(&self) -> (SessionCounts, SessionBytes, usize) {
        let table = lock(&self.sessions);
        let mut sessions: BTreeMap<(&str, &'static str), usize> = BTreeMap::new();
        let mut bytes: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        for session in table.live() {
            let listener = session.info.listener.as_str();
            let count = sessions.entry((listener, session.info.protocol.as_str())).or_default();
            *count = count.saturating_add(1);
            let (up, down) = bytes.entry(listener).or_default();
            *up = up.saturating_add(session.counters.bytes_up.load(Ordering::Relaxed));
            *down = down.saturating_add(session.counters.bytes_down.load(Ordering::Relaxed));
        }
        let sessions = sessions
            .into_iter()
            .map(|((listener, protocol), count)| ((listener.to_owned(), protocol), count));
        let bytes = bytes.into_iter().map(|(listener, counts)| (listener.to_owned(), counts));
        (sessions.collect(), bytes.collect(), table.len())
    }
}

/// Whose tickets are meant.
#[derive(Default)]
struct Owner {
    /// In lower case.
    user: Option<String>,
    /// Where nobody is named.
    target: String,
}

impl Owner {
    fn of(session: &Session) -> Self {
        let user = session.info.user.as_ref().map(|user| user.to_lowercase());
        Self { user, target: session.info.target.clone() }
    }

    fn is_user(&self, name: &str) -> bool {
        self.user.as_ref().is_some_and(|user| *user == name.to_lowercase())
    }

    fn has(&self, ticket: &TicketData) -> bool {
        match &ticket.user {
            Some(name) => self.is_user(name),
            None if self.user.is_some() => false,
            None => [&ticket.ica, &ticket.cgp].into_iter().flatten().any(|to| to.to_string() == self.target),
        }
    }
}

pub(super) fn session_id(text: &str) -> Outcome<SessionId> {
    text.parse()
        .map_err(|_| Failure::bad_request(format!("`{text}` is no session id (16 hexadecimal digits)")))
}

fn no_session(id: SessionId) -> Failure {
    Failure::new(ErrorCode::NotFound, format!("there is no session {id}"))
}

fn live_row(session: &Session) -> SessionRow {
    let state = if session.established { "established" } else { "connecting" };
    row(session, state, session.started.elapsed(), None)
}

fn ended_row(record: &Record) -> SessionRow {
    row(&record.session, "ended", record.duration, Some(record.reason.as_str().to_owned()))
}

fn row(session: &Session, state: &str, duration: Duration, reason: Option<String>) -> SessionRow {
    SessionRow {
        id: session.id.to_string(),
        state: state.to_owned(),
        listener: session.info.listener.clone(),
        protocol: session.info.protocol.as_str().to_owned(),
        source: session.info.source.to_string(),
        user: session.info.user.clone(),
        application: session.info.application.clone(),
        target: session.info.target.clone(),
        started: log::rfc3339(session.started_at),
        duration_ms: u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
        bytes_up: session.counters.bytes_up.load(Ordering::Relaxed),
        bytes_down: session.counters.bytes_down.load(Ordering::Relaxed),
        reason,
    }
}
