//! What listeners show until the first certificate has come: one that is signed by itself and says what it is.

use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use zeroize::Zeroizing;

use crate::certificates::Described;
use crate::config::Config;
use crate::config::kept_path;
use crate::disk::Disk;

/// Its name. Nobody trusts it; whoever looks at it knows why it is there.
const COMMON_NAME: &str = "Portcullis: no certificate has been issued yet";
/// Short, so that alerts about certificates that end soon tell of one that never comes.
const LIFE: Duration = Duration::from_hours(14 * 24);

/// Whether a certificate is one of these.
#[must_use]
pub(crate) fn is_self_signed(described: &Described) -> bool {
    described.chain.first().is_some_and(|link| link.issuer.contains(COMMON_NAME))
}

/// Makes the files that are missing, so that everything which names them can start.
///
/// # Errors
/// What the file system says, with the place.
pub(crate) fn ensure_files(config: &Config) -> Result<(), String> {
    for wanted in config.acme.iter().flat_map(|acme| &acme.certificates) {
        let path = kept_path(&config.server.state_dir, &wanted.name);
        if !path.exists() {
            let text = make(&wanted.names).map_err(|error| error.to_string())?;
            let written = Disk::default().write_below(&path, text.as_bytes());
            written.map_err(|error| format!("{} cannot be written: {error}", path.display()))?;
        }
    }
    Ok(())
}

fn make(names: &[String]) -> Result<Zeroizing<String>, rcgen::Error> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(names.to_vec())?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, COMMON_NAME);
    let now = SystemTime::now();
    params.not_before = now.into();
    params.not_after = (now + LIFE).into();
    let certificate = params.self_signed(&key)?;
    let private = Zeroizing::new(key.serialize_pem());
    Ok(Zeroizing::new(format!("{}{}", certificate.pem(), *private)))
}
