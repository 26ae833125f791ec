//! A client of the gateway that keeps every byte it was sent: TLS or plain, whole or in two halves for two threads.
//!
//! It writes its protocols' bytes by hand and shares no parser with the product, so that both cannot be wrong alike.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use crate::wait::PATIENCE;

/// How much of what arrives is kept for [`Client::received`]: all of any refusal, the start of any transfer.
const KEPT_BYTES: usize = 64 * 1024;
const READ_BYTES: usize = 64 * 1024;

/// How the gateway ended its direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// TLS `close_notify`, or FIN on a plain connection.
    Clean,
    /// FIN without `close_notify`.
    Truncated,
    Reset,
}

struct Wire {
    tcp: TcpStream,
    tls: Option<Mutex<ClientConnection>>,
}

impl Wire {
    fn lock(tls: &Mutex<ClientConnection>) -> MutexGuard<'_, ClientConnection> {
        tls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wire").field("tcp", &self.tcp).finish_non_exhaustive()
    }
}

/// The half that writes.
#[derive(Debug)]
pub struct Sender {
    wire: Arc<Wire>,
}

/// The half that reads.
#[derive(Debug)]
pub struct Receiver {
    wire: Arc<Wire>,
    pending: Vec<u8>,
    kept: Vec<u8>,
    end: Option<End>,
}

/// One connection to the gateway.
#[derive(Debug)]
pub struct Client {
    pub sender: Sender,
    pub receiver: Receiver,
}

/// A TLS configuration that trusts the authority in a PEM file.
///
/// # Errors
/// When the file holds no certificate.
pub fn trusting(ca: &Path) -> Result<ClientConfig> {
    let pem = fs::read(ca).with_context(|| format!("read {}", ca.display()))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        roots.add(certificate.context("certificate in PEM")?)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

impl Client {
    /// Connects without TLS.
    ///
    /// # Errors
    /// When the connection is refused.
    pub fn plain(at: SocketAddr) -> Result<Self> {
        Ok(Self::over(connect(at)?, None))
    }

    /// Connects with TLS, trusting the authority in `ca`, and finishes the handshake.
    ///
    /// # Errors
    /// When the connection or the handshake fails.
    pub fn tls(at: SocketAddr, ca: &Path) -> Result<Self> {
        Self::tls_with(at, &Arc::new(trusting(ca)?), "localhost")
    }

    /// Connects with TLS by a configuration of the caller's, and finishes the handshake.
    ///
    /// # Errors
    /// When the connection or the handshake fails.
    pub fn tls_with(at: SocketAddr, config: &Arc<ClientConfig>, name: &str) -> Result<Self> {
        Self::handshake(connect(at)?, config, name)
    }

    /// Makes the TLS handshake on a connection that is already open.
    ///
    /// # Errors
    /// When the handshake fails.
    pub fn handshake(mut tcp: TcpStream, config: &Arc<ClientConfig>, name: &str) -> Result<Self> {
        let name = ServerName::try_from(name.to_owned()).context("server name")?;
        let mut tls = ClientConnection::new(Arc::clone(config), name)?;
        while tls.is_handshaking() {
            tls.complete_io(&mut tcp).context("TLS handshake")?;
        }
        Ok(Self::over(tcp, Some(tls)))
    }

    fn over(tcp: TcpStream, tls: Option<ClientConnection>) -> Self {
        let wire = Arc::new(Wire { tcp, tls: tls.map(Mutex::new) });
        let sender = Sender { wire: Arc::clone(&wire) };
        Self { sender, receiver: Receiver { wire, pending: Vec::new(), kept: Vec::new(), end: None } }
    }

    /// Sends bytes in as few records as they need.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.sender.send(bytes)
    }

    /// Reads exactly `count` bytes.
    ///
    /// # Errors
    /// When the stream ends first.
    pub fn read(&mut self, count: usize) -> Result<Vec<u8>> {
        self.receiver.read(count)
    }

    /// Reads up to and with `end`.
    ///
    /// # Errors
    /// When the stream ends first.
    pub fn read_until(&mut self, end: &[u8]) -> Result<Vec<u8>> {
        self.receiver.read_until(end)
    }

    /// Reads what is left, up to the end of the stream.
    ///
    /// # Errors
    /// When the end does not come in time.
    pub fn read_to_end(&mut self) -> Result<(Vec<u8>, End)> {
        self.receiver.read_to_end()
    }

    /// Sends bytes and reads the same bytes back.
    ///
    /// # Errors
    /// When other bytes come back, or none.
    pub fn echo(&mut self, bytes: &[u8]) -> Result<()> {
        self.send(bytes)?;
        let back = self.read(bytes.len()).context("bytes back from the echoing server")?;
        ensure!(back == bytes, "sent {bytes:?}, got back {back:?}");
        Ok(())
    }

    /// Everything received so far, up to the first 64 KiB.
    #[must_use]
    pub fn received(&self) -> &[u8] {
        &self.receiver.kept
    }

    /// The open socket, for options and for ends that are not orderly.
    #[must_use]
    pub fn tcp(&self) -> &TcpStream {
        &self.sender.wire.tcp
    }

    /// Vanishes: the connection is reset.
    ///
    /// # Errors
    /// When the socket does not take the option.
    pub fn reset(self) -> Result<()> {
        let socket = socket2::SockRef::from(&self.sender.wire.tcp);
        socket.set_linger(Some(Duration::ZERO)).context("set linger")?;
        Ok(())
    }

    /// The version and whether the handshake was a resumed one.
    #[must_use]
    pub fn tls_facts(&self) -> Option<(rustls::ProtocolVersion, rustls::HandshakeKind)> {
        let tls = Wire::lock(self.sender.wire.tls.as_ref()?);
        Some((tls.protocol_version()?, tls.handshake_kind()?))
    }

    /// Renews the keys of both directions (RFC 8446 §4.6.3).
    ///
    /// # Errors
    /// When the connection is gone, or speaks another version.
    pub fn renew_keys(&mut self) -> Result<()> {
        let tls = self.sender.wire.tls.as_ref().context("no TLS here")?;
        Wire::lock(tls).refresh_traffic_keys()?;
        self.send(&[])
    }

    /// Whether the gateway took data before the handshake was over.
    #[must_use]
    pub fn early_data_accepted(&self) -> bool {
        self.sender.wire.tls.as_ref().is_some_and(|tls| Wire::lock(tls).is_early_data_accepted())
    }

    /// The leaf certificate that the gateway showed, as DER.
    #[must_use]
    pub fn shown_certificate(&self) -> Option<Vec<u8>> {
        let tls = Wire::lock(self.sender.wire.tls.as_ref()?);
        tls.peer_certificates()?.first().map(|leaf| leaf.to_vec())
    }
}

fn connect(at: SocketAddr) -> Result<TcpStream> {
    let tcp = TcpStream::connect_timeout(&at, PATIENCE).with_context(|| format!("connect to {at}"))?;
    tcp.set_nodelay(true)?;
    tcp.set_read_timeout(Some(PATIENCE))?;
    tcp.set_write_timeout(Some(PATIENCE))?;
    Ok(tcp)
}

impl Sender {
    /// Sends bytes.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(tls) = &self.wire.tls else {
            return (&self.wire.tcp).write_all(bytes).context("send");
        };
        // What waits besides is sent even when there are no bytes.
        let nothing: &[u8] = &[];
        for chunk in bytes.chunks(READ_BYTES).chain(bytes.is_empty().then_some(nothing)) {
            let mut records = Vec::with_capacity(chunk.len() + 512);
            let mut tls = Wire::lock(tls);
            tls.writer().write_all(chunk)?;
            while tls.wants_write() {
                tls.write_tls(&mut records)?;
            }
            drop(tls);
            // The lock is not held while the socket blocks: the other half must be able to go on reading.
            (&self.wire.tcp).write_all(&records).context("send")?;
        }
        Ok(())
    }

    /// Ends this direction in order: `close_notify` where there is TLS, then FIN.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn finish(&mut self) -> Result<()> {
        self.close_notify()?;
        self.fin()
    }

    /// Sends `close_notify` and leaves the TCP connection open both ways.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn close_notify(&mut self) -> Result<()> {
        let Some(tls) = &self.wire.tls else { return Ok(()) };
        let mut records = Vec::new();
        let mut tls = Wire::lock(tls);
        tls.send_close_notify();
        while tls.wants_write() {
            tls.write_tls(&mut records)?;
        }
        drop(tls);
        (&self.wire.tcp).write_all(&records).context("send close_notify")
    }

    /// Sends FIN only.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn fin(&mut self) -> Result<()> {
        self.wire.tcp.shutdown(Shutdown::Write).context("send FIN")
    }
}

impl Receiver {
    /// Reads exactly `count` bytes.
    ///
    /// # Errors
    /// When the stream ends first.
    pub fn read(&mut self, count: usize) -> Result<Vec<u8>> {
        while self.pending.len() < count {
            if let Some(end) = self.fill()? {
                let have = String::from_utf8_lossy(&self.pending);
                bail!("the stream ended ({end:?}) after {have:?} instead of {count} bytes");
            }
        }
        let rest = self.pending.split_off(count);
        Ok(std::mem::replace(&mut self.pending, rest))
    }

    /// Reads up to and with `end`.
    ///
    /// # Errors
    /// When the stream ends first.
    pub fn read_until(&mut self, end: &[u8]) -> Result<Vec<u8>> {
        loop {
            if let Some(at) = self.pending.windows(end.len()).position(|window| window == end) {
                return self.read(at + end.len());
            }
            if let Some(how) = self.fill()? {
                let have = String::from_utf8_lossy(&self.pending);
                bail!("the stream ended ({how:?}) after {have:?} without {:?}", String::from_utf8_lossy(end));
            }
        }
    }

    /// Whatever is there, at least one byte; nothing at the end of the stream.
    ///
    /// # Errors
    /// When nothing comes in time.
    pub fn read_some(&mut self) -> Result<Vec<u8>> {
        while self.pending.is_empty() && self.fill()?.is_none() {}
        Ok(std::mem::take(&mut self.pending))
    }

    /// Reads what is left, up to the end of the stream.
    ///
    /// # Errors
    /// When the end does not come in time.
    pub fn read_to_end(&mut self) -> Result<(Vec<u8>, End)> {
        loop {
            if let Some(end) = self.fill()? {
                return Ok((std::mem::take(&mut self.pending), end));
            }
        }
    }

    /// How the stream ended, if it has.
    #[must_use]
    pub fn end(&self) -> Option<End> {
        self.end
    }

    fn fill(&mut self) -> Result<Option<End>> {
        if self.end.is_some() {
            return Ok(self.end);
        }
        let before = self.pending.len();
        let mut buffer = vec![0; READ_BYTES];
        match (&self.wire.tcp).read(&mut buffer) {
            Ok(0) if self.wire.tls.is_some() => self.end = Some(End::Truncated),
            Ok(0) => self.end = Some(End::Clean),
            Ok(count) => self.take(buffer.get(..count).unwrap_or_default())?,
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {
                self.end = Some(End::Reset);
            }
            // A read with a time-out is broken off when the process was stopped and goes on; the caller tries again.
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context("nothing more came from the gateway"),
        }
        let new = self.pending.get(before..).unwrap_or_default();
        let room = KEPT_BYTES.saturating_sub(self.kept.len()).min(new.len());
        self.kept.extend_from_slice(new.get(..room).unwrap_or_default());
        if self.pending.len() > before { Ok(None) } else { Ok(self.end) }
    }

    fn take(&mut self, mut bytes: &[u8]) -> Result<()> {
        let Some(tls) = &self.wire.tls else {
            self.pending.extend_from_slice(bytes);
            return Ok(());
        };
        let mut tls = Wire::lock(tls);
        while !bytes.is_empty() {
            tls.read_tls(&mut bytes)?;
            let state = tls.process_new_packets().context("TLS from the gateway")?;
            let mut plain = vec![0; state.plaintext_bytes_to_read()];
            tls.reader().read_exact(&mut plain)?;
            self.pending.append(&mut plain);
            if state.peer_has_closed() {
                self.end = Some(End::Clean);
                break;
            }
        }
        Ok(())
    }
}
