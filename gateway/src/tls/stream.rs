//! A client's byte stream while its connection is set up: TLS or not, the same three operations.

use std::io;
use std::net::{SocketAddr, TcpStream as StdTcpStream};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::{ServerConfig, ServerConnection};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Most bytes that a client may send until its handshake is done; a chain of client certificates fits.
pub const HANDSHAKE_MAX_BYTES: usize = 64 * 1024;

/// A socket whose reader may be given an allowance.
#[derive(Debug)]
pub struct Metered {
    socket: TcpStream,
    /// Bytes that may still be read; `None`: no bound.
    allowance: Option<usize>,
}

impl AsyncRead for Metered {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let Some(left) = this.allowance else {
            return Pin::new(&mut this.socket).poll_read(cx, buffer);
        };
        if left == 0 {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::QuotaExceeded, "handshake is too long")));
        }
        let most = left.min(buffer.remaining());
        let mut part = ReadBuf::new(buffer.initialize_unfilled_to(most));
        std::task::ready!(Pin::new(&mut this.socket).poll_read(cx, &mut part))?;
        let read = part.filled().len();
        this.allowance = Some(left.saturating_sub(read));
        buffer.advance(read);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Metered {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(cx)
    }
}

/// The stream of one client. Every operation may be dropped half-way without losing bytes.
#[derive(Debug)]
pub enum ClientStream {
    Plain(TcpStream),
    Tls(Box<TlsStream<Metered>>),
}

impl ClientStream {
    /// Shakes hands; the deadline is the caller's.
    ///
    /// # Errors
    /// What rustls or the socket says.
    pub async fn accept_tls(socket: TcpStream, config: Arc<ServerConfig>) -> io::Result<Self> {
        let metered = Metered { socket, allowance: Some(HANDSHAKE_MAX_BYTES) };
        let mut stream = TlsAcceptor::from(config).accept(metered).await?;
        stream.get_mut().0.allowance = None;
        Ok(Self::Tls(Box::new(stream)))
    }

    /// # Errors
    /// What the socket says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Plain(socket) => socket.local_addr(),
            Self::Tls(stream) => stream.get_ref().0.socket.local_addr(),
        }
    }

    #[must_use]
    pub fn tls(&self) -> Option<&ServerConnection> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(stream) => Some(stream.get_ref().1),
        }
    }

    /// The version of TLS and whether an earlier session was resumed.
    #[must_use]
    pub fn tls_facts(&self) -> Option<(rustls::ProtocolVersion, bool)> {
        let tls = self.tls()?;
        let resumed = tls.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
        Some((tls.protocol_version()?, resumed))
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
                stream.write_all(bytes).await?;
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
            Self::Tls(stream) => stream.shutdown().await,
        }
    }

    /// Gives up the socket and the TLS connection, which may hold bytes that were read already.
    ///
    /// # Errors
    /// When the socket cannot be put into blocking mode, as the relay's ring wants it.
    pub fn into_parts(self) -> io::Result<(StdTcpStream, Option<Box<ServerConnection>>)> {
        let (socket, tls) = match self {
            Self::Plain(socket) => (socket, None),
            Self::Tls(stream) => {
                let (metered, tls) = stream.into_inner();
                (metered.socket, Some(Box::new(tls)))
            }
        };
        let socket = socket.into_std()?;
        socket.set_nonblocking(false)?;
        Ok((socket, tls))
    }
}
