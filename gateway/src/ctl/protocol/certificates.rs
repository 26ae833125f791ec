//! Requests and answers about certificates. No answer holds a private key.

use serde::{Deserialize, Serialize};

use super::{AcmeRow, SecretText, ShownFinding};

/// A request for a certificate to be made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateOrder {
    pub name: String,
    /// Host names and addresses.
    pub names: Vec<String>,
    /// `ecdsa-p256` (the default) or `ecdsa-p384`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub organization: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub country: Option<String>,
}

/// A certificate to be taken in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateImport {
    pub name: String,
    /// PEM: certificates in any order, and the private key unless it is on the machine already.
    pub pem: SecretText,
    /// Names of the current one may be missing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

/// Answer to `certificate-request` and `certificate-export`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PemText {
    pub name: String,
    pub pem: String,
}

/// Answer to `certificate-import`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateImported {
    pub certificate: CertificateRow,
    /// New connections get it; otherwise nothing in the configuration uses it yet.
    pub in_force: bool,
    /// What is doubtful, and what was left out.
    pub remarks: Vec<String>,
}

/// Answer to `certificate-delete`, `certificate-renew`, `secret-set` and `secret-delete`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    pub name: String,
}

/// One certificate, as `certificate-list` and `certificate-show` answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateRow {
    pub name: String,
    /// `used`, `unused` (in the configuration or not), `requested` (only a key waits here) or `missing`.
    pub state: String,
    /// Where it is: `files` of the configuration, `kept` in the state directory, or `acme`.
    pub source: String,
    /// A key waits here for its certificate.
    pub requested: bool,
    /// Listeners and services that show it.
    pub used_by: Vec<String>,
    pub names: Vec<String>,
    pub key: Option<String>,
    pub serial: Option<String>,
    pub sha256: Option<String>,
    /// RFC 3339, UTC.
    pub not_before: Option<String>,
    pub not_after: Option<String>,
    /// Whole days until the end; negative when it is over.
    pub days_left: Option<i64>,
    /// The server's certificate and those behind it.
    pub chain: Vec<CertificateLink>,
    pub findings: Vec<ShownFinding>,
    /// How its renewal does; absent where it is not by ACME.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acme: Option<AcmeRow>,
}

/// One certificate of a chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateLink {
    pub subject: String,
    pub issuer: String,
    /// RFC 3339, UTC.
    pub not_after: String,
}
