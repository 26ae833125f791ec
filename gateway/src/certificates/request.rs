//! Requests for certificates: PKCS #10 (RFC 2986) with the names as alternative names.

use rcgen::{
    CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384,
    SignatureAlgorithm,
};
use rustls_pki_types::PrivateKeyDer;
use zeroize::Zeroizing;

use super::Refusal;

/// Names in one request; issuers of public certificates take a hundred.
const NAMES_MAX: usize = 100;
/// Longest common name (RFC 5280, ub-common-name).
const COMMON_NAME_MAX: usize = 64;

/// What a certificate is wanted for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    pub name: String,
    /// Host names and addresses, at least one.
    pub names: Vec<String>,
    pub key: KeyKind,
    pub organization: Option<String>,
    /// Two letters.
    pub country: Option<String>,
}

/// What kind of key is made. RSA keys come by import: ring makes none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyKind {
    #[default]
    P256,
    P384,
}

impl KeyKind {
    pub const ALL: [Self; 2] = [Self::P256, Self::P384];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::P256 => "ecdsa-p256",
            Self::P384 => "ecdsa-p384",
        }
    }

    fn algorithm(self) -> &'static SignatureAlgorithm {
        match self {
            Self::P256 => &PKCS_ECDSA_P256_SHA256,
            Self::P384 => &PKCS_ECDSA_P384_SHA384,
        }
    }
}

pub(super) struct Made {
    /// PEM.
    pub(super) request: String,
    /// PEM; absent where there was one.
    pub(super) new_key: Option<Zeroizing<String>>,
}

/// Makes a request with a new key, or with the one that was made for this name before.
pub(super) fn make(asked: &Asked, before: Option<PrivateKeyDer<'static>>) -> Result<Made, Refusal> {
    let failed = |error: rcgen::Error| Refusal::Bad(format!("the request cannot be made: {error}"));
    let (key, is_new) = match before {
        Some(key) => (KeyPair::try_from(&key).map_err(failed)?, false),
        None => (KeyPair::generate_for(asked.key.algorithm()).map_err(failed)?, true),
    };
    let params = params(&asked.names, asked)?;
    let request = params.serialize_request(&key).and_then(|request| request.pem()).map_err(failed)?;
    let new_key = is_new.then(|| Zeroizing::new(key.serialize_pem()));
    Ok(Made { request, new_key })
}

fn params(names: &[String], asked: &Asked) -> Result<CertificateParams, Refusal> {
    if names.is_empty() || names.len() > NAMES_MAX {
        return Err(Refusal::Bad(format!("a request has 1 to {NAMES_MAX} names")));
    }
    if let Some(bad) = names.iter().find(|name| !is_name(name)) {
        let shown: String = bad.chars().take(80).flat_map(char::escape_debug).collect();
        return Err(Refusal::Bad(format!("`{shown}` is no host name and no address")));
    }
    if asked.country.as_ref().is_some_and(|country| country.len() != 2 || !country.is_ascii()) {
        return Err(Refusal::Bad("a country has two letters, such as DE".to_owned()));
    }
    let mut params = CertificateParams::new(names.to_vec())
        .map_err(|error| Refusal::Bad(format!("the names cannot be used: {error}")))?;
    params.distinguished_name = DistinguishedName::new();
    if let Some(first) = names.first().filter(|name| name.len() <= COMMON_NAME_MAX) {
        params.distinguished_name.push(DnType::CommonName, first.clone());
    }
    for (kind, value) in
        [(DnType::OrganizationName, &asked.organization), (DnType::CountryName, &asked.country)]
    {
        if let Some(value) = value {
            params.distinguished_name.push(kind, value.clone());
        }
    }
    Ok(params)
}

/// A host name, which may begin with `*.`, or an address.
pub(crate) fn is_name(text: &str) -> bool {
    if text.parse::<std::net::IpAddr>().is_ok() {
        return true;
    }
    let name = text.strip_prefix("*.").unwrap_or(text);
    portcullis_proto::host_port::HostName::parse(name).is_ok()
}
