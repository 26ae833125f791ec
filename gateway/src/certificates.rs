//! Certificates that come in by the command line: requests for them, what is imported, and where it is kept.
//!
//! A certificate that the configuration gives files for is replaced in these. One without files is kept in the state
//! directory, chain and key in one file, so that the two can only change together. A key that is made here never
//! leaves the machine: what goes out is the request and the chain. Whether a certificate may take another's place is
//! decided here; that it is served from then on is the reloader's work.

mod chain;
mod files;
pub mod pkcs12;
mod request;

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::{CertificateFiles, Config, Finding, KEPT, Severity, kept_path};
use crate::disk::Disk;
use crate::tls::{certs, pem};
pub use chain::{Described, Link, described};
pub(crate) use files::{Former, finish};
pub use request::{Asked, KeyKind};

/// Below the state directory: keys whose certificate has not come yet.
const REQUESTED: &str = "certificate-requests";
/// Longest name of a certificate, as the configuration has it.
const NAME_MAX_BYTES: usize = 64;
/// Certificates in what is imported; a chain has a few, archives of some issuers have more than the chain.
pub const GIVEN_MAX: usize = 32;

/// Why something is not done with a certificate. By whom is to blame: who asked, what came, the machine.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("a certificate's name has 1 to {NAME_MAX_BYTES} letters, digits, `-`, `_` or `.`")]
    Name,
    #[error("there is no certificate `{0}`, and none was requested; `certificate list` shows what there is")]
    Unknown(String),
    #[error(
        "certificate `{0}` is in the configuration: take it out there first (`configure delete certificate.{0}`)"
    )]
    Configured(String),
    #[error("{0}")]
    Bad(String),
    #[error("the certificate cannot be used, nothing has changed:\n{0}")]
    Unusable(String),
    #[error("{what} cannot be {done}: {error}{remedy}")]
    Io { what: String, done: &'static str, error: std::io::Error, remedy: &'static str },
}

impl Refusal {
    fn io(path: &Path, done: &'static str) -> impl Fn(std::io::Error) -> Self {
        move |error| {
            let remedy = match error.kind() {
                std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
                    "; the daemon's user must own the file's directory, and its unit must let it write there; or take \
                     `chain` and `key` out of the configuration, and the certificate is kept in the state directory"
                }
                _ => "",
            };
            Self::Io { what: path.display().to_string(), done, error, remedy }
        }
    }
}

fn requested_path(state: &Path, name: &str) -> PathBuf {
    state.join(REQUESTED).join(format!("{name}.pem"))
}

/// Whether the state directory has the certificate.
#[must_use]
pub fn is_kept(state: &Path, files: &CertificateFiles) -> bool {
    files.chain == kept_path(state, &files.name)
}

/// The files of a name, whether or not they exist: those of the configuration, else those in the state directory.
fn files_of(config: &Config, name: &str) -> CertificateFiles {
    let configured = config.certificates.iter().find(|files| files.name == name).cloned();
    configured.unwrap_or_else(|| {
        let path = kept_path(&config.server.state_dir, name);
        CertificateFiles { name: name.to_owned(), chain: path.clone(), key: path }
    })
}

fn check_name(name: &str) -> Result<(), Refusal> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let fits = (1..=NAME_MAX_BYTES).contains(&name.len()) && name.bytes().all(legal);
    if fits { Ok(()) } else { Err(Refusal::Name) }
}

/// A certificate that is known by its name.
#[derive(Clone, Debug)]
pub struct Known {
    pub files: CertificateFiles,
    /// The configuration in force has it.
    pub configured: bool,
    /// A key waits here for its certificate.
    pub requested: bool,
    /// What the file holds; `None` while there is none that can be read.
    pub described: Option<Described>,
    pub findings: Vec<Finding>,
}

/// Every certificate of the configuration, and every other that is kept or was requested, by name.
#[must_use]
pub fn all(config: &Config, now: SystemTime) -> Vec<Known> {
    let state = &config.server.state_dir;
    let mut names: Vec<String> = config.certificates.iter().map(|files| files.name.clone()).collect();
    names.extend(files::names_in(&state.join(KEPT)));
    names.extend(files::names_in(&state.join(REQUESTED)));
    names.sort();
    names.dedup();
    names.iter().map(|name| known(config, name, now)).collect()
}

/// What is known of a name.
///
/// # Errors
/// When nothing is.
pub fn find(config: &Config, name: &str, now: SystemTime) -> Result<Known, Refusal> {
    check_name(name)?;
    let known = known(config, name, now);
    let exists = known.configured || known.requested || known.files.chain.exists();
    if exists { Ok(known) } else { Err(Refusal::Unknown(name.to_owned())) }
}

fn known(config: &Config, name: &str, now: SystemTime) -> Known {
    let files = files_of(config, name);
    let configured = config.certificates.iter().any(|files| files.name == name);
    let described = pem::chain(&files.chain).ok().and_then(|chain| described(&chain));
    let is_there = configured || files.chain.exists();
    let findings = if is_there { certs::inspect(&files, now) } else { Vec::new() };
    let requested = requested_path(&config.server.state_dir, name).exists();
    Known { files, configured, requested, described, findings }
}

/// The certificates of a name as PEM, the server's first; never a key.
///
/// # Errors
/// When there is none, or its file cannot be read.
pub fn exported(config: &Config, name: &str) -> Result<String, Refusal> {
    let known = find(config, name, SystemTime::now())?;
    let chain = pem::chain(&known.files.chain).map_err(|error| Refusal::Bad(error.to_string()))?;
    Ok(chain.iter().map(|certificate| pem::encoded("CERTIFICATE", certificate)).collect())
}

/// A request for a certificate (PKCS #10, RFC 2986) with a key that is made here, or made for it before.
///
/// # Errors
/// Names that are none, or what the file system says.
pub fn request(config: &Config, asked: &Asked) -> Result<String, Refusal> {
    check_name(&asked.name)?;
    let path = requested_path(&config.server.state_dir, &asked.name);
    let before = path.exists().then(|| pem::key(&path)).transpose();
    let before = before.map_err(|error| Refusal::Bad(format!("{error}; {}", error.remedy())))?;
    let made = request::make(asked, before)?;
    if let Some(key) = made.new_key {
        Disk::default().write_below(&path, key.as_bytes()).map_err(Refusal::io(&path, "written"))?;
    }
    Ok(made.request)
}

/// Forgets a certificate that is kept here, and the key that waits for one.
///
/// # Errors
/// When the configuration has it, when there is none, or what the file system says.
pub fn delete(config: &Config, name: &str) -> Result<(), Refusal> {
    let known = find(config, name, SystemTime::now())?;
    if known.configured {
        return Err(Refusal::Configured(name.to_owned()));
    }
    let state = &config.server.state_dir;
    for path in [kept_path(state, name), requested_path(state, name)] {
        files::remove(&path).map_err(Refusal::io(&path, "removed"))?;
    }
    Ok(())
}

/// What came to be imported.
#[derive(Debug)]
pub struct Given {
    /// In any order, at least one.
    pub certificates: Vec<CertificateDer<'static>>,
    /// Absent: the key that was made for the request, or the one that is in use.
    pub key: Option<PrivateKeyDer<'static>>,
    /// Names of the current certificate may be missing.
    pub force: bool,
}

impl Given {
    /// Certificates, and where there is one the key, of a text in any order.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn from_pem(text: &[u8], force: bool) -> Result<Self, Refusal> {
        let read = pem::given(text, GIVEN_MAX).map_err(Refusal::Bad)?;
        Ok(Self { certificates: read.0, key: read.1, force })
    }
}

/// A certificate that has taken its place in the files.
#[derive(Debug)]
pub struct Imported {
    pub files: CertificateFiles,
    pub described: Described,
    /// What is doubtful, and what was left out.
    pub remarks: Vec<String>,
    /// What was there before, to be put back when nothing works with the new.
    pub(crate) former: Former,
}

/// Puts a certificate into its files, if it is good: it has its key, a chain in order, its time has come and is not
/// over, and no name of the one before is missing.
///
/// # Errors
/// Everything that speaks against it; nothing has changed then.
pub fn import(config: &Config, name: &str, given: &Given) -> Result<Imported, Refusal> {
    check_name(name)?;
    let files = files_of(config, name);
    let requested = requested_path(&config.server.state_dir, name);
    let keys = [
        given.key.as_ref().map(PrivateKeyDer::clone_key),
        pem::key(&requested).ok(),
        pem::key(&files.key).ok(),
    ];
    let (leaf, key) = chain::owner(&given.certificates, keys).ok_or_else(|| no_key(given))?;
    let sorted = chain::sorted(&given.certificates, leaf);
    let mut remarks = sorted.remarks;
    let new = described(&sorted.chain)
        .ok_or_else(|| Refusal::Bad("the certificate cannot be parsed".to_owned()))?;
    if !given.force {
        compare_names(&files, &new)?;
    }
    let staged = files::stage(&files, &sorted.chain, &key)?;
    let faults = staged.inspect();
    let (errors, others): (Vec<_>, Vec<_>) =
        faults.into_iter().partition(|finding| finding.severity == Severity::Error);
    if !errors.is_empty() {
        staged.forget();
        let lines: Vec<String> =
            errors.iter().map(|error| format!("{} ({})", error.message, error.remedy)).collect();
        return Err(Refusal::Unusable(lines.join("\n")));
    }
    remarks.extend(others.iter().map(|finding| format!("{} ({})", finding.message, finding.remedy)));
    let former = staged.adopt()?;
    Ok(Imported { files, described: new, remarks, former })
}

/// The key that was made for a request has its certificate now.
pub(crate) fn fulfilled(config: &Config, name: &str) {
    let path = requested_path(&config.server.state_dir, name);
    // A key that stays behind is used again by the next request.
    files::remove(&path).ok();
}

fn no_key(given: &Given) -> Refusal {
    let text = match given.key {
        Some(_) => "the private key belongs to none of the certificates: export both again, together",
        None => {
            "no key on this machine belongs to the certificate: import it together with its key, or have it issued for \
             the request that `certificate request` prints"
        }
    };
    Refusal::Bad(text.to_owned())
}

/// Clients that are served now must be served by the new one.
fn compare_names(files: &CertificateFiles, new: &Described) -> Result<(), Refusal> {
    let Ok(before) = certs::dns_names(files) else { return Ok(()) };
    let missing: Vec<&str> = before.iter().filter(|name| !new.covers(name)).map(String::as_str).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let text = format!(
        "the new certificate is not for {}, which the current one is for; with --force it is taken all the same",
        missing.join(", ")
    );
    Err(Refusal::Unusable(text))
}
