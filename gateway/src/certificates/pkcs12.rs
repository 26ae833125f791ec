//! PKCS #12 archives (RFC 7292), as Windows and OpenSSL export them: taken apart where they are read, which is the
//! operator's own process. What is derived from the password is derived there, and the daemon never sees either.

use p12_keystore::Pkcs12Archive;
use zeroize::Zeroizing;

use super::GIVEN_MAX;
use crate::tls::pem;

/// Longest archive; a real one has some kilobytes.
pub const ARCHIVE_MAX_BYTES: usize = 256 * 1024;

/// The certificates of an archive and its one private key, as PEM in any order.
///
/// # Errors
/// A wrong password, an archive that is damaged or of an unknown kind, no key or several.
pub fn to_pem(archive: &[u8], password: &str) -> Result<Zeroizing<String>, String> {
    use p12_keystore::error::Error;
    let read = Pkcs12Archive::from_pkcs12(archive, password).map_err(|error| match error {
        Error::MacError(_) => "the password is wrong, or the archive is damaged".to_owned(),
        Error::DerError(_) => {
            "this is no PKCS#12 archive, or it is damaged: transfer it again as it is, or as base64".to_owned()
        }
        Error::UnsupportedEncryptionScheme | Error::UnsupportedMacAlgorithm => {
            format!("the archive is encrypted in a way that is not known ({error}): export it with AES-256 and SHA-256")
        }
        error => format!("the archive cannot be read: {error}"),
    })?;
    let [key] = read.keys.as_slice() else {
        return Err(match read.keys.len() {
            0 => "the archive has no private key: export it together with the key".to_owned(),
            count => format!("the archive has {count} private keys: export one certificate with its key"),
        });
    };
    if read.certs.is_empty() || read.certs.len() > GIVEN_MAX {
        return Err(format!("the archive has {} certificates; 1 to {GIVEN_MAX} are taken", read.certs.len()));
    }
    // The whole capacity is there from the start: growing would leave copies of the key that nobody wipes.
    let length: usize = read.certs.iter().map(|bag| bag.cert.as_der().len()).sum();
    let mut text = Zeroizing::new(String::with_capacity(2 * (length + key.key.as_der().len()) + 4096));
    text.push_str(&Zeroizing::new(pem::encoded("PRIVATE KEY", key.key.as_der())));
    for bag in &read.certs {
        text.push_str(&pem::encoded("CERTIFICATE", bag.cert.as_der()));
    }
    Ok(text)
}
