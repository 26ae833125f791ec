//! stunnel, which has a thread for each connection; they all run on one CPU.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};
use portcullis_tests::process;

use super::{Peer, Site, address, configure, launch, version_line};
use crate::contender::{Contender, Ways};
use crate::load::connection::Entry;

pub(super) fn find() -> Result<(Vec<PathBuf>, String)> {
    let program = process::find_program("stunnel").or_else(|| process::find_program("stunnel4"));
    let program = program.context("stunnel is missing: `apt-get install stunnel4`")?;
    let version = version_line(Command::new(&program).arg("-version"), "stunnel 5")?;
    let version = version.split(" on ").next().unwrap_or_default();
    let version = version.rsplit_once("] ").map_or(version, |(_, version)| version).to_owned();
    Ok((vec![program], version))
}

pub(super) fn start(peer: &Peer, site: &Site) -> Result<Contender> {
    let tls = address()?;
    let (pem, backend) = (site.pem.display(), site.backend);
    let text = format!(
        "foreground = yes
pid =
debug = 0
[relay]
accept = {tls}
connect = {backend}
cert = {pem}
sslVersionMin = TLSv1.2
sslVersionMax = TLSv1.3
ciphers = ECDHE-ECDSA-AES128-GCM-SHA256
ciphersuites = TLS_AES_128_GCM_SHA256
curves = X25519
socket = l:TCP_NODELAY=1
socket = r:TCP_NODELAY=1
options = -NO_TICKET
"
    );
    let config = configure(site, "stunnel.conf", &text)?;
    let ways = Ways { tls: Some(Entry::Tls(tls)), ..Ways::default() };
    launch(peer, site, ways, peer.command().arg(config))
}
