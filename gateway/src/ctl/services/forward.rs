//! Answers about `forward` listeners.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::{Outcome, Services};
use crate::ctl::protocol::{
    ErrorCode, Failure, ForwardFlow, ForwardFlowFilter, ForwardFlowPage, ForwardStatus, ServerRef,
};
use crate::sync::lock;
use crate::xdp::ForwardedFlow;

/// Flows in one answer, which has to fit into one.
const FLOWS_PER_ANSWER: usize = 5_000;

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

    /// Flows that the kernel forwards; those in user space are sessions.
    pub(super) async fn forward_flows(&self, filter: ForwardFlowFilter) -> Outcome<ForwardFlowPage> {
        let kernel = Arc::clone(&self.kernel);
        let failed = |error: String| Failure::new(ErrorCode::Internal, error);
        // A look through a full table takes a while; the control plane goes on meanwhile.
        let flows = tokio::task::spawn_blocking(move || kernel.forwarded_flows())
            .await
            .map_err(|error| failed(error.to_string()))?
            .map_err(|error| failed(error.to_string()))?;
        let mut rows: Vec<ForwardFlow> = flows.iter().map(|flow| self.forward_flow(flow)).collect();
        let ForwardFlowFilter { listener, server, limit } = filter;
        rows.retain(|row| {
            (listener.is_none() || row.listener == listener)
                && server.as_ref().is_none_or(|server| row.server == *server)
        });
        let matched = rows.len();
        rows.truncate(limit.unwrap_or(FLOWS_PER_ANSWER).min(FLOWS_PER_ANSWER));
        Ok(ForwardFlowPage { matched, flows: rows })
    }

    fn forward_flow(&self, flow: &ForwardedFlow) -> ForwardFlow {
        let service = flow.listener.as_ref().and_then(|listener| self.balancers.get(listener));
        let service = service.map(|balancer| balancer.service());
        let server = service.iter().flat_map(|it| &it.servers).find(|it| it.address == flow.server);
        let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        ForwardFlow {
            listener: flow.listener.as_ref().map(ToString::to_string),
            server: server.map_or_else(|| flow.server.to_string(), |server| server.name.to_string()),
            client: flow.client.to_string(),
            local: flow.local.to_string(),
            source: flow.source.to_string(),
            address: flow.server.to_string(),
            state: flow.state().to_owned(),
            packets_up: flow.packets_up,
            bytes_up: flow.bytes_up,
            packets_down: flow.packets_down,
            bytes_down: flow.bytes_down,
            age_ms: milliseconds(flow.age),
            idle_ms: milliseconds(flow.idle),
        }
    }

    pub(super) fn drain_server(&self, which: &ServerRef, drained: bool) -> Outcome<Vec<ServerRef>> {
        let ServerRef { server, listener } = which;
        let listeners = self
            .balancers
            .set_drained(listener.as_deref(), server, drained)
            .map_err(|error| Failure::new(ErrorCode::NotFound, format!("`{server}`: {error}")))?;
        let done = if drained { "takes no new flows" } else { "takes new flows again" };
        tracing::info!(server, ?listeners, "a server {done}, as an operator said");
        let one =
            |listener: &Arc<str>| ServerRef { server: server.clone(), listener: Some(listener.to_string()) };
        Ok(listeners.iter().map(one).collect())
    }
}
