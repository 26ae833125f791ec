//! Faults of a certificate, each with what to do about it: RFC 5280 for the fields, RFC 8446 §4.4.2 and RFC 5246
//! §7.4.2 for the order of a chain.
//!
//! Whether clients trust the issuer is not judged here: their roots are not known.

use std::collections::HashSet;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::time::SystemTime;

use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;
use x509_parser::prelude::X509Name;
use x509_parser::public_key::PublicKey;
use x509_parser::time::ASN1Time;

use super::certs::provider;
use super::pem;
use crate::config::{CertificateFiles, Finding, Severity};

/// Days before the end of which a certificate is worth a warning: three weeks leave time for a paper form.
const EXPIRY_WARNING_DAYS: i64 = 21;
const DAY_SECONDS: i64 = 86_400;
/// ring signs with keys of 2048 to 4096 bits; the 2015 client refuses longer ones (PROTOCOL §4).
const RSA_BITS_MIN: usize = 2048;
const RSA_BITS_MAX: usize = 4096;

/// Everything that is wrong or doubtful with the certificate, its chain and its key.
#[must_use]
pub fn inspect(files: &CertificateFiles, now: SystemTime) -> Vec<Finding> {
    let now = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    let mut report = Report { subject: format!("certificate {}", files.name), findings: Vec::new() };
    report.key_file(files);
    let chain = pem::chain(&files.chain).map_err(|error| report.pem(&error)).unwrap_or_default();
    let key = pem::key(&files.key).map_err(|error| report.pem(&error)).ok();
    let mut parsed = Vec::new();
    for (index, der) in chain.iter().enumerate() {
        match parse_x509_certificate(der) {
            Ok((_, certificate)) => parsed.push(certificate),
            Err(error) => report.error(
                format!("{} cannot be parsed: {error}", place(index)),
                "get the certificate from its issuer again",
            ),
        }
    }
    // What follows would be guesswork over a chain with a hole in it.
    if let Some((leaf, rest)) = parsed.split_first().filter(|_| parsed.len() == chain.len()) {
        for (index, certificate) in parsed.iter().enumerate() {
            report.validity(certificate, index, now);
            report.strength(certificate, index);
        }
        if let Some(key) = key {
            report.key(&chain, leaf, key);
        }
        report.leaf(leaf);
        report.issuers(leaf, rest);
    }
    report.findings
}

/// The host names of a certificate, in lower case. The common name counts only where there is no alternative
/// name of any kind (RFC 6125 §6.4.4; RFC 9525 dropped it, old clients did not).
pub(super) fn names_of(certificate: &X509Certificate<'_>) -> Vec<String> {
    let alternative = certificate.subject_alternative_name().ok().flatten();
    let names: Vec<&str> = match &alternative {
        Some(alternative) => alternative
            .value
            .general_names
            .iter()
            .filter_map(|name| match name {
                GeneralName::DNSName(name) => Some(*name),
                _ => None,
            })
            .collect(),
        None => certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok()).collect(),
    };
    names.into_iter().map(str::to_ascii_lowercase).collect()
}

/// The same with the addresses of a certificate.
pub(crate) fn all_names_of(certificate: &X509Certificate<'_>) -> Vec<String> {
    let mut names = names_of(certificate);
    let alternative = certificate.subject_alternative_name().ok().flatten();
    let address = |name: &GeneralName<'_>| match name {
        GeneralName::IPAddress(bytes) => match <[u8; 4]>::try_from(*bytes) {
            Ok(v4) => Some(IpAddr::from(v4).to_string()),
            Err(_) => Some(IpAddr::from(<[u8; 16]>::try_from(*bytes).ok()?).to_string()),
        },
        _ => None,
    };
    names.extend(alternative.iter().flat_map(|found| found.value.general_names.iter().filter_map(address)));
    names
}

struct Report {
    subject: String,
    findings: Vec<Finding>,
}

impl Report {
    fn add(&mut self, severity: Severity, message: impl Into<String>, remedy: impl Into<String>) {
        self.findings.push(Finding::new(severity, self.subject.clone(), message, remedy));
    }

    fn error(&mut self, message: impl Into<String>, remedy: impl Into<String>) {
        self.add(Severity::Error, message, remedy);
    }

    fn warning(&mut self, message: impl Into<String>, remedy: impl Into<String>) {
        self.add(Severity::Warning, message, remedy);
    }

    fn pem(&mut self, error: &pem::PemError) {
        self.error(error.to_string(), error.remedy());
    }

    /// Who can read the private key?
    fn key_file(&mut self, files: &CertificateFiles) {
        let Ok(metadata) = std::fs::metadata(&files.key) else { return };
        let mode = metadata.mode() & 0o777;
        if mode & 0o077 != 0 {
            let who = if mode & 0o007 != 0 { "everybody" } else { "its group" };
            self.warning(
                format!("the private key {} can be used by {who} (mode {mode:04o})", files.key.display()),
                format!("chmod 600 {}", files.key.display()),
            );
        }
    }

    fn validity(&mut self, certificate: &X509Certificate<'_>, index: usize, now: i64) {
        let (begin, end) = (certificate.validity().not_before, certificate.validity().not_after);
        let place = place(index);
        if now > end.timestamp() {
            self.error(format!("{place} expired on {}", day(end)), "renew it; clients refuse it");
        } else if now < begin.timestamp() {
            self.error(
                format!("{place} is not valid before {}", day(begin)),
                "wait, or check this machine's clock",
            );
        } else if end.timestamp() - now < EXPIRY_WARNING_DAYS * DAY_SECONDS {
            let days = (end.timestamp() - now) / DAY_SECONDS;
            self.warning(format!("{place} expires in {days} days, on {}", day(end)), "renew it");
        }
    }

    /// Size of the key and kind of the signature.
    fn strength(&mut self, certificate: &X509Certificate<'_>, index: usize) {
        let place = place(index);
        if let Ok(PublicKey::RSA(key)) = certificate.public_key().parsed() {
            let bits = key.key_size();
            let remedy = "use an RSA key of 2048 to 4096 bits, or ECDSA P-256";
            if bits > RSA_BITS_MAX && index == 0 {
                self.error(
                    format!("the RSA key has {bits} bits; old clients refuse more than {RSA_BITS_MAX}, and so does our TLS library"),
                    remedy,
                );
            } else if bits > RSA_BITS_MAX {
                self.warning(
                    format!(
                        "{place} has an RSA key of {bits} bits; old clients refuse more than {RSA_BITS_MAX}"
                    ),
                    "ask the issuer for a chain with shorter keys",
                );
            } else if bits < RSA_BITS_MIN {
                self.error(format!("{place} has an RSA key of only {bits} bits"), remedy);
            }
        }
        let self_signed = certificate.subject() == certificate.issuer();
        let algorithm = certificate.signature_algorithm.algorithm.to_id_string();
        if WEAK_SIGNATURES.contains(&algorithm.as_str()) && !self_signed {
            self.warning(
                format!("{place} is signed with SHA-1 or MD5, which current clients refuse"),
                "have it issued again with SHA-256",
            );
        }
    }

    /// Does the private key belong to the first certificate, and can we sign with it?
    fn key(&mut self, chain: &[CertificateDer<'_>], leaf: &X509Certificate<'_>, key: PrivateKeyDer<'static>) {
        let Ok(key) = provider().key_provider.load_private_key(key) else {
            // A wrong size of RSA key has been reported where it was seen.
            let size = matches!(leaf.public_key().parsed(), Ok(PublicKey::RSA(key)) if !(RSA_BITS_MIN..=RSA_BITS_MAX).contains(&key.key_size()));
            if !size {
                self.error(
                    "the private key is of a kind that cannot be used",
                    "use RSA of 2048 to 4096 bits, ECDSA P-256 or P-384, or Ed25519",
                );
            }
            return;
        };
        let Some(public) = key.public_key() else { return };
        let belongs = |certificate: &X509Certificate<'_>| certificate.public_key().raw == public.as_ref();
        if belongs(leaf) {
            return;
        }
        let owner = chain.iter().filter_map(|der| parse_x509_certificate(der).ok());
        match owner.map(|(_, certificate)| certificate).position(|certificate| belongs(&certificate)) {
            Some(index) => self.error(
                format!(
                    "the private key belongs to certificate {} of the chain, not to the first",
                    index + 1
                ),
                "put the server's certificate first in the chain file, then each one's issuer",
            ),
            None => self.error(
                "the private key does not belong to the certificate",
                "use the key that the certificate was requested with, or request a new one",
            ),
        }
    }

    /// What clients look at in the server's own certificate.
    fn leaf(&mut self, leaf: &X509Certificate<'_>) {
        if leaf.is_ca() {
            self.warning(
                "the server's certificate says CA:TRUE; strict clients (rustls among them) refuse it",
                "issue it with basicConstraints CA:FALSE: `openssl req -x509 -addext basicConstraints=critical,CA:FALSE …`",
            );
        }
        let alternative = leaf.subject_alternative_name().ok().flatten();
        if alternative.is_none() {
            self.warning(
                "the certificate has no alternative names; current clients ignore its common name",
                "have it issued with the host names as subjectAltName",
            );
        }
        let usage = leaf.extended_key_usage().ok().flatten();
        if usage.is_some_and(|usage| !usage.value.server_auth && !usage.value.any) {
            self.error(
                "the certificate is not for TLS servers (its extended key usage lacks serverAuth)",
                "have it issued for servers",
            );
        }
    }

    /// Is every issuer there but the root, and in order?
    fn issuers(&mut self, leaf: &X509Certificate<'_>, rest: &[X509Certificate<'_>]) {
        let is_root = |certificate: &X509Certificate<'_>| certificate.subject() == certificate.issuer();
        if is_root(leaf) {
            if !rest.is_empty() {
                self.warning(
                    "the first certificate is self-signed and others follow it",
                    "put the server's certificate first in the chain file, then each one's issuer",
                );
            }
            return;
        }
        let known: HashSet<&[u8]> = rest.iter().map(|certificate| certificate.subject().as_raw()).collect();
        if !known.contains(leaf.issuer().as_raw()) {
            if !is_public_root(leaf.issuer()) {
                let issuer = leaf.issuer();
                self.warning(
                    format!("an intermediate certificate is missing: the chain lacks the issuer, {issuer}"),
                    format!(
                        "append the issuer's certificate, and what is between it and the root, to the chain file; \
                         clients that do not know it refuse the connection. Nothing is missing if {issuer} is \
                         itself the root that all clients have"
                    ),
                );
            }
            return;
        }
        let mut previous = leaf;
        for (index, certificate) in rest.iter().enumerate() {
            if previous.issuer() != certificate.subject() {
                self.warning(
                    format!("the chain is out of order: certificate {} did not issue the one before it", index + 2),
                    "sort the chain file: the server's certificate, its issuer, that one's issuer; nothing else",
                );
                return;
            }
            previous = certificate;
        }
        if is_root(previous) {
            self.add(
                Severity::Info,
                "the chain ends with the root, which clients have or do not trust anyway",
                "remove it from the chain file: it costs bytes in every handshake",
            );
        }
    }
}

/// RSA and ECDSA with SHA-1, RSA with MD5 (RFC 3279 §2.2).
const WEAK_SIGNATURES: [&str; 3] = ["1.2.840.113549.1.1.5", "1.2.840.10045.4.1", "1.2.840.113549.1.1.4"];

fn place(index: usize) -> String {
    if index == 0 { "the certificate".into() } else { format!("certificate {} of the chain", index + 1) }
}

fn day(time: ASN1Time) -> String {
    time.to_datetime().date().to_string()
}

/// Whether a root that browsers have bears this name. The list holds names without their outer SEQUENCE header,
/// which is two to four bytes.
fn is_public_root(name: &X509Name<'_>) -> bool {
    let raw = name.as_raw();
    webpki_roots::TLS_SERVER_ROOTS.iter().any(|root| {
        let subject = root.subject.as_ref();
        raw.ends_with(subject) && (2..=4).contains(&(raw.len() - subject.len()))
    })
}
