//! How the server behind an https URL is recognised: public roots, an own CA, or one pinned certificate.

use std::path::Path;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use super::StaError;
use crate::config::StaTls;
use crate::tls::verify::KeyHolder;

/// Most certificates in one CA file.
const CA_CERTIFICATES_MAX: usize = 1024;

/// # Errors
/// When the CA file cannot be used; `sta` names the authority in the error.
pub(super) fn client_config(sta: &str, tls: &StaTls) -> Result<ClientConfig, StaError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| StaError::Tls { sta: sta.to_owned(), reason: error.to_string() })?;
    let mut config = match tls {
        StaTls::PublicRoots => {
            let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
            builder.with_root_certificates(roots).with_no_client_auth()
        }
        StaTls::Ca(path) => {
            let failed = |reason| StaError::Ca { sta: sta.to_owned(), path: path.clone(), reason };
            builder.with_root_certificates(read_roots(path).map_err(failed)?).with_no_client_auth()
        }
        StaTls::Pin(sha256) => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(KeyHolder::new(Some(*sha256), provider)))
            .with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn read_roots(path: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(path).map_err(|error| error.to_string())?;
    for certificate in certificates.take(CA_CERTIFICATES_MAX) {
        let certificate = certificate.map_err(|error| error.to_string())?;
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    if roots.is_empty() { Err("it holds no certificate in PEM form".to_owned()) } else { Ok(roots) }
}
