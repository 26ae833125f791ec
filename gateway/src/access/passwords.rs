//! Passwords of the console: hashed as users files are, one file for each user that only root reads.

use std::io;

use super::places::put;
use super::{Places, User};
use crate::authn::local::{HashError, PASSWORD_MAX_BYTES, UserDb};

const MIN_CHARS: usize = 12;
const MODE: u32 = 0o600;

/// Why a password is not taken.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    #[error("a password has at least {MIN_CHARS} characters")]
    Short,
    #[error("a password has at most {PASSWORD_MAX_BYTES} bytes")]
    Long,
    #[error("the password is the name of the user, or that again and again")]
    Name,
    #[error("the password is one character again and again")]
    Same,
    #[error("a password is one line of what can be typed")]
    Control,
    #[error(transparent)]
    Hash(#[from] HashError),
    #[error("the password cannot be kept: {0}")]
    Io(#[from] io::Error),
}

/// Whether a password may be one.
///
/// # Errors
/// Why not.
pub fn check(user: User, password: &str) -> Result<(), PasswordError> {
    let count = password.chars().count();
    if count < MIN_CHARS {
        // The name of the user is told first: one that is as long would be refused, too.
        return Err(if repeats(password, user.as_str()) {
            PasswordError::Name
        } else {
            PasswordError::Short
        });
    }
    if password.len() > PASSWORD_MAX_BYTES {
        return Err(PasswordError::Long);
    }
    if password.chars().any(char::is_control) {
        return Err(PasswordError::Control);
    }
    if repeats(password, user.as_str()) {
        return Err(PasswordError::Name);
    }
    let mut chars = password.chars();
    let first = chars.next();
    if chars.all(|c| Some(c) == first) { Err(PasswordError::Same) } else { Ok(()) }
}

/// Whether a text is a name, once or more often.
fn repeats(text: &str, name: &str) -> bool {
    let text = text.to_lowercase();
    !text.is_empty() && text.replace(name, "").is_empty()
}

/// Keeps a password's hash.
///
/// # Errors
/// Why the password is not taken, or cannot be kept.
pub fn set(places: &Places, user: User, password: &str) -> Result<(), PasswordError> {
    check(user, password)?;
    let hash = UserDb::hash(password.as_bytes())?;
    Ok(put(&places.password_of(user), &format!("{}:{hash}\n", user.as_str()), MODE)?)
}

/// Forgets a password; whether there was one.
///
/// # Errors
/// When it cannot be removed.
pub fn clear(places: &Places, user: User) -> io::Result<bool> {
    match std::fs::remove_file(places.password_of(user)) {
        Ok(()) => std::fs::File::open(&places.passwords)?.sync_all().map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether that is the password of the user: never, as long as there is none.
#[must_use]
pub fn verify(places: &Places, user: User, password: &[u8]) -> bool {
    UserDb::load(&places.password_of(user)).is_ok_and(|users| users.verify(user.as_str(), password))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_password_is_long_enough_and_not_the_users_name() {
        let check = |password: &str| check(User::Operator, password);
        assert!(check("correct horse").is_ok() && check("zwölfzeichen").is_ok());
        assert!(matches!(check(""), Err(PasswordError::Short)));
        assert!(matches!(check("hunter2"), Err(PasswordError::Short)));
        assert!(matches!(check("Operator"), Err(PasswordError::Name)));
        assert!(matches!(check("operatorOPERATOR"), Err(PasswordError::Name)));
        assert!(matches!(check("xxxxxxxxxxxxxxxx"), Err(PasswordError::Same)));
        assert!(matches!(check("correct\thorse"), Err(PasswordError::Control)));
        assert!(matches!(check(&"ab".repeat(200)), Err(PasswordError::Long)));
    }

    #[test]
    fn what_is_kept_is_a_hash_that_root_alone_reads() {
        let place = tempfile::tempdir().unwrap();
        let places = Places { passwords: place.path().to_owned(), ..Places::default() };
        assert!(
            !verify(&places, User::Admin, b"correct horse") && places.password_since(User::Admin).is_none()
        );
        set(&places, User::Admin, "correct horse").unwrap();
        let file = place.path().join("admin");
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(std::fs::read_to_string(&file).unwrap().starts_with("admin:$argon2id$"));
        assert!(
            verify(&places, User::Admin, b"correct horse") && !verify(&places, User::Admin, b"Correct horse")
        );
        assert!(!verify(&places, User::Viewer, b"correct horse"));
        assert!(places.password_since(User::Admin).is_some());
        assert!(set(&places, User::Admin, "short").is_err(), "the former one stays");
        assert!(verify(&places, User::Admin, b"correct horse"));
        assert!(clear(&places, User::Admin).unwrap() && !clear(&places, User::Admin).unwrap());
        assert!(!verify(&places, User::Admin, b"correct horse"));
    }
}
