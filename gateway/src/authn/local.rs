//! Users in a local file: one `name:hash` per line, the hash an argon2id string in PHC format (RFC 9106; PHC
//! string format). `#` begins a comment line; empty lines are skipped. Names are case-sensitive.
//!
//! A verification costs as much for an unknown user as for a known one. The parameters of each hash are bounded,
//! so that no line of a file can make a login take minutes or gigabytes; how many verifications run at a time is
//! bounded by the caller.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::hash::{BuildHasher as _, RandomState};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use argon2::password_hash::{Ident, PasswordHashString, SaltString};
use argon2::{
    ARGON2ID_IDENT, Algorithm, Argon2, Params, PasswordHash, PasswordHasher as _, PasswordVerifier as _,
    Version,
};
use ring::rand::{SecureRandom as _, SystemRandom};

const FILE_MAX_BYTES: u64 = 4 * 1024 * 1024;
const USERS_MAX: usize = 10_000;
const LINE_MAX_BYTES: usize = 1024;
/// RFC 1929 §2: a user name and a password have at most 255 bytes.
pub const NAME_MAX_BYTES: usize = 255;
pub const PASSWORD_MAX_BYTES: usize = 255;
/// What one verification may cost, in KiB and passes: 64 MiB and 3 passes is RFC 9106's choice for small machines.
const MEMORY_MAX_KIB: u32 = 64 * 1024;
const PASSES_MAX: u32 = 16;
const LANES_MAX: u32 = 16;
/// Memory times passes: at most what RFC 9106's choice costs, some 200 ms.
const WORK_MAX_KIB: u32 = 3 * MEMORY_MAX_KIB;
/// OWASP's parameters for argon2id: 19 MiB, two passes, one lane.
const MEMORY_KIB: u32 = 19_456;
const PASSES: u32 = 2;
const LANES: u32 = 1;
const SALT_BYTES: usize = 16;

/// Why a users file cannot be used, and in which line (0: the file as a whole).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserDbError {
    pub path: PathBuf,
    pub line: usize,
    pub message: String,
}

impl std::error::Error for UserDbError {}

impl fmt::Display for UserDbError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        write!(f, ": {}", self.message)
    }
}

/// No hash was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HashError {
    #[error("the password is empty")]
    Empty,
    #[error("the password is longer than {PASSWORD_MAX_BYTES} bytes")]
    TooLong,
    #[error("the system gave no randomness")]
    NoRandomness,
    #[error("the password cannot be hashed")]
    Failed,
}

/// Users and the hashes of their passwords. `Debug` shows neither.
#[derive(Clone)]
pub struct UserDb {
    hashes: Vec<PasswordHashString>,
    /// Where in `hashes` each user's is.
    users: HashMap<String, usize>,
    /// What unknown users are verified against where the file has no user at all.
    stand_in: PasswordHashString,
    unknown: RandomState,
}

impl fmt::Debug for UserDb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserDb").field("users", &self.users.len()).finish_non_exhaustive()
    }
}

impl UserDb {
    /// Reads a users file.
    ///
    /// # Errors
    /// The first line that is wrong, or why the file cannot be read.
    pub fn load(path: &Path) -> Result<Self, UserDbError> {
        let whole = |message: String| UserDbError { path: path.to_owned(), line: 0, message };
        let mut text = Vec::new();
        File::open(path)
            .and_then(|file| file.take(FILE_MAX_BYTES + 1).read_to_end(&mut text))
            .map_err(|error| whole(format!("cannot be read: {error}")))?;
        if u64::try_from(text.len()).is_ok_and(|length| length > FILE_MAX_BYTES) {
            return Err(whole(format!("is longer than {FILE_MAX_BYTES} bytes")));
        }
        Self::parse(&text).map_err(|(line, message)| UserDbError { path: path.to_owned(), line, message })
    }

    /// Whether `password` is the password of `user`.
    #[must_use]
    pub fn verify(&self, user: &str, password: &[u8]) -> bool {
        let known = self.users.get(user).copied();
        // An unknown user gets the work of some user, the same one each time: where the file mixes parameters,
        // a constant stand-in would tell unknown users by their time.
        let index = known.unwrap_or_else(|| {
            let users = u64::try_from(self.hashes.len()).unwrap_or(u64::MAX).max(1);
            usize::try_from(self.unknown.hash_one(user) % users).unwrap_or(0)
        });
        let hash = self.hashes.get(index).unwrap_or(&self.stand_in);
        let fits = password.len() <= PASSWORD_MAX_BYTES;
        let password = if fits { password } else { &[] };
        let matches = Argon2::default().verify_password(password, &hash.password_hash()).is_ok();
        matches && known.is_some() && fits
    }

    /// Hashes a password for a users file, with OWASP's parameters and a new salt.
    ///
    /// # Errors
    /// [`HashError`]; an empty password is refused.
    pub fn hash(password: &[u8]) -> Result<String, HashError> {
        if password.is_empty() {
            return Err(HashError::Empty);
        }
        if password.len() > PASSWORD_MAX_BYTES {
            return Err(HashError::TooLong);
        }
        let mut salt = [0; SALT_BYTES];
        SystemRandom::new().fill(&mut salt).map_err(|_| HashError::NoRandomness)?;
        hash_with(&salt, password).map(|hash| hash.to_string())
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.users.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    fn parse(text: &[u8]) -> Result<Self, (usize, String)> {
        let stand_in = hash_with(&[0; SALT_BYTES], b"-").map_err(|error| (0, error.to_string()))?;
        let mut db =
            Self { hashes: Vec::new(), users: HashMap::new(), stand_in, unknown: RandomState::new() };
        for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            let (name, hash) = parse_line(line).map_err(|message| (index + 1, message))?;
            if db.users.len() == USERS_MAX {
                return Err((index + 1, format!("more than {USERS_MAX} users")));
            }
            if db.users.insert(name.to_owned(), db.hashes.len()).is_some() {
                return Err((index + 1, format!("the user `{name}` is there already")));
            }
            db.hashes.push(hash);
        }
        Ok(db)
    }
}

/// Reads `name:hash`. No message repeats what might be a password.
fn parse_line(line: &[u8]) -> Result<(&str, PasswordHashString), String> {
    const REMEDY: &str = "`portcullis config hash-password` makes the hash";
    if line.len() > LINE_MAX_BYTES {
        return Err(format!("longer than {LINE_MAX_BYTES} bytes"));
    }
    let line = str::from_utf8(line).map_err(|_| "not UTF-8 text")?;
    let (name, hash) = line.split_once(':').ok_or_else(|| format!("no `name:hash`; {REMEDY}"))?;
    if name.is_empty() || name.len() > NAME_MAX_BYTES {
        return Err(format!("the name has {} bytes, not 1 to {NAME_MAX_BYTES}", name.len()));
    }
    if name.chars().any(char::is_control) || name.trim() != name {
        return Err("the name has control characters, or white space around it".into());
    }
    let hash = PasswordHash::new(hash).map_err(|_| format!("no password hash in PHC format; {REMEDY}"))?;
    check_cost(&hash).map_err(|message| format!("{message}; {REMEDY}"))?;
    Ok((name, PasswordHashString::from(hash)))
}

/// Is it a whole argon2id hash whose verification costs no more than we are ready to pay?
fn check_cost(hash: &PasswordHash<'_>) -> Result<(), String> {
    const ARGON2ID: Ident<'static> = ARGON2ID_IDENT;
    if hash.algorithm != ARGON2ID {
        return Err(format!("the algorithm is {}, not argon2id", hash.algorithm));
    }
    if hash.version.is_some_and(|version| version != u32::from(Version::V0x13)) {
        return Err("the version is not 19".into());
    }
    if hash.salt.is_none() || hash.hash.is_none() {
        return Err("the salt or the hash itself is missing".into());
    }
    let params = Params::try_from(hash).map_err(|_| "the parameters are not argon2's")?;
    let (memory, passes, lanes) = (params.m_cost(), params.t_cost(), params.p_cost());
    if memory > MEMORY_MAX_KIB || passes > PASSES_MAX || lanes > LANES_MAX {
        return Err(format!(
            "the parameters m={memory},t={passes},p={lanes} exceed m={MEMORY_MAX_KIB},t={PASSES_MAX},p={LANES_MAX}"
        ));
    }
    if memory.saturating_mul(passes) > WORK_MAX_KIB {
        return Err(format!(
            "the parameters m={memory},t={passes} cost too much: m times t exceeds {WORK_MAX_KIB}"
        ));
    }
    Ok(())
}

fn hash_with(salt: &[u8], password: &[u8]) -> Result<PasswordHashString, HashError> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).map_err(|_| HashError::Failed)?;
    let salt = SaltString::encode_b64(salt).map_err(|_| HashError::Failed)?;
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let hash = argon2.hash_password(password, &salt).map_err(|_| HashError::Failed)?;
    Ok(PasswordHashString::from(hash))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cheap hash of `secret`; the parameters are the least that argon2 takes.
    fn cheap(password: &[u8]) -> String {
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(8, 1, 1, None).unwrap());
        let salt = SaltString::encode_b64(&[7; 16]).unwrap();
        argon2.hash_password(password, &salt).unwrap().to_string()
    }

    fn parse(text: &str) -> Result<UserDb, (usize, String)> {
        UserDb::parse(text.as_bytes())
    }

    #[test]
    fn the_right_password_of_a_known_user_alone_is_accepted() {
        let db = parse(&format!("# users\n\nann:{}\r\nbob:{}\n", cheap(b"secret"), cheap(b"other"))).unwrap();
        assert_eq!(db.len(), 2);
        assert!(db.verify("ann", b"secret"));
        assert!(db.verify("bob", b"other"));
        assert!(!db.verify("ann", b"other"));
        assert!(!db.verify("ann", b""));
        assert!(!db.verify("Ann", b"secret"));
        assert!(!db.verify("eve", b"secret"));
        assert!(!db.verify("", b"secret"));
    }

    #[test]
    fn an_unknown_user_is_refused_even_with_the_stand_ins_password() {
        let db = parse("").unwrap();
        assert!(db.is_empty());
        assert!(!db.verify("eve", b"-"));
    }

    #[test]
    fn a_made_hash_verifies_has_the_documented_parameters_and_a_salt_of_its_own() {
        let (one, two) = (UserDb::hash(b"secret").unwrap(), UserDb::hash(b"secret").unwrap());
        assert_ne!(one, two);
        assert!(one.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{one}");
        assert!(parse(&format!("ann:{one}")).unwrap().verify("ann", b"secret"));
    }

    #[test]
    fn passwords_are_bounded() {
        assert_eq!(UserDb::hash(b""), Err(HashError::Empty));
        assert!(UserDb::hash(&[b'x'; PASSWORD_MAX_BYTES]).is_ok());
        assert_eq!(UserDb::hash(&[b'x'; PASSWORD_MAX_BYTES + 1]), Err(HashError::TooLong));
        let db = parse(&format!("ann:{}", cheap(b""))).unwrap();
        assert!(!db.verify("ann", &[b'x'; PASSWORD_MAX_BYTES + 1]));
    }

    #[test]
    fn each_faulty_line_is_named_and_its_content_is_not_shown() {
        let good = cheap(b"secret");
        for (line, expected) in [
            ("ann", "no `name:hash`"),
            ("ann:plaintext-password", "no password hash in PHC format"),
            (&format!(":{good}"), "the name has 0 bytes"),
            (&format!("{}:{good}", "n".repeat(256)), "the name has 256 bytes"),
            (&format!(" ann:{good}"), "white space"),
            (&format!("an\u{7}n:{good}"), "control characters"),
            (&format!("ann:{}", good.replace("argon2id", "argon2i")), "not argon2id"),
            (&format!("ann:{}", good.replace("v=19", "v=16")), "the version is not 19"),
            ("ann:$argon2id$v=19$m=8,t=1,p=1", "the salt or the hash"),
            (&format!("ann:{}", good.replace("m=8", "m=65537")), "exceed m=65536"),
            (&format!("ann:{}", good.replace("t=1", "t=17")), "exceed"),
            (&format!("ann:{}", good.replace("m=8,t=1", "m=65536,t=4")), "cost too much"),
            (&"x".repeat(LINE_MAX_BYTES + 1), "longer than 1024 bytes"),
            (&format!("first:{good}"), "is there already"),
        ] {
            let (number, message) = parse(&format!("# comment\nfirst:{good}\n{line}\n")).unwrap_err();
            assert_eq!(number, 3, "{line}");
            assert!(message.contains(expected), "{message}");
            assert!(!message.contains("plaintext-password"), "{message}");
        }
    }

    #[test]
    fn rfc_9106s_choice_for_small_machines_is_within_the_bounds() {
        let line = format!("ann:{}", cheap(b"x").replace("m=8,t=1,p=1", "m=65536,t=3,p=4"));
        assert!(parse(&line).is_ok());
    }

    #[test]
    fn the_number_of_users_is_bounded() {
        let good = cheap(b"secret");
        let lines = |count: usize| (0..count).map(|n| format!("u{n}:{good}\n")).collect::<String>();
        assert_eq!(parse(&lines(USERS_MAX)).unwrap().len(), USERS_MAX);
        assert_eq!(parse(&lines(USERS_MAX + 1)).unwrap_err().0, USERS_MAX + 1);
    }

    #[test]
    fn an_unknown_user_costs_as_much_as_a_known_one() {
        let db = parse(&format!("ann:{}", UserDb::hash(b"secret").unwrap())).unwrap();
        let time = |user: &str| {
            let least = (0..5).map(|_| {
                let start = std::time::Instant::now();
                assert!(!db.verify(user, b"wrong"));
                start.elapsed()
            });
            least.min().unwrap().as_secs_f64()
        };
        assert!(time("eve") > time("ann") / 5.0);
    }

    #[test]
    fn errors_name_the_file() {
        let error = UserDb::load(Path::new("/nonexistent/users")).unwrap_err();
        assert!(error.to_string().starts_with("/nonexistent/users: cannot be read"), "{error}");
    }
}
