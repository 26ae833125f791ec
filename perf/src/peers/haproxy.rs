//! HAProxy as a plain TLS relay, configured for this job as well as we know.
//!
//! One thread, because it gets one core. TLS 1.3, one suite and one curve, so that all contenders do the same
//! arithmetic. Buffers of 64 KiB instead of 16: four records per read relay more bytes per CPU second. Stateless
//! tickets stay on, as for us. As many connections as fit a limit of 1,024 descriptors. No log, no health check: nothing that costs and is not asked for.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use portcullis_tests::process::{self, Child};

use crate::contender::{Contender, Door, Process};
use crate::cpu;
use crate::load::PATIENCE;

/// Where HAProxy is.
pub(crate) fn find() -> Result<PathBuf> {
    process::find_program("haproxy").context("haproxy is missing: install it with `apt-get install haproxy`")
}

/// Starts HAProxy on one CPU in front of the back end. `pem` holds the chain and the key.
pub(crate) fn start(
    program: &Path,
    label: &str,
    dir: &Path,
    pem: &Path,
    backend: SocketAddr,
    cpu: usize,
) -> Result<Contender> {
    let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), process::free_port()?);
    let config = dir.join(format!("{label}.cfg"));
    fs::write(&config, render(address, pem, backend)).context("write the configuration of HAProxy")?;
    let version = version(program)?;
    let mut child = cpu::pinned(cpu, || {
        Child::spawn(label, Command::new(program).arg("-db").arg("-f").arg(&config), dir)
    })?;
    child.wait_for_port(address, PATIENCE)?;
    Ok(Contender::new(label, version, address, Door::Open(address), Process::Haproxy(child), cpu))
}

fn render(address: SocketAddr, pem: &Path, backend: SocketAddr) -> String {
    let pem = pem.display();
    format!(
        "global
    nbthread 1
    maxconn 400
    tune.bufsize 65536
    tune.ssl.maxrecord 0
    ssl-default-bind-options ssl-min-ver TLSv1.3 ssl-max-ver TLSv1.3
    ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256
    ssl-default-bind-curves X25519

defaults
    mode tcp
    maxconn 400
    timeout connect 10s
    timeout client 2h
    timeout server 2h

frontend relay
    bind {address} ssl crt {pem}
    default_backend machine

backend machine
    server machine {backend}
"
    )
}

/// A configuration that relays TCP as it is, on one thread.
pub(crate) fn render_plain(address: SocketAddr, backend: SocketAddr) -> String {
    format!(
        "global
    nbthread 1
    maxconn 400

defaults
    mode tcp
    maxconn 400
    timeout connect 10s
    timeout client 2h
    timeout server 2h

frontend relay
    bind {address}
    default_backend machine

backend machine
    server machine {backend}
"
    )
}

/// HAProxy's version and that of the OpenSSL that it runs on.
fn version(program: &Path) -> Result<String> {
    let output = process::run(Command::new(program).arg("-vv"), PATIENCE)?.ok()?;
    Ok(read_version(&output.stdout))
}

fn read_version(text: &str) -> String {
    let after = |start: &str| text.lines().find_map(|line| line.strip_prefix(start)).unwrap_or("unknown");
    let own = after("HAProxy version ").split(' ').next().unwrap_or_default();
    let library = after("Running on OpenSSL version : ");
    format!("HAProxy {own}, {library}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_names_address_certificate_and_back_end() {
        let text = render("127.0.0.1:1".parse().unwrap(), Path::new("a.pem"), "127.0.0.1:2".parse().unwrap());
        for line in ["    nbthread 1", "    bind 127.0.0.1:1 ssl crt a.pem", "    server machine 127.0.0.1:2"]
        {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
        assert!(!text.contains("no-tls-tickets"));
    }

    #[test]
    fn versions_are_cut_from_the_long_listing() {
        let text = "HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/\nStatus: x\n\
                    Running on OpenSSL version : OpenSSL 3.0.19 27 Jan 2026\n";
        assert_eq!(read_version(text), "HAProxy 2.6.12-1+deb12u4, OpenSSL 3.0.19 27 Jan 2026");
    }
}
