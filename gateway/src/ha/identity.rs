//! Who this appliance is to its peer: a key and a certificate that it makes for itself, once. The peer knows it by the
//! certificate's fingerprint, as SSH knows a host; names and dates of the certificate mean nothing.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;

use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::tls::certs::provider;
use crate::tls::verify::KeyHolder;

const CERTIFICATE: &str = "certificate.pem";
const KEY: &str = "key.pem";

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("{path}: {source}")]
    File { path: String, source: io::Error },
    #[error("{path}: {reason}; remove it to have another one made, and tell the peer the new fingerprint")]
    Unusable { path: String, reason: String },
    #[error("cannot make a key: {0}")]
    Make(#[from] rcgen::Error),
    #[error("cannot be used for TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// A key and its certificate.
#[derive(Debug)]
pub struct Identity {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    /// Reads it, or makes it where there is none yet. The directory is the daemon's alone.
    ///
    /// # Errors
    /// When it can neither be read nor made.
    pub fn open(directory: &Path) -> Result<Self, IdentityError> {
        let (certificate, key) = (directory.join(CERTIFICATE), directory.join(KEY));
        // The certificate is written last, so with it both are whole.
        if !certificate.exists() {
            make(directory).map_err(|error| match error {
                Made::Rcgen(error) => error.into(),
                Made::Io(source) => IdentityError::File { path: directory.display().to_string(), source },
            })?;
        }
        let unusable = |path: &Path, error: rustls_pki_types::pem::Error| IdentityError::Unusable {
            path: path.display().to_string(),
            reason: error.to_string(),
        };
        Ok(Self {
            certificate: CertificateDer::from_pem_file(&certificate)
                .map_err(|error| unusable(&certificate, error))?,
            key: PrivateKeyDer::from_pem_file(&key).map_err(|error| unusable(&key, error))?,
        })
    }

    /// SHA-256 of the certificate, in hexadecimal digits.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let digest = ring::digest::digest(&ring::digest::SHA256, &self.certificate);
        digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// TLS 1.3 as the one that is called, for a caller with that certificate and nobody else.
    pub(super) fn server(&self, pin: [u8; 32]) -> Result<Arc<ServerConfig>, IdentityError> {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(Arc::new(KeyHolder::new(Some(pin), provider())))
            .with_single_cert(vec![self.certificate.clone()], self.key.clone_key())?;
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        Ok(Arc::new(config))
    }

    /// TLS 1.3 as the one that calls.
    pub(super) fn client(&self, pin: [u8; 32]) -> Result<Arc<ClientConfig>, IdentityError> {
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(KeyHolder::new(Some(pin), provider())))
            .with_client_auth_cert(vec![self.certificate.clone()], self.key.clone_key())?;
        config.resumption = rustls::client::Resumption::disabled();
        config.enable_sni = false;
        Ok(Arc::new(config))
    }
}

enum Made {
    Rcgen(rcgen::Error),
    Io(io::Error),
}

impl From<rcgen::Error> for Made {
    fn from(error: rcgen::Error) -> Self {
        Self::Rcgen(error)
    }
}

impl From<io::Error> for Made {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

fn make(directory: &Path) -> Result<(), Made> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, "Portcullis appliance");
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    write(&directory.join(KEY), &key.serialize_pem())?;
    write(&directory.join(CERTIFICATE), &certificate.pem())?;
    Ok(())
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    let mut staged = path.as_os_str().to_owned();
    staged.push(".new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&staged)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&staged, path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn it_is_made_once_and_its_key_is_the_owners_alone() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("ha");
        let first = Identity::open(&place).unwrap();
        let fingerprint = first.fingerprint();
        assert_eq!(fingerprint.len(), 64);
        assert_eq!(Identity::open(&place).unwrap().fingerprint(), fingerprint);
        assert_eq!(fs::metadata(place.join(KEY)).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(place.join(CERTIFICATE), "nonsense").unwrap();
        assert!(Identity::open(&place).unwrap_err().to_string().contains("remove it"));
    }
}
