//! One TLS connection to a contender, and what all of them share.
//!
//! Every connection speaks TLS 1.3 with `TLS_AES_128_GCM_SHA256` and X25519 and never resumes, whatever a contender
//! would prefer: so all contenders do the same arithmetic.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, ClientConnection, Resumption};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CipherSuite, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::PATIENCE;

/// What rustls may hold back of written plaintext: a few records.
const BUFFER_BYTES: usize = 256 * 1_024;

/// How the connections of a load check the server.
pub(crate) struct Clients {
    /// Chain, name and signature, as a real client does: for the probe before the first measurement.
    pub(crate) strict: Arc<ClientConfig>,
    /// Only that it is the same certificate: for the load, whose CPU time is scarce.
    pub(crate) cheap: Arc<ClientConfig>,
}

impl Clients {
    /// # Errors
    /// When a certificate cannot be read or rustls does not take our choice of parameters.
    pub(crate) fn new(ca_pem: &[u8], leaf: CertificateDer<'static>) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca_pem).context("certificate of the test CA")?)?;
        let provider = provider();
        let builder = || {
            ClientConfig::builder_with_provider(Arc::clone(&provider))
                .with_protocol_versions(&[&rustls::version::TLS13])
        };
        let mut strict = builder()?.with_root_certificates(roots).with_no_client_auth();
        let verifier = Arc::new(SameCertificate { leaf, provider: Arc::clone(&provider) });
        let mut cheap =
            builder()?.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
        strict.resumption = Resumption::disabled();
        cheap.resumption = Resumption::disabled();
        Ok(Self { strict: Arc::new(strict), cheap: Arc::new(cheap) })
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![ring::cipher_suite::TLS13_AES_128_GCM_SHA256],
        kx_groups: vec![ring::kx_group::X25519],
        ..ring::default_provider()
    })
}

/// Accepts exactly one certificate and believes every signature: this client guards nothing but its own CPU time.
#[derive(Debug)]
struct SameCertificate {
    leaf: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for SameCertificate {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if *end_entity == self.leaf {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(rustls::Error::General("another certificate than the one of this comparison".into()))
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// What one read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// So many bytes of plaintext, possibly none.
    Bytes(usize),
    /// The peer has ended its direction.
    End,
}

#[derive(Debug)]
pub(crate) struct Connection {
    tcp: TcpStream,
    tls: ClientConnection,
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.tcp.as_fd()
    }
}

impl Connection {
    /// Connects, and leaves the handshake to the events to come.
    pub(crate) fn start(to: SocketAddr, config: &Arc<ClientConfig>) -> Result<Self> {
        let tcp = TcpStream::connect_timeout(&to, PATIENCE).with_context(|| format!("connect to {to}"))?;
        tcp.set_nodelay(true)?;
        tcp.set_nonblocking(true)?;
        let name = ServerName::try_from("localhost")?;
        let mut tls = ClientConnection::new(Arc::clone(config), name)?;
        tls.set_buffer_limit(Some(BUFFER_BYTES));
        Ok(Self { tcp, tls })
    }

    /// Connects and completes the handshake.
    pub(crate) fn establish(to: SocketAddr, config: &Arc<ClientConfig>) -> Result<Self> {
        let mut new = Self::start(to, config)?;
        new.tcp.set_nonblocking(false)?;
        new.tcp.set_read_timeout(Some(PATIENCE))?;
        new.tcp.set_write_timeout(Some(PATIENCE))?;
        while new.tls.is_handshaking() {
            new.tls.complete_io(&mut new.tcp).with_context(|| format!("TLS handshake with {to}"))?;
        }
        new.tcp.set_nonblocking(true)?;
        Ok(new)
    }

    pub(crate) fn is_handshaking(&self) -> bool {
        self.tls.is_handshaking()
    }

    pub(crate) fn suite(&self) -> Option<CipherSuite> {
        self.tls.negotiated_cipher_suite().map(|suite| suite.suite())
    }

    pub(crate) fn tickets(&self) -> u32 {
        self.tls.tls13_tickets_received()
    }

    /// Takes bytes to send, as many as the buffer holds.
    pub(crate) fn queue(&mut self, bytes: &[u8]) -> Result<usize> {
        self.tls.writer().write(bytes).context("encrypt")
    }

    /// Sends what is queued; false when the socket takes no more for now.
    pub(crate) fn flush(&mut self) -> Result<bool> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut self.tcp) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error).context("send to the contender"),
            }
        }
        Ok(true)
    }

    /// Queues and sends a message that is small enough never to wait: the socket's buffer is empty or nearly so.
    pub(crate) fn send(&mut self, message: &[u8]) -> Result<()> {
        if self.queue(message)? == message.len() && self.flush()? {
            return Ok(());
        }
        bail!("the contender does not take a message of {} bytes", message.len())
    }

    /// Reads from the socket once and decrypts what is complete. `into` must hold more than one record.
    pub(crate) fn receive(&mut self, into: &mut [u8]) -> Result<Received> {
        match self.tls.read_tls(&mut self.tcp) {
            Ok(0) => return Ok(Received::End),
            Ok(_) => {
                self.tls.process_new_packets().context("what the contender sends")?;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Received::Bytes(0)),
            Err(error) => return Err(error).context("receive from the contender"),
        }
        match self.tls.reader().read(into) {
            Ok(0) => Ok(Received::End),
            Ok(count) => Ok(Received::Bytes(count)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Received::Bytes(0)),
            Err(error) => Err(error).context("read plaintext"),
        }
    }

    /// Reads records as they are, without decrypting them: rustls is out of step afterwards.
    pub(crate) fn receive_records(&mut self, into: &mut [u8]) -> Result<Received> {
        match self.tcp.read(into) {
            Ok(0) => Ok(Received::End),
            Ok(count) => Ok(Received::Bytes(count)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Received::Bytes(0)),
            Err(error) => Err(error).context("receive from the contender"),
        }
    }

    /// Ends our direction in good order.
    pub(crate) fn finish(&mut self) -> Result<()> {
        self.tls.send_close_notify();
        self.flush()?;
        self.tcp.shutdown(Shutdown::Write).context("end a connection")
    }
}
