//! Public keys of SSH, as lines of `authorized_keys` (sshd(8)): what is taken in, and what is there.
//!
//! A key that is taken in is one of a few kinds, strong enough, and has nothing before it; its parts are looked at as
//! RFC 4253 §6.6, RFC 5656 §3.1, RFC 8709 §4 and OpenSSH's PROTOCOL.u2f have them. What was there before, with options
//! or without, stays as it is and is listed.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use ring::digest::{SHA256, digest};

/// Of one user.
pub const KEYS_MAX: usize = 64;
/// An RSA key of 16,384 bits has fewer.
const LINE_MAX_BYTES: usize = 4096;
pub(super) const COMMENT_MAX_CHARS: usize = 100;
const RSA_MIN_BITS: usize = 3072;
const RSA_MAX_BITS: usize = 16_384;
/// Stands before each key that was added by a command, with the time.
const ADDED: &str = "# added ";

/// Why a line is no key for us.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("that is a private key: keep it, and give the public one, as in id_ed25519.pub")]
    Private,
    #[error("that is no public key: one line as in id_ed25519.pub, `ssh-ed25519 AAAA… comment`")]
    NotAKey,
    #[error("there is something before the key: options are not taken, the line begins with the key's type")]
    Options,
    #[error("keys of the type {0} are not taken: make one with `ssh-keygen -t ed25519`")]
    Kind(String),
    #[error(
        "an RSA key needs at least {RSA_MIN_BITS} bits, and this one has {0}: better `ssh-keygen -t ed25519`"
    )]
    Weak(usize),
    #[error("one key at a time, in one line of at most {LINE_MAX_BYTES} bytes")]
    Long,
    #[error("the comment holds more than {COMMENT_MAX_CHARS} characters, or ones that cannot be printed")]
    Comment,
}

/// A key that may be taken in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    kind: &'static str,
    bits: usize,
    blob: String,
    fingerprint: String,
    comment: String,
}

const ED25519: &str = "ssh-ed25519";
const RSA: &str = "ssh-rsa";
const SK_ED25519: &str = "sk-ssh-ed25519@openssh.com";
const SK_ECDSA: &str = "sk-ecdsa-sha2-nistp256@openssh.com";
/// With the length of a point, and of the key.
const ECDSA: [(&str, &str, usize, usize); 3] = [
    ("ecdsa-sha2-nistp256", "nistp256", 65, 256),
    ("ecdsa-sha2-nistp384", "nistp384", 97, 384),
    ("ecdsa-sha2-nistp521", "nistp521", 133, 521),
];

impl PublicKey {
    /// Reads one line.
    ///
    /// # Errors
    /// What is wrong with it; the line is not repeated.
    pub fn parse(line: &str) -> Result<Self, KeyError> {
        let line = line.trim();
        if line.contains("PRIVATE KEY") {
            return Err(KeyError::Private);
        }
        if line.len() > LINE_MAX_BYTES || line.contains(['\n', '\r']) {
            return Err(KeyError::Long);
        }
        let mut words = line.splitn(3, [' ', '\t']);
        let (kind, blob) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let comment = words.next().unwrap_or_default().trim();
        if !looks_like_a_kind(kind) {
            return Err(if find(line).is_some() { KeyError::Options } else { KeyError::NotAKey });
        }
        let legal = |c: char| !c.is_control() && !matches!(c, '\u{2028}' | '\u{2029}');
        if comment.chars().count() > COMMENT_MAX_CHARS || !comment.chars().all(legal) {
            return Err(KeyError::Comment);
        }
        let bytes = STANDARD.decode(blob).map_err(|_| KeyError::NotAKey)?;
        let (kind, bits) = understand(kind, &bytes)?;
        Ok(Self {
            kind,
            bits,
            // Encoded again: one text for one key.
            blob: STANDARD.encode(&bytes),
            fingerprint: fingerprint(&bytes),
            comment: comment.to_owned(),
        })
    }

    /// As `ssh-keygen -l` and sshd's log have it.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    #[must_use]
    pub fn comment(&self) -> &str {
        &self.comment
    }

    #[must_use]
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// The line as it is written and handed on.
    #[must_use]
    pub fn line(&self) -> String {
        format!("{} {} {}", self.kind, self.blob, self.comment).trim_end().to_owned()
    }
}

/// A key that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub fingerprint: String,
    pub kind: String,
    /// 0 where that is not known.
    pub bits: usize,
    pub comment: String,
    /// When a command has added it (RFC 3339); `None` for what the machine was told at its first boot.
    pub added: Option<String>,
    /// Options stand before it, as the first boot was told.
    pub options: bool,
}

/// The keys of a file, in its order. Lines without a key are none.
#[must_use]
pub fn listed(text: &str) -> Vec<Listed> {
    let mut added = None;
    let mut keys = Vec::new();
    for line in text.lines() {
        if let Some(at) = line.strip_prefix(ADDED) {
            added = Some(plain(at));
            continue;
        }
        if let Some(found) = key_of(line) {
            keys.push(Listed { added: added.take(), ..found });
        }
        added = None;
    }
    keys
}

/// The text with one more key behind the others.
pub(crate) fn with(text: &str, key: &PublicKey, at: &str) -> String {
    let mut text = text.to_owned();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text + ADDED + at + "\n" + &key.line() + "\n"
}

/// The text without the keys of a fingerprint; every other line stays.
pub(crate) fn without(text: &str, fingerprint: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for line in text.lines() {
        if key_of(line).is_some_and(|found| found.fingerprint == fingerprint) {
            if kept.last().is_some_and(|before| before.starts_with(ADDED)) {
                kept.pop();
            }
        } else {
            kept.push(line);
        }
    }
    kept.iter().map(|line| format!("{line}\n")).collect()
}

fn key_of(line: &str) -> Option<Listed> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    let (kind, bytes, comment, options) = find(line)?;
    let bits = understand(kind, &bytes).map_or(0, |(_, bits)| bits);
    let comment = plain(comment);
    Some(Listed {
        fingerprint: fingerprint(&bytes),
        kind: kind.to_owned(),
        bits,
        comment,
        added: None,
        options,
    })
}

/// The key in a line, whatever stands before it: kind, bytes, comment, and whether something does.
fn find(line: &str) -> Option<(&str, Vec<u8>, &str, bool)> {
    let mut rest = line;
    let mut before = false;
    loop {
        let (word, after) = rest.split_once([' ', '\t'])?;
        let after = after.trim_start();
        if looks_like_a_kind(word) {
            let (blob, comment) = after.split_once([' ', '\t']).unwrap_or((after, ""));
            let bytes = STANDARD.decode(blob).ok().filter(|bytes| names(bytes, word));
            if let Some(bytes) = bytes {
                return Some((word, bytes, comment.trim(), before));
            }
        }
        (rest, before) = (after, true);
    }
}

fn looks_like_a_kind(word: &str) -> bool {
    let starts = ["ssh-", "ecdsa-", "sk-"].iter().any(|start| word.starts_with(start));
    starts && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-@.".contains(&byte))
}

/// Whether the bytes of a key begin with its kind.
fn names(bytes: &[u8], kind: &str) -> bool {
    Parts(bytes).next_part() == Some(kind.as_bytes())
}

/// Strings of RFC 4251 §5, one after the other.
struct Parts<'a>(&'a [u8]);

impl<'a> Parts<'a> {
    fn next_part(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.0.split_first_chunk::<4>()?;
        let (part, rest) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
        self.0 = rest;
        Some(part)
    }
}

/// Which kind of key that is and how many bits it has, if it is whole and strong enough.
fn understand(kind: &str, bytes: &[u8]) -> Result<(&'static str, usize), KeyError> {
    let mut parts = Parts(bytes);
    if parts.next_part() != Some(kind.as_bytes()) {
        return Err(KeyError::NotAKey);
    }
    let mut next = || parts.next_part().ok_or(KeyError::NotAKey);
    let known = match kind {
        ED25519 => (next()?.len() == 32).then_some((ED25519, 256)),
        SK_ED25519 => (next()?.len() == 32 && !next()?.is_empty()).then_some((SK_ED25519, 256)),
        SK_ECDSA => (next()? == b"nistp256" && is_point(next()?, 65) && !next()?.is_empty())
            .then_some((SK_ECDSA, 256)),
        RSA => {
            let (exponent, modulus) = (next()?, next()?);
            let size = bits(modulus);
            // An even exponent or 1 encrypts nothing.
            let sound = bits(exponent) > 1 && exponent.last().is_some_and(|last| last % 2 == 1);
            match size {
                size if !sound || size > RSA_MAX_BITS => None,
                size if size < RSA_MIN_BITS => return Err(KeyError::Weak(size)),
                size => Some((RSA, size)),
            }
        }
        other => {
            let Some((kind, curve, point, bits)) = ECDSA.iter().find(|(kind, ..)| *kind == other) else {
                return Err(KeyError::Kind(plain(other)));
            };
            (next()? == curve.as_bytes() && is_point(next()?, *point)).then_some((*kind, *bits))
        }
    };
    known.filter(|_| parts.0.is_empty()).ok_or(KeyError::NotAKey)
}

/// An uncompressed point of SEC 1.
fn is_point(bytes: &[u8], length: usize) -> bool {
    bytes.len() == length && bytes.first() == Some(&4)
}

/// Of a positive number; 0 for what is none.
fn bits(number: &[u8]) -> usize {
    let first = number.iter().position(|byte| *byte != 0);
    let negative = number.first().is_some_and(|byte| *byte >= 0x80);
    let Some(digits) = first.and_then(|first| number.get(first..)).filter(|_| !negative) else { return 0 };
    let leading = digits.first().map_or(0, |byte| byte.leading_zeros());
    (digits.len() * 8).saturating_sub(usize::try_from(leading).unwrap_or(0))
}

fn fingerprint(bytes: &[u8]) -> String {
    format!("SHA256:{}", STANDARD_NO_PAD.encode(digest(&SHA256, bytes).as_ref()))
}

fn plain(text: &str) -> String {
    let legal = |c: char| if c.is_control() { '?' } else { c };
    text.chars().take(COMMENT_MAX_CHARS).map(legal).collect()
}

#[cfg(test)]
mod tests;
