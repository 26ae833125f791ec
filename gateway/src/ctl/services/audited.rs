//! Every request passes here: may its sender ask that, and if it changes something, who did what and what came of it.

use super::Services;
use crate::audit::Record;
use crate::ctl::protocol::{Answer, Command, ErrorCode, Failure};
use crate::ctl::role::Caller;

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
            self.audit.add(&Record::new(caller.origin(), Some(caller.role.as_str()), what, "denied", ""));
            return Answer::from(Err(Failure::new(ErrorCode::Refused, text)));
        }
        let answer = self.act(&caller, command).await;
        if audited {
            let (outcome, detail) = answer.for_audit();
            self.audit.add(&Record::new(caller.origin(), Some(caller.role.as_str()), what, outcome, &detail));
        }
        answer
    }
}
