//! What a reload changes at once, and what only after a restart.
//!
//! Threads, descriptors and the ticket store are made at start; everything else is read anew for each connection
//! or request. One change is one line, in words that an operator finds in the file.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use serde::Serialize;

use super::{Config, ForwardConfig, ListenerConfig, MetricsConfig, ServerConfig, StaServerConfig, XdpConfig};

/// The difference between two configurations.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ReloadPlan {
    /// Applied by the reload.
    pub live: Vec<String>,
    /// Needs a restart; until then the old value holds.
    pub restart: Vec<String>,
}

impl ReloadPlan {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.live.is_empty() && self.restart.is_empty()
    }

    fn live(&mut self, changed: bool, what: &str) {
        if changed {
            self.live.push(what.to_owned());
        }
    }

    fn restart(&mut self, changed: bool, what: &str) {
        if changed {
            self.restart.push(what.to_owned());
        }
    }
}

/// Plans the change from `old` to `new`.
#[must_use]
pub fn compare(old: &Config, new: &Config) -> ReloadPlan {
    let mut plan = ReloadPlan::default();
    plan.restart(old.server.workers != new.server.workers, "server.workers");
    plan.live(old.server.record_layer != new.server.record_layer, "server.record_layer");
    plan.restart(old.server.state_dir != new.server.state_dir, "server.state_dir");
    plan.live(old.server.drain_timeout != new.server.drain_timeout, "server.drain_timeout");
    plan.restart(old.server.relay_engine != new.server.relay_engine, "server.relay_engine");
    plan.restart(old.server.relay_gather != new.server.relay_gather, "server.relay_gather");
    plan.restart(old.control != new.control, "control.socket");
    plan.live(old.log.level != new.log.level, "log.level");
    plan.live(old.log.format != new.log.format, "log.format");
    plan.restart(old.log.file != new.log.file, "log.file");
    metrics(&mut plan, old.metrics.as_ref(), new.metrics.as_ref());
    plan.restart(old.dns != new.dns, "dns");
    plan.live(old.limits != new.limits, "limits");
    named(&mut plan, "certificate", &old.certificates, &new.certificates, |files| &files.name);
    plan.live(old.acme != new.acme, "acme");
    named(&mut plan, "users", &old.users, &new.users, |users| &users.name);
    named(&mut plan, "sta", &old.stas, &new.stas, |sta| &sta.name);
    sta_server(&mut plan, old.sta_server.as_ref(), new.sta_server.as_ref());
    listeners(&mut plan, &old.listeners, &new.listeners);
    plan.live(old.bans != new.bans, "bans");
    xdp(&mut plan, old.xdp.as_ref(), new.xdp.as_ref());
    plan.live(old.high_availability != new.high_availability, "high_availability");
    plan.live(old.settings.network != new.settings.network, "network");
    plan.live(old.syslog != new.syslog, "syslog");
    plan.live(old.support_shell != new.support_shell, "support.shell");
    plan
}

/// Who may ask changes under way; where does not.
fn metrics(plan: &mut ReloadPlan, old: Option<&MetricsConfig>, new: Option<&MetricsConfig>) {
    plan.restart(old.map(|old| old.listen) != new.map(|new| new.listen), "metrics.listen");
    let (Some(old), Some(new)) = (old, new) else { return };
    plan.live(old.certificate != new.certificate, "metrics.certificate");
    plan.live(old.client_ca != new.client_ca, "metrics.client_ca");
    plan.live(old.token != new.token, "metrics.token_file");
}

/// Where packets are filtered is fixed at start; by which policy is not.
fn xdp(plan: &mut ReloadPlan, old: Option<&XdpConfig>, new: Option<&XdpConfig>) {
    let (old, new) = match (old, new) {
        (Some(old), Some(new)) => (old, new),
        (None, None) => return,
        (None, Some(_)) => return plan.restart(true, "xdp: added"),
        (Some(_), None) => return plan.restart(true, "xdp: removed"),
    };
    plan.restart(old.interfaces != new.interfaces, "xdp.interface");
    plan.restart(old.mode != new.mode, "xdp.mode");
    plan.restart(old.pins != new.pins, "xdp.pin_dir");
    plan.restart(old.cgroup != new.cgroup, "xdp.cgroup");
    plan.restart(old.sizes.flows != new.sizes.flows, "xdp.flows");
    plan.restart(old.sizes.forwards != new.sizes.forwards, "xdp.forwards");
    plan.restart(old.sizes.fragments != new.sizes.fragments, "xdp.fragments");
    plan.restart(old.sizes.bans != new.sizes.bans, "xdp.bans");
    plan.restart(old.sizes.events != new.sizes.events, "xdp.events");
    plan.restart(old.event_rate != new.event_rate, "xdp.event_rate");
    plan.restart(old.steering != new.steering, "xdp.steering");
    plan.live(old.flood != new.flood, "xdp.flood");
    plan.live(old.preset != new.preset, "xdp.preset");
    plan.live(old.rules != new.rules, "xdp.rule");
    plan.live(old.bogons != new.bogons, "xdp.bogons");
    plan.live(old.egress != new.egress, "xdp.egress");
    plan.live(old.egress_closed != new.egress_closed, "xdp.egress_policy");
    plan.live(old.confirm != new.confirm, "xdp.confirm");
    plan.live(old.allow_no_management != new.allow_no_management, "xdp.allow_no_management");
}

/// Tables that may come, go and change at any time.
fn named<T: PartialEq>(plan: &mut ReloadPlan, table: &str, old: &[T], new: &[T], name: fn(&T) -> &String) {
    let (old, new) = (by_name(old, name), by_name(new, name));
    for (name, before) in &old {
        match new.get(name) {
            None => plan.live.push(format!("{table} {name}: removed")),
            Some(after) => plan.live(before != after, &format!("{table} {name}: changed")),
        }
    }
    for name in new.keys().filter(|name| !old.contains_key(*name)) {
        plan.live.push(format!("{table} {name}: added"));
    }
}

fn sta_server(plan: &mut ReloadPlan, old: Option<&StaServerConfig>, new: Option<&StaServerConfig>) {
    let (old, new) = match (old, new) {
        (Some(old), Some(new)) => (old, new),
        (None, None) => return,
        (None, Some(_)) => return plan.restart(true, "sta_server: added"),
        (Some(_), None) => return plan.restart(true, "sta_server: removed"),
    };
    plan.restart(set(&old.listen) != set(&new.listen), "sta_server.listen");
    plan.restart(old.certificate != new.certificate, "sta_server.certificate");
    plan.restart(old.authority_id != new.authority_id, "sta_server.authority_id");
    plan.restart(old.allow_from != new.allow_from, "sta_server.allow_from");
    plan.restart(old.security_key != new.security_key, "sta_server.security_key");
    plan.restart(old.ticket_life != new.ticket_life, "sta_server.ticket_life");
    plan.restart(old.max_tickets != new.max_tickets, "sta_server.max_tickets");
}

fn listeners(plan: &mut ReloadPlan, old: &[Arc<ListenerConfig>], new: &[Arc<ListenerConfig>]) {
    let (old, new) = (by_name(old, |listener| &listener.name), by_name(new, |listener| &listener.name));
    for (name, before) in &old {
        match new.get(name) {
            None => plan.restart.push(format!("listener {name}: removed")),
            Some(after) => listener(plan, before, after),
        }
    }
    for name in new.keys().filter(|name| !old.contains_key(*name)) {
        plan.restart.push(format!("listener {name}: added"));
    }
}

fn listener(plan: &mut ReloadPlan, old: &ListenerConfig, new: &ListenerConfig) {
    let of = |what: &str| format!("listener {}: {what}", old.name);
    plan.restart(set(&old.listen) != set(&new.listen), &of("listen"));
    plan.live(old.kind != new.kind, &of("kind"));
    plan.live(old.certificates != new.certificates, &of("certificates"));
    plan.live(old.min_tls != new.min_tls, &of("min_tls"));
    plan.live(old.unmatched_sni != new.unmatched_sni, &of("unmatched_sni"));
    plan.live(old.stas != new.stas, &of("stas"));
    plan.live(old.users != new.users, &of("users"));
    plan.live(old.target != new.target, &of("target"));
    plan.live(old.server_tls != new.server_tls, &of("server_tls"));
    forward(plan, &old.name, old.forward.as_ref(), new.forward.as_ref());
    plan.live(old.allow_from != new.allow_from, &of("allow_from"));
    let (before, after) = (&old.policy, &new.policy);
    // Those of a `forward` listener are its servers.
    let is_list = old.forward.is_none() || new.forward.is_none();
    plan.live(is_list && before.rules() != after.rules(), &of("allow"));
    plan.live(before.permits_loopback() != after.permits_loopback(), &of("permit_loopback"));
    plan.live(before.permits_own_addresses() != after.permits_own_addresses(), &of("permit_own_addresses"));
    plan.live(before.own_addresses() != after.own_addresses(), &of("the machine's own addresses"));
}

/// Flows that have their server keep it, so all of this changes under way.
fn forward(plan: &mut ReloadPlan, name: &str, old: Option<&ForwardConfig>, new: Option<&ForwardConfig>) {
    // Otherwise the kind has changed, which is told.
    let (Some(old), Some(new)) = (old, new) else { return };
    let of = |what: &str| format!("listener {name}: {what}");
    let before: BTreeMap<&String, &ServerConfig> = old.servers.iter().map(|it| (&it.name, it)).collect();
    let after: BTreeMap<&String, &ServerConfig> = new.servers.iter().map(|it| (&it.name, it)).collect();
    for (server, settings) in &before {
        match after.get(server) {
            None => plan.live(true, &of(&format!("server {server}: removed"))),
            Some(now) => {
                plan.live(now.address != settings.address, &of(&format!("server {server}: address")));
                plan.live(now.weight != settings.weight, &of(&format!("server {server}: weight")));
            }
        }
    }
    for server in after.keys().filter(|server| !before.contains_key(*server)) {
        plan.live(true, &of(&format!("server {server}: added")));
    }
    plan.live(old.health != new.health, &of("health"));
    plan.live(old.data_path != new.data_path, &of("data_path"));
    plan.live(old.idle_timeout != new.idle_timeout, &of("idle_timeout"));
    plan.live(old.source != new.source, &of("source"));
    plan.live(old.source_ports != new.source_ports, &of("source_ports"));
}

fn by_name<T>(rows: &[T], name: impl Fn(&T) -> &String) -> BTreeMap<&String, &T> {
    rows.iter().map(|row| (name(row), row)).collect()
}

/// The order of addresses does not matter.
fn set(addresses: &[SocketAddr]) -> BTreeSet<SocketAddr> {
    addresses.iter().copied().collect()
}
