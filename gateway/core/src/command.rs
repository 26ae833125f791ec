//! What a [`Tunnel`](crate::tunnel::Tunnel) wants done.

use portcullis_proto::host_port::HostName;
use portcullis_proto::ticket::Ticket;
use portcullis_proto::websocket::Decoder;
use zeroize::Zeroizing;

use crate::deny::Deny;
use crate::policy::Permit;
use crate::session::SessionInfo;

/// One thing to do. Those that name a `handle_*` are answered by calling it.
#[derive(Debug)]
pub enum Command {
    /// Ask the ticket's authority; `handle_ticket`.
    Redeem { ticket: Ticket },
    /// Check a password; `handle_verified`.
    Verify { user: String, password: Zeroizing<Vec<u8>> },
    /// Look a name up; `handle_resolved`.
    Resolve { name: HostName },
    /// Enter the session in the table; `handle_admitted`.
    Admit { info: SessionInfo },
    /// Connect to the first of the permitted addresses that answers, and shake hands where the listener speaks TLS to
    /// servers; `handle_dialed`. `name`: what the ticket or the request calls the server, if that is no address.
    Dial { permit: Permit, name: Option<HostName> },
    /// Send these bytes to the client.
    Reply { bytes: Vec<u8> },
    /// From now on bytes pass between client and server; the tunnel's work is done.
    Relay(Relay),
    /// The client speaks ordinary HTTP: the control plane serves it, these bytes first.
    HandToWeb { bytes: Vec<u8> },
    /// End the connection once the replies are out; a reason where the gateway refused.
    Close { reason: Option<Deny> },
}

/// How the relay begins.
#[derive(Debug)]
pub struct Relay {
    /// How the client frames its bytes.
    pub framing: Framing,
    /// Bytes for the server that the client sent already, without framing.
    pub forward: Vec<u8>,
    /// Bytes of the client that are not yet a whole WebSocket frame head.
    pub undecoded: Vec<u8>,
}

/// How bytes to and from the client are wrapped inside TLS.
#[derive(Debug)]
pub enum Framing {
    Direct,
    /// RFC 6455 binary frames.
    WebSocket(Decoder),
}
