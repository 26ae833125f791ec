//! hitch, which does nothing but end TLS: one worker.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};
use nix::unistd::Uid;
use portcullis_tests::process;

use super::{Peer, Site, address, configure, launch, version_line};
use crate::contender::{Contender, Ways};
use crate::load::connection::Entry;

pub(super) fn find() -> Result<(Vec<PathBuf>, String)> {
    let program = process::find_program("hitch").context("hitch is missing: `apt-get install hitch`")?;
    let version = version_line(Command::new(&program).arg("--version"), "hitch")?;
    Ok((vec![program], version))
}

pub(super) fn start(peer: &Peer, site: &Site) -> Result<Contender> {
    let tls = address()?;
    let (pem, backend) = (site.pem.display(), site.backend);
    // It refuses to work as root.
    let user = if Uid::effective().is_root() { "user = \"nobody\"\ngroup = \"nogroup\"\n" } else { "" };
    let text = format!(
        "frontend = {{
    host = \"{}\"
    port = \"{}\"
}}
backend = \"[{}]:{}\"
pem-file = \"{pem}\"
workers = 1
backlog = 4096
daemon = off
tls-protos = TLSv1.2 TLSv1.3
ciphers = \"ECDHE-ECDSA-AES128-GCM-SHA256\"
ciphersuites = \"TLS_AES_128_GCM_SHA256\"
ecdh-curve = \"X25519\"
{user}",
        tls.ip(),
        tls.port(),
        backend.ip(),
        backend.port()
    );
    let config = configure(site, "hitch.conf", &text)?;
    let ways = Ways { tls: Some(Entry::Tls(tls)), ..Ways::default() };
    launch(peer, site, ways, peer.command().arg("--config").arg(config))
}
