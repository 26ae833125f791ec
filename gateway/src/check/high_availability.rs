//! What `[high_availability]` names on this machine.

use std::path::Path;

use crate::config::{Finding, HighAvailability, Severity, own_addresses};

/// Where Debian has it.
const KEEPALIVED: &str = "/usr/sbin/keepalived";

pub(super) fn check(ha: &HighAvailability, findings: &mut Vec<Finding>) {
    let mut add = |severity, message: String, remedy: &str| {
        findings.push(Finding::new(severity, "high_availability", message, remedy));
    };
    let of_addresses = ha.addresses.iter().map(|floating| &floating.interface);
    let mut interfaces: Vec<&String> = of_addresses.chain(&ha.track).chain([&ha.interface]).collect();
    interfaces.sort();
    interfaces.dedup();
    for interface in interfaces {
        if nix::net::if_::if_nametoindex(interface.as_str()).is_err() {
            let message = format!("there is no interface `{interface}` on this machine");
            add(Severity::Error, message, "`ip link` lists them; `keep` lets each appliance have its own");
        }
    }
    if !own_addresses().unwrap_or_default().contains(&ha.node.address) {
        let message = format!("this machine does not have the address {}", ha.node.address);
        add(
            Severity::Warning,
            message,
            "set `high_availability.node.address` to one of its own on `interface`",
        );
    }
    if !Path::new(KEEPALIVED).exists() {
        let message = format!("there is no {KEEPALIVED}: nobody gives this machine the addresses");
        add(
            Severity::Warning,
            message,
            "install keepalived, and let it run as docs/HIGH-AVAILABILITY.md says",
        );
    }
    if ha.node.sync.is_none() {
        let message = "configurations are neither given nor taken".to_owned();
        add(Severity::Info, message, "set `peer_sha256` to the fingerprint that the peer shows");
    }
}
