//! Users in a local file: one `name:hash` per line, the hash an argon2id string in PHC format.

use std::path::{Path, PathBuf};

/// Why a users file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}:{line}: {message}", path.display())]
pub struct UserDbError {
    pub path: PathBuf,
    pub line: usize,
    pub message: String,
}

/// Users and their password hashes.
#[derive(Debug, Default)]
pub struct UserDb {}

impl UserDb {
    pub fn load(path: &Path) -> Result<Self, UserDbError> {
        Err(UserDbError { path: path.to_owned(), line: 0, message: "not yet".into() })
    }

    #[must_use]
    pub fn verify(&self, _user: &str, _password: &[u8]) -> bool {
        false
    }

    pub fn hash(_password: &[u8]) -> Result<String, HashError> {
        Err(HashError)
    }
}

/// No hash could be made: the system gave no randomness, or the password is too long.
#[derive(Debug, thiserror::Error)]
#[error("the password cannot be hashed")]
pub struct HashError;
