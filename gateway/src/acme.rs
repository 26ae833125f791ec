//! Certificates by ACME (RFC 8555): got, renewed well before their end, and taken over without a restart.
//!
//! One task of the control plane looks after all of them, one at a time. What fails is tried again, later each time,
//! for good: a gateway whose issuer is away for a week has its certificate when it is back. Until the first one has
//! come, listeners show one that is signed by itself (`ensure_files`), so that they can start and prove their names.
//! The protocol is `instant-acme`'s; names are proven by [`challenge`].

mod account;
pub mod challenge;
mod http;
mod order;
mod self_signed;

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::audit::{Audit, Record};
use crate::certificates::{self, Described, Given};
use crate::config::{AcmeCertificate, AcmeConfig, Config};
use crate::dns::Resolver;
use crate::log::rfc3339;
use crate::metrics::{self, acme::Fact};
use crate::orders::{Order, Orders};
use crate::role::Origin;
use crate::sync::lock;
use challenge::Challenges;
pub(crate) use self_signed::{ensure_files, is_self_signed};

/// How soon a certificate that is due, and a changed configuration, are noticed.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// The longest that one attempt may take.
const ATTEMPT_MAX: Duration = Duration::from_mins(5);
/// Waits after attempts that failed, the last one from then on. Let's Encrypt bears five failures of a name in an hour.
const PAUSES: [Duration; 6] = [
    Duration::from_mins(1),
    Duration::from_mins(5),
    Duration::from_mins(20),
    Duration::from_hours(1),
    Duration::from_hours(4),
    Duration::from_hours(12),
];
/// Longest text of an error that is kept: issuers' words may be long.
const ERROR_MAX_CHARS: usize = 500;

/// What is known of the renewal of one certificate.
#[derive(Clone, Debug, Default)]
struct Renewal {
    working: bool,
    last: Option<SystemTime>,
    /// Not before then, after a failure.
    not_before: Option<SystemTime>,
    /// When it is due.
    due: Option<SystemTime>,
    failures: u32,
    error: Option<String>,
    /// An operator wants it now.
    asked: bool,
}

/// How the renewal of a certificate by ACME does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcmeRow {
    /// `waiting`, `working`, `issued` or `failed`.
    pub state: String,
    /// Names that are ordered.
    pub names: Vec<String>,
    /// When the last one came, since the daemon started; RFC 3339, UTC.
    pub last_renewal: Option<String>,
    /// When the next one is ordered; RFC 3339, UTC.
    pub next_attempt: Option<String>,
    /// Attempts that have failed since the last one that did not.
    pub failures: u32,
    pub last_error: Option<String>,
}

/// What the rest of the daemon shares with the task.
#[derive(Debug)]
pub struct Acme {
    pub challenges: Arc<Challenges>,
    resolver: Arc<Resolver>,
    renewals: Mutex<BTreeMap<String, Renewal>>,
    wake: Notify,
}

impl Acme {
    #[must_use]
    pub fn new(resolver: Arc<Resolver>) -> Self {
        Self { challenges: Arc::default(), resolver, renewals: Mutex::default(), wake: Notify::new() }
    }

    /// Orders a certificate now, whenever it is due.
    pub(crate) fn renew_now(&self, name: &str) {
        lock(&self.renewals).entry(name.to_owned()).or_default().asked = true;
        self.wake.notify_one();
    }

    /// How the renewal of a certificate does.
    #[must_use]
    pub fn row(&self, certificate: &AcmeCertificate) -> AcmeRow {
        let renewal = lock(&self.renewals).get(&certificate.name).cloned().unwrap_or_default();
        let state = match &renewal {
            Renewal { working: true, .. } => "working",
            Renewal { error: Some(_), .. } => "failed",
            Renewal { due: Some(_), .. } => "issued",
            _ => "waiting",
        };
        AcmeRow {
            state: state.to_owned(),
            names: certificate.names.clone(),
            last_renewal: renewal.last.map(rfc3339),
            next_attempt: renewal.not_before.or(renewal.due).map(rfc3339),
            failures: renewal.failures,
            last_error: renewal.error,
        }
    }

    /// What metrics tell.
    #[must_use]
    pub fn facts(&self) -> Vec<Fact> {
        let renewals = lock(&self.renewals);
        let fact = |(name, renewal): (&String, &Renewal)| Fact {
            certificate: name.clone(),
            last_renewal: renewal.last,
            failures: renewal.failures,
        };
        renewals.iter().map(fact).collect()
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut Renewal)) {
        change(lock(&self.renewals).entry(name.to_owned()).or_default());
    }

    /// Whether a certificate is to be ordered now.
    fn is_due(
        &self,
        acme: &AcmeConfig,
        wanted: &AcmeCertificate,
        state: Option<&Described>,
        now: SystemTime,
    ) -> bool {
        let due = state.map_or(now, |described| due(acme, wanted, described, now));
        let mut renewals = lock(&self.renewals);
        let renewal = renewals.entry(wanted.name.clone()).or_default();
        renewal.due = Some(due).filter(|due| *due > now);
        std::mem::take(&mut renewal.asked)
            || (due <= now && renewal.not_before.is_none_or(|from| from <= now))
    }
}

/// When a certificate is to be renewed: so long before its end, or a third of its life where that is less, and a
/// little earlier, so that many gateways do not come at once; at once where it is not what is wanted.
fn due(acme: &AcmeConfig, wanted: &AcmeCertificate, described: &Described, now: SystemTime) -> SystemTime {
    if is_self_signed(described) || !wanted.names.iter().all(|name| described.covers(name)) {
        return now;
    }
    let seconds = |at: i64| Duration::from_secs(u64::try_from(at).unwrap_or(0));
    let life = seconds(described.not_after.saturating_sub(described.not_before));
    let before = acme.renew_before.min(life / 3);
    let mut hasher = DefaultHasher::new();
    described.sha256.hash(&mut hasher);
    let earlier = (before / 20).mul_f64(f64::from(u8::try_from(hasher.finish() & 0xff).unwrap_or(0)) / 255.0);
    SystemTime::UNIX_EPOCH + seconds(described.not_after).saturating_sub(before + earlier)
}

/// Looks after the certificates.
#[derive(Debug)]
pub(crate) struct Keeper {
    pub(crate) acme: Arc<Acme>,
    pub(crate) config: Arc<ArcSwap<Config>>,
    pub(crate) audit: Arc<Audit>,
    pub(crate) orders: Orders,
}

impl Keeper {
    /// Until the daemon ends.
    pub(crate) async fn run(self) {
        loop {
            let config = self.config.load_full();
            if let Some(acme) = &config.acme {
                for wanted in &acme.certificates {
                    let known = certificates::find(&config, &wanted.name, SystemTime::now()).ok();
                    let described = known.and_then(|known| known.described);
                    if self.acme.is_due(acme, wanted, described.as_ref(), SystemTime::now()) {
                        self.renew(acme, wanted).await;
                    }
                }
            }
            // Which of the two it was does not matter.
            timeout(LOOK_EVERY, self.acme.wake.notified()).await.ok();
        }
    }

    /// One attempt, with what comes of it in all the places where that is told.
    async fn renew(&self, acme: &AcmeConfig, wanted: &AcmeCertificate) {
        let name = &wanted.name;
        self.acme.change(name, |renewal| renewal.working = true);
        tracing::info!(certificate = name, names = ?wanted.names, "a certificate is ordered");
        let attempt = timeout(ATTEMPT_MAX, self.obtain(acme, wanted)).await;
        let outcome =
            attempt.unwrap_or_else(|_| Err(format!("took longer than {} seconds", ATTEMPT_MAX.as_secs())));
        let now = SystemTime::now();
        let what = json!({"cmd": "certificate-renew", "name": name});
        let (word, detail) = match &outcome {
            Ok(()) => ("done", String::new()),
            Err(error) => ("failed", plain(error)),
        };
        metrics::acme::renewal(name, outcome.is_ok());
        self.acme.change(name, |renewal| {
            renewal.working = false;
            if outcome.is_ok() {
                (renewal.last, renewal.failures) = (Some(now), 0);
                (renewal.error, renewal.not_before) = (None, None);
                return;
            }
            let pause = PAUSES.get(usize::try_from(renewal.failures).unwrap_or(usize::MAX)).or(PAUSES.last());
            renewal.failures = renewal.failures.saturating_add(1);
            renewal.error = Some(detail.clone());
            renewal.not_before = pause.map(|pause| now + jittered(*pause, name, now));
        });
        if outcome.is_ok() {
            tracing::info!(certificate = name, "the certificate has come and is in force");
        } else {
            tracing::warn!(
                certificate = name,
                error = detail,
                "the certificate was not got; it is tried again later"
            );
        }
        self.audit.add(&Record::new(origin(), None, what, word, &detail));
    }

    /// Orders a certificate, and puts it in force.
    async fn obtain(&self, acme: &AcmeConfig, wanted: &AcmeCertificate) -> Result<(), String> {
        let state = self.config.load().server.state_dir.clone();
        let http = http::Http::new(acme, Arc::clone(&self.acme.resolver))?;
        let account = account::open(acme, &state, http).await?;
        let placed = order::place(&account, acme, wanted, &self.acme.challenges).await;
        let issued = placed.map_err(|failure| match failure {
            order::Failure::UnknownAccount => {
                account::forget(acme, &state);
                "the issuer does not know our account any more: the next attempt opens another".to_owned()
            }
            order::Failure::Other(error) => error,
        })?;
        let given = Given::from_pem(issued.as_bytes(), true).map_err(|refusal| refusal.to_string())?;
        let config = self.config.load_full();
        let is_kept =
            config.acme.iter().flat_map(|acme| &acme.certificates).any(|one| one.name == wanted.name);
        if !is_kept {
            return Err("the configuration has changed meanwhile".to_owned());
        }
        let imported =
            certificates::import(&config, &wanted.name, &given).map_err(|refusal| refusal.to_string())?;
        if let Err(not_done) = self.orders.give(origin(), Order::Refresh).await {
            imported.former.put_back();
            return Err(not_done.to_string());
        }
        Ok(())
    }
}

/// The one who acts when nobody has asked.
fn origin() -> Origin {
    let uid = nix::unistd::geteuid().as_raw();
    Origin { who: "acme".to_owned(), uid: Some(uid), claimed_from: None }
}

/// Up to a quarter longer.
fn jittered(pause: Duration, name: &str, now: SystemTime) -> Duration {
    let mut hasher = DefaultHasher::new();
    (name, now).hash(&mut hasher);
    pause + (pause / 4).mul_f64(f64::from(u8::try_from(hasher.finish() & 0xff).unwrap_or(0)) / 255.0)
}

fn plain(error: &str) -> String {
    error.chars().map(|c| if c.is_control() { ' ' } else { c }).take(ERROR_MAX_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(days: (i64, i64)) -> Described {
        const DAY: i64 = 86_400;
        Described {
            names: vec!["gw.example.com".into()],
            key: String::new(),
            serial: String::new(),
            sha256: "00".into(),
            not_before: days.0 * DAY,
            not_after: days.1 * DAY,
            chain: Vec::new(),
        }
    }

    fn acme() -> AcmeConfig {
        let text = "[acme]\ndirectory = \"https://ca.example.com/dir\"\nterms_agreed = true\n\
                    [[certificate]]\nname = \"web\"\nacme_names = [\"gw.example.com\"]\n";
        crate::config::parse(text, std::path::Path::new("/x.toml")).unwrap().acme.unwrap()
    }

    fn day(number: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_hours(24 * number)
    }

    #[test]
    fn a_certificate_is_due_a_month_before_its_end_or_after_two_thirds_of_a_short_life() {
        let (acme, now) = (acme(), day(1000));
        let wanted = acme.certificates.first().unwrap();
        let at = due(&acme, wanted, &described((1000, 1090)), now);
        assert!(at <= day(1060) && at > day(1058), "{at:?}");
        let at = due(&acme, wanted, &described((1000, 1006)), now);
        assert!(at <= day(1004) && at > day(1003), "{at:?}");
    }

    #[test]
    fn a_certificate_for_other_names_is_due_at_once() {
        let (mut acme, now) = (acme(), day(1000));
        acme.certificates[0].names.push("other.example.com".into());
        let at = due(&acme, &acme.certificates[0], &described((1000, 1090)), now);
        assert_eq!(at, now);
    }

    #[test]
    fn waits_get_longer_and_are_bounded() {
        assert!(PAUSES.is_sorted());
        let longest = jittered(PAUSES[5], "web", day(1));
        assert!(longest >= PAUSES[5] && longest <= PAUSES[5] * 5 / 4);
    }
}
