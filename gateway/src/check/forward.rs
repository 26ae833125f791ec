//! What is doubtful about a `forward` listener on this machine.

use std::ops::RangeInclusive;

use crate::config::{
    CheckTrust, Config, DataPath, Finding, ForwardConfig, ListenerConfig, Severity, interface_of,
};
use crate::forward::source_towards;
use crate::tls::certs::roots;
use crate::xdp::loader::client_ports;

pub(super) fn check(
    config: &Config,
    listener: &ListenerConfig,
    forward: &ForwardConfig,
    findings: &mut Vec<Finding>,
) {
    let mut add = |severity, message: String, remedy: &str| {
        findings.push(Finding::new(severity, format!("listener {}", listener.name), message, remedy));
    };
    for server in &forward.servers {
        if source_towards(server.address.ip()).is_err() {
            let family = if server.address.is_ipv4() { "IPv4" } else { "IPv6" };
            let message = format!("nothing routes to the server {} ({family})", server.address);
            add(Severity::Warning, message, "give this machine an address and a route of that family");
        }
    }
    for source in forward.source.iter().filter(|source| interface_of(**source).is_none()) {
        let message = format!("`source` {source} is no address of this machine");
        add(
            Severity::Warning,
            message,
            "no server can be reached from it; `ip address` lists those that can be",
        );
    }
    let ca = forward.health.as_ref().and_then(|health| health.check.tls());
    if let Some(CheckTrust::Ca(path)) = ca.map(|tls| &tls.trust)
        && let Err(error) = roots(path)
    {
        let remedy =
            "put the certificate of the authority that signed the servers' certificates there, as PEM";
        add(Severity::Error, error.to_string(), remedy);
    }
    match &forward.health {
        None if forward.servers.len() > 1 => {
            let message = "the servers are not checked: flows go to those that do not answer, too".to_owned();
            add(Severity::Info, message, "set a `kind` in [listener.health]");
        }
        Some(health) if health.timeout > health.interval => {
            let message = "`timeout` of the checks is longer than their `interval`".to_owned();
            add(
                Severity::Info,
                message,
                "a silent server is checked less often than that; shorten `timeout`",
            );
        }
        _ => {}
    }
    if config.xdp.is_some() && forward.data_path != DataPath::User {
        check_ports(config, forward, &mut add);
    }
}

/// Ports that the kernel takes for forwarded flows must be nobody else's.
fn check_ports(config: &Config, forward: &ForwardConfig, add: &mut impl FnMut(Severity, String, &str)) {
    let ports = &forward.source_ports;
    let shown = |ports: &RangeInclusive<u16>| format!("{} to {}", ports.start(), ports.end());
    let (first, last) = client_ports();
    if ports.start() <= &last && &first <= ports.end() {
        let message = format!(
            "`source_ports` {} overlaps with the ports of this machine's own connections, {}",
            shown(ports),
            shown(&(first..=last))
        );
        let remedy = "choose others, or narrow the sysctl net.ipv4.ip_local_port_range";
        add(Severity::Warning, message, remedy);
    }
    for other in &config.listeners {
        if let Some(listen) = other.listen.iter().find(|listen| ports.contains(&listen.port())) {
            let message = format!("`source_ports` {} holds the port of {listen}", shown(ports));
            add(Severity::Warning, message, "choose others, or another port for that listener");
        }
    }
}
