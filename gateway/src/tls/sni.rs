//! Which certificate a client gets: by the name it asks for (RFC 6066 §3), exactly, then by wildcard (RFC 9525
//! §6.3: one whole label), then as the listener says.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::SupportedCipherSuite;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// The certificates of one listener.
#[derive(Debug)]
pub(crate) struct ByName {
    exact: HashMap<String, Vec<Arc<CertifiedKey>>>,
    /// By what follows `*.`.
    wildcard: HashMap<String, Vec<Arc<CertifiedKey>>>,
    /// For names that no certificate has and for clients that tell none; `None` refuses both.
    unmatched: Option<Arc<CertifiedKey>>,
}

impl ByName {
    /// `certificates` come with the names they are for, in lower case.
    pub(crate) fn new(
        certificates: &[(Arc<CertifiedKey>, Vec<String>)],
        unmatched: Option<Arc<CertifiedKey>>,
    ) -> Self {
        let mut resolver = Self { exact: HashMap::new(), wildcard: HashMap::new(), unmatched };
        for (certificate, names) in certificates {
            for name in names {
                let (map, name) = match name.strip_prefix("*.") {
                    Some(parent) => (&mut resolver.wildcard, parent),
                    None => (&mut resolver.exact, name.as_str()),
                };
                map.entry(name.to_owned()).or_default().push(Arc::clone(certificate));
            }
        }
        resolver
    }

    /// The certificates for `name`, those that name it exactly first.
    fn candidates(&self, name: &str) -> Vec<&Arc<CertifiedKey>> {
        // rustls hands the name over in the case that was sent.
        let name = name.to_ascii_lowercase();
        let exact = self.exact.get(&name);
        let wildcard = name.split_once('.').and_then(|(_, parent)| self.wildcard.get(parent));
        exact.into_iter().chain(wildcard).flatten().collect()
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let candidates = hello.server_name().map(|name| self.candidates(name)).unwrap_or_default();
        // A name may have an RSA and an ECDSA certificate: old clients can use only the first kind.
        let usable = candidates.iter().find(|candidate| is_usable(candidate, &hello));
        usable
            .or_else(|| candidates.first())
            .map(|found| Arc::clone(found))
            .or_else(|| self.unmatched.clone())
    }
}

/// Whether the client can verify signatures of this key and offers a suite that goes with it.
fn is_usable(certificate: &CertifiedKey, hello: &ClientHello<'_>) -> bool {
    let suite = rustls::crypto::ring::ALL_CIPHER_SUITES.iter().any(|suite| {
        hello.cipher_suites().contains(&suite.suite())
            && match suite {
                SupportedCipherSuite::Tls13(_) => true,
                SupportedCipherSuite::Tls12(suite) => certificate.key.choose_scheme(suite.sign).is_some(),
            }
    });
    suite && certificate.key.choose_scheme(hello.signature_schemes()).is_some()
}
