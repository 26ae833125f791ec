//! The connection to a server before its relay: plain, or TLS where the listener speaks it to servers.

use std::io;
use std::net::SocketAddr;

use portcullis_proto::host_port::HostName;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::metrics::{self, ServerTlsFailure, Stage};
use crate::relay::Server;
use crate::tls::client::ServerTls;
use crate::tls::stream::{TlsStream, blocking};

/// A server that has answered.
pub(super) enum Dialed {
    Plain(TcpStream),
    Tls(Box<TlsStream>),
}

impl Dialed {
    /// What remains for the relay.
    pub(super) fn into_server(self) -> io::Result<Server> {
        match self {
            Self::Plain(socket) => blocking(socket).map(Server::Tcp),
            Self::Tls(stream) => stream.into_parts().map(Server::Tls),
        }
    }
}

/// Shakes hands with the server, if the listener does, within the deadline.
pub(super) async fn begin(
    tls: Option<&ServerTls>,
    socket: TcpStream,
    (server, name): (SocketAddr, Option<&HostName>),
    deadline: Instant,
    metrics: &metrics::Listener,
) -> Result<Dialed, ServerTlsFailure> {
    let Some(tls) = tls else { return Ok(Dialed::Plain(socket)) };
    let began = Instant::now();
    let outcome = timeout_at(deadline, tls.shake_hands(socket, server, name)).await;
    metrics.stage(Stage::ServerTls, began.elapsed());
    let outcome = outcome.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    let failed = match outcome {
        Ok(stream) => {
            if let Some(facts) = stream.facts() {
                metrics.server_handshake_succeeded(facts.version, facts.resumed);
            }
            return Ok(Dialed::Tls(Box::new(stream)));
        }
        Err(error) => error,
    };
    let failure = ServerTlsFailure::from(&failed);
    metrics.server_handshake_failed(failure);
    tracing::warn!(
        listener = metrics.name(), %server, name = name.map(HostName::as_str), reason = failure.label(), error = %failed,
        "the TLS handshake with a server failed"
    );
    Err(failure)
}
