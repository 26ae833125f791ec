//! Certificates and keys from PEM files (RFC 7468), of bounded size, with errors that say what to do.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

/// All authorities that browsers trust take a quarter of this.
const FILE_MAX_BYTES: u64 = 1024 * 1024;
/// Each certificate costs bytes in each handshake; GnuTLS verifies no longer chain.
const CHAIN_MAX: usize = 16;
/// Browsers trust some 150.
const ROOTS_MAX: usize = 1_000;

/// What is wrong with a PEM file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PemError {
    #[error("{} cannot be read: {error}", path.display())]
    Unreadable { path: PathBuf, error: io::Error },
    #[error("{} is longer than {FILE_MAX_BYTES} bytes", path.display())]
    TooLong { path: PathBuf },
    #[error("{} holds no PEM text", path.display())]
    NotPem { path: PathBuf },
    #[error("{} is damaged: {message}", path.display())]
    Damaged { path: PathBuf, message: String },
    #[error("{} holds no certificate", path.display())]
    NoCertificate { path: PathBuf },
    #[error("{} holds more than {limit} certificates", path.display())]
    TooMany { path: PathBuf, limit: usize },
    #[error("{} holds no private key", path.display())]
    NoKey { path: PathBuf },
    #[error("{} holds an encrypted private key", path.display())]
    EncryptedKey { path: PathBuf },
}

impl PemError {
    pub(crate) fn remedy(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => "check the path in the configuration and the file's owner and mode",
            Self::TooLong { .. } | Self::TooMany { .. } => {
                "keep only what is needed in the file: a server's certificate and its intermediates, or an authority"
            }
            Self::NotPem { .. } => {
                "convert it: `openssl x509 -inform DER` for a certificate, `openssl pkey -inform DER` for a key, \
                 `openssl pkcs12 -nodes` for a .pfx"
            }
            Self::Damaged { .. } => "copy the file again, whole, as text",
            Self::NoCertificate { .. } => "put the server's certificate and its intermediates into the file",
            Self::NoKey { .. } => "put the private key into the file",
            Self::EncryptedKey { .. } => {
                "decrypt it with `openssl pkey -in old.pem -out key.pem`, and let only the gateway's user read it"
            }
        }
    }
}

/// A server's certificate and those behind it, in their order; at least one.
pub(crate) fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, PemError> {
    certificates(path, CHAIN_MAX)
}

/// The authorities in a file; at least one.
pub(crate) fn roots(path: &Path) -> Result<Vec<CertificateDer<'static>>, PemError> {
    certificates(path, ROOTS_MAX)
}

fn certificates(path: &Path, limit: usize) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let text = read(path)?;
    let mut certificates = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(&text) {
        if certificates.len() == limit {
            return Err(PemError::TooMany { path: path.to_owned(), limit });
        }
        certificates.push(certificate.map_err(|error| damaged(path, &error))?);
    }
    if certificates.is_empty() {
        return Err(PemError::NoCertificate { path: path.to_owned() });
    }
    Ok(certificates)
}

/// The first private key of a file.
pub(crate) fn key(path: &Path) -> Result<PrivateKeyDer<'static>, PemError> {
    let text = read(path)?;
    if is_encrypted(&text) {
        return Err(PemError::EncryptedKey { path: path.to_owned() });
    }
    match PrivateKeyDer::from_pem_slice(&text) {
        Ok(key) => Ok(key),
        Err(rustls_pki_types::pem::Error::NoItemsFound) => Err(PemError::NoKey { path: path.to_owned() }),
        Err(error) => Err(damaged(path, &error)),
    }
}

/// Certificates, and a private key where there is one, of a text in any order; what is wrong with it in words.
pub(crate) fn given(
    text: &[u8],
    limit: usize,
) -> Result<(Vec<CertificateDer<'static>>, Option<PrivateKeyDer<'static>>), String> {
    let damaged = |error: rustls_pki_types::pem::Error| format!("the text is damaged: {error}");
    if !contains(text, b"-----BEGIN ") {
        return Err("this is no PEM text; an archive (.pfx, .p12) is imported with --pkcs12".to_owned());
    }
    if is_encrypted(text) {
        return Err("the private key is encrypted: decrypt it, or import it as PKCS#12".to_owned());
    }
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).take(limit + 1).collect();
    let certificates = certificates.map_err(damaged)?;
    if certificates.is_empty() || certificates.len() > limit {
        return Err(format!("the text holds {} certificates; 1 to {limit} are taken", certificates.len()));
    }
    match PrivateKeyDer::from_pem_slice(text) {
        Ok(key) => Ok((certificates, Some(key))),
        Err(rustls_pki_types::pem::Error::NoItemsFound) => Ok((certificates, None)),
        Err(error) => Err(damaged(error)),
    }
}

/// A value as PEM (RFC 7468 §2): lines of 64 characters.
pub(crate) fn encoded(label: &str, der: &[u8]) -> String {
    const LINE_BYTES: usize = 48;
    let mut text = String::with_capacity(der.len() * 3 / 2 + 2 * label.len() + 64);
    text.push_str(&format!("-----BEGIN {label}-----\n"));
    for line in der.chunks(LINE_BYTES) {
        STANDARD.encode_string(line, &mut text);
        text.push('\n');
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

/// PKCS #8 (RFC 5958) says it in the label, the older formats in a header (RFC 1421).
fn is_encrypted(text: &[u8]) -> bool {
    contains(text, b"BEGIN ENCRYPTED PRIVATE KEY") || contains(text, b"Proc-Type: 4,ENCRYPTED")
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, PemError> {
    let unreadable = |error| PemError::Unreadable { path: path.to_owned(), error };
    let file = File::open(path).map_err(unreadable)?;
    // The whole capacity is there from the start: growing would leave copies of the key that nobody wipes.
    let length = file.metadata().map_err(unreadable)?.len().min(FILE_MAX_BYTES);
    let mut text = Zeroizing::new(Vec::with_capacity(usize::try_from(length).unwrap_or(0) + 64));
    file.take(FILE_MAX_BYTES + 1).read_to_end(&mut text).map_err(unreadable)?;
    if u64::try_from(text.len()).is_ok_and(|length| length > FILE_MAX_BYTES) {
        return Err(PemError::TooLong { path: path.to_owned() });
    }
    if contains(&text, b"-----BEGIN ") { Ok(text) } else { Err(PemError::NotPem { path: path.to_owned() }) }
}

fn damaged(path: &Path, error: &rustls_pki_types::pem::Error) -> PemError {
    PemError::Damaged { path: path.to_owned(), message: error.to_string() }
}

fn contains(text: &[u8], wanted: &[u8]) -> bool {
    text.windows(wanted.len()).any(|window| window == wanted)
}
