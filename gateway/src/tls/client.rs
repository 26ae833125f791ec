//! TLS towards the servers of a listener, where the gateway is the client: what it offers and whom it believes.
//!
//! * The same suites and groups as at the edge. Without `min_tls`, TLS 1.2 and 1.3.
//! * Chain, name and time are checked (RFC 5280, RFC 9525), or the one certificate; in any case the server proves that
//!   it has the certificate's key. Revocation is not looked up.
//! * Sessions resume where the server lets them: only one of a server that was believed under the same settings and
//!   name can be resumed, for as long as these settings are in force. Where the record layer is our own, TLS 1.3
//!   tickets are passed over, so only TLS 1.2 resumes.
//! * No ALPN: what is inside is no HTTP.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use portcullis_proto::host_port::HostName;
use rustls::client::ResolvesClientCert;
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore, SignatureScheme, SupportedProtocolVersion};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::certs::{CertError, certified_key, provider, roots};
use super::stream::TlsStream;
use super::verify::KeyHolder;
use crate::config::{CertificateFiles, RecordLayer, ServerTlsConfig, ServerTrust, TlsFloor};

/// What a listener does TLS with towards its servers.
#[derive(Debug)]
pub struct ServerTls {
    config: Arc<ClientConfig>,
    /// Asked for instead of the server's own.
    name: Option<ServerName<'static>>,
}

impl ServerTls {
    /// # Errors
    /// When a file cannot be used.
    pub fn new(
        settings: &ServerTlsConfig,
        listener: &str,
        certificates: &[CertificateFiles],
        records: RecordLayer,
    ) -> Result<Self, CertError> {
        let versions: &[&'static SupportedProtocolVersion] = match settings.min_tls {
            TlsFloor::Tls12 => &[&TLS13, &TLS12],
            TlsFloor::Tls13 => &[&TLS13],
        };
        let provider = provider();
        let builder =
            ClientConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(versions)?;
        let holder = |pin| Arc::new(KeyHolder::new(pin, provider));
        let builder = match &settings.trust {
            ServerTrust::PublicRoots => builder.with_root_certificates(public_roots()),
            ServerTrust::Ca(path) => builder.with_root_certificates(roots(path)?),
            ServerTrust::Pin(pin) => builder.dangerous().with_custom_certificate_verifier(holder(Some(*pin))),
            ServerTrust::Anyone => builder.dangerous().with_custom_certificate_verifier(holder(None)),
        };
        let mut config = match &settings.certificate {
            None => builder.with_no_client_auth(),
            Some(name) => {
                let files = certificates.iter().find(|files| files.name == *name);
                let files = files.ok_or_else(|| CertError::Unknown {
                    listener: listener.to_owned(),
                    name: name.clone(),
                })?;
                builder.with_client_cert_resolver(Arc::new(Shown(certified_key(files)?)))
            }
        };
        // Whoever protects the records has the keys.
        config.enable_secret_extraction = records == RecordLayer::Own;
        let name = settings.server_name.clone().map(ServerName::try_from);
        let name = name.transpose().map_err(|error| rustls::Error::General(error.to_string()))?;
        Ok(Self { config: Arc::new(config), name })
    }

    /// Shakes hands; the deadline is the caller's. `name`: what the ticket or the request calls the server.
    ///
    /// # Errors
    /// What rustls or the socket says.
    pub async fn shake_hands(
        &self,
        socket: TcpStream,
        server: SocketAddr,
        name: Option<&HostName>,
    ) -> io::Result<TlsStream> {
        TlsStream::connect(socket, Arc::clone(&self.config), self.asked_for(server, name)?).await
    }

    /// The same for who needs no record layer of our own.
    ///
    /// # Errors
    /// What rustls or the socket says.
    pub async fn connect(
        &self,
        socket: TcpStream,
        server: SocketAddr,
        name: Option<&HostName>,
    ) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let name = self.asked_for(server, name)?;
        TlsConnector::from(Arc::clone(&self.config)).connect(name, socket).await
    }

    fn asked_for(&self, server: SocketAddr, name: Option<&HostName>) -> io::Result<ServerName<'static>> {
        match (&self.name, name) {
            (Some(name), _) => Ok(name.clone()),
            // An address instead of a name that no certificate can hold would let another server prove less.
            (None, Some(name)) => ServerName::try_from(name.as_str().to_owned()).map_err(|_| {
                let error = rustls::Error::InvalidCertificate(rustls::CertificateError::NotValidForName);
                io::Error::new(io::ErrorKind::InvalidData, error)
            }),
            (None, None) => Ok(ServerName::from(server.ip().to_canonical())),
        }
    }
}

fn public_roots() -> RootCertStore {
    RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() }
}

/// One certificate for every server that asks for one, whatever authorities it names: it may be that of another.
#[derive(Debug)]
struct Shown(Arc<CertifiedKey>);

impl ResolvesClientCert for Shown {
    fn resolve(&self, _hints: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.key.choose_scheme(schemes).map(|_| Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}
