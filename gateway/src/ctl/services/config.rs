//! Answers about candidates, commits and their history.

use std::time::{Duration, Instant};

use super::{Outcome, Services};
use crate::check;
use crate::config::{self, Severity, compare};
use crate::ctl::protocol::{
    Candidate as CandidateAnswer, CommitOrder, Committed, Compared, ConfigText, ErrorCode, Failure,
    HistoryRow, Me, Validated, WhichText,
};
use crate::orders::{Applied, NotDone, Order};
use crate::role::Caller;
use crate::role::Origin;
use crate::store::candidate::{Candidate, CandidateError};
use crate::store::trial::{LENGTH_MAX, LENGTH_MIN};
use crate::store::{diff, edit};
use crate::sync::lock;

impl Services {
    pub(super) fn me(caller: &Caller) -> Me {
        Me { user: caller.name.clone(), role: caller.role.as_str().to_owned(), host: host() }
    }

    pub(super) fn config_text(&self, caller: &Caller, which: &WhichText) -> Outcome<ConfigText> {
        let store = lock(&self.store);
        let text = match (which.candidate, which.back) {
            (true, Some(_)) => {
                return Err(Failure::bad_request("name the candidate or an earlier configuration, not both"));
            }
            (true, None) => {
                let candidates = lock(&self.candidates);
                candidates.get(caller.uid).map(|mine| mine.text().to_owned())
            }
            (false, back) => {
                let back = back.unwrap_or(0);
                Some(store.past(back).ok_or_else(|| no_past(back))?)
            }
        };
        let text = text.unwrap_or_else(|| store.running().to_string());
        let text = match which.path.as_deref().filter(|path| !path.is_empty()) {
            Some(path) => edit::get(&text, path).map_err(|error| Failure::bad_request(error.to_string()))?,
            None => text,
        };
        Ok(ConfigText { text })
    }

    pub(super) fn compare(&self, caller: &Caller, back: Option<usize>) -> Outcome<Compared> {
        let store = lock(&self.store);
        let running = store.running();
        if let Some(back) = back {
            let past = store.past(back).ok_or_else(|| no_past(back))?;
            let name = format!("rollback {back}");
            return Ok(Compared { diff: diff::between(&past, &running, (&name, "running")), stale: false });
        }
        let candidates = lock(&self.candidates);
        let Some(mine) = candidates.get(caller.uid) else {
            return Ok(Compared { diff: String::new(), stale: false });
        };
        Ok(Compared {
            diff: diff::between(&running, mine.text(), ("running", "candidate")),
            stale: mine.is_stale(&running),
        })
    }

    /// Changes the caller's candidate.
    pub(super) fn change(
        &self,
        caller: &Caller,
        change: impl FnOnce(&mut Candidate) -> Result<(), CandidateError>,
    ) -> Outcome<CandidateAnswer> {
        let running = lock(&self.store).running();
        let mut candidates = lock(&self.candidates);
        let mine = candidates.open(caller.uid, &running).map_err(refused)?;
        change(mine).map_err(refused)?;
        Ok(CandidateAnswer { changes: mine.changes(), stale: mine.is_stale(&running) })
    }

    pub(super) fn rollback(&self, caller: &Caller, back: usize) -> Outcome<CandidateAnswer> {
        let text = lock(&self.store).past(back).ok_or_else(|| no_past(back))?;
        // What is chosen is meant whole, whatever the candidate was.
        lock(&self.candidates).discard(caller.uid);
        self.change(caller, |mine| mine.replace(&text))
    }

    pub(super) fn update_candidate(&self, caller: &Caller) -> Outcome<CandidateAnswer> {
        let running = lock(&self.store).running();
        self.change(caller, |mine| mine.update(&running))
    }

    pub(super) fn discard(&self, caller: &Caller) -> CandidateAnswer {
        lock(&self.candidates).discard(caller.uid);
        CandidateAnswer { changes: 0, stale: false }
    }

    pub(super) fn save(&self, caller: &Caller, name: &str) -> Outcome<CandidateAnswer> {
        let store = lock(&self.store);
        let candidates = lock(&self.candidates);
        let mine = candidates.get(caller.uid).ok_or_else(nothing)?;
        store.save(name, mine.text()).map_err(|error| Failure::new(ErrorCode::Refused, error.to_string()))?;
        Ok(CandidateAnswer { changes: mine.changes(), stale: mine.is_stale(&store.running()) })
    }

    pub(super) fn restore(&self, caller: &Caller, name: &str) -> Outcome<CandidateAnswer> {
        let text = lock(&self.store).saved(name);
        let text = text.map_err(|error| Failure::new(ErrorCode::NotFound, error.to_string()))?;
        self.change(caller, |mine| mine.replace(&text))
    }

    pub(super) fn history(&self) -> Vec<HistoryRow> {
        let store = lock(&self.store);
        store.history().entries().enumerate().map(|(back, entry)| HistoryRow::new(back, entry)).collect()
    }

    /// What a commit of the caller's candidate would meet.
    pub(super) fn validate(&self, caller: &Caller) -> Outcome<Validated> {
        let text = match lock(&self.candidates).get(caller.uid) {
            Some(mine) => mine.text().to_owned(),
            None => lock(&self.store).running().to_string(),
        };
        let current = self.config.load();
        let new = match config::parse(&text, &current.path) {
            Ok(new) => new,
            Err(error) => {
                let told = |problem: &config::Problem| match problem.line {
                    0 => problem.to_string(),
                    line => format!("line {line}: {problem}"),
                };
                let problems = error.problems.iter().map(told).collect();
                return Ok(Validated { problems, ..Validated::default() });
            }
        };
        let plan = compare(&current, &new);
        let findings = check::check(&new);
        let known = check::check(&current);
        let bad = |finding: &config::Finding| finding.severity == Severity::Error && !known.contains(finding);
        Ok(Validated {
            ok: !findings.iter().any(bad),
            problems: Vec::new(),
            findings: findings.into_iter().map(Into::into).collect(),
            live: plan.live,
            restart: plan.restart,
        })
    }

    pub(super) async fn commit(&self, caller: &Caller, order: &CommitOrder) -> Outcome<Committed> {
        let hold = order.confirm_seconds.map(Duration::from_secs);
        if hold.is_some_and(|hold| !(LENGTH_MIN..=LENGTH_MAX).contains(&hold)) {
            return Err(Failure::bad_request("a commit waits between 1 second and 24 hours to be confirmed"));
        }
        let text = {
            let running = lock(&self.store).running();
            let candidates = lock(&self.candidates);
            let mine = candidates.get(caller.uid).filter(|mine| !mine.is_clean()).ok_or_else(nothing)?;
            if mine.is_stale(&running) {
                let text = "others have committed since this candidate began: `update` makes its changes again on \
                            top of theirs, `compare` shows what comes of it";
                return Err(Failure::new(ErrorCode::Refused, text));
            }
            if *running == *mine.text() {
                return Err(nothing());
            }
            mine.text().to_owned()
        };
        let what = Order::Commit { text, hold, comment: order.comment.clone() };
        let applied = self.order(caller, what).await?;
        lock(&self.candidates).discard(caller.uid);
        Ok(Committed {
            number: applied.number,
            live: applied.plan.live,
            restart: applied.plan.restart,
            confirm_within_seconds: self.reverts_in_seconds(),
        })
    }

    /// Lets the reloader do something, and waits for it.
    pub(crate) async fn order(&self, caller: &Caller, what: Order) -> Outcome<Applied> {
        self.order_of(caller.origin(), what).await
    }

    /// The same for somebody who is no caller of the control socket.
    pub(super) async fn order_of(&self, origin: Origin, what: Order) -> Outcome<Applied> {
        self.orders.give(origin, what).await.map_err(|not_done| {
            let code = match &not_done {
                NotDone::Busy => ErrorCode::Unavailable,
                NotDone::Refused(_) => ErrorCode::Refused,
            };
            Failure::new(code, not_done.to_string())
        })
    }

    /// When something is taken back unless it is confirmed: a commit, or the policy of a reload.
    pub(crate) fn reverts_at(&self) -> Option<Instant> {
        let trial = lock(&self.store).trial().map(|trial| trial.ends);
        self.kernel.reverts_at().into_iter().chain(trial).min()
    }
}

/// The name of this machine.
pub(super) fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let name = name.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty());
    name.unwrap_or_else(|| "gateway".to_owned())
}

fn refused(error: CandidateError) -> Failure {
    let code = match &error {
        CandidateError::Edit(_) | CandidateError::TooLong => ErrorCode::BadRequest,
        _ => ErrorCode::Refused,
    };
    Failure::new(code, error.to_string())
}

fn nothing() -> Failure {
    Failure::new(
        ErrorCode::NotFound,
        "the candidate is the same as the configuration in force: there is nothing to do",
    )
}

fn no_past(back: usize) -> Failure {
    let text = format!("the history has no configuration {back} commits ago; `history` lists what there is");
    Failure::new(ErrorCode::NotFound, text)
}
