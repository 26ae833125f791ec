//! Portcullis itself: a `ssl-relay` listener for bytes and messages, a `gateway` listener with its own ticket
//! authority for session set-up, a `socks` listener for bytes without TLS.
//!
//! Everything that is not named here has its default, the log of finished sessions included: that is what an
//! operator gets.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};
use portcullis_tests::gateway::Setup;
use portcullis_tests::process;

use super::{Kind, Site};
use crate::contender::{Contender, Door, Process, Ways};
use crate::cpu;
use crate::load::PATIENCE;
use crate::load::connection::Entry;
use crate::tickets::Tickets;

/// Builds the daemon if need be: before this process is bound to one CPU.
pub(super) fn find() -> Result<(Vec<PathBuf>, String)> {
    let program = process::binary("portcullisd").context("our own daemon")?;
    let version = process::run(Command::new(&program).arg("--version"), PATIENCE)?.ok()?;
    Ok((vec![program], version.stdout.trim().to_owned()))
}

/// Starts the daemon on one CPU in front of the back end.
pub(super) fn start(kind: Kind, site: &Site) -> Result<Contender> {
    let mut setup = Setup::new()?;
    // The certificate that all contenders have, instead of the one that was made.
    for name in ["main.crt", "main.key"] {
        fs::copy(site.certificates.join(name), setup.dir().join(name)).context("copy the certificate")?;
    }
    let listeners = configure(&mut setup, site.backend)?;
    let gather = match kind {
        Kind::PortcullisGathering => Some("1ms"),
        Kind::PortcullisPrompt => Some("0s"),
        _ => None,
    };
    if let Some(gather) = gather {
        setup.merge(&format!("[server]\nrelay_gather = \"{gather}\"\n"))?;
    }
    let metrics = setup.metrics(Ipv4Addr::LOCALHOST.into())?;
    let daemon = cpu::pinned(site.cpu, || setup.start())?;
    let tickets = Tickets::new(daemon.control().socket.clone(), site.backend);
    let [relay, gateway, socks] = listeners;
    let plain = Some(Entry::Socks(socks, site.backend));
    let ways = Ways { tls: Some(Entry::Tls(relay)), plain, splice: plain };
    let (label, process) = (kind.label(), Process::Portcullis(Box::new(daemon)));
    let mut contender = Contender::new(label, ways, Door::Ticketed(gateway, tickets), process, site.cpu);
    contender.metrics = Some(metrics);
    Ok(contender)
}

fn configure(setup: &mut Setup, backend: SocketAddr) -> Result<[SocketAddr; 3]> {
    setup.own_authority(Ipv4Addr::LOCALHOST.into())?;
    setup.merge(COMMON)?;
    let (ip, port) = (backend.ip(), backend.port());
    let allow = format!("permit_loopback = true\nallow = [{{ to = [\"{ip}/32\"], ports = [{port}] }}]\n");
    Ok([
        setup.listener("relay", "ssl-relay", &format!("target = \"{backend}\"\npermit_loopback = true\n"))?,
        setup.listener("gateway", "gateway", &format!("stas = [\"local\"]\n{allow}"))?,
        setup.listener("plain", "socks", &allow)?,
    ])
}

/// Tickets are issued ahead of the slices that use them, and what is left over serves the next. All sessions come from
/// one address, and there are as many as the descriptors of one process allow.
const COMMON: &str = r#"
[server]
workers = 1
[log]
level = "info"
[sta_server]
ticket_life = "1h"
[limits]
connections = 9700
connections_per_source = 9700
handshakes = 9700
handshakes_per_source = 9700
sessions = 9600
sessions_per_source = 9600
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_holds_one_worker_and_all_listeners() {
        let mut setup = Setup::new().unwrap();
        configure(&mut setup, "127.0.0.1:7".parse().unwrap()).unwrap();
        let text = fs::read_to_string(setup.write().unwrap()).unwrap();
        for piece in
            ["workers = 1", "ticket_life = \"1h\"", "target = \"127.0.0.1:7\"", "127.0.0.1/32", "local"]
        {
            assert!(text.contains(piece), "{piece} in\n{text}");
        }
    }
}
