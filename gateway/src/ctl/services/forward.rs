//! Answers about `forward` listeners.

use std::collections::HashMap;

use super::{Outcome, Services};
use crate::ctl::protocol::{ErrorCode, Failure, ForwardStatus, ServerRef};
use crate::sync::lock;

impl Services {
    pub(super) fn forward_status(&self) -> Vec<ForwardStatus> {
        let mut rows = self.balancers.status();
        if rows.is_empty() {
            return rows;
        }
        // Of the sessions in user space, by listener and server.
        let mut flows: HashMap<(String, String), u64> = HashMap::new();
        for session in lock(&self.sessions).list() {
            let count = flows.entry((session.info.listener, session.info.target)).or_default();
            *count = count.saturating_add(1);
        }
        for row in &mut rows {
            for server in &mut row.servers {
                let ours = flows.get(&(row.listener.clone(), server.address.clone()));
                server.flows = server.flows.saturating_add(ours.copied().unwrap_or(0));
            }
        }
        rows
    }

    pub(super) fn drain_server(&self, which: &ServerRef, drained: bool) -> Outcome<Vec<ServerRef>> {
        let ServerRef { server, listener } = which;
        let listeners = self
            .balancers
            .set_drained(listener.as_deref(), server, drained)
            .map_err(|error| Failure::new(ErrorCode::NotFound, format!("`{server}`: {error}")))?;
        let done = if drained { "takes no new flows" } else { "takes new flows again" };
        tracing::info!(server, ?listeners, "a server {done}, as an operator said");
        let one = |listener: &std::sync::Arc<str>| ServerRef {
            server: server.clone(),
            listener: Some(listener.to_string()),
        };
        Ok(listeners.iter().map(one).collect())
    }
}
