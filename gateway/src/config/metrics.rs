//! The listener for metrics: where it is, and who may ask.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::Config;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricsConfig {
    pub listen: SocketAddr,
    /// Name of the certificate for https.
    pub certificate: Option<String>,
    /// Who signs the certificates that callers show. Only with a certificate of our own.
    pub client_ca: Option<PathBuf>,
    /// What callers of `/metrics` know.
    pub token: Option<Token>,
}

/// A secret that callers show as `Authorization: Bearer …` (RFC 6750 §2.1). It is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Zeroizing<String>);

impl Token {
    pub(super) fn new(text: Zeroizing<String>) -> Self {
        Self(text)
    }

    /// For those who look whether it has got anywhere.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }

    /// Whether the value of an `Authorization` header shows it; takes the same time for every wrong one of its length.
    #[must_use]
    pub fn is_shown_by(&self, authorization: &[u8]) -> bool {
        let Some(space) = authorization.iter().position(|byte| *byte == b' ') else { return false };
        let (scheme, shown) = authorization.split_at(space);
        scheme.eq_ignore_ascii_case(b"bearer") && bool::from(shown.trim_ascii().ct_eq(self.0.as_bytes()))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").finish_non_exhaustive()
    }
}

impl Config {
    /// Directories that must not fill up, each with the name that metrics have for it.
    #[must_use]
    pub fn directories(&self) -> Vec<(&'static str, PathBuf)> {
        let log = self.log.file.as_deref().and_then(|file| file.parent());
        let state = ("state", self.server.state_dir.clone());
        std::iter::once(state).chain(log.map(|directory| ("log", directory.to_owned()))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_shown_as_a_bearer_and_in_no_other_way() {
        let token = Token::new(Zeroizing::new("c2VjcmV0".to_owned()));
        for good in ["Bearer c2VjcmV0", "bearer  c2VjcmV0 ", "BEARER c2VjcmV0"] {
            assert!(token.is_shown_by(good.as_bytes()), "{good}");
        }
        for bad in
            ["", "Bearer", "Bearer ", "c2VjcmV0", "Basic c2VjcmV0", "Bearer c2VjcmV", "Bearer c2VjcmV0x"]
        {
            assert!(!token.is_shown_by(bad.as_bytes()), "{bad}");
        }
        assert_eq!(format!("{token:?}"), "Token { .. }");
    }
}
