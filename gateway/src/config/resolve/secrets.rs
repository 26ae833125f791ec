//! Secrets apart from the configuration, in files of their own or sealed by name: security keys, whose header the
//! configuration names, and the token for metrics.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use zeroize::Zeroizing;

use super::Resolver;
use crate::config::reader::{Located, shown};
use crate::config::{SecurityKey, Severity};
use crate::secrets::Vault;

/// 256 bits in base64 are 44 bytes (PROTOCOL §3); this leaves room for other ideas of a key.
const KEY_MAX_BYTES: usize = 1024;
/// A key and the other side of a rotation.
const KEYS_MAX: usize = 2;
/// Headers whose meaning HTTP itself gives.
const HEADERS_TAKEN: [&str; 8] =
    ["host", "connection", "content-length", "content-type", "transfer-encoding", "te", "upgrade", "expect"];

/// A list as typed, where there is one.
type Listed = Option<Located<Vec<Located<String>>>>;

impl Resolver<'_> {
    /// A security key of the table `table`: a header, and values in files or as secrets by name.
    pub(super) fn security_key(
        &mut self,
        table: &str,
        header: Option<Located<String>>,
        (files, secrets): (Listed, Listed),
    ) -> Option<SecurityKey> {
        if let (Some(_), Some(secrets)) = (&files, &secrets) {
            self.problems
                .add(secrets.at, format!("{table} has `security_key_files` and `security_key_secrets`"))
                .expected("one of them");
            return None;
        }
        let by_name = secrets.is_some();
        let (header, values) = match (header, files.or(secrets)) {
            (None, None) => return None,
            (Some(header), None) => {
                self.problems
                    .add(header.at, format!("{table} has `security_key_header` but no key"))
                    .expected("`security_key_secrets` or `security_key_files` beside it");
                return None;
            }
            (None, Some(values)) => {
                self.problems
                    .add(values.at, format!("{table} has a security key but no `security_key_header`"))
                    .expected("both or neither; the header's name is not standardised");
                return None;
            }
            (Some(header), Some(values)) => (header, values),
        };
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if header.value.is_empty() || header.value.len() > 64 || !header.value.bytes().all(legal) {
            self.problems
                .add(header.at, format!("\"{}\" is no name of an HTTP header", shown(&header.value)))
                .expected("a token (RFC 9110 §5.6.2) of at most 64 bytes");
        } else if HEADERS_TAKEN.contains(&header.value.to_ascii_lowercase().as_str()) {
            self.problems
                .add(header.at, format!("the header `{}` has a meaning of its own", header.value))
                .expected("the name that the other side checks");
        }
        let key = if by_name { "security_key_secrets" } else { "security_key_files" };
        let values = self.list(key, Some(values), KEYS_MAX, |resolver, typed| {
            if by_name {
                return resolver.secret("security key", typed);
            }
            let path = resolver.path(key, typed);
            resolver.key_file("security key", typed, &path)
        });
        Some(SecurityKey {
            header: header.value,
            values: values.into_iter().map(|value| value.value).collect(),
        })
    }

    /// The secret of that name; `what` it is stands in what is said of it.
    pub(super) fn secret(&mut self, what: &str, typed: &Located<String>) -> Option<Zeroizing<String>> {
        self.secrets.insert(typed.value.clone());
        let opened = Vault::new(&self.state).get(&typed.value).map_err(|error| error.to_string());
        let usable = |value: &Zeroizing<String>| is_key(value.as_bytes());
        match opened {
            Ok(value) if usable(&value) => Some(value),
            Ok(_) => {
                self.problems
                    .add(typed.at, format!("{what}: the secret `{}` holds no key", shown(&typed.value)))
                    .expected(format!("1 to {KEY_MAX_BYTES} visible ASCII characters"));
                None
            }
            Err(message) => {
                self.problems.add(typed.at, format!("{what}: {message}"));
                None
            }
        }
    }

    /// The secret in a file; `what` it is stands in what is said of the file.
    pub(super) fn key_file(
        &mut self,
        what: &str,
        typed: &Located<String>,
        path: &Path,
    ) -> Option<Zeroizing<String>> {
        match read_key(path) {
            Ok((key, mode)) => {
                if mode & 0o077 != 0 {
                    let subject = format!("{what} {}", path.display());
                    let message = format!("the file can be used by others than its owner (mode {mode:04o})");
                    self.remark(Severity::Warning, &subject, &message, "chmod 600 it");
                }
                Some(key)
            }
            Err(message) => {
                self.problems.add(typed.at, format!("{what} {}: {message}", path.display())).expected(
                    format!("a file with one line of 1 to {KEY_MAX_BYTES} visible ASCII characters"),
                );
                None
            }
        }
    }
}

/// The key in a file without the white space around it, and the file's permission bits. No error shows contents.
fn read_key(path: &Path) -> Result<(Zeroizing<String>, u32), String> {
    let unreadable = |error: std::io::Error| format!("cannot be read: {error}");
    let file = File::open(path).map_err(unreadable)?;
    let mode = file.metadata().map_err(unreadable)?.mode() & 0o7777;
    // The whole capacity is there from the start: growing would leave copies that nobody wipes.
    let mut bytes = Zeroizing::new(Vec::with_capacity(KEY_MAX_BYTES + 16));
    let limit = u64::try_from(KEY_MAX_BYTES + 8).unwrap_or(u64::MAX);
    file.take(limit).read_to_end(&mut bytes).map_err(unreadable)?;
    let key = bytes.trim_ascii();
    if !is_key(key) {
        return Err("holds no key".into());
    }
    let text = std::str::from_utf8(key).map_err(|_| "holds no key")?;
    Ok((Zeroizing::new(text.to_owned()), mode))
}

fn is_key(bytes: &[u8]) -> bool {
    (1..=KEY_MAX_BYTES).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
}
