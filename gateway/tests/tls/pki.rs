//! Certificates for the tests: a root and an intermediate by rcgen, and what only openssl can make.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use portcullis::config::CertificateFiles;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use tempfile::TempDir;

/// 2030-01-01, between the validity of what the tests make.
pub(crate) fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_893_456_000)
}

pub(crate) fn days(days: u64) -> Duration {
    Duration::from_secs(days * 86_400)
}

pub(crate) type Issuer = CertifiedIssuer<'static, KeyPair>;

/// A root, an intermediate below it, and a directory for what is made with them.
pub(crate) struct Pki {
    pub(crate) directory: TempDir,
    pub(crate) root: Issuer,
    pub(crate) intermediate: Issuer,
}

impl Pki {
    pub(crate) fn new() -> Self {
        let root = CertifiedIssuer::self_signed(authority("Root"), KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let intermediate = CertifiedIssuer::signed_by(authority("Intermediate"), key, &root).unwrap();
        Self { directory: tempfile::tempdir().unwrap(), root, intermediate }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        fs::write(self.path(name), content).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o600)).unwrap();
        self.path(name)
    }

    pub(crate) fn files(&self, chain: &[&str], key: &str) -> CertificateFiles {
        let (chain, key) = (self.write("chain.pem", chain.concat()), self.write("key.pem", key));
        CertificateFiles { name: "main".into(), chain, key }
    }

    /// Writes a certificate of the intermediate with the chain that clients need.
    pub(crate) fn issue(&self, name: &str, names: &[&str]) -> CertificateFiles {
        let key = KeyPair::generate().unwrap();
        let leaf = leaf(names).signed_by(&key, &self.intermediate).unwrap();
        let chain = self.write(&format!("{name}.pem"), leaf.pem() + &self.intermediate.pem());
        let key = self.write(&format!("{name}.key"), key.serialize_pem());
        CertificateFiles { name: name.into(), chain, key }
    }
}

pub(crate) fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new([]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

pub(crate) fn leaf(names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name.push(DnType::CommonName, "Server");
    params.is_ca = IsCa::ExplicitNoCa;
    params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
    params
}

/// Runs openssl; `None`, said aloud, where there is none.
pub(crate) fn openssl(directory: &Path, arguments: &str) -> Option<()> {
    let run = Command::new("openssl").args(arguments.split(' ')).current_dir(directory).output();
    let Ok(output) = run else {
        eprintln!("skipped: no openssl");
        return None;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(())
}

/// A certificate that signs itself, by openssl: `options` say what for a key.
pub(crate) fn by_openssl(pki: &Pki, name: &str, options: &str) -> Option<CertificateFiles> {
    openssl(
        pki.directory.path(),
        &format!(
            "req -x509 -nodes -days 9000 -subj /CN={name} -addext basicConstraints=critical,CA:FALSE \
             -addext subjectAltName=DNS:{name} -keyout {name}.key -out {name}.pem {options}"
        ),
    )?;
    Some(CertificateFiles {
        name: name.into(),
        chain: pki.path(&format!("{name}.pem")),
        key: pki.path(&format!("{name}.key")),
    })
}
