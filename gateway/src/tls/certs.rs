//! Certificates as the rest of the gateway uses them: faults, expiry, names, and server configurations.
//!
//! Choices that apply to every TLS listener (RFC 8446, RFC 5246, RFC 9325):
//!
//! * The server's order of suites counts, AES-128-GCM first: it is what the relay does fastest, and every client
//!   of the last ten years has it in hardware. Only ECDHE with AEAD suites exist here at all.
//! * Sessions resume by tickets, encrypted with keys that change every six hours and are forgotten after twelve;
//!   the server keeps nothing. One ticket per TLS 1.3 handshake: clients open one connection at a time.
//!   No early data: it could be replayed, and a ticket authority's ticket serves once.
//! * No ALPN protocol is chosen, and a client that offers some is served all the same (RFC 7301 §3.1 lets a server
//!   ignore the extension; browsers then speak HTTP/1.1). rustls would end the handshake with every client whose
//!   list lacks ours, and what Citrix clients of all ages offer before ICA or CGP is unknown.
//! * Without a client certificate to verify, a resumed session proves nothing about the client; every connection
//!   shows its own ticket. So one ticket maker serves all listeners. rustls resumes only under the same name.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::cipher_suite as suite;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ProducesTickets, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::parse_x509_certificate;

pub(crate) use super::inspect::all_names_of;
pub use super::inspect::inspect;
use super::inspect::names_of;
use super::pem::{self, PemError};
use super::sni::ByName;
use crate::config::{CertificateFiles, ListenerConfig, RecordLayer, TlsFloor, UnmatchedSni};

/// Why a certificate cannot be used. `name` is the one in the configuration.
#[derive(Debug, thiserror::Error)]
pub enum CertError {
    #[error("certificate `{name}`: {message}")]
    Unusable { name: String, message: String },
    #[error("listener `{listener}` has no certificate `{name}`")]
    Unknown { listener: String, name: String },
    #[error("{0}")]
    Roots(String),
    #[error("tls cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

impl CertError {
    fn unusable(files: &CertificateFiles, message: impl ToString) -> Self {
        Self::Unusable { name: files.name.clone(), message: message.to_string() }
    }

    fn pem(files: &CertificateFiles) -> impl Fn(PemError) -> Self {
        |error| Self::unusable(files, format!("{error}; {}", error.remedy()))
    }
}

/// When the server's certificate expires.
///
/// # Errors
/// [`CertError::Unusable`] when the chain file cannot be read.
pub fn not_after(files: &CertificateFiles) -> Result<SystemTime, CertError> {
    let chain = pem::chain(&files.chain).map_err(CertError::pem(files))?;
    let (_, leaf) = chain
        .first()
        .and_then(|leaf| parse_x509_certificate(leaf).ok())
        .ok_or_else(|| CertError::unusable(files, "the first certificate cannot be parsed"))?;
    let seconds = u64::try_from(leaf.validity().not_after.timestamp()).unwrap_or(0);
    Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

/// The host names that the certificate is for, in lower case; a leading `*.` stays.
///
/// # Errors
/// As [`not_after`].
pub fn dns_names(files: &CertificateFiles) -> Result<Vec<String>, CertError> {
    let chain = pem::chain(&files.chain).map_err(CertError::pem(files))?;
    let leaf = chain.first().and_then(|leaf| parse_x509_certificate(leaf).ok());
    let (_, leaf) =
        leaf.ok_or_else(|| CertError::unusable(files, "the first certificate cannot be parsed"))?;
    Ok(names_of(&leaf))
}

/// The public key (SubjectPublicKeyInfo, DER) that belongs to a private one; `None` where it is of a kind that cannot be used.
#[must_use]
pub fn public_key_of(key: PrivateKeyDer<'static>) -> Option<Vec<u8>> {
    let key = provider().key_provider.load_private_key(key).ok()?;
    Some(key.public_key()?.as_ref().to_vec())
}

/// The maker of session tickets for all listeners of a process: stateless, with keys that change.
///
/// # Errors
/// [`CertError::Tls`] when the system gives no randomness.
pub fn ticketer() -> Result<Arc<dyn ProducesTickets>, CertError> {
    Ok(rustls::crypto::ring::Ticketer::new()?)
}

/// What a listener with certificates does TLS with: see the module's text for the choices in it.
///
/// # Errors
/// [`CertError::Unusable`] for the first certificate that cannot be used; `inspect` finds all.
pub fn server_config(
    listener: &ListenerConfig,
    certificates: &[CertificateFiles],
    ticketer: Arc<dyn ProducesTickets>,
    records: RecordLayer,
) -> Result<Arc<ServerConfig>, CertError> {
    let mut keys: Vec<(Arc<CertifiedKey>, Vec<String>)> = Vec::new();
    for name in &listener.certificates {
        let files = certificates.iter().find(|files| files.name == *name);
        let files = files
            .ok_or_else(|| CertError::Unknown { listener: listener.name.clone(), name: name.clone() })?;
        keys.push((certified_key(files)?, dns_names(files)?));
    }
    let unmatched = match listener.unmatched_sni {
        UnmatchedSni::Default => keys.first().map(|(key, _)| Arc::clone(key)),
        UnmatchedSni::Reject => None,
    };
    let versions: &[&'static SupportedProtocolVersion] = match listener.min_tls {
        TlsFloor::Tls12 => &[&TLS13, &TLS12],
        TlsFloor::Tls13 => &[&TLS13],
    };
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(ByName::new(&keys, unmatched)));
    config.ignore_client_order = true;
    config.ticketer = ticketer;
    config.send_tls13_tickets = 1;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
    // Whoever protects the records has the keys.
    config.enable_secret_extraction = records == RecordLayer::Own;
    Ok(Arc::new(config))
}

/// What HTTPS servers for few callers do TLS with, the ticket authority's and that of the metrics: one certificate for
/// every name, HTTP/1.1, no resumption.
///
/// # Errors
/// As [`server_config`].
pub fn certified_server_config(files: &CertificateFiles) -> Result<Arc<ServerConfig>, CertError> {
    server_of_few(files, WebPkiClientVerifier::no_client_auth())
}

/// The same for callers that must show a certificate signed by one of the authorities in `client_ca`. Revocation is not
/// looked at.
///
/// # Errors
/// As [`server_config`], and [`CertError::Roots`].
pub fn mutual_server_config(
    files: &CertificateFiles,
    client_ca: &Path,
) -> Result<Arc<ServerConfig>, CertError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(client_ca)?), provider());
    let unusable = |error| CertError::Roots(format!("{}: {error}", client_ca.display()));
    server_of_few(files, verifier.build().map_err(unusable)?)
}

fn server_of_few(
    files: &CertificateFiles,
    verifier: Arc<dyn ClientCertVerifier>,
) -> Result<Arc<ServerConfig>, CertError> {
    let key = certified_key(files)?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13, &TLS12])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(ByName::new(&[], Some(key))));
    config.ignore_client_order = true;
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(config))
}

/// What proves names to an issuer (RFC 8737 §3): a certificate for each name, in a handshake for `protocol` alone.
///
/// # Errors
/// As [`server_config`].
pub fn proving_server_config(
    certificates: Vec<(CertificateDer<'static>, PrivateKeyDer<'static>, String)>,
    protocol: &[u8],
) -> Result<Arc<ServerConfig>, CertError> {
    let mut keys = Vec::new();
    for (certificate, key, name) in certificates {
        // `from_der` would look into the certificate, and refuse the critical extension that the proof is.
        let key = CertifiedKey::new(vec![certificate], provider().key_provider.load_private_key(key)?);
        keys.push((Arc::new(key), vec![name]));
    }
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13, &TLS12])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(ByName::new(&keys, None)));
    config.alpn_protocols = vec![protocol.to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(config))
}

/// What HTTPS clients do TLS with that believe the authorities in a file, or the public ones.
///
/// # Errors
/// [`CertError::Roots`].
pub fn client_config(ca: Option<&Path>) -> Result<ClientConfig, CertError> {
    let roots = match ca {
        Some(path) => roots(path)?,
        None => RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() },
    };
    let builder =
        ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13, &TLS12])?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// The authorities in a PEM file, for checking another server's certificate.
///
/// # Errors
/// [`CertError::Roots`] when there are none, or one of them cannot be used.
pub fn roots(path: &Path) -> Result<RootCertStore, CertError> {
    let mut roots = RootCertStore::empty();
    for root in pem::roots(path).map_err(|error| CertError::Roots(format!("{error}; {}", error.remedy())))? {
        let added = roots.add(root);
        added.map_err(|error| CertError::Roots(format!("{}: {error}", path.display())))?;
    }
    Ok(roots)
}

/// Changes whenever one of the files appears, disappears, is replaced or rewritten. Links are followed, so that
/// the usual swap of a link counts.
#[must_use]
pub fn fingerprint(certificates: &[CertificateFiles]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for path in certificates.iter().flat_map(|files| [&files.chain, &files.key]) {
        path.hash(&mut hasher);
        state_of(path).hash(&mut hasher);
    }
    hasher.finish()
}

/// Device, inode, length, times of modification and of status change in nanoseconds; `None` for no file.
fn state_of(path: &Path) -> Option<[i64; 7]> {
    let metadata = std::fs::metadata(path).ok()?;
    Some([
        metadata.dev().cast_signed(),
        metadata.ino().cast_signed(),
        metadata.size().cast_signed(),
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.ctime(),
        metadata.ctime_nsec(),
    ])
}

pub(super) fn certified_key(files: &CertificateFiles) -> Result<Arc<CertifiedKey>, CertError> {
    let chain = pem::chain(&files.chain).map_err(CertError::pem(files))?;
    let key = pem::key(&files.key).map_err(CertError::pem(files))?;
    let key = CertifiedKey::from_der(chain, key, &provider());
    key.map(Arc::new).map_err(|error| CertError::unusable(files, error))
}

/// ring with our suites, the preferred first. The groups are ring's: X25519, P-256, P-384.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    let cipher_suites = vec![
        suite::TLS13_AES_128_GCM_SHA256,
        suite::TLS13_AES_256_GCM_SHA384,
        suite::TLS13_CHACHA20_POLY1305_SHA256,
        suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    ];
    Arc::new(CryptoProvider { cipher_suites, ..rustls::crypto::ring::default_provider() })
}
