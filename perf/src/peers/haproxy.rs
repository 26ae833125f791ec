//! HAProxy as a relay, with TLS and without, configured for this job as well as we know.
//!
//! One thread, because it gets one core. One suite and one curve, so that all contenders do the same arithmetic.
//! For bulk, buffers of 64 KiB instead of 16: four records per read relay more bytes per CPU second; for many sessions
//! its default, which costs less. Stateless tickets stay on, as for us. No log, no health check: nothing that costs
//! and is not asked for.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use portcullis_tests::process;

use super::{Job, NEWEST_HAPROXY, Peer, Site, address, configure, launch};
use crate::contender::{Contender, Ways};
use crate::load::PATIENCE;
use crate::load::connection::Entry;

/// Where this machine's HAProxy is.
pub(crate) fn find() -> Result<PathBuf> {
    process::find_program("haproxy").context("haproxy is missing: install it with `apt-get install haproxy`")
}

pub(super) fn find_with_version() -> Result<(Vec<PathBuf>, String)> {
    let program = vec![find()?];
    let version = version(&program)?;
    Ok((program, version))
}

/// A newer one, unpacked with its libraries beside this machine's.
pub(super) fn find_newest() -> Result<(Vec<PathBuf>, String)> {
    let root = std::env::var_os(NEWEST_HAPROXY)
        .context("no newer HAProxy was unpacked: `cargo xtask perf` does that where apt reaches Debian")?;
    let root = PathBuf::from(root);
    // Its own loader and libraries: this machine's are too old for it.
    let library = root.join(format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH));
    let loader = if cfg!(target_arch = "x86_64") {
        "usr/lib64/ld-linux-x86-64.so.2"
    } else {
        "usr/lib/ld-linux-aarch64.so.1"
    };
    let program =
        vec![root.join(loader), PathBuf::from("--library-path"), library, root.join("usr/sbin/haproxy")];
    let version = version(&program)?;
    Ok((program, version))
}

pub(super) fn start(peer: &Peer, site: &Site, job: Job) -> Result<Contender> {
    let [tls, plain, splice] = [address()?, address()?, address()?];
    let splices = job == Job::Bulk;
    let name = format!("{}.cfg", peer.kind.label());
    let config = configure(site, &name, &render([tls, plain, splice], &site.pem, site.backend, job))?;
    let ways = Ways {
        tls: Some(Entry::Tls(tls)),
        plain: Some(Entry::Plain(plain)),
        splice: splices.then_some(Entry::Plain(splice)),
    };
    launch(peer, site, ways, peer.command().arg("-db").arg("-f").arg(config))
}

fn render([tls, plain, splice]: [SocketAddr; 3], pem: &Path, backend: SocketAddr, job: Job) -> String {
    let pem = pem.display();
    // Pipes count as descriptors: with splice there is no room for all sessions of one process.
    let (sessions, buffers) = match job {
        Job::Bulk => (2_000, "    tune.bufsize 65536\n    tune.ssl.maxrecord 0\n"),
        Job::Sessions => (9_700, ""),
    };
    let by_splice = match job {
        Job::Bulk => format!(
            "
frontend splice
    bind {splice}
    option splice-auto
    default_backend machine-by-splice

backend machine-by-splice
    option splice-auto
    server machine {backend}
"
        ),
        Job::Sessions => String::new(),
    };
    format!(
        "global
    nbthread 1
    maxconn {sessions}
{buffers}    tune.ssl.default-dh-param 2048
    ssl-default-bind-options ssl-min-ver TLSv1.2 ssl-max-ver TLSv1.3
    ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256
    ssl-default-bind-ciphers ECDHE-ECDSA-AES128-GCM-SHA256
    ssl-default-bind-curves X25519

defaults
    mode tcp
    maxconn {sessions}
    timeout connect 10s
    timeout client 2h
    timeout server 2h

frontend relay
    bind {tls} ssl crt {pem}
    default_backend machine

frontend plain
    bind {plain}
    default_backend machine

backend machine
    server machine {backend}
{by_splice}"
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
fn version(program: &[PathBuf]) -> Result<String> {
    let (first, rest) = program.split_first().context("no program")?;
    let output = process::run(Command::new(first).args(rest).arg("-vv"), PATIENCE)?.ok()?;
    let version = read_version(&output.stdout);
    ensure!(!version.contains("unknown"), "it tells no version");
    Ok(version)
}

fn read_version(text: &str) -> String {
    let after = |start: &str| text.lines().find_map(|line| line.strip_prefix(start));
    let own = after("HAProxy version ").and_then(|rest| rest.split(' ').next()).unwrap_or("unknown");
    // The second is how versions from 3.0 on say it.
    let library =
        after("Running on OpenSSL version : ").or_else(|| after("Running on SSL library version : "));
    format!("HAProxy {own}, {}", library.unwrap_or("unknown"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_names_addresses_certificate_and_back_end() {
        let ports = ["127.0.0.1:1", "127.0.0.1:3", "127.0.0.1:4"].map(|text| text.parse().unwrap());
        let text = render(ports, Path::new("a.pem"), "127.0.0.1:2".parse().unwrap(), Job::Bulk);
        for line in ["    nbthread 1", "    bind 127.0.0.1:1 ssl crt a.pem", "    server machine 127.0.0.1:2"]
        {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
        assert!(
            !text.contains("no-tls-tickets")
                && text.contains("bufsize 65536")
                && text.contains("splice-auto")
        );
        let small = render(ports, Path::new("a.pem"), "127.0.0.1:2".parse().unwrap(), Job::Sessions);
        assert!(!small.contains("bufsize") && !small.contains("splice"));
    }

    #[test]
    fn versions_are_cut_from_the_long_listing() {
        let text = "HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/\nStatus: x\n\
                    Running on OpenSSL version : OpenSSL 3.0.19 27 Jan 2026\n";
        assert_eq!(read_version(text), "HAProxy 2.6.12-1+deb12u4, OpenSSL 3.0.19 27 Jan 2026");
        let newer = "HAProxy version 3.2.26-1 2026/10/14 - https://haproxy.org/\n\
                     Running on SSL library version : OpenSSL 3.6.5 29 Sep 2026\n";
        assert_eq!(read_version(newer), "HAProxy 3.2.26-1, OpenSSL 3.6.5 29 Sep 2026");
    }
}
