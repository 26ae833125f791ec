//! What one writes in an afternoon, as a peer: this program itself, in another role.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::{Kind, Peer, Site, address, launch};
use crate::contender::{Contender, Ways};
use crate::load::connection::Entry;

pub(super) fn find(kind: Kind) -> Result<(Vec<PathBuf>, String)> {
    let exe = std::env::current_exe().context("find this program")?;
    let version = match kind {
        Kind::TokioUring => "tokio-uring, in this crate",
        _ => "tokio and tokio-rustls on ring, in this crate",
    };
    Ok((vec![exe, PathBuf::from("baseline")], version.to_owned()))
}

pub(super) fn start(peer: &Peer, site: &Site) -> Result<Contender> {
    let (plain, tls) = (address()?, address()?);
    let mut command = peer.command();
    command.arg(peer.kind.label()).arg(site.backend.to_string()).arg("--plain").arg(plain.to_string());
    let mut ways = Ways { plain: Some(Entry::Plain(plain)), ..Ways::default() };
    if peer.kind == Kind::Tokio {
        command.arg("--tls").arg(tls.to_string()).arg("--certificates").arg(&site.certificates);
        ways.tls = Some(Entry::Tls(tls));
    }
    launch(peer, site, ways, &mut command)
}
