//! A TLS handshake to look at: what was agreed, which chain the server showed, and whether it is believed.
//!
//! The handshake goes on with a server that is not believed, so that its chain can be shown; not a byte is sent inside.
//! The server proves that it holds the certificate's key in any case. Revocation is not looked up.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use ring::digest::{SHA256, digest};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::log::rfc3339;
use crate::sync::lock;
use crate::tls::certs;
use crate::tls::verify::KeyHolder;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShownCertificate {
    pub subject: String,
    pub issuer: String,
    /// Names and addresses that it is for.
    pub names: Vec<String>,
    /// RFC 3339, UTC.
    pub not_before: String,
    pub not_after: String,
    /// Below 0: it has expired.
    pub days_left: i64,
    pub key: String,
    /// Of the certificate (DER), in hexadecimal digits.
    pub sha256: String,
}

/// Authorities in one request.
const AUTHORITIES_MAX: usize = 64;
/// Certificates of a chain that are shown.
const SHOWN_MAX: usize = 10;
const DAY: i64 = 86_400;

/// By what a server is believed.
#[derive(Debug)]
pub(crate) enum Trust {
    Authorities(RootCertStore),
    Pin([u8; 32]),
    Anyone,
}

impl Trust {
    pub(crate) fn public() -> Self {
        Self::Authorities(RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() })
    }

    /// The authorities of a PEM text.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn pem(text: &str) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(text.as_bytes()).take(AUTHORITIES_MAX) {
            let certificate = certificate.map_err(|error| format!("the authorities are damaged: {error}"))?;
            roots.add(certificate).map_err(|error| format!("an authority cannot be used: {error}"))?;
        }
        if roots.is_empty() {
            return Err("there is no certificate in PEM form among the authorities".to_owned());
        }
        Ok(Self::Authorities(roots))
    }
}

/// What was seen.
#[derive(Debug)]
pub(crate) struct Handshake {
    pub(crate) version: String,
    pub(crate) suite: String,
    pub(crate) group: Option<String>,
    pub(crate) chain: Vec<ShownCertificate>,
    /// Why the server is not believed.
    pub(crate) problem: Option<String>,
    pub(crate) connected: Duration,
    pub(crate) shaken: Duration,
}

/// Connects and shakes hands; the deadline is the caller's.
///
/// # Errors
/// Where there is no connection or no handshake, in words.
pub(crate) async fn look(
    address: SocketAddr,
    name: ServerName<'static>,
    trust: Trust,
) -> Result<Handshake, String> {
    let begun = Instant::now();
    let socket = TcpStream::connect(address).await.map_err(|error| unconnected(address, &error))?;
    let connected = begun.elapsed();
    let judge = Arc::new(Judge::new(trust)?);
    let config = ClientConfig::builder_with_provider(certs::provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::<Judge>::clone(&judge))
        .with_no_client_auth();
    let shaken = TlsConnector::from(Arc::new(config)).connect(name, socket).await;
    let stream =
        shaken.map_err(|error| format!("{address} answers, but no handshake comes about: {error}"))?;
    let (_, tls) = stream.get_ref();
    let seen = tls.peer_certificates().unwrap_or_default();
    let word = |text: Option<String>| text.unwrap_or_else(|| "unknown".to_owned());
    let version = word(tls.protocol_version().map(|version| format!("{version:?}")));
    Ok(Handshake {
        version: version.replace("TLSv1_", "TLS 1."),
        suite: word(tls.negotiated_cipher_suite().map(|suite| format!("{:?}", suite.suite()))),
        group: tls.negotiated_key_exchange_group().map(|group| format!("{:?}", group.name())),
        chain: seen.iter().take(SHOWN_MAX).map(|der| shown(der, SystemTime::now())).collect(),
        problem: lock(&judge.verdict).take(),
        connected,
        shaken: begun.elapsed().saturating_sub(connected),
    })
}

fn unconnected(address: SocketAddr, error: &io::Error) -> String {
    let hint = match error.kind() {
        io::ErrorKind::PermissionDenied => "; the packet filter's policy of what may leave refuses it",
        _ => "",
    };
    format!("cannot connect to {address}: {error}{hint}")
}

/// Lets every server in and remembers what is to be said against it.
#[derive(Debug)]
struct Judge {
    /// Absent for those who believe anyone, or one certificate.
    authorities: Option<Arc<WebPkiServerVerifier>>,
    holder: KeyHolder,
    pin: Option<[u8; 32]>,
    verdict: Mutex<Option<String>>,
}

impl Judge {
    fn new(trust: Trust) -> Result<Self, String> {
        let provider = certs::provider();
        let (authorities, pin) = match trust {
            Trust::Authorities(roots) => {
                let builder =
                    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
                (Some(builder.build().map_err(|error| error.to_string())?), None)
            }
            Trust::Pin(pin) => (None, Some(pin)),
            Trust::Anyone => (None, None),
        };
        Ok(Self { authorities, holder: KeyHolder::new(None, provider), pin, verdict: Mutex::default() })
    }
}

impl ServerCertVerifier for Judge {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let judged = self.authorities.as_ref().map(|authorities| {
            authorities.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
        });
        let problem = match (judged, self.pin) {
            (Some(Err(error)), _) => Some(error.to_string()),
            (None, Some(pin)) if digest(&SHA256, end_entity).as_ref() != pin => {
                Some("its certificate is not the one that `pin_sha256` names".to_owned())
            }
            _ => None,
        };
        *lock(&self.verdict) = problem;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.holder.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.holder.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.holder.supported_verify_schemes()
    }
}

/// What a certificate says of itself.
pub(crate) fn shown(der: &[u8], now: SystemTime) -> ShownCertificate {
    let digits = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let sha256 = digits(digest(&SHA256, der).as_ref());
    let Ok((_, certificate)) = X509Certificate::from_der(der) else {
        let unread = || "unreadable".to_owned();
        return ShownCertificate {
            subject: unread(),
            issuer: unread(),
            names: Vec::new(),
            not_before: String::new(),
            not_after: String::new(),
            days_left: 0,
            key: unread(),
            sha256,
        };
    };
    let time = |seconds: i64| {
        let since = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        rfc3339(SystemTime::UNIX_EPOCH + since)
    };
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let ends = certificate.validity().not_after.timestamp();
    ShownCertificate {
        subject: certificate.subject().to_string(),
        issuer: certificate.issuer().to_string(),
        names: names(&certificate),
        not_before: time(certificate.validity().not_before.timestamp()),
        not_after: time(ends),
        days_left: ends.saturating_sub(i64::try_from(now).unwrap_or(i64::MAX)).div_euclid(DAY),
        key: key(&certificate),
        sha256,
    }
}

fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(alternative)) = certificate.subject_alternative_name() else { return Vec::new() };
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(std::net::IpAddr::from);
            v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(std::net::IpAddr::from))
                .ok()
                .map(|ip| ip.to_string())
        }
        _ => None,
    };
    alternative.value.general_names.iter().filter_map(name).collect()
}

fn key(certificate: &X509Certificate<'_>) -> String {
    use x509_parser::public_key::PublicKey;
    let info = certificate.public_key();
    match info.parsed() {
        Ok(PublicKey::RSA(key)) => format!("RSA {}", key.key_size()),
        Ok(PublicKey::EC(point)) => format!("EC {}", point.key_size()),
        _ => match info.algorithm.algorithm.to_id_string().as_str() {
            "1.3.101.112" => "Ed25519".to_owned(),
            other => other.to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_shown_with_its_names_and_its_end() {
        let made =
            rcgen::generate_simple_self_signed(vec!["gw.example.com".into(), "192.0.2.1".into()]).unwrap();
        let der = made.cert.der();
        let seen = shown(der, SystemTime::now());
        assert_eq!(seen.names, ["gw.example.com", "192.0.2.1"]);
        assert!(seen.days_left > 300 && seen.key.starts_with("EC"), "{seen:?}");
        assert_eq!(seen.sha256.len(), 64);
        assert!(shown(b"nonsense", SystemTime::now()).subject.contains("unreadable"));
    }

    #[test]
    fn authorities_are_read_from_text_and_nonsense_is_refused() {
        assert!(Trust::pem("nothing").unwrap_err().contains("no certificate"));
        let made = rcgen::generate_simple_self_signed(vec!["a.example".into()]).unwrap();
        assert!(matches!(Trust::pem(&made.cert.pem()), Ok(Trust::Authorities(roots)) if roots.len() == 1));
    }
}
