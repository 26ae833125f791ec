//! The answers to the control socket's commands, and the facts that metrics and readiness are made of.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::{Instant, SystemTime};

use arc_swap::ArcSwap;
use ipnet::IpNet;
use portcullis_core::session::Table;
use serde::Serialize;

use super::protocol::{
    Answer, AuthorityStatus, Command, ConfigStatus, ErrorCode, Failure, ListenerStatus, LogLevel,
    MetricsText, ReloadStatus, Reloaded, StaSummary, Status, Use,
};
use crate::acme::Acme;
use crate::audit::{Audit, Record as AuditRecord};
use crate::bans::Bans;
use crate::config::{Config, ListenerConfig};
use crate::forward::Balancers;
use crate::gate::Gate;
use crate::ha::Ha;
use crate::log;
use crate::metrics;
use crate::orders::{Applied, Order, Orders};
use crate::relay::{self, EngineKind};
use crate::role::Caller;
use crate::role::Origin;
use crate::sta::authority::Authority;
use crate::sta::pool::Pool;
use crate::state::State;
use crate::store::Store;
use crate::store::candidate::Candidates;
use crate::sync::lock;
use crate::syslog;
use crate::update::Places;
use crate::xdp::Kernel;

mod access;
mod audited;
mod bans;
mod capture;
mod certificates;
mod config;
mod forward;
mod health;
mod high_availability;
mod kernel;
mod log_lines;
mod machine;
mod push;
mod ready;
mod secrets;
mod sessions;
mod snapshot;
mod support;
mod support_shell;
mod tickets;
mod tools;
mod traffic;
mod update;

pub use tools::Bench;

/// Records of the audit log that are answered unless somebody wants another number.
const AUDIT_RECORDS_DEFAULT: usize = 100;

/// What the commands work on.
#[derive(Debug)]
pub struct Services {
    pub config: Arc<ArcSwap<Config>>,
    pub store: Mutex<Store>,
    pub candidates: Mutex<Candidates>,
    pub audit: Arc<Audit>,
    pub sessions: Arc<Mutex<Table>>,
    pub gate: Arc<Gate>,
    pub pool: Arc<Pool>,
    pub authority: Option<Arc<Authority>>,
    pub metrics: metrics::Handle,
    pub kernel: Arc<Kernel>,
    pub bans: Arc<Bans>,
    pub balancers: Arc<Balancers>,
    pub bench: Bench,
    pub ha: Arc<Ha>,
    pub acme: Arc<Acme>,
    pub log: log::Control,
    pub syslog: Arc<syslog::Report>,
    pub orders: Orders,
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
            Command::ConfigPush(order) => reply(self.push(caller, &order).await),
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
            Command::Resolve { name } => reply(self.resolve(&name).await),
            Command::Ping(order) => reply(self.ping(order).await),
            Command::Trace(order) => reply(self.trace(order).await),
            Command::TlsTest(order) => reply(self.tls_test(order).await),
            Command::LogRead(query) => reply(self.read_log(query).await),
            Command::CaptureStart(order) => reply(self.start_capture(order)),
            Command::CaptureStop { name } => reply(self.stop_capture(name.as_deref())),
            Command::CaptureList {} => reply(Ok(self.bench.captures.list())),
            Command::CaptureRead { name, offset } => reply(self.read_capture(&name, offset).await),
            Command::CaptureDelete { name } => reply(self.delete_capture(&name)),
            Command::Health {} => reply(self.health().await),
            Command::SupportShell(order) => reply(self.grant_shell(caller, &order)),
            Command::SupportBundle {} => reply(self.support_bundle(caller).await),
            Command::HighAvailability {} => reply(self.high_availability()),
            Command::Metrics {} => reply(Ok(MetricsText { text: self.render_metrics() })),
            Command::XdpStatus {} => reply(self.kernel_status()),
            Command::XdpRules {} => reply(self.kernel_rules()),
            Command::XdpTest(packet) => reply(self.judge(&packet)),
            Command::BansList(filter) => reply(self.bans(&filter)),
            Command::BanAdd(order) => reply(self.ban(order)),
            Command::BanRemove { prefix } => reply(self.unban(&prefix)),
            Command::BansClear { automatic } => reply(Ok(self.clear_bans(automatic))),
            Command::ForwardStatus {} => reply(Ok(self.forward_status())),
            Command::ForwardFlows(filter) => reply(self.forward_flows(filter).await),
            Command::ForwardDrain(which) => reply(self.drain_server(&which, true)),
            Command::ForwardUndrain(which) => reply(self.drain_server(&which, false)),
            Command::GatewayDrain { drained } => reply(self.drain_gateway(drained)),
            Command::XdpFlows(filter) => reply(self.flows(&filter).await),
            Command::XdpEvents { after, limit } => reply(self.drop_events(after, limit)),
            Command::LogLevel { level } => reply(self.log_level(level.as_deref())),
            command => self.act_on_certificates(caller, command).await,
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
            high_availability: self.ha_state(),
            log_level: self.log.level(),
            log_lines_lost: self.log.lines_lost(),
        }
    }

    async fn test_sta(&self, name: &str) -> Outcome<crate::sta::pool::StaStatus> {
        match self.pool.test(name).await {
            Some(Ok(status)) => Ok(status),
            Some(Err(error)) => Err(Failure::new(ErrorCode::Unavailable, error)),
            None => Err(Failure::new(ErrorCode::NotFound, format!("there is no STA named `{name}`"))),
        }
    }

    async fn reload(&self, caller: &Caller) -> Outcome<Reloaded> {
        let Applied { plan, .. } = self.order(caller, Order::Reload).await?;
        let confirm_within_seconds = self.reverts_in_seconds();
        Ok(Reloaded { live: plan.live, restart: plan.restart, confirm_within_seconds })
    }

    fn log_level(&self, level: Option<&str>) -> Outcome<LogLevel> {
        if let Some(level) = level {
            let known = ["error", "warn", "info", "debug", "trace"].contains(&level);
            let parsed = level.parse().ok().filter(|_| known);
            let Some(parsed) = parsed else {
                return Err(Failure::bad_request("the level is one of error, warn, info, debug and trace"));
            };
            self.log.set_level(parsed);
            tracing::info!(log_level = level, "the log level was changed by an operator");
        }
        Ok(LogLevel { level: self.log.level() })
    }
}

fn reply<T: Serialize>(outcome: Outcome<T>) -> Answer {
    let data = outcome.and_then(|data| {
        serde_json::to_value(data).map_err(|error| Failure::new(ErrorCode::Internal, error.to_string()))
    });
    Answer::from(data)
}

fn prefix(text: &str) -> Outcome<IpNet> {
    let address = || text.parse::<IpAddr>().ok().map(IpNet::from);
    let parsed = text.parse().ok().or_else(address);
    parsed.ok_or_else(|| Failure::bad_request(format!("`{text}` is no address or prefix")))
}
