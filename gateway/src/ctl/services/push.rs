//! `config push`: the configuration in force goes to the other appliance, and one from there is put in force here.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::{Value, json};

use super::{Outcome, Services};
use crate::audit::Record;
use crate::config::{self, Config, HighAvailability, Sync};
use crate::ctl::protocol::{Answer, ErrorCode, Failure, PushOrder, Pushed};
use crate::disk::Disk;
use crate::ha::identity::Identity;
use crate::ha::peer::{self, Push, Request, Taken};
use crate::ha::shared;
use crate::log::rfc3339;
use crate::orders::Order;
use crate::role::Origin;
use crate::role::{Caller, Role, plain_claim};
use crate::store::diff;
use crate::sync::lock;

/// Below the state directory: key and certificate of this appliance, and what it last had in common with its peer.
const DIRECTORY: &str = "high-availability";
const COMMON: &str = "common";
/// Characters of what the peer says about people; the rest is cut.
const WORDS_MAX_CHARS: usize = 64;

impl Services {
    /// Where this appliance keeps what it is to its peer.
    fn ha_directory(&self) -> PathBuf {
        self.config.load().server.state_dir.join(DIRECTORY)
    }

    /// Who this appliance is to its peer.
    pub(crate) fn identity(&self) -> Outcome<Identity> {
        Identity::open(&self.ha_directory())
            .map_err(|error| Failure::new(ErrorCode::Internal, format!("this appliance's identity: {error}")))
    }

    /// Gives the configuration in force to the peer.
    pub(super) async fn push(&self, caller: &Caller, order: &PushOrder) -> Outcome<Pushed> {
        let (ha, sync) = self.with_peer()?;
        let (text, on_trial) = {
            let store = lock(&self.store);
            (store.running().to_string(), store.trial().is_some())
        };
        if on_trial && !order.dry_run {
            let text = "a commit waits to be confirmed here: confirm it first, then push";
            return Err(Failure::new(ErrorCode::Refused, text));
        }
        let identity = self.identity()?;
        let push = Push {
            text: text.clone(),
            keep: ha.node.keep.clone(),
            who: caller.name.clone(),
            host: Self::me(caller).host,
            claimed_from: caller.claimed_from.clone(),
            comment: order.comment.clone(),
            dry_run: order.dry_run,
            force: order.force,
        };
        let taken: Taken = peer::ask(&identity, &sync, Request::Push(Box::new(push))).await?;
        if !order.dry_run {
            self.note_common(&text, &ha.node.keep);
        }
        let mut pushed = Pushed { peer: sync.peer.to_string(), confirmed: false, taken };
        if pushed.taken.confirm_within_seconds.is_some() && !order.dry_run {
            // A connection of its own: what is confirmed is that the peer can still be reached.
            let number = pushed.taken.number;
            let _: Value = peer::ask(&identity, &sync, Request::Confirm { number }).await.map_err(|failure| {
                Failure::new(
                    failure.code,
                    format!(
                        "commit {number} of the peer is in force, but is not confirmed and will be taken back: {failure}"
                    ),
                )
            })?;
            pushed.confirmed = true;
        }
        Ok(pushed)
    }

    /// Answers the peer, which the handshake has made sure of.
    pub(crate) async fn answer_peer(&self, from: std::net::SocketAddr, request: Request) -> Answer {
        match request {
            Request::Push(push) => {
                let origin = origin_of(&push, from);
                let what = json!({
                    "cmd": "config-push", "from": words(&push.host), "bytes": push.text.len(),
                    "dry_run": push.dry_run, "force": push.force,
                });
                let dry_run = push.dry_run;
                let answer = super::reply(self.take(&push, &origin).await);
                let (outcome, _) = answer.for_audit();
                if !dry_run {
                    let detail = answer.refusal().unwrap_or_default();
                    let role = Some(Role::Administrator.as_str());
                    self.audit.add(&Record::new(origin, role, what, outcome, &detail));
                }
                answer
            }
            Request::Confirm { number } => super::reply(self.confirm_push(number)),
        }
    }

    fn confirm_push(&self, number: u64) -> Outcome<Value> {
        if lock(&self.store).history().newest() != number {
            let text = format!("commit {number} is not the newest any more");
            return Err(Failure::new(ErrorCode::Refused, text));
        }
        self.confirm_reload().map(|_| json!({}))
    }

    /// Puts in force what the peer has sent, but for what is this appliance's own.
    async fn take(&self, push: &Push, origin: &Origin) -> Outcome<Taken> {
        let (ha, _) = self.with_peer()?;
        let running = lock(&self.store).running();
        let keep = kept(&ha, push);
        let refused = |text: String| Failure::new(ErrorCode::Refused, text);
        let text = shared::merged(&push.text, &running, &keep).map_err(refused)?;
        let current = self.config.load_full();
        let new = config::parse(&text, &current.path).map_err(|error| refused(error.to_string()))?;
        check_addresses(&new)?;
        let diverged = self.has_diverged(&running, &push.text, &keep)?;
        let me = super::config::host();
        let mut taken = Taken { host: me, diverged, ..Taken::default() };
        if same_values(&running, &text) {
            self.note_common(&running, &keep);
            return Ok(Taken { diverged: false, ..taken });
        }
        taken.diff = diff::between(&running, &text, ("peer", "pushed"));
        if push.dry_run {
            let plan = config::compare(&current, &new);
            return Ok(Taken { live: plan.live, restart: plan.restart, ..taken });
        }
        if diverged && !push.force {
            return Err(refused(format!(
                "{} has changes of its own since the two were last the same: `config push --dry-run` shows what would \
                 be replaced, `config push --force` replaces it",
                taken.host
            )));
        }
        let comment = match words(&push.comment) {
            comment if comment.is_empty() => format!("pushed from {}", words(&push.host)),
            comment => format!("pushed from {}: {comment}", words(&push.host)),
        };
        let order = Order::Commit { text: text.clone(), hold: None, comment };
        let applied = self.order_of(origin.clone(), order).await?;
        self.note_common(&text, &keep);
        Ok(Taken {
            number: applied.number,
            live: applied.plan.live,
            restart: applied.plan.restart,
            confirm_within_seconds: self.reverts_in_seconds(),
            ..taken
        })
    }

    fn with_peer(&self) -> Outcome<(HighAvailability, Sync)> {
        let config = self.config.load();
        let ha = config.high_availability.clone();
        let found = ha.and_then(|ha| Some((ha.node.sync.clone()?, ha))).map(|(sync, ha)| (ha, sync));
        found.ok_or_else(|| {
            let text = "no peer is configured that may give or take configurations: set \
                        `high_availability.node.peer_sha256` to what `show high-availability` says on the other \
                        appliance, and there to what it says here";
            Failure::new(ErrorCode::Unavailable, text)
        })
    }

    /// Whether somebody has changed the configuration here since both had the same.
    fn has_diverged(&self, running: &str, pushed: &str, keep: &[String]) -> Outcome<bool> {
        let told = |text| shared::fingerprint(text, keep).map_err(Failure::bad_request);
        let (here, there) = (told(running)?, told(pushed)?);
        if here == there {
            return Ok(false);
        }
        let known = std::fs::read_to_string(self.ha_directory().join(COMMON)).unwrap_or_default();
        Ok(known.lines().next() != Some(here.as_str()))
    }

    /// Remembers what both have in common from now on.
    fn note_common(&self, text: &str, keep: &[String]) {
        let path = self.ha_directory().join(COMMON);
        let noted = shared::fingerprint(text, keep)
            .map_err(std::io::Error::other)
            .and_then(|common| write(&path, &format!("{common}\n{}\n", rfc3339(SystemTime::now()))));
        if let Err(error) = noted {
            tracing::error!(%error, path = %path.display(), "what the appliances have in common is not remembered");
        }
    }

    /// When both were last the same.
    pub(super) fn in_common_since(&self) -> Option<String> {
        let known = std::fs::read_to_string(self.ha_directory().join(COMMON)).ok()?;
        known.lines().nth(1).map(str::to_owned)
    }
}

fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let disk = Disk::default();
    if let Some(directory) = path.parent() {
        disk.make_directory(directory)?;
    }
    disk.write(path, text.as_bytes())
}

/// What either of the two keeps is shared by neither.
fn kept(ha: &HighAvailability, push: &Push) -> Vec<String> {
    let mut keep = ha.node.keep.clone();
    keep.extend(push.keep.iter().filter(|path| !ha.node.keep.contains(path)).cloned());
    keep
}

fn origin_of(push: &Push, from: std::net::SocketAddr) -> Origin {
    let claim = push.claimed_from.as_deref().and_then(plain_claim);
    Origin {
        who: format!("{}@{}", words(&push.who), words(&push.host)),
        uid: None,
        claimed_from: Some(claim.unwrap_or_else(|| from.ip().to_string())),
    }
}

/// What the peer says of people, as it can stand in a log.
fn words(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(WORDS_MAX_CHARS).collect()
}

fn same_values(one: &str, other: &str) -> bool {
    let read = |text: &str| text.parse::<toml::Table>().ok();
    read(one) == read(other)
}

/// A listener at an address that is the other appliance's would keep the daemon from its next start.
fn check_addresses(new: &Config) -> Outcome<()> {
    let own = config::own_addresses().unwrap_or_default();
    let ha = new.high_availability.as_ref();
    let of_listeners = new.listeners.iter().flat_map(|listener| {
        listener.listen.iter().map(|at| (format!("listener.{}.listen", listener.name), *at))
    });
    let of_sta =
        new.sta_server.iter().flat_map(|sta| &sta.listen).map(|at| ("sta_server.listen".to_owned(), *at));
    let of_metrics = new.metrics.iter().map(|metrics| ("metrics.listen".to_owned(), metrics.listen));
    for (path, at) in of_listeners.chain(of_sta).chain(of_metrics) {
        let ip = at.ip();
        let usable = ip.is_unspecified() || own.contains(&ip) || ha.is_some_and(|ha| ha.floats(ip));
        if !usable {
            let text = format!(
                "`{path}` is {at}, which the peer does not have: make it a virtual address, or each appliance's own by \
                 `{path}` in `high_availability.node.keep` of both"
            );
            return Err(Failure::new(ErrorCode::Refused, text));
        }
    }
    Ok(())
}
