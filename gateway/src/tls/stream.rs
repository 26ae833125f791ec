//! A client's byte stream while its connection is set up: TLS or not, the same three operations. And TLS with a server,
//! which is only begun here.

use std::future::poll_fn;
use std::io;
use std::net::TcpStream as StdTcpStream;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Poll, ready};

use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead as _, AsyncReadExt as _, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;

use super::codec::Codec;
use super::connection::{Connection, Facts};

/// Most bytes that a peer may send until its handshake is done; a chain of certificates fits.
pub const HANDSHAKE_MAX_BYTES: usize = 64 * 1024;

/// One read of the network; requests are small.
const READ_BYTES: usize = 4 * 1024;

/// A socket and the TLS that is spoken over it.
#[derive(Debug)]
pub struct TlsStream {
    socket: TcpStream,
    tls: Connection,
}

/// The stream of one client. Every operation may be dropped half-way without losing bytes.
#[derive(Debug)]
pub enum ClientStream {
    Plain(TcpStream),
    Tls(Box<TlsStream>),
}

/// What remains of a stream for the relay.
#[derive(Debug)]
pub struct Parts {
    /// In blocking mode.
    pub socket: StdTcpStream,
    pub codec: Codec,
    /// What the peer has said and nobody has read.
    pub unread: Vec<u8>,
}

impl TlsStream {
    /// Shakes hands with a server; the deadline is the caller's.
    ///
    /// # Errors
    /// What rustls or the socket says.
    pub async fn connect(
        socket: TcpStream,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> io::Result<Self> {
        let tls = Connection::client(config, name).map_err(invalid)?;
        let mut stream = Self { socket, tls };
        stream.flush().await?;
        stream.shake_hands().await?;
        Ok(stream)
    }

    #[must_use]
    pub const fn facts(&self) -> Option<&Facts> {
        self.tls.facts()
    }

    /// Gives up the socket and what the relay needs to go on.
    ///
    /// # Errors
    /// When the socket cannot be put into blocking mode, as the relay's ring wants it.
    pub fn into_parts(mut self) -> io::Result<Parts> {
        self.flush_now();
        let Self { socket, mut tls } = self;
        let mut unread = Vec::new();
        tls.read_plaintext(&mut unread);
        Ok(Parts { socket: blocking(socket)?, codec: Codec::from(tls), unread })
    }

    /// Reads what the network has; `Ok(0)` at its end.
    async fn fill(&mut self, most: usize) -> io::Result<usize> {
        poll_fn(|context| {
            // Lives for one attempt, so that who waits holds no buffer.
            let mut bytes = [0; READ_BYTES];
            let mut room = ReadBuf::new(bytes.get_mut(..most.min(READ_BYTES)).unwrap_or_default());
            // Unlike `try_read` it knows a socket that has given less than there was room for as empty, and waits
            // without asking it again.
            ready!(Pin::new(&mut self.socket).poll_read(context, &mut room))?;
            let fed = self.tls.feed(room.filled());
            Poll::Ready(fed.map(|()| room.filled().len()).map_err(invalid))
        })
        .await
    }

    async fn flush(&mut self) -> io::Result<()> {
        while self.tls.wants_write() {
            let count = self.socket.write(self.tls.outgoing()).await?;
            if count == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.tls.sent(count);
        }
        Ok(())
    }

    /// Sends what the socket takes at once: an alert, or the answer to a key update.
    fn flush_now(&mut self) {
        while self.tls.wants_write() {
            match self.socket.try_write(self.tls.outgoing()) {
                Ok(count) if count > 0 => self.tls.sent(count),
                Ok(_) | Err(_) => return,
            }
        }
    }

    async fn shake_hands(&mut self) -> io::Result<()> {
        let mut left = HANDSHAKE_MAX_BYTES;
        while self.tls.is_handshaking() {
            if left == 0 {
                return Err(io::Error::new(io::ErrorKind::QuotaExceeded, "handshake is too long"));
            }
            let filled = self.fill(left).await;
            if filled.is_err() {
                self.flush_now();
            }
            match filled? {
                0 => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "tls handshake eof")),
                count => left = left.saturating_sub(count),
            }
            // What a server has to say once hands are shaken under TLS 1.3 is a session ticket. That goes with the first
            // answer, in one packet.
            if !self.tls.owes_ticket_only() {
                self.flush().await?;
            }
        }
        Ok(())
    }

    async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.tls.read(buffer);
            if count > 0 || self.tls.peer_closed() || buffer.is_empty() {
                return Ok(count);
            }
            let filled = self.fill(READ_BYTES).await;
            // Whoever has asked for something gets what else there is to say with the answer.
            if filled.is_err() || !self.tls.has_plaintext() {
                self.flush_now();
            }
            if filled? == 0 {
                let reason = "peer closed connection without sending TLS close_notify";
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, reason));
            }
        }
    }
}

fn invalid(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl ClientStream {
    /// Shakes hands; the deadline is the caller's.
    ///
    /// # Errors
    /// What rustls or the socket says.
    pub async fn accept_tls(socket: TcpStream, config: Arc<ServerConfig>) -> io::Result<Self> {
        let tls = Connection::server(config).map_err(invalid)?;
        let mut stream = Box::new(TlsStream { socket, tls });
        stream.shake_hands().await?;
        Ok(Self::Tls(stream))
    }

    #[must_use]
    pub fn tls(&self) -> Option<&Connection> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(stream) => Some(&stream.tls),
        }
    }

    /// The version of TLS and whether an earlier session was resumed.
    #[must_use]
    pub fn tls_facts(&self) -> Option<(rustls::ProtocolVersion, bool)> {
        let Facts { version, resumed, .. } = self.tls()?.facts()?;
        Some((*version, *resumed))
    }

    /// # Errors
    /// What the socket or TLS says.
    pub async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(buffer).await,
            Self::Tls(stream) => stream.read(buffer).await,
        }
    }

    /// Writes everything and flushes it.
    ///
    /// # Errors
    /// What the socket or TLS says.
    pub async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.write_all(bytes).await,
            Self::Tls(stream) => {
                stream.tls.write(bytes).map_err(invalid)?;
                stream.flush().await
            }
        }
    }

    /// Says that nothing more comes: `close_notify`, then FIN.
    ///
    /// # Errors
    /// What the socket or TLS says.
    pub async fn shutdown(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.shutdown().await,
            Self::Tls(stream) => {
                stream.tls.close_notify();
                stream.flush().await?;
                stream.socket.shutdown().await
            }
        }
    }

    /// Gives up the socket and what the relay needs to go on.
    ///
    /// # Errors
    /// When the socket cannot be put into blocking mode, as the relay's ring wants it.
    pub fn into_parts(self) -> io::Result<Parts> {
        match self {
            Self::Plain(socket) => {
                Ok(Parts { socket: blocking(socket)?, codec: Codec::Plain, unread: Vec::new() })
            }
            Self::Tls(stream) => stream.into_parts(),
        }
    }
}

/// As the relay's ring wants it.
pub(crate) fn blocking(socket: TcpStream) -> io::Result<StdTcpStream> {
    let socket = socket.into_std()?;
    socket.set_nonblocking(false)?;
    Ok(socket)
}
