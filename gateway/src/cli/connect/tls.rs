//! TLS to the gateway, and whom it trusts.

use std::path::Path;
use std::sync::Arc;

use portcullis_proto::host_port::{Host, HostPort};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::cli::output::Failure;
use crate::exit::Exit;

/// How to begin TLS with one gateway.
pub(super) struct Tls {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl Tls {
    pub(super) fn new(
        gateway: &HostPort,
        name: Option<&str>,
        ca: Option<&Path>,
        insecure: bool,
    ) -> Result<Self, Failure> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| Failure::new(Exit::Internal, error.to_string()))?;
        let config = if insecure {
            let anyone = Arc::new(Anyone(provider));
            builder.dangerous().with_custom_certificate_verifier(anyone).with_no_client_auth()
        } else {
            builder.with_root_certificates(roots(ca)?).with_no_client_auth()
        };
        let name = match (name, gateway.host()) {
            (Some(name), _) => ServerName::try_from(name.to_owned())
                .map_err(|_| Failure::new(Exit::Usage, format!("`{name}` is no server name")))?,
            (None, Host::Ip(address)) => ServerName::from(*address),
            (None, Host::Name(name)) => ServerName::try_from(name.as_str().to_owned())
                .map_err(|_| Failure::new(Exit::Usage, format!("`{name}` cannot be in a certificate")))?,
        };
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), name })
    }

    pub(super) async fn begin(&self, stream: TcpStream) -> Result<TlsStream<TcpStream>, Failure> {
        self.connector.connect(self.name.clone(), stream).await.map_err(|error| {
            let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
            let message = match cause {
                Some(rustls::Error::InvalidCertificate(fault)) => format!(
                    "the gateway's certificate is not trusted: {fault:?}; use --ca FILE for a private authority, \
                     or --server-name for another name"
                ),
                Some(rustls::Error::InvalidMessage(_)) => {
                    "the gateway does not speak TLS here; use --plain for a listener without a certificate".into()
                }
                Some(other) => format!("TLS with the gateway failed: {other}"),
                None => format!("TLS with the gateway failed: {error}"),
            };
            Failure::new(Exit::Unavailable, message)
        })
    }
}

fn roots(ca: Option<&Path>) -> Result<RootCertStore, Failure> {
    let mut roots = RootCertStore::empty();
    let Some(path) = ca else {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        return Ok(roots);
    };
    let bad = |what: String| Failure::new(Exit::Data, format!("{}: {what}", path.display()));
    let certificates = CertificateDer::pem_file_iter(path).map_err(|error| bad(error.to_string()))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| bad(error.to_string()))?;
        roots.add(certificate).map_err(|error| bad(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(bad("no certificate in it; a PEM file is needed".into()));
    }
    Ok(roots)
}

/// Trusts any certificate, as `--insecure` asks. The handshake's signature is still checked, so that at least the
/// peer has the key of the certificate it shows.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
