//! The effective configuration as JSON: every default filled in, no secret, the keys of the file where there is one.

use std::ops::RangeInclusive;

use ipnet::IpNet;
use portcullis_core::limits::Limits;
use portcullis_core::penalty::Threshold;
use portcullis_core::policy::{Destination, Policy, Rule};
use portcullis_ebpf_common::tables::Action;
use serde_json::{Value, json};

use super::duration::format;
use super::rate;
use super::{
    AcmeCertificate, AcmeConfig, BansConfig, Check, CheckTrust, Config, ForwardConfig, HealthConfig,
    ListenerConfig, LogFormat, MetricsConfig, SecurityKey, ServerConfig, ServerTlsConfig, ServerTrust,
    StaConfig, StaServerConfig, StaTls, XdpConfig, XdpEgress, XdpInterface, XdpRule,
};
use crate::config::presets::Preset;
use crate::config::protocols;

pub(super) fn config(config: &Config) -> Value {
    let certificates = config
        .certificates
        .iter()
        .map(|files| json!({ "name": files.name, "chain": files.chain, "key": files.key }));
    let users = config.users.iter().map(|users| json!({ "name": users.name, "file": users.file }));
    json!({
        "file": config.path,
        "server": {
            "workers": config.server.workers,
            "record_layer": config.server.record_layer.as_str(),
            "state_dir": config.server.state_dir,
            "drain_timeout": format(config.server.drain_timeout),
            "relay_engine": config.server.relay_engine.as_str(),
            "relay_gather": config.server.relay_gather.to_string(),
        },
        "control": { "socket": config.control.socket },
        "log": {
            "level": config.log.level.as_str().to_ascii_lowercase(),
            "format": match config.log.format { LogFormat::Text => "text", LogFormat::Json => "json" },
            "file": config.log.file,
        },
        "metrics": config.metrics.as_ref().map(metrics),
        "dns": { "servers": config.dns.servers, "timeout": format(config.dns.timeout) },
        "limits": limits(&config.limits),
        "certificate": certificates.collect::<Value>(),
        "users": users.collect::<Value>(),
        "sta": config.stas.iter().map(|config| sta(config)).collect::<Value>(),
        "sta_server": config.sta_server.as_ref().map(sta_server),
        "listener": config.listeners.iter().map(|config| listener(config)).collect::<Value>(),
        "acme": config.acme.as_ref().map(acme),
        "bans": config.bans.as_ref().map(bans),
        "xdp": config.xdp.as_ref().map(xdp),
        "high_availability": config.high_availability.as_ref().map(super::HighAvailability::to_json),
        "network": config.settings.network.as_ref().map(super::NetworkConfig::to_json),
        "syslog": config.syslog.as_ref().map(super::SyslogConfig::to_json),
        "support": { "shell": config.support_shell },
    })
}

fn metrics(metrics: &MetricsConfig) -> Value {
    json!({
        "listen": metrics.listen,
        "certificate": metrics.certificate,
        "client_ca": metrics.client_ca,
        "token": metrics.token.is_some(),
    })
}

/// Says that there is an account elsewhere, not its key.
fn acme(acme: &AcmeConfig) -> Value {
    let certificate = |one: &AcmeCertificate| json!({ "name": one.name, "names": one.names });
    json!({
        "directory": acme.directory,
        "contact": acme.contact,
        "ca": acme.ca,
        "challenge": acme.challenge.as_str(),
        "http_listen": acme.http_listen,
        "renew_before": format(acme.renew_before),
        "eab_key_id": acme.external_account.as_ref().map(|account| &account.id),
        "certificates": acme.certificates.iter().map(certificate).collect::<Value>(),
    })
}

fn limits(limits: &Limits) -> Value {
    json!({
        "connections": limits.connections,
        "connections_per_source": limits.connections_per_source,
        "handshakes": limits.handshakes,
        "handshakes_per_source": limits.handshakes_per_source,
        "sessions": limits.sessions,
        "sessions_per_source": limits.sessions_per_source,
        "sessions_per_user": limits.sessions_per_user,
        "handshake_timeout": format(limits.handshake_timeout),
        "first_bytes_timeout": format(limits.first_bytes_timeout),
        "redeem_timeout": format(limits.redeem_timeout),
        "dial_timeout": format(limits.dial_timeout),
        "idle_timeout": format(limits.idle_timeout),
    })
}

fn sta(sta: &StaConfig) -> Value {
    let (ca, pin) = match &sta.tls {
        StaTls::PublicRoots => (None, None),
        StaTls::Ca(path) => (Some(path), None),
        StaTls::Pin(pin) => (None, Some(digits(pin))),
    };
    json!({
        "name": sta.name,
        "url": sta.url.to_string(),
        "authority_id": sta.authority_id.as_ref().map(ToString::to_string),
        "ca": ca,
        "pin_sha256": pin,
        "timeout": format(sta.timeout),
        "health_interval": format(sta.health_interval),
        "connections": sta.connections,
        "security_key": sta.security_key.as_ref().map(security_key),
    })
}

fn sta_server(server: &StaServerConfig) -> Value {
    json!({
        "listen": server.listen,
        "certificate": server.certificate,
        "authority_id": server.authority_id.as_ref().map(ToString::to_string),
        "allow_from": prefixes(&server.allow_from),
        "security_key": server.security_key.as_ref().map(security_key),
        "ticket_life": format(server.ticket_life),
        "max_tickets": server.max_tickets,
    })
}

/// Says that there are keys, not what they are.
fn security_key(key: &SecurityKey) -> Value {
    json!({ "header": key.header, "keys": key.values.len() })
}

fn listener(listener: &ListenerConfig) -> Value {
    let policy: &Policy = &listener.policy;
    json!({
        "name": listener.name,
        "kind": listener.kind.as_str(),
        "listen": listener.listen,
        "certificates": listener.certificates,
        "min_tls": listener.uses_tls().then(|| listener.min_tls.as_str()),
        "unmatched_sni": listener.uses_tls().then(|| listener.unmatched_sni.as_str()),
        "stas": listener.stas,
        "users": listener.users,
        "target": listener.target.as_ref().map(ToString::to_string),
        "server_tls": listener.server_tls.as_ref().map(server_tls),
        "forward": listener.forward.as_ref().map(forward),
        "allow_from": prefixes(&listener.allow_from),
        "permit_loopback": policy.permits_loopback(),
        "permit_own_addresses": policy.permits_own_addresses(),
        "own_addresses": policy.own_addresses(),
        "allow": policy.rules().iter().map(rule).collect::<Value>(),
    })
}

fn server_tls(tls: &ServerTlsConfig) -> Value {
    let (ca, pin) = match &tls.trust {
        ServerTrust::PublicRoots | ServerTrust::Anyone => (None, None),
        ServerTrust::Ca(path) => (Some(path), None),
        ServerTrust::Pin(pin) => (None, Some(digits(pin))),
    };
    json!({
        "ca": ca,
        "pin_sha256": pin,
        "verify": tls.trust != ServerTrust::Anyone,
        "server_name": tls.server_name,
        "min_tls": tls.min_tls.as_str(),
        "certificate": tls.certificate,
    })
}

fn bans(bans: &BansConfig) -> Value {
    let threshold =
        |threshold: Threshold| json!({ "count": threshold.count, "within": format(threshold.within) });
    json!({
        "bad_tickets": threshold(bans.rules.bad_tickets),
        "failed_logins": threshold(bans.rules.failed_logins),
        "broken_handshakes": threshold(bans.rules.broken_handshakes),
        "violations": threshold(bans.rules.violations),
        "ban_time": format(bans.rules.ban_time),
        "ban_time_most": format(bans.rules.ban_time_most),
        "ipv4_prefix": bans.rules.ipv4_prefix,
        "ipv6_prefix": bans.rules.ipv6_prefix,
        "allow": prefixes(&bans.allow),
    })
}

fn forward(forward: &ForwardConfig) -> Value {
    let server = |server: &ServerConfig| json!({ "name": server.name, "address": server.address, "weight": server.weight });
    json!({
        "server": forward.servers.iter().map(server).collect::<Value>(),
        "health": forward.health.as_ref().map(health),
        "data_path": forward.data_path.as_str(),
        "idle_timeout": format(forward.idle_timeout),
        "source": forward.source,
        "source_ports": ports(&forward.source_ports),
    })
}

fn health(health: &HealthConfig) -> Value {
    let (path, expect, host) = match &health.check {
        Check::Http { path, expect, host, .. } => (Some(path), Some(ports(expect)), host.as_ref()),
        Check::Tcp | Check::Tls(_) => (None, None, None),
    };
    let tls = health.check.tls();
    let (ca, pin) = match tls.map(|tls| &tls.trust) {
        Some(CheckTrust::Ca(path)) => (Some(path), None),
        Some(CheckTrust::Pin(pin)) => (None, Some(digits(pin))),
        Some(CheckTrust::Any) | None => (None, None),
    };
    json!({
        "kind": health.check.as_str(),
        "interval": format(health.interval),
        "timeout": format(health.timeout),
        "rise": health.thresholds.rise,
        "fall": health.thresholds.fall,
        "path": path,
        "expect": expect,
        "server_name": tls.and_then(|tls| tls.server_name.as_ref()).or(host),
        "ca": ca,
        "pin_sha256": pin,
    })
}

pub(super) fn digits(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn xdp(xdp: &XdpConfig) -> Value {
    let interface =
        |interface: &XdpInterface| json!({ "name": interface.name, "role": interface.role.as_str() });
    let rule = |rule: &XdpRule| {
        json!({
            "role": rule.role.as_str(),
            "protocol": protocols::shown(rule.protocol),
            "ports": rule.ports.iter().map(ports).collect::<Value>(),
            "from": prefixes(&rule.from),
            "action": rule.action.as_str(),
            "rate": (rule.action == Action::Limit).then(|| format!("{}/s", rule.per_second)),
        })
    };
    let egress = |row: &XdpEgress| {
        json!({
            "to": prefixes(&row.to),
            "protocol": protocols::shown(row.protocol),
            "ports": row.ports.iter().map(ports).collect::<Value>(),
            "action": row.action.as_str(),
        })
    };
    json!({
        "preset": xdp.preset.map(Preset::as_str),
        "mode": xdp.mode.as_str(),
        "pin_dir": xdp.pins,
        "allow_no_management": xdp.allow_no_management,
        "bogons": xdp.bogons.as_str(),
        "confirm": format(xdp.confirm),
        "egress_policy": if xdp.egress_closed { "closed" } else { "open" },
        "cgroup": xdp.cgroup,
        "flows": xdp.sizes.flows,
        "forwards": xdp.sizes.forwards,
        "fragments": xdp.sizes.fragments,
        "bans": xdp.sizes.bans,
        "events": xdp.sizes.events,
        "event_rate": xdp.event_rate,
        "steering": xdp.steering.as_str(),
        "flood": {
            "syn_per_source": rate::format(xdp.flood.syn_per_source),
            "syn_total": rate::format(xdp.flood.syn_total),
            "icmp_total": rate::format(xdp.flood.icmp_total),
            "cookies": xdp.flood.cookies.as_str(),
            "calm": format(xdp.flood.calm),
            "cookie_life": format(xdp.flood.cookie_life),
        },
        "interface": xdp.interfaces.iter().map(interface).collect::<Value>(),
        "rule": xdp.rules.iter().map(rule).collect::<Value>(),
        "egress": xdp.egress.iter().map(egress).collect::<Value>(),
    })
}

fn rule(rule: &Rule) -> Value {
    let to = rule.to.iter().map(|to| match to {
        Destination::Prefix(prefix) => prefix.to_string(),
        Destination::Name(name) => name.to_string(),
        Destination::Below(name) => format!("*.{name}"),
    });
    json!({ "to": to.collect::<Vec<_>>(), "ports": rule.ports.iter().map(ports).collect::<Value>() })
}

fn ports(ports: &RangeInclusive<u16>) -> Value {
    match ports.start() == ports.end() {
        true => json!(ports.start()),
        false => json!(format!("{}-{}", ports.start(), ports.end())),
    }
}

fn prefixes(prefixes: &[IpNet]) -> Vec<String> {
    prefixes.iter().map(ToString::to_string).collect()
}
