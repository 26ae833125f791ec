//! One connection to a contender, with TLS or without, and what all of them share.
//!
//! Every connection with TLS speaks version 1.3 with `TLS_AES_128_GCM_SHA256` and X25519 and never resumes, whatever a
//! contender would prefer: so all contenders do the same arithmetic. The exception is asked for: TLS 1.2 that resumes,
//! with `ECDHE-ECDSA-AES128-GCM-SHA256`.

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use portcullis_proto::socks5;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, ClientConnection, Resumption, Tls12Resumption};
use rustls::crypto::{CryptoProvider, SupportedKxGroup, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::version::{TLS12, TLS13};
use rustls::{
    CipherSuite, DigitallySignedStruct, HandshakeKind, RootCertStore, SignatureScheme,
    SupportedProtocolVersion,
};

use super::PATIENCE;
use crate::interrupt;

/// What rustls may hold back of written plaintext: a few records.
const BUFFER_BYTES: usize = 256 * 1_024;
/// Connections whose handshakes are under way while many are opened.
const OPENING: usize = 32;

/// How the connections of a load check the server.
pub(crate) struct Clients {
    /// Chain, name and signature, as a real client does: for the probe before the first measurement.
    pub(crate) strict: Arc<ClientConfig>,
    /// Only that it is the same certificate: for the load, whose CPU time is scarce.
    pub(crate) cheap: Arc<ClientConfig>,
    /// As cheap, with TLS 1.2 and resumption.
    pub(crate) resuming: Arc<ClientConfig>,
}

impl Clients {
    /// For the certificate `main` and its authority in a directory.
    pub(crate) fn of(dir: &Path) -> Result<Self> {
        let read = |name: &str| fs::read(dir.join(name)).with_context(|| format!("read {name}"));
        Self::new(&read("ca.pem")?, CertificateDer::from_pem_slice(&read("main.crt")?)?)
    }

    /// # Errors
    /// When a certificate cannot be read or rustls does not take our choice of parameters.
    pub(crate) fn new(ca_pem: &[u8], leaf: CertificateDer<'static>) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca_pem).context("certificate of the test CA")?)?;
        let provider = Arc::new(provider(vec![ring::kx_group::X25519]));
        // OpenSSL uses an ECDSA certificate with TLS 1.2 only for who offers its curve too; X25519 is what is taken.
        let older = Arc::new(provider12());
        let builder = |version: &'static SupportedProtocolVersion| {
            let provider = if *version == TLS12 { &older } else { &provider };
            ClientConfig::builder_with_provider(Arc::clone(provider)).with_protocol_versions(&[version])
        };
        let verifier: Arc<dyn ServerCertVerifier> =
            Arc::new(SameCertificate { leaf, provider: Arc::clone(&provider) });
        let cheap = |version| {
            let builder =
                builder(version)?.dangerous().with_custom_certificate_verifier(Arc::clone(&verifier));
            Ok::<_, rustls::Error>(builder.with_no_client_auth())
        };
        let mut strict = builder(&TLS13)?.with_root_certificates(roots).with_no_client_auth();
        let (mut full, mut resuming) = (cheap(&TLS13)?, cheap(&TLS12)?);
        strict.resumption = Resumption::disabled();
        full.resumption = Resumption::disabled();
        resuming.resumption =
            Resumption::in_memory_sessions(16).tls12_resumption(Tls12Resumption::SessionIdOrTickets);
        Ok(Self { strict: Arc::new(strict), cheap: Arc::new(full), resuming: Arc::new(resuming) })
    }
}

fn provider12() -> CryptoProvider {
    provider(vec![ring::kx_group::X25519, ring::kx_group::SECP256R1])
}

fn provider(kx_groups: Vec<&'static dyn SupportedKxGroup>) -> CryptoProvider {
    use ring::cipher_suite::{TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS13_AES_128_GCM_SHA256};
    CryptoProvider {
        cipher_suites: vec![TLS13_AES_128_GCM_SHA256, TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256],
        kx_groups,
        ..ring::default_provider()
    }
}

/// A way to the back end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// TLS to here.
    Tls(SocketAddr),
    /// Plain bytes to here.
    Plain(SocketAddr),
    /// Plain bytes after a SOCKS5 request to here, for there.
    Socks(SocketAddr, SocketAddr),
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
    layer: Layer,
}

#[derive(Debug)]
enum Layer {
    Tls(Box<ClientConnection>),
    /// Bytes that the socket has not taken yet.
    Plain(Vec<u8>),
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.tcp.as_fd()
    }
}

impl Connection {
    /// Connects with TLS, and leaves the handshake to the events to come.
    pub(crate) fn start(to: SocketAddr, config: &Arc<ClientConfig>) -> Result<Self> {
        let tcp = dial(to)?;
        tcp.set_nonblocking(true)?;
        let name = ServerName::try_from("localhost")?;
        let mut tls = ClientConnection::new(Arc::clone(config), name)?;
        tls.set_buffer_limit(Some(BUFFER_BYTES));
        Ok(Self { tcp, layer: Layer::Tls(Box::new(tls)) })
    }

    /// Connects with TLS and completes the handshake.
    pub(crate) fn establish(to: SocketAddr, config: &Arc<ClientConfig>) -> Result<Self> {
        let mut new = Self::start(to, config)?;
        new.complete().with_context(|| format!("TLS handshake with {to}"))?;
        Ok(new)
    }

    /// Connects by any way, up to where the first byte for the back end may be sent.
    pub(crate) fn open(entry: Entry, clients: &Clients) -> Result<Self> {
        match entry {
            Entry::Tls(to) => Self::establish(to, &clients.cheap),
            Entry::Plain(to) => Self::plain(dial(to)?),
            Entry::Socks(to, target) => {
                let mut tcp = dial(to)?;
                ask_socks(&mut tcp, target).with_context(|| format!("SOCKS5 request to {to}"))?;
                Self::plain(tcp)
            }
        }
    }

    /// Opens many connections, with a few handshakes under way at a time so that neither side waits for the other.
    pub(crate) fn open_many(entry: Entry, clients: &Clients, count: usize) -> Result<Vec<Self>> {
        let mut open = Vec::with_capacity(count);
        while open.len() < count {
            interrupt::check()?;
            let Entry::Tls(to) = entry else {
                open.push(Self::open(entry, clients)?);
                continue;
            };
            let mut starting = Vec::with_capacity(OPENING);
            for _ in 0..OPENING.min(count - open.len()) {
                let mut new = Self::start(to, &clients.cheap)?;
                new.flush()?;
                starting.push(new);
            }
            for mut new in starting {
                new.complete().with_context(|| format!("TLS handshake {} with {to}", open.len()))?;
                open.push(new);
            }
        }
        Ok(open)
    }

    fn plain(tcp: TcpStream) -> Result<Self> {
        tcp.set_nonblocking(true)?;
        Ok(Self { tcp, layer: Layer::Plain(Vec::new()) })
    }

    fn complete(&mut self) -> Result<()> {
        self.tcp.set_nonblocking(false)?;
        if let Layer::Tls(tls) = &mut self.layer {
            while tls.is_handshaking() {
                tls.complete_io(&mut self.tcp)?;
            }
        }
        self.tcp.set_nonblocking(true)?;
        Ok(())
    }

    fn tls(&self) -> Option<&ClientConnection> {
        match &self.layer {
            Layer::Tls(tls) => Some(tls),
            Layer::Plain(_) => None,
        }
    }

    pub(crate) fn is_handshaking(&self) -> bool {
        self.tls().is_some_and(|tls| tls.is_handshaking())
    }

    /// Whether the handshake continued an earlier session.
    pub(crate) fn is_resumed(&self) -> bool {
        self.tls().and_then(|tls| tls.handshake_kind()) == Some(HandshakeKind::Resumed)
    }

    pub(crate) fn suite(&self) -> Option<CipherSuite> {
        self.tls()?.negotiated_cipher_suite().map(|suite| suite.suite())
    }

    /// Takes bytes to send, as many as the buffer holds.
    pub(crate) fn queue(&mut self, bytes: &[u8]) -> Result<usize> {
        match &mut self.layer {
            Layer::Tls(tls) => tls.writer().write(bytes).context("encrypt"),
            Layer::Plain(pending) => {
                let count = bytes.len().min(BUFFER_BYTES.saturating_sub(pending.len()));
                pending.extend_from_slice(bytes.get(..count).unwrap_or_default());
                Ok(count)
            }
        }
    }

    /// Sends what is queued; false when the socket takes no more for now.
    pub(crate) fn flush(&mut self) -> Result<bool> {
        loop {
            let written = match &mut self.layer {
                Layer::Tls(tls) if tls.wants_write() => tls.write_tls(&mut self.tcp),
                Layer::Plain(pending) if !pending.is_empty() => {
                    self.tcp.write(pending).inspect(|count| drop(pending.drain(..*count)))
                }
                _ => return Ok(true),
            };
            match written {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error).context("send to the contender"),
            }
        }
    }

    /// Queues and sends a message that is small enough never to wait: the socket's buffer is empty or nearly so.
    pub(crate) fn send(&mut self, message: &[u8]) -> Result<()> {
        if self.queue(message)? == message.len() && self.flush()? {
            return Ok(());
        }
        bail!("the contender does not take a message of {} bytes", message.len())
    }

    /// Writes a block past every layer: for plain connections that only send. `None` when the socket is full.
    pub(crate) fn write(&mut self, block: &[u8]) -> Result<Option<usize>> {
        match self.tcp.write(block) {
            Ok(count) => Ok(Some(count)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error).context("send to the contender"),
        }
    }

    /// Reads from the socket once and decrypts what is complete. `into` must hold more than one record.
    pub(crate) fn receive(&mut self, into: &mut [u8]) -> Result<Received> {
        let Layer::Tls(tls) = &mut self.layer else { return self.receive_raw(into) };
        match tls.read_tls(&mut self.tcp) {
            Ok(0) => return Ok(Received::End),
            Ok(_) => {
                tls.process_new_packets().context("what the contender sends")?;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Received::Bytes(0)),
            Err(error) => return Err(error).context("receive from the contender"),
        }
        match tls.reader().read(into) {
            Ok(0) => Ok(Received::End),
            Ok(count) => Ok(Received::Bytes(count)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Received::Bytes(0)),
            Err(error) => Err(error).context("read plaintext"),
        }
    }

    /// Reads bytes as they are, without decrypting them: rustls is out of step afterwards.
    pub(crate) fn receive_raw(&mut self, into: &mut [u8]) -> Result<Received> {
        match self.tcp.read(into) {
            Ok(0) => Ok(Received::End),
            Ok(count) => Ok(Received::Bytes(count)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Received::Bytes(0)),
            Err(error) => Err(error).context("receive from the contender"),
        }
    }

    /// Takes bytes out of the socket without looking at them (`MSG_TRUNC`, tcp(7)): costs next to nothing.
    pub(crate) fn discard(&mut self, scratch: &mut [u8]) -> Result<Received> {
        match recv(self.tcp.as_raw_fd(), scratch, MsgFlags::MSG_TRUNC) {
            Ok(0) => Ok(Received::End),
            Ok(count) => Ok(Received::Bytes(count)),
            Err(Errno::EAGAIN) => Ok(Received::Bytes(0)),
            Err(error) => bail!("receive from the contender: {error}"),
        }
    }

    /// Ends our direction in good order.
    pub(crate) fn finish(&mut self) -> Result<()> {
        if let Layer::Tls(tls) = &mut self.layer {
            tls.send_close_notify();
        }
        self.flush()?;
        self.tcp.shutdown(Shutdown::Write).context("end a connection")
    }
}

fn dial(to: SocketAddr) -> Result<TcpStream> {
    let tcp = TcpStream::connect_timeout(&to, PATIENCE).with_context(|| format!("connect to {to}"))?;
    tcp.set_nodelay(true)?;
    tcp.set_read_timeout(Some(PATIENCE))?;
    tcp.set_write_timeout(Some(PATIENCE))?;
    Ok(tcp)
}

/// RFC 1928: no authentication, then the request by address.
fn ask_socks(tcp: &mut TcpStream, target: SocketAddr) -> Result<()> {
    let greeting = socks5::Greeting { methods: vec![socks5::METHOD_NONE] }.encode()?;
    tcp.write_all(&greeting)?;
    let mut selection = [0; 2];
    tcp.read_exact(&mut selection)?;
    let method = socks5::parse_method_selection(&selection)?;
    ensure!(method == socks5::METHOD_NONE, "it selects method {method}");
    let address = socks5::Address::Ip(target.ip());
    let request = socks5::Request { command: socks5::Command::Connect, address, port: target.port() };
    tcp.write_all(&request.encode())?;
    let mut reply = Vec::new();
    loop {
        if let Some(length) = socks5::reply_len(&reply)? {
            let code = socks5::parse_reply(reply.get(..length).unwrap_or_default())?;
            ensure!(code == socks5::Reply::Succeeded.code(), "reply {code}");
            return Ok(());
        }
        let mut byte = [0];
        tcp.read_exact(&mut byte)?;
        reply.extend_from_slice(&byte);
    }
}
