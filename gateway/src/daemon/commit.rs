//! Commits: a text is put in force and in the file's place, all of it or nothing, and comes back unless it is confirmed
//! where that was asked for.
//!
//! The order makes a power cut harmless: the new text is on the disk beside the file before anything changes, a note
//! says that it is on trial before it is in force, and the last step is a rename.

use std::time::{Duration, Instant};

use super::reload::Reloader;
use crate::audit::Record;
use crate::check;
use crate::config::{self, Config, Finding, Severity};
use crate::orders::Applied;
use crate::role::Origin;
use crate::store::trial::Trial;
use crate::sync::lock;
use crate::xdp::Hold;

/// How soon a revert is tried again that did not work.
const REVERT_AGAIN: Duration = Duration::from_secs(5);

impl Reloader {
    pub(super) fn commit(
        &mut self,
        text: &str,
        hold: Option<Duration>,
        comment: &str,
        origin: &Origin,
    ) -> Result<Applied, String> {
        let new = self.committable(text)?;
        let running = lock(&self.services.store).running();
        let hold = hold.or_else(|| self.must_hold(&new));
        let trial = hold.map(|length| Trial::new(&running, text, &origin.who, length));
        self.stage(text, trial.as_ref())?;
        let plan = match self.put_in_force(new, text, Hold::Elsewhere) {
            Ok(plan) => plan,
            Err(error) => {
                lock(&self.services.store).unstage();
                return Err(error);
            }
        };
        let adopted = lock(&self.services.store).adopt(text, trial, origin, "commit", comment);
        match adopted {
            Ok(number) => Ok(Applied { plan, number }),
            Err(error) => {
                lock(&self.services.store).unstage();
                // What is in force must be what the file says.
                let back = config::parse(&running, &self.current.path).map_err(|error| error.to_string());
                let back = back.and_then(|before| self.put_in_force(before, &running, Hold::Elsewhere));
                let then = back.err().map(|error| format!("; the one before is not in force again: {error}"));
                Err(format!("the configuration file cannot be replaced: {error}{}", then.unwrap_or_default()))
            }
        }
    }

    /// The configuration of a text that may be committed now.
    fn committable(&self, text: &str) -> Result<Config, String> {
        let path = &self.current.path;
        let new = config::parse(text, path).map_err(|error| error.to_string())?;
        let known = check::check(&self.current);
        // What is wrong already must not keep other things from being put right.
        let bad = |finding: &Finding| finding.severity == Severity::Error && !known.contains(finding);
        let findings: Vec<String> =
            check::check(&new).iter().filter(|finding| bad(finding)).map(ToString::to_string).collect();
        if !findings.is_empty() {
            return Err(findings.join("\n"));
        }
        if new.server.state_dir != self.booted.server.state_dir {
            return Err(
                "`server.state_dir` cannot be committed, because the history is there: move the directory, \
                        change the file, and restart the daemon"
                    .to_owned(),
            );
        }
        if self.services.reverts_at().is_some() {
            return Err(
                "a change waits to be confirmed: confirm it, or wait until it is taken back".to_owned()
            );
        }
        let found = config::read(path).map_err(|error| error.to_string())?;
        if *found != *lock(&self.services.store).running() {
            return Err(format!(
                "{} was changed by hand since it was read: `portcullis reload` takes that in, then `update`",
                path.display()
            ));
        }
        Ok(new)
    }

    /// A changed policy of the kernel side is never in force for good at once where `[xdp]` says so.
    fn must_hold(&self, new: &Config) -> Option<Duration> {
        let confirm = new.xdp.as_ref().map(|xdp| xdp.confirm).filter(|confirm| !confirm.is_zero())?;
        self.services.kernel.would_change(&self.as_served(new)).then_some(confirm)
    }

    fn stage(&self, text: &str, trial: Option<&Trial>) -> Result<(), String> {
        let store = lock(&self.services.store);
        let staged = store.stage(text).and_then(|()| trial.map_or(Ok(()), |trial| store.note_trial(trial)));
        staged.map_err(|error| {
            store.unstage();
            format!(
                "nothing has changed: {} or the state directory cannot be written: {error}",
                store.path().display()
            )
        })
    }

    /// Takes a commit back that nobody has confirmed in time.
    pub(super) fn revert_commit(&mut self) {
        let overdue = {
            let store = lock(&self.services.store);
            let trial = store.trial().filter(|trial| trial.ends <= Instant::now());
            trial.map(|trial| (trial.before().to_owned(), trial.who().to_owned()))
        };
        let Some((before, who)) = overdue else { return };
        let comment = format!("the commit of {who} was not confirmed in time");
        let outcome = self.take_back(&before, &comment);
        let (word, detail) = match &outcome {
            Ok(()) => {
                tracing::error!("{comment}: the configuration before is in force again");
                ("done", "the configuration before is in force again")
            }
            Err(error) => {
                tracing::error!("{comment}, and cannot be taken back: {error}");
                lock(&self.services.store).put_off_revert(Instant::now() + REVERT_AGAIN);
                ("failed", error.as_str())
            }
        };
        self.services.audit.add(&Record::new(Origin::daemon(), None, comment.into(), word, detail));
    }

    fn take_back(&mut self, before: &str, comment: &str) -> Result<(), String> {
        let old = config::parse(before, &self.current.path).map_err(|error| error.to_string())?;
        lock(&self.services.store).stage(before).map_err(|error| error.to_string())?;
        self.put_in_force(old, before, Hold::Elsewhere)?;
        let adopted = lock(&self.services.store).adopt(before, None, &Origin::daemon(), "revert", comment);
        adopted.map(drop).map_err(|error| error.to_string())
    }
}
