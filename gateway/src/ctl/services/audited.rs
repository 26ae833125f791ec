//! Every request passes here: may its sender ask that, and if it changes something, who did what and what came of it.

use std::sync::Arc;

use super::Services;
use crate::audit::{Audit, Record};
use crate::ctl::protocol::{Answer, Command, ErrorCode, Failure};
use crate::role::Caller;

impl Services {
    /// Answers one command of somebody, if their role allows it.
    pub async fn answer(&self, caller: Caller, command: Command) -> Answer {
        let least = command.least_role();
        let audited = command.is_change();
        let what = command.for_audit();
        if caller.role < least {
            let text = format!(
                "this needs the role {}; {} has the role {} (members of the group {} have it)",
                least.as_str(),
                caller.name,
                caller.role.as_str(),
                least.group()
            );
            let (origin, role) = (caller.origin(), caller.role.as_str());
            self.note(move |audit| audit.deny(origin, role, what)).await;
            return Answer::from(Err(Failure::new(ErrorCode::Refused, text)));
        }
        let answer = self.act(&caller, command).await;
        if audited {
            let (outcome, detail) = answer.for_audit();
            let record = Record::new(caller.origin(), Some(caller.role.as_str()), what, outcome, &detail);
            self.note(move |audit| audit.add(&record)).await;
        }
        answer
    }

    /// Comes back when the record would survive a power cut; sessions that are being set up do not wait for the disk.
    async fn note(&self, record: impl FnOnce(&Audit) + Send + 'static) {
        let audit = Arc::clone(&self.audit);
        if let Err(error) = tokio::task::spawn_blocking(move || record(&audit)).await {
            tracing::error!(%error, "the audit log was not written");
        }
    }
}
