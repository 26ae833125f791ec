//! Which policy is in force, its change in a running daemon, and the way back.

use std::path::PathBuf;
use std::time::Instant;

use super::{Active, Kernel, XdpError};
use crate::config::{Config, FloodConfig, XdpConfig};
use crate::sync::lock;
use crate::xdp::confirm::{self, Pending, Running};
use crate::xdp::outgoing;
use crate::xdp::policy::{Policy, RuleRow, rule_rows};
use crate::xdp::watch::Condition;

/// Which policy is in force, and which one waits to come back.
#[derive(Debug)]
pub(super) struct State {
    pub(super) running: Running,
    pub(super) pending: Option<Pending>,
    /// The configuration file with the policy that was confirmed last.
    pub(super) confirmed: String,
    pub(super) state_dir: PathBuf,
}

impl State {
    fn holds(&self, xdp: &XdpConfig, rows: &[RuleRow]) -> bool {
        self.running.rows == rows
            && self.running.xdp.bogons == xdp.bogons
            && self.running.xdp.egress_closed == xdp.egress_closed
    }
}

/// Whether a changed policy waits to be confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// As long as `confirm` of `[xdp]` says.
    AsConfigured,
    /// Not here: the whole configuration is on trial, or meant.
    Elsewhere,
}

impl State {
    /// Another text with the policy that holds: confirmed where that is, or else tried.
    fn note(&mut self, text: &str) -> Result<(), XdpError> {
        match &mut self.pending {
            Some(pending) if pending.tried != text => {
                confirm::note(&self.state_dir, &self.confirmed, text)
                    .map_err(|reason| XdpError::Note { path: self.state_dir.clone(), reason })?;
                text.clone_into(&mut pending.tried);
            }
            Some(_) => {}
            None => text.clone_into(&mut self.confirmed),
        }
        Ok(())
    }
}

/// Other budgets hold at once. By themselves they need no confirmation; with a policy that is taken back they go.
fn change_flood(active: &Active, running: &mut Running, flood: &FloodConfig) -> Result<(), XdpError> {
    if running.xdp.flood == *flood {
        return Ok(());
    }
    let mut maps = lock(&active.maps);
    maps.set_budgets(flood)?;
    let mut defence = lock(&active.defence);
    defence.change(flood);
    maps.set_cookies(defence.cookies())?;
    running.xdp.flood = flood.clone();
    tracing::info!("the budgets of [xdp.flood] have changed");
    Ok(())
}

/// What was before a change that waits is in force again. Whether there was one.
fn take_back(active: &Active, state: &mut State) -> Result<bool, XdpError> {
    let Some(pending) = &state.pending else { return Ok(false) };
    let flood = pending.before.xdp.flood.clone();
    change_flood(active, &mut state.running, &flood)?;
    lock(&active.maps).take_back()?;
    if let Some(pending) = state.pending.take() {
        state.running = pending.before;
    }
    Ok(true)
}

impl Kernel {
    /// The rows in force, those that decide first before others.
    #[must_use]
    pub fn rows(&self) -> Vec<RuleRow> {
        self.active.as_ref().map(|active| lock(&active.policy).running.rows.clone()).unwrap_or_default()
    }

    /// Which policy is in force: bogons, and whether egress is closed.
    #[must_use]
    pub fn running(&self) -> Option<XdpConfig> {
        self.active.as_ref().map(|active| lock(&active.policy).running.xdp.clone())
    }

    /// When a change of policy is taken back, unless it is confirmed.
    #[must_use]
    pub fn reverts_at(&self) -> Option<Instant> {
        lock(&self.active.as_ref()?.policy).pending.as_ref().map(|pending| pending.ends)
    }

    /// Whether the policy of a configuration is another than the one in force.
    #[must_use]
    pub fn would_change(&self, config: &Config) -> bool {
        let (Some(active), Some(xdp)) = (&self.active, &config.xdp) else { return false };
        !lock(&active.policy).holds(xdp, &rule_rows(config, xdp))
    }

    /// Puts the policy of a configuration, whose file is `text`, in force in one step: for good, or until it is taken
    /// back. An earlier change that nobody has confirmed is taken back first. Whether there was anything to change.
    ///
    /// # Errors
    /// When it cannot be put in force; then the one before stays.
    pub fn change(&self, config: &Config, text: &str, hold: Hold) -> Result<bool, XdpError> {
        let (Some(active), Some(xdp)) = (&self.active, &config.xdp) else { return Ok(false) };
        let policy = Policy::new(config, xdp).map_err(XdpError::Rules)?;
        let rows = rule_rows(config, xdp);
        let mut state = lock(&active.policy);
        if state.holds(xdp, &rows) {
            change_flood(active, &mut state.running, &xdp.flood)?;
            state.note(text)?;
            return Ok(false);
        }
        if take_back(active, &mut state)? && state.holds(xdp, &rows) {
            change_flood(active, &mut state.running, &xdp.flood)?;
            state.note(text)?;
            confirm::forget(&state.state_dir);
            return Ok(true);
        }
        if policy.has_egress {
            outgoing::attach(&mut lock(&active.ebpf), xdp, &active.attached_names())?;
            lock(&active.outgoing).condition.get_or_insert(Condition::Attached);
        }
        let waits = hold == Hold::AsConfigured && !xdp.confirm.is_zero();
        if waits {
            confirm::note(&state.state_dir, &state.confirmed, text)
                .map_err(|reason| XdpError::Note { path: state.state_dir.clone(), reason })?;
        }
        lock(&active.maps).apply(&policy)?;
        let before = state.running.clone();
        change_flood(active, &mut state.running, &xdp.flood)?;
        state.running = Running { xdp: xdp.clone(), rows, entries: policy.entries.rules.len() };
        let tried = text.to_owned();
        if waits {
            state.pending = Some(Pending { ends: Instant::now() + xdp.confirm, before, tried });
        } else {
            state.confirmed = tried;
            confirm::forget(&state.state_dir);
        }
        Ok(true)
    }

    /// The policy in force is meant. Whether it waited for that.
    pub fn confirm(&self) -> bool {
        let Some(active) = &self.active else { return false };
        let mut state = lock(&active.policy);
        let Some(pending) = state.pending.take() else { return false };
        state.confirmed = pending.tried;
        confirm::forget(&state.state_dir);
        true
    }

    /// Takes a policy back that nobody has confirmed in time, and returns what is in force again.
    ///
    /// # Errors
    /// When the kernel does not take it back; it is tried again.
    pub fn revert_overdue(&self) -> Result<Option<XdpConfig>, XdpError> {
        let Some(active) = &self.active else { return Ok(None) };
        let mut state = lock(&active.policy);
        if state.pending.as_ref().is_none_or(|pending| pending.ends > Instant::now()) {
            return Ok(None);
        }
        take_back(active, &mut state)?;
        Ok(Some(state.running.xdp.clone()))
    }
}
