//! `portcullisd --lab`: a gateway to play with, on loopback only, that needs no configuration.
//!
//! It makes a certificate authority and a certificate of its own, is its own ticket authority, and lets tickets
//! name any service on this machine. It is no example of a safe configuration, and refuses to listen elsewhere.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};

use crate::config::Config;

/// Where the lab's gateway listens unless told otherwise.
pub const PORT_DEFAULT: u16 = 8443;

/// Why the lab cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    #[error("cannot write {}: {source}; use --lab-dir with a directory of your own", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot make the lab's certificate: {0}")]
    Certificate(#[from] rcgen::Error),
}

/// The lab's files and its configuration.
#[derive(Debug)]
pub struct Lab {
    /// Where the configuration stands, so that it can be read and reloaded.
    pub path: PathBuf,
    pub configuration: String,
}

impl Lab {
    /// Makes everything anew in `directory`, or in one below the system's temporary directory.
    ///
    /// # Errors
    /// When a file cannot be written, or the directory belongs to somebody else.
    pub fn prepare(directory: Option<&Path>, port: u16) -> Result<Self, LabError> {
        let user = nix::unistd::getuid();
        let temporary = || std::env::temp_dir().join(format!("portcullis-lab-{user}-{port}"));
        let directory = directory.map_or_else(temporary, Path::to_owned);
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| LabError::Write { path, source }
        };
        make_private(&directory).map_err(failed(&directory))?;
        let (authority, chain, key) = certificates()?;
        let path = directory.join("portcullis.toml");
        let configuration = configuration(port);
        for (name, text, mode) in [
            ("ca.pem", &authority, 0o644),
            ("chain.pem", &chain, 0o644),
            ("key.pem", &key, 0o600),
            ("portcullis.toml", &configuration, 0o600),
        ] {
            let path = directory.join(name);
            write(&path, text, mode).map_err(failed(&path))?;
        }
        Ok(Self { path, configuration })
    }
}

/// How to try the running lab, for whoever started it.
#[must_use]
pub fn how_to_try(config: &Config) -> String {
    let directory = config.path.parent().unwrap_or_else(|| Path::new("."));
    let socket = config.control.socket.display();
    let ca = directory.join("ca.pem");
    let ca = ca.display();
    let gateway = config.listeners.first().and_then(|listener| listener.listen.first());
    let gateway = gateway.map(|address| format!("localhost:{}", address.port())).unwrap_or_default();
    let configuration = config.path.display();
    format!(
        "The Portcullis lab is ready at {gateway}, on loopback only. In another terminal:

  # reach any TCP service of this machine, here SSH, by a ticket:
  portcullis --socket {socket} ticket issue --target 127.0.0.1:22 > ticket
  ssh -o ProxyCommand='portcullis connect --gateway {gateway} --ca {ca} --ticket-file ticket' lab

  portcullis --socket {socket} status
  portcullis --socket {socket} sessions watch
  curl --cacert {ca} https://{gateway}/

Its configuration is {configuration}. End it with Ctrl-C."
    )
}

fn configuration(port: u16) -> String {
    format!(
        r#"# Written by portcullisd --lab at each start; changes are lost.
[server]
state_dir = "state"

[control]
socket = "control.sock"

[[certificate]]
name = "lab"
chain = "chain.pem"
key = "key.pem"

[sta_server]

[[listener]]
name = "lab"
kind = "gateway"
listen = ["127.0.0.1:{port}", "[::1]:{port}"]
certificates = ["lab"]
stas = ["local"]
allow_from = ["127.0.0.0/8", "::1/128"]
permit_loopback = true

[[listener.allow]]
to = ["127.0.0.0/8", "::1/128"]
ports = ["1-65535"]
"#
    )
}

/// A certificate authority and a certificate for localhost: rustls refuses one that is both.
fn certificates() -> Result<(String, String, String), rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, "Portcullis lab authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name.push(DnType::CommonName, "localhost");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate()?;
    let leaf = params.signed_by(&key, &authority)?;
    Ok((authority.pem(), leaf.pem() + &authority.pem(), key.serialize_pem()))
}

/// Makes a directory that only its owner enters. One that somebody else put there is refused.
fn make_private(directory: &Path) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let found = fs::symlink_metadata(directory)?;
    if !found.is_dir() || found.uid() != nix::unistd::getuid().as_raw() {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it belongs to somebody else"));
    }
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700))
}

fn write(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    use std::io::Write as _;
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path)?;
    file.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_labs_configuration_is_legal_and_listens_on_loopback_only() {
        let directory = tempfile::tempdir().unwrap();
        let lab = Lab::prepare(Some(directory.path()), 18443).unwrap();
        let config = crate::config::parse(&lab.configuration, &lab.path).unwrap();
        assert!(config.listeners.iter().flat_map(|listener| &listener.listen).all(|a| a.ip().is_loopback()));
        assert!(how_to_try(&config).contains("localhost:18443"));
    }

    #[test]
    fn the_labs_key_is_its_owners_alone() {
        let directory = tempfile::tempdir().unwrap();
        Lab::prepare(Some(directory.path()), 18443).unwrap();
        let mode = fs::metadata(directory.path().join("key.pem")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
