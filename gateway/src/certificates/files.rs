//! The files of certificates: staged beside their place, judged there, and renamed.
//!
//! Chain and key in one file change in one step. In two files there is a moment between the two renames; a daemon
//! that is serving keeps what it has over that moment, and one that starts after a power cut in it finds the rest
//! of the change beside the chain and finishes it ([`finish`]).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use super::Refusal;
use crate::config::{CertificateFiles, Finding};
use crate::disk::{Disk, staged};
use crate::tls::{certs, pem};

/// Certificates that are listed of one directory.
const NAMES_MAX: usize = 1_000;

/// Names of the files in a directory, without `.pem`.
pub(super) fn names_in(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let name = |entry: fs::DirEntry| entry.file_name().to_str()?.strip_suffix(".pem").map(str::to_owned);
    entries
        .flatten()
        .filter_map(name)
        .filter(|name| super::check_name(name).is_ok())
        .take(NAMES_MAX)
        .collect()
}

pub(super) fn remove(path: &Path) -> io::Result<()> {
    Disk::default().remove(path)
}

/// A new certificate beside the place that it is for.
pub(super) struct Staged<'a> {
    files: &'a CertificateFiles,
    disk: Disk,
}

/// Brings chain and key to the disk.
pub(super) fn stage<'a>(
    files: &'a CertificateFiles,
    chain: &[CertificateDer<'_>],
    key: &PrivateKeyDer<'_>,
) -> Result<Staged<'a>, Refusal> {
    let staged = Staged { files, disk: Disk::default() };
    let label = match key {
        PrivateKeyDer::Pkcs1(_) => "RSA PRIVATE KEY",
        PrivateKeyDer::Sec1(_) => "EC PRIVATE KEY",
        _ => "PRIVATE KEY",
    };
    let key = Zeroizing::new(pem::encoded(label, key.secret_der()));
    let chain: String = chain.iter().map(|der| pem::encoded("CERTIFICATE", der)).collect();
    let failed = |path: &Path, error| {
        staged.forget();
        Refusal::io(path, "written")(error)
    };
    let parents = [&files.chain, &files.key].map(|path| path.parent());
    for directory in parents.into_iter().flatten() {
        staged.disk.make_directory(directory).map_err(|error| failed(directory, error))?;
    }
    if staged.is_one_file() {
        let both = Zeroizing::new(format!("{chain}{}", *key));
        staged.disk.stage(&files.chain, both.as_bytes()).map_err(|error| failed(&files.chain, error))?;
    } else {
        staged.disk.stage(&files.chain, chain.as_bytes()).map_err(|error| failed(&files.chain, error))?;
        staged.disk.stage(&files.key, key.as_bytes()).map_err(|error| failed(&files.key, error))?;
    }
    Ok(staged)
}

impl Staged<'_> {
    fn is_one_file(&self) -> bool {
        self.files.chain == self.files.key
    }

    /// What is the matter with it.
    pub(super) fn inspect(&self) -> Vec<Finding> {
        certs::inspect(&beside(self.files), SystemTime::now())
    }

    pub(super) fn forget(&self) {
        self.disk.unstage(&self.files.chain);
        self.disk.unstage(&self.files.key);
    }

    /// Takes the place of what is there.
    pub(super) fn adopt(self) -> Result<Former, Refusal> {
        let former = Former::of(self.files);
        let adopted = match self.is_one_file() {
            true => self.disk.adopt(&self.files.chain),
            // In this order `finish` can tell what is missing.
            false => self.disk.adopt(&self.files.key).and_then(|()| self.disk.adopt(&self.files.chain)),
        };
        match adopted {
            Ok(()) => Ok(former),
            Err(error) => {
                former.put_back();
                self.forget();
                Err(Refusal::io(&self.files.chain, "replaced")(error))
            }
        }
    }
}

fn beside(files: &CertificateFiles) -> CertificateFiles {
    CertificateFiles { name: files.name.clone(), chain: staged(&files.chain), key: staged(&files.key) }
}

/// What stood in the files before.
pub(crate) struct Former(Vec<(PathBuf, Option<Zeroizing<Vec<u8>>>)>);

impl std::fmt::Debug for Former {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Former(…)")
    }
}

impl Former {
    fn of(files: &CertificateFiles) -> Self {
        let read = |path: &PathBuf| (path.clone(), fs::read(path).ok().map(Zeroizing::new));
        let mut paths = vec![&files.chain, &files.key];
        paths.dedup();
        Self(paths.into_iter().map(read).collect())
    }

    /// Makes the files what they were.
    pub(crate) fn put_back(&self) {
        for (path, bytes) in &self.0 {
            let done = match bytes {
                Some(bytes) => Disk::default().write(path, bytes),
                None => remove(path),
            };
            if let Err(error) = done {
                tracing::error!(path = %path.display(), %error, "the former certificate cannot be put back");
            }
        }
    }
}

/// Finishes a change of two files that a power cut has interrupted between its renames.
pub(crate) fn finish(certificates: &[CertificateFiles]) {
    for files in certificates.iter().filter(|files| files.chain != files.key) {
        let with_rest = CertificateFiles { chain: staged(&files.chain), ..files.clone() };
        let broken = certs::certified_server_config(files).is_err();
        if broken && certs::certified_server_config(&with_rest).is_ok() {
            match Disk::default().adopt(&files.chain) {
                Ok(()) => tracing::warn!(
                    certificate = files.name,
                    "a change of its files was interrupted and is finished now"
                ),
                Err(error) => {
                    tracing::error!(certificate = files.name, %error, "an interrupted change of its files cannot be finished")
                }
            }
        }
    }
}
