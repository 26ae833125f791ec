//! Certificates for tests: an authority, intermediates, and leaves of every sound and unsound kind.
//!
//! ECDSA keys are made here; RSA keys by the `openssl` command, because ring makes none.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData, SignatureAlgorithm, date_time_ymd,
};

use crate::process;

/// Names that every leaf for loopback carries.
pub const LOOPBACK_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// RSA keys of 8192 bits take a while on a busy machine.
const KEY_LIMIT: Duration = Duration::from_secs(300);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KeyKind {
    #[default]
    EcdsaP256,
    /// Bits of the modulus.
    Rsa(u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Validity {
    #[default]
    Current,
    Expired,
    NotYet,
    /// Valid until so long from now.
    EndsIn(Duration),
}

/// What a leaf certificate shall look like.
#[derive(Debug, Clone, Default)]
pub struct Leaf {
    /// DNS names and IP addresses.
    pub names: Vec<String>,
    pub key: KeyKind,
    pub validity: Validity,
    /// Marks the leaf as a certificate authority, which no server certificate should be.
    pub is_ca: bool,
    /// Is what a client shows, not a server.
    pub for_client: bool,
}

impl Leaf {
    #[must_use]
    pub fn named(names: &[&str]) -> Self {
        Self { names: names.iter().map(|name| (*name).to_owned()).collect(), ..Self::default() }
    }

    #[must_use]
    pub fn loopback() -> Self {
        Self::named(&LOOPBACK_NAMES)
    }

    #[must_use]
    pub fn key(self, key: KeyKind) -> Self {
        Self { key, ..self }
    }

    #[must_use]
    pub fn validity(self, validity: Validity) -> Self {
        Self { validity, ..self }
    }
}

/// A certificate authority: a root, or an intermediate below one.
pub struct Authority {
    name: String,
    pem: String,
    /// The intermediates from this one up to, but without, the root; empty for a root.
    above: String,
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A certificate chain with its key, as PEM.
#[derive(Clone)]
pub struct Identity {
    /// Leaf first, then the intermediates; no root.
    pub chain: String,
    /// The leaf alone, as a server that forgot its intermediates would send it.
    pub leaf: String,
    pub key: String,
    /// The leaf as DER, for pins.
    pub leaf_der: Vec<u8>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("chain", &self.chain).finish_non_exhaustive()
    }
}

/// Where an [`Identity`] was written.
#[derive(Debug, Clone)]
pub struct Files {
    pub chain: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    /// Makes a root.
    ///
    /// # Errors
    /// When the certificate cannot be made.
    pub fn root(name: &str) -> Result<Self> {
        let (params, key) = (ca_params(name), KeyPair::generate()?);
        let pem = params.self_signed(&key)?.pem();
        Ok(Self { name: name.to_owned(), pem, above: String::new(), issuer: Issuer::new(params, key) })
    }

    /// Makes an authority below this one.
    ///
    /// # Errors
    /// When the certificate cannot be made.
    pub fn intermediate(&self, name: &str) -> Result<Self> {
        let (params, key) = (ca_params(name), KeyPair::generate()?);
        let pem = params.signed_by(&key, &self.issuer)?.pem();
        let above = format!("{pem}{}", self.above);
        Ok(Self { name: name.to_owned(), pem, above, issuer: Issuer::new(params, key) })
    }

    /// This authority's own certificate.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Writes this authority's certificate, for clients that shall trust it.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        fs::write(path, &self.pem).with_context(|| format!("write {}", path.display()))
    }

    /// Issues a leaf.
    ///
    /// # Errors
    /// When a name is no legal name, or the key cannot be made.
    pub fn issue(&self, leaf: &Leaf) -> Result<Identity> {
        let params = leaf_params(leaf)?;
        let (certificate, key) = match leaf.key {
            KeyKind::EcdsaP256 => {
                let key = KeyPair::generate()?;
                (params.signed_by(&key, &self.issuer)?, key.serialize_pem())
            }
            KeyKind::Rsa(bits) => {
                let (public, key) = rsa_key(bits)?;
                (params.signed_by(&public, &self.issuer)?, key)
            }
        };
        let pem = certificate.pem();
        let chain = format!("{pem}{}", self.above);
        Ok(Identity { chain, leaf: pem, key, leaf_der: certificate.der().to_vec() })
    }
}

impl Identity {
    /// Writes `NAME.crt` (the chain) and `NAME.key` (mode 0600).
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&self, dir: &Path, name: &str) -> Result<Files> {
        let files = Files { chain: dir.join(format!("{name}.crt")), key: dir.join(format!("{name}.key")) };
        fs::write(&files.chain, &self.chain).with_context(|| format!("write {}", files.chain.display()))?;
        fs::write(&files.key, &self.key).with_context(|| format!("write {}", files.key.display()))?;
        fs::set_permissions(&files.key, fs::Permissions::from_mode(0o600))?;
        Ok(files)
    }

    /// The same certificate with somebody else's key.
    ///
    /// # Errors
    /// When no other key can be made.
    pub fn with_wrong_key(&self) -> Result<Self> {
        Ok(Self { key: KeyPair::generate()?.serialize_pem(), ..self.clone() })
    }

    /// The same certificate as a server sends it that forgot the intermediates.
    #[must_use]
    pub fn without_intermediates(&self) -> Self {
        Self { chain: self.leaf.clone(), ..self.clone() }
    }
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    (params.not_before, params.not_after) = (date_time_ymd(2015, 1, 1), date_time_ymd(2099, 1, 1));
    params
}

fn leaf_params(leaf: &Leaf) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(leaf.names.clone()).context("names of the certificate")?;
    params.distinguished_name = common_name(leaf.names.first().map_or("unnamed", String::as_str));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = vec![if leaf.for_client {
        ExtendedKeyUsagePurpose::ClientAuth
    } else {
        ExtendedKeyUsagePurpose::ServerAuth
    }];
    params.use_authority_key_identifier_extension = true;
    if leaf.is_ca {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    }
    let (from, to) = match leaf.validity {
        Validity::Current => (2020, 2090),
        Validity::Expired => (2018, 2019),
        Validity::NotYet => (2090, 2095),
        Validity::EndsIn(_) => (2020, 1970),
    };
    (params.not_before, params.not_after) = (date_time_ymd(from, 1, 1), date_time_ymd(to, 1, 1));
    if let Validity::EndsIn(left) = leaf.validity {
        params.not_after += SystemTime::now().duration_since(UNIX_EPOCH)? + left;
    }
    Ok(params)
}

fn common_name(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}

/// The public half of an RSA key: what a certificate needs to know of it.
struct RsaPublicKey(Vec<u8>);

impl PublicKeyData for RsaPublicKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_RSA_SHA256
    }
}

fn rsa_key(bits: u32) -> Result<(RsaPublicKey, String)> {
    let dir = tempfile::Builder::new().prefix("pc-rsa-").tempdir()?;
    let (private, public) = (dir.path().join("private.pem"), dir.path().join("public.der"));
    let bits = format!("rsa_keygen_bits:{bits}");
    let mut make = Command::new("openssl");
    make.args(["genpkey", "-quiet", "-algorithm", "RSA", "-pkeyopt", &bits, "-out"]).arg(&private);
    process::run(&mut make, KEY_LIMIT)?.ok()?;
    let mut show = Command::new("openssl");
    show.args(["rsa", "-RSAPublicKey_out", "-outform", "DER", "-in"]).arg(&private).arg("-out").arg(&public);
    process::run(&mut show, KEY_LIMIT)?.ok()?;
    Ok((RsaPublicKey(fs::read(&public)?), fs::read_to_string(&private)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verifies(root: &Authority, identity: &Identity) -> bool {
        let dir = tempfile::tempdir().unwrap();
        let (ca, leaf) = (dir.path().join("ca.pem"), dir.path().join("leaf.pem"));
        let chain = dir.path().join("chain.pem");
        root.write(&ca).unwrap();
        fs::write(&leaf, &identity.leaf).unwrap();
        fs::write(&chain, &identity.chain).unwrap();
        let mut verify = Command::new("openssl");
        verify.arg("verify").arg("-CAfile").arg(&ca).arg("-untrusted").arg(&chain).arg(&leaf);
        process::run(&mut verify, KEY_LIMIT).unwrap().success()
    }

    #[test]
    fn openssl_accepts_our_chains() {
        let root = Authority::root("test root").unwrap();
        let middle = root.intermediate("test intermediate").unwrap();
        assert!(verifies(&root, &root.issue(&Leaf::loopback()).unwrap()));
        assert!(verifies(&root, &middle.issue(&Leaf::loopback().key(KeyKind::Rsa(2048))).unwrap()));
    }

    #[test]
    fn openssl_refuses_our_unsound_certificates() {
        let root = Authority::root("test root").unwrap();
        let middle = root.intermediate("test intermediate").unwrap();
        for validity in [Validity::Expired, Validity::NotYet] {
            assert!(!verifies(&root, &root.issue(&Leaf::loopback().validity(validity)).unwrap()));
        }
        let bare = middle.issue(&Leaf::loopback()).unwrap().without_intermediates();
        assert!(!verifies(&root, &bare));
    }
}
