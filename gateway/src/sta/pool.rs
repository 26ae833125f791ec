//! All ticket authorities, and the choice among them: a ticket goes to the authority whose id it names.
//!
//! One dead authority never delays tickets of another: each has its own connections, queue and health task, and
//! nobody waits for an authority that the ticket does not name. Only a ticket whose id nobody is known by waits,
//! for as long as an allowed authority that has not yet told its id is asked for it.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use portcullis_core::answer::{TicketAnswer, Unavailable};
use portcullis_proto::ticket::{AuthorityId, Ticket};
use serde::Serialize;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;

use super::StaError;
use super::authority::Authority;
use super::health;
use super::member::{Health, Identity, Member};
use crate::config::{ListenerConfig, StaConfig};
use crate::dns::Resolver;

/// Tickets that may wait at once until an authority has told its id; forged ids must not gather.
const LEARNERS_MAX: usize = 64;

/// The authorities that we ask, and perhaps the one that we are.
pub struct Pool {
    set: ArcSwap<Set>,
    changed: Notify,
    learners: Semaphore,
    resolver: Arc<Resolver>,
}

struct Set {
    members: Vec<Arc<Member>>,
    local: Option<Arc<Authority>>,
}

/// What `sta list` and the status page show of one authority.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StaStatus {
    pub name: String,
    pub url: String,
    /// `up`, `down` or `unknown`.
    pub state: &'static str,
    pub authority_id: Option<String>,
    pub last_error: Option<String>,
    pub last_check_age_ms: Option<u64>,
    pub latency_ms: Option<u64>,
    pub requests: u64,
    pub failures: u64,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set = self.set.load();
        let names: Vec<&str> = set.members.iter().map(|member| member.config.name.as_str()).collect();
        f.debug_struct("Pool").field("stas", &names).field("local", &set.local).finish_non_exhaustive()
    }
}

impl Pool {
    /// # Errors
    /// When a CA file, a URL or a security key cannot be used.
    pub fn new(
        configs: &[Arc<StaConfig>],
        local: Option<Arc<Authority>>,
        resolver: Arc<Resolver>,
    ) -> Result<Self, StaError> {
        let set = Set::new(configs, local, &resolver, &[])?;
        Ok(Self {
            set: ArcSwap::from_pointee(set),
            changed: Notify::new(),
            learners: Semaphore::new(LEARNERS_MAX),
            resolver,
        })
    }

    /// Puts other authorities in place; what is known of unchanged ones stays. Redemptions under way end as they
    /// began.
    ///
    /// # Errors
    /// As [`Self::new`]; then everything stays as it was.
    pub fn replace(&self, configs: &[Arc<StaConfig>], local: Option<Arc<Authority>>) -> Result<(), StaError> {
        let former = self.set.load_full();
        let set = Set::new(configs, local, &self.resolver, &former.members)?;
        self.set.store(Arc::new(set));
        self.changed.notify_one();
        Ok(())
    }

    /// Redeems a ticket of the authority that we are, without waiting for anything; `None`: it is another's.
    pub fn redeem_own(&self, allowed: &[String], ticket: &Ticket) -> Option<TicketAnswer> {
        let set = self.set.load();
        let local = set.allowed_local(allowed).filter(|local| *local.id() == ticket.authority);
        local.map(|local| local.redeem(&ticket.secret))
    }

    /// Redeems a ticket at the authority that it names, if that is one of `allowed` (names of `[[sta]]` sections, or
    /// `local`). Where several authorities share the id, those that are up are tried first.
    ///
    /// `NoAuthority` means that every allowed authority is known by another id. While one of them has not told its
    /// id yet, the ticket may be its own, and the answer is `Down`.
    pub async fn redeem(&self, allowed: &[String], ticket: &Ticket) -> TicketAnswer {
        if let Some(answer) = self.redeem_own(allowed, ticket) {
            return answer;
        }
        let set = self.set.load_full();
        let mut candidates = set.candidates(allowed, &ticket.authority);
        if candidates.is_empty() {
            match self.learn(&set, allowed, &ticket.authority).await {
                Ok(member) => candidates.push(member),
                Err(unavailable) => return TicketAnswer::Unavailable(unavailable),
            }
        }
        candidates.sort_by_key(|member| !member.is_up());
        let mut unavailable = None;
        for member in candidates {
            match (member.redeem(&ticket.secret).await, unavailable) {
                (TicketAnswer::Unavailable(reason), _) => unavailable = unavailable.or(Some(reason)),
                // Its namesake, which did not answer, may be the one that knows the ticket.
                (TicketAnswer::Refused(_), Some(_)) => {}
                (answer, _) => return answer,
            }
        }
        TicketAnswer::Unavailable(unavailable.unwrap_or(Unavailable::NoAuthority))
    }

    /// Asks allowed authorities that have not told their id yet, all at once, until one of them is the wanted one.
    async fn learn(
        &self,
        set: &Set,
        allowed: &[String],
        wanted: &AuthorityId,
    ) -> Result<Arc<Member>, Unavailable> {
        let mut missing = Unavailable::NoAuthority;
        let mut nameless = Vec::new();
        for member in set.allowed(allowed) {
            match member.identity() {
                Identity::Nameless => nameless.push(Arc::clone(member)),
                Identity::Contradicted { configured } if configured == *wanted => missing = Unavailable::Down,
                Identity::Contradicted { .. } | Identity::Known(_) => {}
            }
        }
        if nameless.is_empty() {
            return Err(missing);
        }
        let Ok(_learner) = self.learners.try_acquire() else { return Err(Unavailable::Overloaded) };
        let mut asked = JoinSet::new();
        for member in nameless {
            asked.spawn(async move {
                member.learn().await;
                member
            });
        }
        while let Some(member) = asked.join_next().await {
            let Ok(member) = member else { continue };
            match member.identity() {
                Identity::Known(id) if id == *wanted => return Ok(member),
                Identity::Known(_) => {}
                Identity::Nameless | Identity::Contradicted { .. } => missing = Unavailable::Down,
            }
        }
        Err(missing)
    }

    /// Checks all authorities, for ever.
    pub async fn run_health(&self) {
        loop {
            // INVARIANT: the permit of `notify_one` is kept, so that no replacement between two rounds is missed.
            let set = self.set.load_full();
            let mut watches = JoinSet::new();
            for member in &set.members {
                watches.spawn(health::watch(Arc::clone(member)));
            }
            self.changed.notified().await;
            watches.shutdown().await;
        }
    }

    /// What is known of each authority, our own last.
    pub fn status(&self) -> Vec<StaStatus> {
        let set = self.set.load_full();
        let members = set.members.iter().map(|member| StaStatus::of(member));
        members.chain(set.local.iter().map(|local| StaStatus::of_local(local))).collect()
    }

    /// Checks one authority now. `None`: there is none of that name.
    pub async fn test(&self, name: &str) -> Option<Result<StaStatus, String>> {
        let set = self.set.load_full();
        if let Some(member) = set.named(name) {
            member.check().await;
            let status = StaStatus::of(member);
            let error = status.last_error.clone().filter(|_| status.state != Health::Up.as_str());
            return Some(error.map_or(Ok(status), Err));
        }
        let local = set.local.as_ref().filter(|_| name == ListenerConfig::LOCAL_STA)?;
        Some(Ok(StaStatus::of_local(local)))
    }
}

impl Set {
    fn new(
        configs: &[Arc<StaConfig>],
        local: Option<Arc<Authority>>,
        resolver: &Arc<Resolver>,
        former: &[Arc<Member>],
    ) -> Result<Self, StaError> {
        let member = |config: &Arc<StaConfig>| {
            let former = former.iter().find(|former| former.config.name == config.name);
            Member::new(config, resolver, former.map(Arc::as_ref)).map(Arc::new)
        };
        Ok(Self { members: configs.iter().map(member).collect::<Result<_, _>>()?, local })
    }

    fn named(&self, name: &str) -> Option<&Arc<Member>> {
        self.members.iter().find(|member| member.config.name == name)
    }

    fn allowed<'a>(&'a self, allowed: &'a [String]) -> impl Iterator<Item = &'a Arc<Member>> {
        allowed.iter().filter_map(|name| self.named(name))
    }

    fn allowed_local(&self, allowed: &[String]) -> Option<&Arc<Authority>> {
        let named = allowed.iter().any(|name| name == ListenerConfig::LOCAL_STA);
        self.local.as_ref().filter(|_| named)
    }

    fn candidates(&self, allowed: &[String], id: &AuthorityId) -> Vec<Arc<Member>> {
        let is_wanted = |member: &&Arc<Member>| member.identity() == Identity::Known(id.clone());
        self.allowed(allowed).filter(is_wanted).cloned().collect()
    }
}

impl StaStatus {
    fn of(member: &Member) -> Self {
        let known = member.knowledge();
        let millis = |duration: std::time::Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let id = known.learned.as_ref().or(member.config.authority_id.as_ref());
        Self {
            name: member.config.name.clone(),
            url: member.config.url.to_string(),
            state: known.health.as_str(),
            authority_id: id.map(ToString::to_string),
            last_error: known.last_error,
            last_check_age_ms: known.checked.map(|checked| millis(checked.elapsed())),
            latency_ms: known.latency.map(millis),
            requests: known.requests,
            failures: known.failures,
        }
    }

    fn of_local(authority: &Authority) -> Self {
        Self {
            name: ListenerConfig::LOCAL_STA.to_owned(),
            url: String::new(),
            state: Health::Up.as_str(),
            authority_id: Some(authority.id().to_string()),
            last_error: None,
            last_check_age_ms: None,
            latency_ms: None,
            requests: 0,
            failures: 0,
        }
    }
}
