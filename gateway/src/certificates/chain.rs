//! The order of a chain (RFC 8446 §4.4.2: each certificate certifies the one before it), whom a key belongs to, and
//! what a certificate says of itself. Signatures are not verified: whether an issuer is trusted is for clients to say.

use ring::digest::{SHA256, digest};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::certificate::X509Certificate;
use x509_parser::parse_x509_certificate;
use x509_parser::public_key::PublicKey;

use crate::tls::certs;

/// The longest chain that is made.
const CHAIN_MAX: usize = 10;

/// What a server's certificate says, and who stands behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// Host names and addresses.
    pub names: Vec<String>,
    pub key: String,
    pub serial: String,
    /// Of the certificate (DER), in hexadecimal.
    pub sha256: String,
    /// Seconds since 1970.
    pub not_before: i64,
    pub not_after: i64,
    /// The server's certificate and those behind it.
    pub chain: Vec<Link>,
}

/// One certificate of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub subject: String,
    pub issuer: String,
    /// Seconds since 1970.
    pub not_after: i64,
}

impl Described {
    /// Whether clients that ask for `name` are served: exactly, or by a wildcard of the same one label (RFC 9525 §6.3).
    #[must_use]
    pub fn covers(&self, name: &str) -> bool {
        self.names.iter().any(|own| {
            own == name
                || own.strip_prefix("*.").is_some_and(|parent| {
                    name.split_once('.').is_some_and(|(first, rest)| first != "*" && rest == parent)
                })
        })
    }
}

/// What the first certificate says; `None` where one cannot be parsed.
#[must_use]
pub fn described(chain: &[CertificateDer<'_>]) -> Option<Described> {
    let parsed: Vec<X509Certificate<'_>> = chain
        .iter()
        .map(|der| parse_x509_certificate(der).ok().map(|(_, parsed)| parsed))
        .collect::<Option<_>>()?;
    let leaf = parsed.first()?;
    let link = |certificate: &X509Certificate<'_>| Link {
        subject: certificate.subject().to_string(),
        issuer: certificate.issuer().to_string(),
        not_after: certificate.validity().not_after.timestamp(),
    };
    Some(Described {
        names: certs::all_names_of(leaf),
        key: key_kind(leaf),
        serial: leaf.raw_serial_as_string(),
        sha256: hexadecimal(digest(&SHA256, chain.first()?).as_ref()),
        not_before: leaf.validity().not_before.timestamp(),
        not_after: leaf.validity().not_after.timestamp(),
        chain: parsed.iter().map(link).collect(),
    })
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn key_kind(certificate: &X509Certificate<'_>) -> String {
    match certificate.public_key().parsed() {
        Ok(PublicKey::RSA(key)) => format!("RSA {}", key.key_size()),
        Ok(PublicKey::EC(point)) => format!("ECDSA {}", point.key_size()),
        _ if certificate.public_key().algorithm.algorithm.to_id_string() == "1.3.101.112" => {
            "Ed25519".to_owned()
        }
        _ => "unknown".to_owned(),
    }
}

/// The first of the keys that belongs to one of the certificates, and which of them that is.
pub(super) fn owner(
    certificates: &[CertificateDer<'static>],
    keys: [Option<PrivateKeyDer<'static>>; 3],
) -> Option<(usize, PrivateKeyDer<'static>)> {
    keys.into_iter().flatten().find_map(|key| {
        let public = certs::public_key_of(key.clone_key())?;
        let owns = |der: &CertificateDer<'_>| {
            parse_x509_certificate(der).is_ok_and(|(_, parsed)| parsed.public_key().raw == public.as_slice())
        };
        Some((certificates.iter().position(owns)?, key))
    })
}

/// A chain in order.
pub(super) struct Sorted {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) remarks: Vec<String>,
}

/// The chain of the certificate at `leaf`, without the root, which clients have or do not trust anyway.
pub(super) fn sorted(given: &[CertificateDer<'static>], leaf: usize) -> Sorted {
    let parse = |der: &CertificateDer<'static>| {
        let parsed = parse_x509_certificate(der).ok()?.1;
        Some((parsed.subject().as_raw().to_vec(), parsed.issuer().as_raw().to_vec()))
    };
    let names: Vec<Option<(Vec<u8>, Vec<u8>)>> = given.iter().map(parse).collect();
    let is_root = |at: usize| matches!(names.get(at), Some(Some((subject, issuer))) if subject == issuer);
    let mut order = vec![leaf];
    while let Some(Some((_, issuer))) = order.last().and_then(|at| names.get(*at)) {
        let next = (0..given.len()).find(|at| {
            !order.contains(at) && matches!(names.get(*at), Some(Some((subject, _))) if subject == issuer)
        });
        match next.filter(|at| !is_root(*at) && order.len() < CHAIN_MAX) {
            Some(next) => order.push(next),
            None => break,
        }
    }
    let left_out = given.len() - order.len();
    let moved = order.iter().enumerate().any(|(place, at)| place != *at);
    let mut remarks = Vec::new();
    if moved {
        remarks.push("the certificates were put in order, the server's first".to_owned());
    }
    if left_out > 0 {
        remarks.push(format!(
            "{left_out} certificates that no client needs were left out (roots, or not of this chain)"
        ));
    }
    Sorted { chain: order.iter().filter_map(|at| given.get(*at).cloned()).collect(), remarks }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

    use super::*;

    fn authority(name: &str) -> CertificateParams {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
    }

    #[test]
    fn a_chain_in_any_order_comes_out_sorted_and_without_its_root() {
        let root = CertifiedIssuer::self_signed(authority("root"), KeyPair::generate().unwrap()).unwrap();
        let between =
            CertifiedIssuer::signed_by(authority("between"), KeyPair::generate().unwrap(), &root).unwrap();
        let key = KeyPair::generate().unwrap();
        let leaf =
            CertificateParams::new(vec!["gw.example.com".into()]).unwrap().signed_by(&key, &between).unwrap();
        let der = [root.der().clone(), leaf.der().clone(), between.der().clone()];
        let private = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let (at, _) = owner(&der, [None, Some(private), None]).unwrap();
        assert_eq!(at, 1);
        let sorted = sorted(&der, at);
        assert_eq!(sorted.chain, [leaf.der().clone(), between.der().clone()]);
        assert_eq!(sorted.remarks.len(), 2, "{:?}", sorted.remarks);
        let described = described(&sorted.chain).unwrap();
        assert_eq!(described.names, ["gw.example.com"]);
        assert_eq!(described.chain.len(), 2);
        assert_eq!(described.key, "ECDSA 256");
    }

    #[test]
    fn wildcards_cover_one_label() {
        let key = KeyPair::generate().unwrap();
        let names = vec!["*.example.com".to_owned(), "a.example.org".to_owned()];
        let made = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        let described = described(&[made.der().clone()]).unwrap();
        for (name, covered) in [
            ("x.example.com", true),
            ("*.example.com", true),
            ("x.y.example.com", false),
            ("example.com", false),
            ("a.example.org", true),
            ("*.example.org", false),
        ] {
            assert_eq!(described.covers(name), covered, "{name}");
        }
    }
}
