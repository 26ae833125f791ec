//! The way to the server: a stream with TLS or without, or datagrams.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use portcullis_proto::host_port::Host;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::message::{datagram, framed};
use crate::config::{CertificateFiles, RecordLayer, SyslogConfig, SyslogProtocol};
use crate::dns::Resolver;
use crate::tls::client::ServerTls;

/// How long one address may take to answer, TLS included.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// How long the server may take no more, before it counts as gone.
const SEND_MAX: Duration = Duration::from_secs(30);
const KEEPALIVE: Duration = Duration::from_mins(1);

pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

pub(super) enum Connection {
    Stream(Box<dyn Stream>),
    Datagrams(UdpSocket),
}

impl Connection {
    /// Tries the server's addresses in turn.
    ///
    /// # Errors
    /// What the last one said.
    pub(super) async fn open(
        config: &SyslogConfig,
        certificates: &[CertificateFiles],
        resolver: &Resolver,
    ) -> io::Result<Self> {
        let addresses = match config.server.host() {
            Host::Ip(address) => vec![*address],
            Host::Name(name) => {
                resolver.lookup(name).await.map_err(|error| io::Error::other(error.to_string()))?
            }
        };
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for address in addresses {
            let address = SocketAddr::new(address, config.server.port());
            match timeout(CONNECT_MAX, Self::to(config, certificates, address)).await {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(error)) => last = error,
                Err(_elapsed) => last = io::ErrorKind::TimedOut.into(),
            }
        }
        Err(last)
    }

    async fn to(
        config: &SyslogConfig,
        certificates: &[CertificateFiles],
        address: SocketAddr,
    ) -> io::Result<Self> {
        if config.protocol == SyslogProtocol::Udp {
            let any: SocketAddr = if address.is_ipv4() { ([0; 4], 0).into() } else { ([0; 16], 0).into() };
            let socket = UdpSocket::bind(any).await?;
            socket.connect(address).await?;
            return Ok(Self::Datagrams(socket));
        }
        // Read again each time: files may have been renewed.
        let tls = (config.protocol == SyslogProtocol::Tls)
            .then(|| ServerTls::new(&config.tls, "syslog", certificates, RecordLayer::Rustls))
            .transpose()
            .map_err(io::Error::other)?;
        let socket = TcpStream::connect(address).await?;
        SockRef::from(&socket).set_tcp_user_timeout(Some(SEND_MAX))?;
        SockRef::from(&socket).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))?;
        let name = match config.server.host() {
            Host::Name(name) => Some(name),
            Host::Ip(_) => None,
        };
        Ok(Self::Stream(match tls {
            Some(tls) => Box::new(tls.connect(socket, address, name).await?),
            None => Box::new(socket),
        }))
    }

    pub(super) async fn send(&mut self, message: &[u8]) -> io::Result<()> {
        let sending = async {
            match self {
                Self::Stream(stream) => {
                    stream.write_all(&framed(message)).await?;
                    stream.flush().await
                }
                Self::Datagrams(socket) => match socket.send(datagram(message)).await {
                    // Somebody on the way says that an earlier one did not arrive: UDP promises nothing.
                    Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
                    sent => sent.map(drop),
                },
            }
        };
        timeout(SEND_MAX, sending).await.map_err(|_elapsed| io::Error::from(io::ErrorKind::TimedOut))?
    }

    /// Until the server is gone; what it says is read and means nothing.
    pub(super) async fn closed(&mut self) -> io::Error {
        let Self::Stream(stream) = self else { return std::future::pending().await };
        let mut unread = [0; 256];
        loop {
            match stream.read(&mut unread).await {
                Ok(0) => {
                    return io::Error::new(
                        io::ErrorKind::ConnectionAborted,
                        "the server has closed the connection",
                    );
                }
                Ok(_) => {}
                Err(error) => return error,
            }
        }
    }
}
