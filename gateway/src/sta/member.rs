//! One ticket authority that we ask: what is known of it, and the two questions to it.
//!
//! "Redeem this ticket" is what sessions need. "Issue a ticket" is the health check: how a gateway is meant to ask
//! for an authority's id is not publicly known (PROTOCOL §3), but every authority must issue tickets and names
//! itself when it does. The ticket that comes of it is for an address that routes nowhere, is not refreshable,
//! and is forgotten here at once; the authority forgets it when it expires.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper::body::Bytes;
use portcullis_core::answer::{TicketAnswer, Unavailable};
use portcullis_core::ticket_store::{TicketData, TicketRefusal};
use portcullis_proto::host_port::{Host, HostPort};
use portcullis_proto::sta::{self, DataAnswer, RequestData, RequestTicket, TICKET_TYPE};
use portcullis_proto::ticket::{AuthorityId, TicketSecret};
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, timeout};

use super::StaError;
use super::client::{Answered, Client, Failure};
use crate::config::StaConfig;
use crate::dns::Resolver;
use crate::sync::lock;

/// Redemptions that may be tried at once at an authority that is held to be down: enough to notice that it is
/// back, too few to let a dead one gather waiting clients.
const TRIALS_WHILE_DOWN: usize = 4;
/// A check on somebody's behalf is not repeated within this time.
const LEARN_PAUSE: Duration = Duration::from_secs(1);
/// TEST-NET-1 (RFC 5737): where the ticket of a health check leads, which is nowhere.
const HARMLESS_TARGET: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const HARMLESS_PORT: u16 = 1494;

/// What the last news of an authority were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Health {
    #[default]
    Unknown,
    Up,
    Down,
}

impl Health {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

/// What is known of an authority. It outlives a reload that leaves the authority as it was.
#[derive(Clone, Debug, Default)]
pub(super) struct Knowledge {
    pub(super) health: Health,
    pub(super) learned: Option<AuthorityId>,
    pub(super) last_error: Option<String>,
    pub(super) checked: Option<Instant>,
    pub(super) latency: Option<Duration>,
    pub(super) requests: u64,
    pub(super) failures: u64,
    /// Checks that failed since the last success.
    pub(super) failed_checks: u32,
}

/// By which id an authority answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Identity {
    Known(AuthorityId),
    /// Neither configured nor learned yet.
    Nameless,
    /// It calls itself other than the configuration says: it gets no ticket.
    Contradicted {
        configured: AuthorityId,
    },
}

/// One authority.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) config: Arc<StaConfig>,
    client: Client,
    knowledge: Arc<Mutex<Knowledge>>,
    checking: tokio::sync::Mutex<()>,
    trials: Semaphore,
    /// Told when a redemption failed at an authority that was up.
    pub(super) doubt: Notify,
}

impl Member {
    /// # Errors
    /// As [`Client::new`].
    pub(super) fn new(
        config: &Arc<StaConfig>,
        resolver: &Arc<Resolver>,
        former: Option<&Self>,
    ) -> Result<Self, StaError> {
        let former = former.filter(|former| former.config == *config);
        Ok(Self {
            config: Arc::clone(config),
            client: Client::new(config, Arc::clone(resolver))?,
            knowledge: former.map(|former| Arc::clone(&former.knowledge)).unwrap_or_default(),
            checking: tokio::sync::Mutex::new(()),
            trials: Semaphore::new(TRIALS_WHILE_DOWN),
            doubt: Notify::new(),
        })
    }

    pub(super) fn knowledge(&self) -> Knowledge {
        self.with(|knowledge| knowledge.clone())
    }

    pub(super) fn is_up(&self) -> bool {
        self.with(|knowledge| knowledge.health == Health::Up)
    }

    pub(super) fn identity(&self) -> Identity {
        let learned = self.with(|knowledge| knowledge.learned.clone());
        match (&self.config.authority_id, learned) {
            (Some(configured), Some(learned)) if *configured != learned => {
                Identity::Contradicted { configured: configured.clone() }
            }
            (Some(configured), _) => Identity::Known(configured.clone()),
            (None, Some(learned)) => Identity::Known(learned),
            (None, None) => Identity::Nameless,
        }
    }

    /// Asks for what a ticket stands for. The ticket may be used up by it.
    pub(super) async fn redeem(&self, secret: &TicketSecret) -> TicketAnswer {
        let down = self.with(|knowledge| knowledge.health == Health::Down);
        let trial = if down { self.trials.try_acquire().ok() } else { None };
        if down && trial.is_none() {
            return TicketAnswer::Unavailable(Unavailable::Down);
        }
        let request = RequestData { ticket: secret.clone(), ticket_type: TICKET_TYPE.to_owned() }.encode();
        let started = Instant::now();
        let answered = self.client.post(Bytes::from(request), started + self.config.timeout).await;
        let outcome = match answered {
            Ok(answered) => self.read_data(&answered),
            Err(failure) => {
                // Our own queue being full says nothing of the authority.
                let blame = !matches!(failure, Failure::Overloaded);
                Err((failure.unavailable(), blame.then(|| failure.to_string())))
            }
        };
        match outcome {
            Ok(answer) => {
                let result = if matches!(answer, TicketAnswer::Granted(_)) { "granted" } else { "refused" };
                self.note_success(result, started.elapsed());
                answer
            }
            Err((unavailable, error)) => {
                self.note_failure(unavailable, error, started.elapsed());
                TicketAnswer::Unavailable(unavailable)
            }
        }
    }

    fn read_data(&self, answered: &Answered) -> Result<TicketAnswer, (Unavailable, Option<String>)> {
        let garbage = |error| (Unavailable::Garbage, Some(format!("its answer is no STA message: {error}")));
        match sta::parse_response_data(&answered.body).map_err(garbage)? {
            DataAnswer::Data(data) => Ok(TicketAnswer::Granted(ticket_data(data))),
            // The first sending may have used the ticket up, so this refusal says nothing about the ticket.
            DataAnswer::Refused { .. } if answered.repeated => {
                Err((Unavailable::Down, Some("a connection was lost while a ticket was redeemed".to_owned())))
            }
            DataAnswer::Refused { text } => {
                tracing::debug!(sta = %self.config.name, %text, "ticket refused by its authority");
                // Only our own authority is known to use these words.
                let expired = text == TicketRefusal::Expired.to_string();
                let refusal = if expired { TicketRefusal::Expired } else { TicketRefusal::Unknown };
                Ok(TicketAnswer::Refused(refusal))
            }
        }
    }

    /// Checks an authority whose id is wanted now, unless that has just been done.
    pub(super) async fn learn(&self) {
        let asked = Instant::now();
        let Ok(_turn) = timeout(self.config.timeout, self.checking.lock()).await else { return };
        let recent = |checked: Instant| checked + LEARN_PAUSE > asked;
        if !self.with(|knowledge| knowledge.checked.is_some_and(recent)) {
            self.check_in_turn().await;
        }
    }

    /// Asks the authority for a ticket and learns its id.
    pub(super) async fn check(&self) {
        let _turn = self.checking.lock().await;
        self.check_in_turn().await;
    }

    async fn check_in_turn(&self) {
        let started = Instant::now();
        let answered = self.client.post_at_once(harmless_request(), started + self.config.timeout).await;
        self.with(|knowledge| knowledge.checked = Some(Instant::now()));
        let learned = match answered {
            Ok(answered) => match sta::parse_response_ticket(&answered.body) {
                Ok(sta::TicketAnswer::Issued(issued)) => Ok(Some(issued.authority)),
                Ok(sta::TicketAnswer::Refused { text }) => self.refused_to_issue(&text).map(|()| None),
                Err(error) => Err((Unavailable::Garbage, format!("its answer is no STA message: {error}"))),
            },
            Err(failure) => Err((failure.unavailable(), failure.to_string())),
        };
        match learned {
            Ok(learned) => self.note_learned(learned, started.elapsed()),
            Err((unavailable, error)) => self.note_failed_check(unavailable, error, started.elapsed()),
        }
    }

    /// An authority that issues us nothing is alive all the same, and of use if its id is configured.
    fn refused_to_issue(&self, text: &str) -> Result<(), (Unavailable, String)> {
        if self.config.authority_id.is_some() {
            tracing::debug!(sta = %self.config.name, %text, "the authority answers, but issues us no ticket");
            return Ok(());
        }
        let error = format!("it issues us no ticket (“{text}”), so its id must be configured: authority_id");
        Err((Unavailable::Garbage, error))
    }

    fn note_learned(&self, learned: Option<AuthorityId>, took: Duration) {
        let news = self.with(|knowledge| {
            let news = learned.is_some() && knowledge.learned != learned;
            knowledge.learned = learned.or_else(|| knowledge.learned.take());
            news
        });
        if let Identity::Contradicted { configured } = self.identity() {
            let error = match self.knowledge().learned {
                Some(learned) => format!("it calls itself {learned}, but {configured} is configured"),
                None => format!("it does not call itself {configured}, as is configured"),
            };
            self.note_failed_check(Unavailable::Garbage, error, took);
            return;
        }
        if news && let Identity::Known(authority) = self.identity() {
            tracing::info!(sta = %self.config.name, %authority, "learned the id of a ticket authority");
        }
        self.note_success("ok", took);
    }

    fn note_success(&self, result: &'static str, took: Duration) {
        self.count(result, took);
        self.with(|knowledge| {
            knowledge.requests = knowledge.requests.saturating_add(1);
            knowledge.latency = Some(took);
            knowledge.last_error = None;
            knowledge.failed_checks = 0;
        });
        self.set_health(Health::Up);
    }

    fn note_failure(&self, unavailable: Unavailable, error: Option<String>, took: Duration) {
        self.count(unavailable_label(unavailable), took);
        let was_up = self.with(|knowledge| {
            knowledge.requests = knowledge.requests.saturating_add(1);
            knowledge.failures = knowledge.failures.saturating_add(1);
            let blamed = error.is_some();
            knowledge.last_error = error.or_else(|| knowledge.last_error.take());
            blamed && knowledge.health == Health::Up
        });
        if was_up {
            self.doubt.notify_one();
        }
    }

    fn note_failed_check(&self, unavailable: Unavailable, error: String, took: Duration) {
        self.with(|knowledge| knowledge.failed_checks = knowledge.failed_checks.saturating_add(1));
        self.note_failure(unavailable, Some(error), took);
        self.set_health(Health::Down);
    }

    fn set_health(&self, health: Health) {
        let (before, error) = self.with(|knowledge| {
            let before = std::mem::replace(&mut knowledge.health, health);
            (before, knowledge.last_error.clone())
        });
        let name = &self.config.name;
        if before == health {
            return;
        }
        match health {
            Health::Up if before == Health::Down => {
                tracing::info!(sta = %name, "ticket authority is up again")
            }
            Health::Down => {
                let error = error.unwrap_or_default();
                tracing::warn!(sta = %name, %error, "ticket authority is down");
            }
            Health::Up | Health::Unknown => {}
        }
    }

    fn count(&self, result: &'static str, took: Duration) {
        crate::metrics::sta_request(&self.config.name, result, took);
    }

    fn with<T>(&self, act: impl FnOnce(&mut Knowledge) -> T) -> T {
        act(&mut lock(&self.knowledge))
    }
}

fn harmless_request() -> Bytes {
    let target = HostPort::new(Host::from(HARMLESS_TARGET), HARMLESS_PORT).ok();
    let data = sta::TicketData { ica_address: target, ..sta::TicketData::default() };
    Bytes::from(RequestTicket { data, refreshable: false }.encode())
}

fn ticket_data(data: sta::TicketData) -> TicketData {
    let connection = data.connection.unwrap_or_default();
    TicketData {
        ica: data.ica_address,
        cgp: data.cgp_address,
        user: connection.user_name,
        domain: connection.user_domain,
        application: connection.application_name,
    }
}

fn unavailable_label(unavailable: Unavailable) -> &'static str {
    match unavailable {
        Unavailable::NoAuthority => "no_authority",
        Unavailable::Down => "down",
        Unavailable::Timeout => "timeout",
        Unavailable::Garbage => "garbage",
        Unavailable::Overloaded => "overloaded",
    }
}
