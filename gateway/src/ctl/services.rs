//! The answers to the control socket's commands, and the facts that metrics and readiness are made of.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use ipnet::IpNet;
use portcullis_core::answer::{TicketAnswer, Unavailable};
use portcullis_core::limits::{BANS_MAX, SUSPECTS_MAX};
use portcullis_core::session::{Record, Session, SessionId, Table};
use portcullis_core::ticket_store::TicketData;
use portcullis_proto::host_port::HostPort;
use portcullis_proto::ticket::TicketString;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

use super::protocol::{
    Answer, AuthorityStatus, Command, ConfigStatus, ErrorCode, Failure, Issued, KillWhich, Killed,
    ListenerStatus, MetricsText, Redeemed, ReloadStatus, Reloaded, SESSIONS_PER_ANSWER, SessionFilter,
    SessionRow, StaSummary, Status, TicketOrder, TicketText, Use,
};
use super::role::Caller;
use crate::audit::{Audit, Record as AuditRecord};
use crate::bans::Bans;
use crate::config::{Config, ListenerConfig, ReloadPlan};
use crate::forward::Balancers;
use crate::front::gate::Gate;
use crate::log;
use crate::metrics::{self, Snapshot};
use crate::relay::{self, EngineKind};
use crate::sta::authority::Authority;
use crate::sta::pool::Pool;
use crate::state::State;
use crate::store::Store;
use crate::store::candidate::Candidates;
use crate::store::history::Origin;
use crate::sync::lock;
use crate::update::Places;
use crate::xdp::Kernel;

mod audited;
mod bans;
mod config;
mod forward;
mod kernel;
mod logs;
mod machine;
mod ready;
mod traffic;
mod update;

/// How long a reload may take before who asked is told that it goes on without them.
const RELOAD_WAIT: Duration = Duration::from_secs(20);
/// Records of the audit log that are answered unless somebody wants another number.
const AUDIT_RECORDS_DEFAULT: usize = 100;

/// What the reloader is to do.
#[derive(Debug)]
pub enum Order {
    /// Read the configuration file again.
    Reload,
    /// Put a text in force, and in the file's place.
    Commit { text: String, hold: Option<Duration>, comment: String },
}

/// What the reloader did.
#[derive(Debug, Default)]
pub struct Applied {
    pub plan: ReloadPlan,
    /// Of the entry in the history; 0 for none.
    pub number: u64,
}

/// Something that was asked for, and where its outcome goes.
#[derive(Debug)]
pub struct ReloadRequest {
    pub what: Order,
    pub origin: Origin,
    pub reply: oneshot::Sender<Result<Applied, String>>,
}

/// By listener and protocol.
type SessionCounts = BTreeMap<(String, &'static str), usize>;
/// Up and down, by listener.
type SessionBytes = BTreeMap<String, (u64, u64)>;

/// What the commands work on.
#[derive(Debug)]
pub struct Services {
    pub config: Arc<ArcSwap<Config>>,
    pub store: Mutex<Store>,
    pub candidates: Mutex<Candidates>,
    pub audit: Audit,
    pub sessions: Arc<Mutex<Table>>,
    pub gate: Arc<Gate>,
    pub pool: Arc<Pool>,
    pub authority: Option<Arc<Authority>>,
    pub metrics: metrics::Handle,
    pub kernel: Arc<Kernel>,
    pub bans: Arc<Bans>,
    pub balancers: Arc<Balancers>,
    pub log: log::Control,
    pub reload: mpsc::Sender<ReloadRequest>,
    pub last_reload: Mutex<Option<ReloadStatus>>,
    pub state: State,
    pub workers: usize,
    /// What the workers run on.
    pub relay_engine: EngineKind,
    pub relay: Arc<relay::Context>,
    pub started: Instant,
    pub started_at: SystemTime,
}

type Outcome<T> = Result<T, Failure>;

impl Services {
    /// Does what one command says.
    async fn act(&self, caller: &Caller, command: Command) -> Answer {
        match command {
            Command::Status {} => reply(Ok(self.status())),
            Command::SessionsList(filter) => reply(self.sessions(&filter)),
            Command::SessionShow { id } => reply(self.session(&id)),
            Command::SessionKill(which) => reply(self.kill(&which)),
            Command::StaList {} => reply(Ok(self.pool.status())),
            Command::StaTest { name } => reply(self.test_sta(&name).await),
            Command::TicketIssue(order) => reply(self.issue(order)),
            Command::TicketRedeem { ticket } => reply(self.redeem(&ticket).await),
            Command::ConfigShow {} => reply(Ok(self.config.load().to_json())),
            Command::ConfigText(which) => reply(self.config_text(caller, &which)),
            Command::ConfigCompare { back } => reply(self.compare(caller, back)),
            Command::ConfigSet { path, value } => reply(self.change(caller, |mine| mine.set(&path, &value))),
            Command::ConfigDelete { path } => reply(self.change(caller, |mine| mine.delete(&path))),
            Command::ConfigLoad { text, more } => reply(self.change(caller, |mine| mine.load(&text, more))),
            Command::ConfigRollback { back } => reply(self.rollback(caller, back)),
            Command::ConfigUpdate {} => reply(self.update_candidate(caller)),
            Command::ConfigDiscard {} => reply(Ok(self.discard(caller))),
            Command::ConfigSave { name } => reply(self.save(caller, &name)),
            Command::ConfigRestore { name } => reply(self.restore(caller, &name)),
            Command::ConfigSaved {} => reply(Ok(lock(&self.store).saved_names())),
            Command::ConfigValidate {} => reply(self.validate(caller)),
            Command::ConfigCommit(order) => reply(self.commit(caller, &order).await),
            Command::ConfigHistory {} => reply(Ok(self.history())),
            Command::WhoAmI {} => reply(Ok(Self::me(caller))),
            Command::AuditList { limit } => {
                reply(Ok(self.audit.newest(limit.unwrap_or(AUDIT_RECORDS_DEFAULT))))
            }
            Command::Reload {} => reply(self.reload(caller).await),
            Command::ReloadConfirm {} => reply(self.confirm_reload()),
            Command::Machine(order) => reply(machine::ask(&order)),
            Command::UpdateStatus {} => reply(update::status(&Places::default())),
            Command::Update(order) => reply(update::ask(&Places::default(), order)),
            Command::Health {} => reply(Ok(self.health())),
            Command::Metrics {} => reply(Ok(MetricsText { text: self.render_metrics() })),
            Command::XdpStatus {} => reply(self.kernel_status()),
            Command::XdpRules {} => reply(self.kernel_rules()),
            Command::BansList(filter) => reply(self.bans(&filter)),
            Command::BanAdd(order) => reply(self.ban(order)),
            Command::BanRemove { prefix } => reply(self.unban(&prefix)),
            Command::BansClear { automatic } => reply(Ok(self.clear_bans(automatic))),
            Command::ForwardStatus {} => reply(Ok(self.forward_status())),
            Command::ForwardFlows(filter) => reply(self.forward_flows(filter).await),
            Command::ForwardDrain(which) => reply(self.drain_server(&which, true)),
            Command::ForwardUndrain(which) => reply(self.drain_server(&which, false)),
            Command::XdpFlows(filter) => reply(self.flows(&filter).await),
            Command::XdpEvents { after, limit } => reply(self.drop_events(after, limit)),
            Command::LogLevel { level } => reply(self.log_level(level.as_deref())),
        }
    }

    /// Everything in the Prometheus text format.
    #[must_use]
    pub fn render_metrics(&self) -> String {
        self.metrics.render(&self.snapshot())
    }

    /// The daemon serves: what was on trial has come that far, and what was taken back at the start is told.
    pub(crate) fn note_ready(&self) {
        let mut store = lock(&self.store);
        store.note_ready();
        for news in store.take_news() {
            self.audit.add(&AuditRecord::new(
                Origin::daemon(),
                None,
                news.into(),
                "done",
                "the configuration before",
            ));
        }
    }

    /// Remembers how a reload went.
    pub(crate) fn note_reload(&self, at: SystemTime, outcome: &Result<Applied, String>) {
        self.metrics.set_reload(outcome.is_ok(), at);
        *lock(&self.last_reload) = Some(ReloadStatus {
            at: log::rfc3339(at),
            ok: outcome.is_ok(),
            error: outcome.as_ref().err().cloned().unwrap_or_default(),
            restart: outcome.as_ref().map(|done| done.plan.restart.clone()).unwrap_or_default(),
        });
    }

    fn status(&self) -> Status {
        let config = self.config.load();
        let limits = &config.limits;
        let (connections, handshakes) = self.gate.in_use();
        let sessions = lock(&self.sessions).list();
        let stas = self.pool.status();
        let listener = |settings: &Arc<ListenerConfig>| ListenerStatus {
            name: settings.name.clone(),
            kind: settings.kind.to_string(),
            listen: settings.listen.iter().map(ToString::to_string).collect(),
            tls: settings.uses_tls(),
            server_tls: settings.server_tls.as_ref().map(|tls| tls.trust.as_str().to_owned()),
            path: self.balancers.path(&settings.name).map(|path| path.as_str().to_owned()),
            connections: self.metrics.connections_of(&settings.name),
            sessions: sessions.iter().filter(|session| session.info.listener == settings.name).count(),
        };
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            state: self.state.as_str().to_owned(),
            pid: std::process::id(),
            uptime_seconds: self.started.elapsed().as_secs(),
            started: log::rfc3339(self.started_at),
            workers: self.workers,
            listeners: config.listeners.iter().map(listener).collect(),
            sessions: Use { current: sessions.len(), limit: limits.sessions },
            connections: Use { current: connections, limit: limits.connections },
            handshakes: Use { current: handshakes, limit: limits.handshakes },
            stas: StaSummary { total: stas.len(), up: stas.iter().filter(|sta| sta.state == "up").count() },
            authority: self.authority.as_ref().map(|authority| AuthorityStatus {
                id: authority.id().to_string(),
                tickets: Use {
                    current: authority.live(),
                    limit: config.sta_server.as_ref().map_or(0, |server| server.max_tickets),
                },
            }),
            config: ConfigStatus {
                path: config.path.display().to_string(),
                last_reload: lock(&self.last_reload).clone(),
            },
            ebpf: self.kernel.to_string(),
            relay_engine: self.relay_engine.as_str().to_owned(),
            log_level: self.log.level(),
            log_lines_lost: self.log.lines_lost(),
        }
    }

    fn sessions(&self, filter: &SessionFilter) -> Outcome<Vec<SessionRow>> {
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

    fn session(&self, id: &str) -> Outcome<SessionRow> {
        let id = session_id(id)?;
        let table = lock(&self.sessions);
        let ended = || table.ended().find(|record| record.session.id == id).map(ended_row);
        table.get(id).map(live_row).or_else(ended).ok_or_else(|| no_session(id))
    }

    fn kill(&self, which: &KillWhich) -> Outcome<Killed> {
        let table = lock(&self.sessions);
        let killed = match which {
            KillWhich { id: Some(id), user: None, all: false } => {
                let id = session_id(id)?;
                if !table.kill(id) {
                    return Err(no_session(id));
                }
                1
            }
            KillWhich { id: None, user: Some(user), all: false } => {
                let user = user.to_lowercase();
                table.kill_where(|session| {
                    session.info.user.as_ref().is_some_and(|name| name.to_lowercase() == user)
                })
            }
            KillWhich { id: None, user: None, all: true } => table.kill_where(|_| true),
            _ => return Err(Failure::bad_request("name exactly one of id, user and all")),
        };
        drop(table);
        self.relay.look_for_killed();
        tracing::info!(killed, "sessions were told to end by an operator");
        Ok(Killed { killed })
    }

    async fn test_sta(&self, name: &str) -> Outcome<crate::sta::pool::StaStatus> {
        match self.pool.test(name).await {
            Some(Ok(status)) => Ok(status),
            Some(Err(error)) => Err(Failure::new(ErrorCode::Unavailable, error)),
            None => Err(Failure::new(ErrorCode::NotFound, format!("there is no STA named `{name}`"))),
        }
    }

    fn issue(&self, order: TicketOrder) -> Outcome<Issued> {
        let authority = self.authority.as_ref().ok_or_else(no_authority)?;
        let config = self.config.load();
        let server = config.sta_server.as_ref().ok_or_else(no_authority)?;
        let life = order.life_seconds.map_or(server.ticket_life, Duration::from_secs);
        let address = |text: &str| {
            HostPort::parse(text).map_err(|error| Failure::bad_request(format!("{text}: {error}")))
        };
        let data = TicketData {
            ica: Some(address(&order.target)?),
            cgp: order.cgp.as_deref().map(address).transpose()?,
            user: order.user,
            domain: order.domain,
            application: order.application,
        };
        let ticket = authority
            .issue(data, order.refreshable, Some(life))
            .map_err(|refusal| Failure::new(ErrorCode::Refused, refusal.to_string()))?;
        Ok(Issued {
            ticket: TicketText::new(ticket.expose()),
            authority_id: authority.id().to_string(),
            refreshable: order.refreshable,
            life_seconds: life.min(portcullis_core::ticket_store::LIFE_MAX).as_secs(),
        })
    }

    /// Tries the tickets of a string in order, as a client's would be.
    async fn redeem(&self, ticket: &TicketText) -> Outcome<Redeemed> {
        let ticket = TicketString::parse(ticket.expose())
            .map_err(|error| Failure::bad_request(format!("the ticket string is malformed: {error}")))?;
        let mut names: Vec<String> = self.config.load().stas.iter().map(|sta| sta.name.clone()).collect();
        names.push(ListenerConfig::LOCAL_STA.to_owned());
        let mut last = Failure::new(ErrorCode::Refused, "no ticket");
        for ticket in ticket.into_tickets() {
            match self.pool.redeem(&names, &ticket).await {
                TicketAnswer::Granted(data) => {
                    return Ok(Redeemed {
                        target: data.ica.map(|address| address.to_string()),
                        cgp: data.cgp.map(|address| address.to_string()),
                        user: data.user,
                        domain: data.domain,
                        application: data.application,
                    });
                }
                TicketAnswer::Refused(refusal) => {
                    last = Failure::new(ErrorCode::Refused, format!("{}: {refusal}", ticket.authority));
                }
                TicketAnswer::Unavailable(why) => {
                    let why = format!("{}: {}", ticket.authority, unavailable(why));
                    last = Failure::new(ErrorCode::Unavailable, why);
                }
            }
        }
        Err(last)
    }

    async fn reload(&self, caller: &Caller) -> Outcome<Reloaded> {
        let Applied { plan, .. } = self.order(caller, Order::Reload).await?;
        let confirm_within_seconds = self.reverts_in_seconds();
        Ok(Reloaded { live: plan.live, restart: plan.restart, confirm_within_seconds })
    }

    /// Live sessions by listener and protocol, their bytes up and down by listener, and how many they are.
    fn session_totals(&self) -> (SessionCounts, SessionBytes, usize) {
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

    fn snapshot(&self) -> Snapshot {
        let config = self.config.load();
        let limits = &config.limits;
        let (sessions, bytes, live) = self.session_totals();
        let (connections, handshakes) = self.gate.in_use();
        let (bans, suspects) = self.bans.counts();
        Snapshot {
            sessions,
            bytes,
            stas: self.pool.status().into_iter().map(|sta| (sta.name, sta.state == "up")).collect(),
            tickets_live: self.authority.as_ref().map(|authority| authority.live()),
            limits: vec![
                ("connections", Some(connections), limits.connections),
                ("connections_per_source", None, limits.connections_per_source),
                ("handshakes", Some(handshakes), limits.handshakes),
                ("handshakes_per_source", None, limits.handshakes_per_source),
                ("sessions", Some(live), limits.sessions),
                ("sessions_per_source", None, limits.sessions_per_source),
                ("sessions_per_user", None, limits.sessions_per_user),
                ("bans", Some(bans.iter().map(|(_, count)| count).sum()), BANS_MAX),
                ("suspects", Some(suspects), SUSPECTS_MAX),
            ],
            ebpf: self.kernel.to_string(),
            bans: bans.to_vec(),
            forwards: self.forward_status(),
            xdp: self.kernel.facts(),
            log_lines_lost: self.log.lines_lost(),
            directories: config.directories(),
            relay_workers: self.workers,
            relay_engine: self.relay_engine.as_str(),
            relay_enters: self.relay.enters(),
        }
    }
}

fn reply<T: Serialize>(outcome: Outcome<T>) -> Answer {
    let data = outcome.and_then(|data| {
        serde_json::to_value(data).map_err(|error| Failure::new(ErrorCode::Internal, error.to_string()))
    });
    Answer::from(data)
}

fn unavailable(why: Unavailable) -> &'static str {
    match why {
        Unavailable::NoAuthority => "no ticket authority of that id is known",
        Unavailable::Down => "the ticket authority is down",
        Unavailable::Timeout => "the ticket authority did not answer in time",
        Unavailable::Garbage => "the ticket authority's answer is malformed",
        Unavailable::Overloaded => "too many requests are under way",
    }
}

fn session_id(text: &str) -> Outcome<SessionId> {
    text.parse()
        .map_err(|_| Failure::bad_request(format!("`{text}` is no session id (16 hexadecimal digits)")))
}

fn no_session(id: SessionId) -> Failure {
    Failure::new(ErrorCode::NotFound, format!("there is no session {id}"))
}

fn no_authority() -> Failure {
    let text = "this gateway is no ticket authority; configure [sta_server], or ask your own STA";
    Failure::new(ErrorCode::Unavailable, text)
}

fn prefix(text: &str) -> Outcome<IpNet> {
    let address = || text.parse::<IpAddr>().ok().map(IpNet::from);
    let parsed = text.parse().ok().or_else(address);
    parsed.ok_or_else(|| Failure::bad_request(format!("`{text}` is no address or prefix")))
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
