//! Secrets apart from the configuration, which names them: one sealed file for each, below the state directory.
//!
//! They are sealed with AES-256-GCM (NIST SP 800-38D) by a key of this machine. Where systemd hands the service the
//! credential `portcullis.secrets-key`, which it keeps encrypted by the machine's own key or its TPM, that is the key
//! and nothing on the disk opens the files; otherwise the key is made once and lies beside them, readable by the
//! daemon's user only: then a copy of the whole state directory holds the secrets, and one of the files alone does not.
//! The name is authenticated with the contents, so that no file can take another's place.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::digest::{SHA256, digest};
use ring::hkdf::{HKDF_SHA256, Salt};
use ring::rand::{SecureRandom as _, SystemRandom};
use zeroize::Zeroizing;

use crate::disk::Disk;

/// Below the state directory.
const DIRECTORY: &str = "secrets";
/// The key beside them, where systemd gives none. No secret can have that name.
const KEY_FILE: &str = "key";
const SEALED: &str = "sealed";
/// The service's credential with the key (systemd.exec(5), `ImportCredential=`).
pub const CREDENTIAL: &str = "portcullis.secrets-key";
const KEY_BYTES: usize = 32;
/// Longest credential that is taken as a key.
const MATERIAL_MAX_BYTES: u64 = 4096;
/// What a sealed file begins with.
const MAGIC: &[u8] = b"portcullis secret 1\n";
/// Which key it is sealed with.
const KEY_ID_BYTES: usize = 8;
/// Longest name, as everywhere in the configuration.
const NAME_MAX_BYTES: usize = 64;
/// Longest secret; keys and tokens have some dozens of bytes.
pub const SECRET_MAX_BYTES: usize = 4096;
const SECRETS_MAX: usize = 256;

/// A key that systemd gives to the service.
pub const CREDENTIAL_KEY: &str = "credential";
/// A key beside the secrets.
pub const FILE_KEY: &str = "file";

/// Why a secret cannot be kept or had.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("a secret's name has 1 to {NAME_MAX_BYTES} letters, digits, `-`, `_` or `.`")]
    Name,
    #[error("a secret is one line of 1 to {SECRET_MAX_BYTES} bytes")]
    Value,
    #[error("there is no secret `{0}`; `secret set {0}` makes it")]
    Unknown(String),
    #[error("there are {SECRETS_MAX} secrets already; delete those that nothing uses")]
    TooMany,
    #[error("the secret `{name}` is in the configuration ({by}): take it out there first")]
    Used { name: String, by: String },
    #[error(
        "the secret `{0}` was sealed by another machine's key, or by one that is given to the service only: ask the daemon \
         (`configure validate`), or set it again"
    )]
    OtherKey(String),
    #[error("the file of the secret `{0}` is damaged: set it again")]
    Damaged(String),
    #[error("{} cannot be {done}: {error}", path.display())]
    Io { path: PathBuf, done: &'static str, error: io::Error },
    #[error("the system gives no randomness")]
    Randomness,
}

/// A secret without its contents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    pub name: String,
    pub since: SystemTime,
    /// Where the key is from that it is sealed with, [`CREDENTIAL_KEY`] or [`FILE_KEY`]; `None` where it is not here.
    pub sealed_by: Option<&'static str>,
}

/// The secrets of one state directory.
#[derive(Clone, Debug)]
pub struct Vault {
    directory: PathBuf,
    credentials: Option<PathBuf>,
}

impl Vault {
    #[must_use]
    pub fn new(state: &Path) -> Self {
        let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
        Self { directory: state.join(DIRECTORY), credentials }
    }

    /// Where the key comes from, in a word.
    #[must_use]
    pub fn key_source(&self) -> &'static str {
        if self.credential().is_some() { CREDENTIAL_KEY } else { FILE_KEY }
    }

    /// Seals a secret, in the place of the one of that name.
    ///
    /// # Errors
    /// A name or value that is none, or what the file system says.
    pub fn set(&self, name: &str, value: &str) -> Result<(), SecretError> {
        check_name(name)?;
        let fits = (1..=SECRET_MAX_BYTES).contains(&value.len()) && !value.chars().any(char::is_control);
        if !fits {
            return Err(SecretError::Value);
        }
        let path = self.path(name);
        if !path.exists() && self.names().len() >= SECRETS_MAX {
            return Err(SecretError::TooMany);
        }
        let sealed = self.key_for_sealing()?.seal(name, value.as_bytes())?;
        self.write(&path, &sealed)
    }

    /// Opens a secret.
    ///
    /// # Errors
    /// When there is none, or its key is not here.
    pub fn get(&self, name: &str) -> Result<Zeroizing<String>, SecretError> {
        check_name(name)?;
        let path = self.path(name);
        let sealed = match fs::read(&path) {
            Ok(sealed) => sealed,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(SecretError::Unknown(name.to_owned()));
            }
            Err(error) => return Err(SecretError::Io { path, done: "read", error }),
        };
        let damaged = || SecretError::Damaged(name.to_owned());
        let sealed = Sealed::parse(&sealed).ok_or_else(damaged)?;
        let key = self.keys().into_iter().find(|key| key.id == sealed.key_id);
        let key = key.ok_or_else(|| SecretError::OtherKey(name.to_owned()))?;
        let opened = key.open(name, &sealed).ok_or_else(damaged)?;
        match std::str::from_utf8(&opened) {
            Ok(text) => Ok(Zeroizing::new(text.to_owned())),
            Err(_) => Err(damaged()),
        }
    }

    /// What there is, by name.
    #[must_use]
    pub fn list(&self) -> Vec<Kept> {
        let keys = self.keys();
        let kept = |name: String| {
            let path = self.path(&name);
            let metadata = fs::metadata(&path).ok()?;
            let since =
                SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(metadata.mtime()).unwrap_or(0));
            let bytes = fs::read(&path).ok()?;
            let sealed = Sealed::parse(&bytes)?;
            let sealed_by = keys.iter().find(|key| key.id == sealed.key_id).map(|key| key.source);
            Some(Kept { name, since, sealed_by })
        };
        self.names().into_iter().filter_map(kept).collect()
    }

    /// Forgets a secret.
    ///
    /// # Errors
    /// When there is none, or what the file system says.
    pub fn delete(&self, name: &str) -> Result<(), SecretError> {
        check_name(name)?;
        let path = self.path(name);
        if !path.exists() {
            return Err(SecretError::Unknown(name.to_owned()));
        }
        Disk::default().remove(&path).map_err(|error| SecretError::Io { path, done: "removed", error })
    }

    /// The sealed file as it is, to be put back.
    pub(crate) fn sealed(&self, name: &str) -> Option<Vec<u8>> {
        fs::read(self.path(name)).ok()
    }

    /// Makes a secret what it was.
    pub(crate) fn put_back(&self, name: &str, sealed: Option<&[u8]>) -> Result<(), SecretError> {
        match sealed {
            Some(sealed) => self.write(&self.path(name), sealed),
            None => self.delete(name),
        }
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), SecretError> {
        let failed = |error| SecretError::Io { path: path.to_owned(), done: "written", error };
        Disk::default().write_below(path, bytes).map_err(failed)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.{SEALED}"))
    }

    fn names(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(&self.directory) else { return Vec::new() };
        let name = |entry: fs::DirEntry| {
            let name = entry.file_name().to_str()?.strip_suffix(SEALED)?.strip_suffix('.')?.to_owned();
            check_name(&name).ok().map(|()| name)
        };
        let mut names: Vec<String> = entries.flatten().filter_map(name).take(SECRETS_MAX).collect();
        names.sort();
        names
    }

    fn credential(&self) -> Option<PathBuf> {
        let path = self.credentials.as_ref()?.join(CREDENTIAL);
        path.is_file().then_some(path)
    }

    /// Every key that is here, the one that seals first.
    fn keys(&self) -> Vec<Key> {
        let paths = [(CREDENTIAL_KEY, self.credential()), (FILE_KEY, Some(self.directory.join(KEY_FILE)))];
        let key = |(source, path): (&'static str, Option<PathBuf>)| {
            Key::from_material(&read_material(&path?).ok()?, source)
        };
        paths.into_iter().filter_map(key).collect()
    }

    /// The credential; else the key file, which is made when it is needed first.
    fn key_for_sealing(&self) -> Result<Key, SecretError> {
        let path = match self.credential() {
            Some(path) => path,
            None => self.key_file()?,
        };
        let failed = |error| SecretError::Io { path: path.clone(), done: "read", error };
        let material = read_material(&path).map_err(failed)?;
        let short = || failed(io::Error::other(format!("it has less than {KEY_BYTES} bytes")));
        Key::from_material(&material, self.key_source()).ok_or_else(short)
    }

    fn key_file(&self) -> Result<PathBuf, SecretError> {
        let path = self.directory.join(KEY_FILE);
        if !path.exists() {
            let mut material = Zeroizing::new([0; KEY_BYTES]);
            SystemRandom::new().fill(material.as_mut()).map_err(|_| SecretError::Randomness)?;
            self.write(&path, material.as_ref())?;
        }
        Ok(path)
    }
}

fn check_name(name: &str) -> Result<(), SecretError> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let fits = (1..=NAME_MAX_BYTES).contains(&name.len()) && name.bytes().all(legal);
    if fits { Ok(()) } else { Err(SecretError::Name) }
}

/// What a key is derived from. Links are not followed.
fn read_material(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    use std::io::Read as _;
    let file = fs::OpenOptions::new().read(true).custom_flags(libc_nofollow()).open(path)?;
    let mut material = Zeroizing::new(Vec::with_capacity(usize::try_from(MATERIAL_MAX_BYTES).unwrap_or(0)));
    file.take(MATERIAL_MAX_BYTES).read_to_end(&mut material)?;
    Ok(material)
}

fn libc_nofollow() -> i32 {
    nix::fcntl::OFlag::O_NOFOLLOW.bits()
}

/// A key and how it is told from others.
struct Key {
    id: [u8; KEY_ID_BYTES],
    key: LessSafeKey,
    source: &'static str,
}

impl Key {
    fn from_material(material: &[u8], source: &'static str) -> Option<Self> {
        if material.len() < KEY_BYTES {
            return None;
        }
        let derived = Salt::new(HKDF_SHA256, MAGIC).extract(material);
        let okm = derived.expand(&[b"secrets"], &AES_256_GCM).ok()?;
        let key = LessSafeKey::new(UnboundKey::from(okm));
        let mut named = Zeroizing::new(b"which key".to_vec());
        named.extend_from_slice(material);
        let id = digest(&SHA256, &named).as_ref().first_chunk().copied()?;
        Some(Self { id, key, source })
    }

    fn seal(&self, name: &str, value: &[u8]) -> Result<Vec<u8>, SecretError> {
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).map_err(|_| SecretError::Randomness)?;
        let mut sealed = [MAGIC, &self.id, &nonce].concat();
        let mut contents = Zeroizing::new(Vec::with_capacity(value.len() + AES_256_GCM.tag_len()));
        contents.extend_from_slice(value);
        let tag = self
            .key
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(name.as_bytes()),
                &mut contents,
            )
            .map_err(|_| SecretError::Value)?;
        sealed.extend_from_slice(&contents);
        sealed.extend_from_slice(tag.as_ref());
        Ok(sealed)
    }

    fn open(&self, name: &str, sealed: &Sealed<'_>) -> Option<Zeroizing<Vec<u8>>> {
        let mut contents = Zeroizing::new(sealed.contents.to_vec());
        let nonce = Nonce::assume_unique_for_key(sealed.nonce);
        let length = self.key.open_in_place(nonce, Aad::from(name.as_bytes()), &mut contents).ok()?.len();
        contents.truncate(length);
        Some(contents)
    }
}

/// A sealed file in its parts.
struct Sealed<'a> {
    key_id: [u8; KEY_ID_BYTES],
    nonce: [u8; NONCE_LEN],
    contents: &'a [u8],
}

impl<'a> Sealed<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(MAGIC)?;
        let (key_id, rest) = rest.split_first_chunk()?;
        let (nonce, contents) = rest.split_first_chunk()?;
        let fits = contents.len() <= SECRET_MAX_BYTES + AES_256_GCM.tag_len();
        fits.then_some(Self { key_id: *key_id, nonce: *nonce, contents })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn vault(state: &Path) -> Vault {
        Vault { credentials: None, ..Vault::new(state) }
    }

    #[test]
    fn what_was_sealed_opens_and_is_nowhere_in_the_files() {
        let state = tempfile::tempdir().unwrap();
        let vault = vault(state.path());
        vault.set("sta", "correct horse").unwrap();
        assert_eq!(*vault.get("sta").unwrap(), "correct horse");
        let kept = vault.list();
        assert_eq!((kept.len(), kept[0].name.as_str(), kept[0].sealed_by), (1, "sta", Some(FILE_KEY)));
        for entry in fs::read_dir(state.path().join(DIRECTORY)).unwrap().flatten() {
            assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600);
            let bytes = fs::read(entry.path()).unwrap();
            assert!(!bytes.windows(7).any(|window| window == b"correct"));
        }
        vault.delete("sta").unwrap();
        assert!(matches!(vault.get("sta"), Err(SecretError::Unknown(_))));
    }

    #[test]
    fn a_file_under_another_name_or_with_another_bit_does_not_open() {
        let state = tempfile::tempdir().unwrap();
        let vault = vault(state.path());
        vault.set("one", "value").unwrap();
        fs::copy(vault.path("one"), vault.path("other")).unwrap();
        assert!(matches!(vault.get("other"), Err(SecretError::Damaged(_))));
        let mut bytes = fs::read(vault.path("one")).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(vault.path("one"), bytes).unwrap();
        assert!(matches!(vault.get("one"), Err(SecretError::Damaged(_))));
    }

    #[test]
    fn the_services_credential_seals_and_without_it_nothing_opens() {
        let (state, given) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(given.path().join(CREDENTIAL), [7; 32]).unwrap();
        let by_file = vault(state.path());
        by_file.set("before", "x").unwrap();
        let by_credential = Vault { credentials: Some(given.path().to_owned()), ..by_file.clone() };
        assert_eq!((by_file.key_source(), by_credential.key_source()), ("file", "credential"));
        by_credential.set("after", "y").unwrap();
        assert_eq!(*by_credential.get("before").unwrap(), "x");
        assert_eq!(*by_credential.get("after").unwrap(), "y");
        assert!(matches!(by_file.get("after"), Err(SecretError::OtherKey(_))));
        assert_eq!(by_file.list()[0].sealed_by, None);
        let sealed_by: Vec<_> = by_credential.list().into_iter().map(|kept| kept.sealed_by).collect();
        assert_eq!(sealed_by, [Some(CREDENTIAL_KEY), Some(FILE_KEY)]);
    }

    #[test]
    fn names_and_values_have_bounds() {
        let state = tempfile::tempdir().unwrap();
        let vault = vault(state.path());
        for name in ["", "a/b", "..\u{0}", &"x".repeat(65)] {
            assert!(matches!(vault.set(name, "v"), Err(SecretError::Name)), "{name}");
        }
        vault.set(&"x".repeat(64), &"v".repeat(SECRET_MAX_BYTES)).unwrap();
        for value in ["", "two\nlines", &"v".repeat(SECRET_MAX_BYTES + 1)] {
            assert!(matches!(vault.set("n", value), Err(SecretError::Value)));
        }
    }
}
