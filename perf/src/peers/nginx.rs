//! nginx as a relay of streams, with TLS and without.
//!
//! One process without a master, because it gets one core. Buffers of 64 KiB for bulk; for many sessions its default of
//! 16, because it keeps two of them per session.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use portcullis_tests::process;

use super::{Job, Peer, Site, address, configure, launch, version_line};
use crate::contender::{Contender, Ways};
use crate::load::connection::Entry;

/// Debian's module for streams.
const MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

pub(super) fn find() -> Result<(Vec<PathBuf>, String)> {
    let program = process::find_program("nginx").context("nginx is missing: `apt-get install nginx`")?;
    ensure!(
        Path::new(MODULE).is_file(),
        "nginx has no module for streams: `apt-get install libnginx-mod-stream`"
    );
    let version = version_line(Command::new(&program).arg("-v"), "nginx")?;
    Ok((vec![program], version.replace("nginx version: ", "")))
}

pub(super) fn start(peer: &Peer, site: &Site, job: Job) -> Result<Contender> {
    let [tls, plain] = [address()?, address()?];
    let config = configure(site, "nginx.conf", &render([tls, plain], site, job))?;
    let ways = Ways { tls: Some(Entry::Tls(tls)), plain: Some(Entry::Plain(plain)), splice: None };
    let mut command = peer.command();
    launch(peer, site, ways, command.arg("-p").arg(&site.dir).arg("-c").arg(config).args(["-e", "stderr"]))
}

fn render([tls, plain]: [SocketAddr; 2], site: &Site, job: Job) -> String {
    let (certificates, backend) = (site.certificates.display(), site.backend);
    let buffer = match job {
        Job::Bulk => "64k",
        Job::Sessions => "16k",
    };
    format!(
        "daemon off;
master_process off;
worker_processes 1;
worker_rlimit_nofile 20000;
pid nginx.pid;
error_log stderr crit;
load_module {MODULE};
events {{
    worker_connections 19600;
    multi_accept on;
}}
stream {{
    tcp_nodelay on;
    proxy_buffer_size {buffer};
    proxy_timeout 2h;
    ssl_certificate {certificates}/main.crt;
    ssl_certificate_key {certificates}/main.key;
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_ciphers ECDHE-ECDSA-AES128-GCM-SHA256;
    ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
    ssl_ecdh_curve X25519;
    ssl_session_tickets on;
    server {{
        listen {tls} ssl backlog=4096;
        proxy_pass {backend};
    }}
    server {{
        listen {plain} backlog=4096;
        proxy_pass {backend};
    }}
}}
"
    )
}
