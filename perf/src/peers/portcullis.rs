//! Portcullis itself: a `ssl-relay` listener for bytes and messages, a `gateway` listener with its own ticket
//! authority for session set-up.
//!
//! Everything that is not named here has its default, the log of finished sessions included: that is what an
//! operator gets.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;

use anyhow::{Context as _, Result};
use portcullis_tests::gateway::Setup;
use portcullis_tests::process;

use crate::contender::{Contender, Door, Process};
use crate::cpu;
use crate::load::PATIENCE;
use crate::tickets::Tickets;

/// Builds the daemon if need be: before this process is bound to one CPU.
pub(crate) fn build() -> Result<()> {
    process::binary("portcullisd").map(drop).context("our own daemon")
}

/// Starts the daemon on one CPU in front of the back end, with the certificate that `setup` has made.
pub(crate) fn start(mut setup: Setup, label: &str, backend: SocketAddr, cpu: usize) -> Result<Contender> {
    setup.own_authority(Ipv4Addr::LOCALHOST.into())?;
    setup.merge(COMMON)?;
    let relay = setup.listener("relay", "ssl-relay", &relay_keys(backend))?;
    let gateway = setup.listener("gateway", "gateway", &gateway_keys(backend))?;
    let version = process::run(Command::new(process::binary("portcullisd")?).arg("--version"), PATIENCE)?;
    let version = version.ok()?.stdout.trim().to_owned();
    let daemon = cpu::pinned(cpu, || setup.start())?;
    let tickets = Tickets::new(daemon.control().socket.clone(), backend);
    let door = Door::Ticketed(gateway, tickets);
    Ok(Contender::new(label, version, relay, door, Process::Portcullis(Box::new(daemon)), cpu))
}

/// Tickets are issued ahead of the slices that use them, and what is left over serves the next.
const COMMON: &str = r#"
[server]
workers = 1
[log]
level = "info"
[sta_server]
ticket_life = "1h"
"#;

fn relay_keys(backend: SocketAddr) -> String {
    format!("target = \"{backend}\"\npermit_loopback = true\nmin_tls = \"1.3\"\n")
}

fn gateway_keys(backend: SocketAddr) -> String {
    let (ip, port) = (backend.ip(), backend.port());
    format!(
        "stas = [\"local\"]\npermit_loopback = true\nmin_tls = \"1.3\"\n\
         allow = [{{ to = [\"{ip}/32\"], ports = [{port}] }}]\n"
    )
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_configuration_holds_one_worker_and_both_listeners() {
        let mut setup = Setup::new().unwrap();
        let backend = "127.0.0.1:7".parse().unwrap();
        setup.own_authority(Ipv4Addr::LOCALHOST.into()).unwrap();
        setup.merge(COMMON).unwrap();
        setup.listener("relay", "ssl-relay", &relay_keys(backend)).unwrap();
        setup.listener("gateway", "gateway", &gateway_keys(backend)).unwrap();
        let text = fs::read_to_string(setup.write().unwrap()).unwrap();
        for piece in
            ["workers = 1", "ticket_life = \"1h\"", "target = \"127.0.0.1:7\"", "127.0.0.1/32", "local"]
        {
            assert!(text.contains(piece), "{piece} in\n{text}");
        }
    }
}
