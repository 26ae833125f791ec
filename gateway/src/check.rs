//! What the file alone cannot tell: certificates, users and other files as they are now, and settings that are
//! legal but probably not meant.

mod forward;
mod high_availability;
mod network;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::time::SystemTime;

use portcullis_core::limits::Limits;
use portcullis_core::policy::Destination;
use portcullis_core::profile::Kind;
use portcullis_ebpf_common::Cause;

use crate::authn::local::UserDb;
use crate::config::{
    AcmeChallenge, AcmeConfig, CertificateFiles, Config, Finding, ListenerConfig, MetricsConfig, ServerTrust,
    Severity, StaConfig, StaTls, SyslogProtocol, XdpConfig, own_networks,
};
use crate::tls::certs::{certified_server_config, inspect, roots};
use crate::xdp::{self, policy::Policy};

/// Looks at everything that the configuration names. Errors come first.
#[must_use]
pub fn check(config: &Config) -> Vec<Finding> {
    let mut findings = config.remarks.clone();
    for files in &config.certificates {
        if is_to_come(config, files) {
            continue;
        }
        let faults = inspect(files, SystemTime::now());
        let explained = faults.iter().any(|fault| fault.severity == Severity::Error);
        findings.extend(faults);
        // The last word has the code that will use it: whatever `inspect` does not know.
        if let (false, Err(error)) = (explained, certified_server_config(files)) {
            let subject = format!("certificate {}", files.name);
            let remedy = "listeners that use it cannot start";
            findings.push(Finding::new(Severity::Error, subject, error.to_string(), remedy));
        }
    }
    users(config, &mut findings);
    unused(config, &mut findings);
    for sta in &config.stas {
        check_sta(sta, &mut findings);
    }
    if let Some(server) = &config.sta_server
        && server.certificate.is_none()
        && server.listen.iter().any(is_public)
    {
        findings.push(Finding::new(
            Severity::Info,
            "sta_server",
            "tickets are issued over plain http",
            "set `certificate`, unless the network between is trusted",
        ));
    }
    if let Some(metrics) = &config.metrics {
        check_metrics(metrics, &mut findings);
    }
    if let Some(acme) = &config.acme {
        check_acme(config, acme, &mut findings);
    }
    for listener in &config.listeners {
        check_listener(listener, &mut findings);
        if let Some(forward) = &listener.forward {
            forward::check(config, listener, forward, &mut findings);
        }
    }
    limits(&config.limits, &mut findings);
    bans(config, &mut findings);
    if let Some(xdp) = &config.xdp {
        check_xdp(config, xdp, &mut findings);
    }
    if let Some(ha) = &config.high_availability {
        high_availability::check(ha, &mut findings);
    }
    if let Some(network) = &config.settings.network {
        network::check(config, network, &mut findings);
    }
    syslog(config, &mut findings);
    if let Some(file) = &config.log.file
        && let Some(directory) = file.parent().filter(|directory| !directory.is_dir())
    {
        let message = format!("the directory {} does not exist", directory.display());
        findings.push(Finding::new(Severity::Error, "log", message, "create it, or leave out `file`"));
    }
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    findings
}

fn syslog(config: &Config, findings: &mut Vec<Finding>) {
    let Some(syslog) = &config.syslog else { return };
    let mut add = |severity, message: String, remedy: &str| {
        findings.push(Finding::new(severity, "syslog", message, remedy));
    };
    if let ServerTrust::Ca(path) = &syslog.tls.trust
        && let Err(error) = roots(path)
    {
        add(Severity::Error, error.to_string(), "put the authority's certificate there, as PEM");
    }
    if syslog.tls.trust == ServerTrust::Anyone {
        let message = "whoever answers at the server's address gets the log".to_owned();
        add(Severity::Warning, message, "leave out `verify`, and set `ca` or `pin_sha256`");
    }
    if syslog.protocol != SyslogProtocol::Tls {
        let message = format!(
            "{} is not encrypted, and has names and addresses of users in it",
            syslog.protocol.as_str()
        );
        add(Severity::Warning, message, "set `protocol` to \"tls\", unless the network between is trusted");
    }
    if config.log.file.is_some() {
        let message = "the journal is sent, and the gateway's own lines are in `log.file` instead".to_owned();
        add(Severity::Warning, message, "leave out `file` of [log]");
    }
}

/// Whether it comes by ACME and nothing is there yet: the daemon makes do with one of its own until then.
fn is_to_come(config: &Config, files: &CertificateFiles) -> bool {
    let by_acme = config.acme.iter().flat_map(|acme| &acme.certificates).any(|one| one.name == files.name);
    by_acme && !files.chain.exists()
}

fn check_acme(config: &Config, acme: &AcmeConfig, findings: &mut Vec<Finding>) {
    let mut add = |severity, message: &str, remedy: &str| {
        findings.push(Finding::new(severity, "acme", message, remedy));
    };
    if let Some(Err(error)) = acme.ca.as_ref().map(|path| roots(path)) {
        add(
            Severity::Error,
            &error.to_string(),
            "put the certificate of who signed the server's certificate there, as PEM",
        );
    }
    if acme.certificates.is_empty() {
        add(Severity::Info, "no [[certificate]] comes by it", "give one `acme_names`, or remove [acme]");
    }
    let at_https = config.listeners.iter().filter(|listener| listener.uses_tls());
    let at_https = at_https.flat_map(|listener| &listener.listen).any(|at| at.port() == 443);
    if acme.challenge == AcmeChallenge::TlsAlpn01 && !at_https {
        add(
            Severity::Warning,
            "issuers prove names at port 443, and no listener with TLS is there",
            "let a listener be reached by that port, or set `challenge = \"http-01\"`",
        );
    }
    if acme.contact.is_empty() {
        add(Severity::Info, "the issuer has nobody to write to", "set `contact`");
    }
}

fn users(config: &Config, findings: &mut Vec<Finding>) {
    for users in &config.users {
        let subject = format!("users {}", users.name);
        match UserDb::load(&users.file) {
            Err(error) => findings.push(Finding::new(
                Severity::Error,
                subject,
                error.to_string(),
                "correct the file; until then nobody in it can log in",
            )),
            Ok(db) if db.is_empty() => findings.push(Finding::new(
                Severity::Warning,
                subject,
                format!("{} holds no user", users.file.display()),
                "add a `name:hash` line; `portcullis config hash-password` makes the hash",
            )),
            Ok(_) => {
                let mode = std::fs::metadata(&users.file).map_or(0, |metadata| metadata.mode() & 0o777);
                if mode & 0o007 != 0 {
                    let message = format!("everybody can use {} (mode {mode:04o})", users.file.display());
                    let remedy = format!("chmod 600 {}", users.file.display());
                    findings.push(Finding::new(Severity::Warning, subject, message, remedy));
                }
            }
        }
    }
}

/// Tables that nothing refers to: usually a name was forgotten where it should stand.
fn unused(config: &Config, findings: &mut Vec<Finding>) {
    let listeners = || config.listeners.iter();
    let server = config.sta_server.as_ref().and_then(|server| server.certificate.as_ref());
    let metrics = config.metrics.as_ref().and_then(|metrics| metrics.certificate.as_ref());
    let shown = listeners().filter_map(|listener| listener.server_tls.as_ref()?.certificate.as_ref());
    let certificates: HashSet<&String> = listeners()
        .flat_map(|listener| &listener.certificates)
        .chain(server)
        .chain(metrics)
        .chain(shown)
        .collect();
    let stas: HashSet<&String> = listeners().flat_map(|listener| &listener.stas).collect();
    let users: HashSet<&String> = listeners().filter_map(|listener| listener.users.as_ref()).collect();
    let mut add = |table: &str, name: &String| {
        let message = "no listener uses it";
        let remedy = "name it in a listener, or remove it";
        findings.push(Finding::new(Severity::Info, format!("{table} {name}"), message, remedy));
    };
    for files in config.certificates.iter().filter(|files| !certificates.contains(&files.name)) {
        add("certificate", &files.name);
    }
    for sta in config.stas.iter().filter(|sta| !stas.contains(&sta.name)) {
        add("sta", &sta.name);
    }
    for file in config.users.iter().filter(|file| !users.contains(&file.name)) {
        add("users", &file.name);
    }
}

fn check_metrics(metrics: &MetricsConfig, findings: &mut Vec<Finding>) {
    let mut add = |severity, message: String, remedy: &str| {
        findings.push(Finding::new(severity, "metrics", message, remedy));
    };
    if let Some(Err(error)) = metrics.client_ca.as_ref().map(|path| roots(path)) {
        add(
            Severity::Error,
            error.to_string(),
            "put the certificate of who signs those of callers there, as PEM",
        );
    }
    if !is_public(&metrics.listen) {
        return;
    }
    let over = if metrics.certificate.is_some() { "https" } else { "plain http" };
    if metrics.certificate.is_none() && metrics.token.is_some() {
        add(Severity::Warning, "the token for the metrics travels in the clear".into(), "set `certificate`");
    } else if metrics.token.is_none() && metrics.client_ca.is_none() {
        let message = format!("the metrics are served over {over} to whoever reaches the address");
        add(Severity::Info, message, "listen on a loopback or management address, or set `token_file`");
    }
}

fn check_sta(sta: &StaConfig, findings: &mut Vec<Finding>) {
    let subject = || format!("sta {}", sta.name);
    if let StaTls::Ca(path) = &sta.tls
        && let Err(error) = roots(path)
    {
        let remedy =
            "put the certificate of the authority that signed the server's certificate there, as PEM";
        findings.push(Finding::new(Severity::Error, subject(), error.to_string(), remedy));
    }
    if !sta.url.https {
        let (severity, message) = if sta.security_key.is_some() {
            (Severity::Warning, "tickets and the security key travel over plain http")
        } else {
            (Severity::Info, "tickets travel over plain http")
        };
        let remedy = "use https, unless the network between is trusted";
        findings.push(Finding::new(severity, subject(), message, remedy));
    }
}

fn check_listener(listener: &ListenerConfig, findings: &mut Vec<Finding>) {
    let mut add = |severity, message: &str, remedy: &str| {
        findings.push(Finding::new(severity, format!("listener {}", listener.name), message, remedy));
    };
    let public = listener.listen.iter().any(is_public);
    if listener.users.is_some() && !listener.uses_tls() && public {
        add(Severity::Warning, "passwords travel in the clear", "set `certificates`");
    }
    let everyone = listener.allow_from.iter().any(|prefix| prefix.prefix_len() == 0);
    let to_anywhere = listener.policy.rules().iter().flat_map(|rule| &rule.to).any(|to| match to {
        Destination::Prefix(prefix) => prefix.prefix_len() == 0,
        Destination::Name(_) | Destination::Below(_) => false,
    });
    let proxy = matches!(listener.kind, Kind::Socks | Kind::SecureProxy | Kind::Relay);
    if proxy && public && everyone && to_anywhere && listener.users.is_none() {
        add(
            Severity::Warning,
            "anybody can reach anything through it: an open proxy",
            "set `users`, or narrow `allow_from` or the prefixes in [[listener.allow]]",
        );
    }
    if listener.policy.permits_loopback() && !matches!(listener.kind, Kind::SslRelay | Kind::Forward) {
        add(
            Severity::Warning,
            "sessions may lead to services on this machine's loopback addresses",
            "leave out `permit_loopback` except for trials",
        );
    }
    match listener.server_tls.as_ref().map(|tls| &tls.trust) {
        Some(ServerTrust::Anyone) => add(
            Severity::Warning,
            "nobody checks who answers as the server: whoever gets in between reads and changes its sessions",
            "set `ca` or `pin_sha256` in [listener.server_tls] instead of `verify` = false",
        ),
        Some(ServerTrust::Ca(path)) => {
            if let Err(error) = roots(path) {
                let remedy = "put the certificate of the authority that signed the servers' certificates there, as PEM";
                add(Severity::Error, &error.to_string(), remedy);
            }
        }
        Some(ServerTrust::PublicRoots | ServerTrust::Pin(_)) | None => {}
    }
    if listener.listen.iter().any(|address| address.port() == 0) {
        add(Severity::Info, "port 0 is any free port, another one at each start", "give a port");
    }
}

fn check_xdp(config: &Config, xdp: &XdpConfig, findings: &mut Vec<Finding>) {
    let mut add = |severity, message: String, remedy: &str| {
        findings.push(Finding::new(severity, "xdp", message, remedy));
    };
    if xdp::BUILD == "absent" {
        let message = "this build has no kernel side".to_owned();
        add(Severity::Error, message, "build it with `cargo xtask ebpf`, or leave out [xdp]");
    }
    if let Err(message) = Policy::new(config, xdp) {
        add(Severity::Error, message, "write fewer and wider rules");
    }
    for interface in &xdp.interfaces {
        if nix::net::if_::if_nametoindex(interface.name.as_str()).is_err() {
            let message = format!("there is no interface `{}` on this machine", interface.name);
            add(Severity::Error, message, "`ip link` lists them");
        }
    }
    if xdp::rules::metrics_are_at_the_edge(config, xdp) {
        let message = "the metrics are at the edge, where nobody gets to them".to_owned();
        add(
            Severity::Warning,
            message,
            "listen at mgmt; if strangers are to have them, write an [[xdp.rule]]",
        );
    }
    for mute in xdp::mute(&xdp.interfaces) {
        let message = match mute.cause() {
            Cause::Untagged => format!("what comes to `{}` without a VLAN tag is dropped", mute.name),
            _ => format!("what comes to the VLAN `{}` is dropped", mute.name),
        };
        let used = own_networks().iter().any(|(name, _)| *name == mute.name);
        // Nobody who has no address there expects anything.
        let severity = if used { Severity::Warning } else { Severity::Info };
        add(
            severity,
            message,
            "VLANs beside it have roles; give it one too in [[xdp.interface]] if it is used",
        );
    }
    if xdp.allow_no_management {
        let message = "administrators may be locked out (`allow_no_management`)".to_owned();
        add(Severity::Info, message, "`portcullis xdp detach` on the machine lets everything in again");
    }
}

/// Passwords that can be guessed at without end, and sources that are wider than a customer.
fn bans(config: &Config, findings: &mut Vec<Finding>) {
    let mut add = |severity, message: String, remedy: &str| {
        findings.push(Finding::new(severity, "bans", message, remedy));
    };
    let Some(bans) = &config.bans else {
        let asks = |listener: &&Arc<ListenerConfig>| {
            listener.users.is_some() && listener.listen.iter().any(is_public)
        };
        if let Some(listener) = config.listeners.iter().find(asks) {
            let message =
                format!("whoever guesses at the passwords of listener {} is not banned", listener.name);
            add(Severity::Info, message, "add [bans]");
        }
        return;
    };
    if bans.allow.iter().any(|prefix| prefix.prefix_len() == 0) {
        let message = "`allow` holds everybody: nobody is banned".to_owned();
        add(Severity::Warning, message, "name the networks that you trust, or leave out [bans]");
    }
    if bans.rules.ipv4_prefix < 32 {
        let message = format!("one address that misbehaves bans its whole /{}", bans.rules.ipv4_prefix);
        add(Severity::Info, message, "leave out `ipv4_prefix`, unless its neighbours are to suffer with it");
    }
}

/// Limits that another limit makes pointless.
fn limits(limits: &Limits, findings: &mut Vec<Finding>) {
    let pairs = [
        ("connections_per_source", limits.connections_per_source, "connections", limits.connections),
        ("handshakes_per_source", limits.handshakes_per_source, "handshakes", limits.handshakes),
        ("handshakes", limits.handshakes, "connections", limits.connections),
        ("sessions_per_source", limits.sessions_per_source, "sessions", limits.sessions),
        ("sessions_per_user", limits.sessions_per_user, "sessions", limits.sessions),
        ("sessions", limits.sessions, "connections", limits.connections),
    ];
    for (narrow, narrow_value, wide, wide_value) in pairs {
        if narrow_value > wide_value {
            findings.push(Finding::new(
                Severity::Warning,
                "limits",
                format!("`{narrow}` ({narrow_value}) is never reached, as `{wide}` is {wide_value}"),
                format!("lower `{narrow}`, or raise `{wide}`"),
            ));
        }
    }
    let step = limits.redeem_timeout.max(limits.dial_timeout);
    if step > limits.idle_timeout {
        findings.push(Finding::new(
            Severity::Warning,
            "limits",
            "`idle_timeout` is shorter than the set-up of a session may take",
            "raise `idle_timeout`",
        ));
    }
}

/// Whether others than this machine can get there.
fn is_public(address: &SocketAddr) -> bool {
    !address.ip().is_loopback()
}
