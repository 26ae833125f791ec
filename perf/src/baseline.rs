//! The honest baseline: the relay that one writes in an afternoon, on tokio and tokio-rustls, and its plain part once
//! more on tokio-uring. Whoever doubts that a gateway needs more than this can read how much more it is worth.

mod plain;
mod uring;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Runtime {
    Tokio,
    TokioUring,
}

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// What it is written with
    #[arg(value_enum)]
    runtime: Runtime,
    /// The back end
    to: SocketAddr,
    /// Where it relays bytes as they are
    #[arg(long)]
    plain: SocketAddr,
    /// Where it ends TLS
    #[arg(long, requires = "certificates")]
    tls: Option<SocketAddr>,
    /// Where `main.crt` and `main.key` are
    #[arg(long)]
    certificates: Option<PathBuf>,
}

/// Runs until the process is ended.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    crate::cpu::widen_descriptors()?;
    let tls = match (arguments.tls, &arguments.certificates) {
        (Some(address), Some(directory)) => Some((address, configuration(directory)?)),
        _ => None,
    };
    match arguments.runtime {
        Runtime::Tokio => plain::run(arguments.plain, tls, arguments.to),
        Runtime::TokioUring => uring::run(arguments.plain, arguments.to),
    }
}

/// The suite, the curve and the tickets that all contenders have.
fn configuration(directory: &Path) -> Result<Arc<ServerConfig>> {
    let chain = CertificateDer::pem_file_iter(directory.join("main.crt")).context("read the chain")?;
    let chain = chain.collect::<Result<Vec<_>, _>>().context("read the chain")?;
    let key = PrivateKeyDer::from_pem_file(directory.join("main.key")).context("read the key")?;
    let provider = CryptoProvider {
        cipher_suites: vec![
            ring::cipher_suite::TLS13_AES_128_GCM_SHA256,
            ring::cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        ],
        kx_groups: vec![ring::kx_group::X25519],
        ..ring::default_provider()
    };
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.ticketer = ring::Ticketer::new()?;
    Ok(Arc::new(config))
}
