//! Connecting to a permitted server. Nothing else in the data path connects to anything.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use portcullis_core::policy::Permit;
use portcullis_core::tunnel::DialError;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::forward::connect;
use crate::gate::is_exhausted;

/// After that much silence the kernel asks whether the peer still lives, that often, that many times: a vanished
/// peer is noticed within three minutes although an idle session may last hours.
const KEEPALIVE_AFTER: Duration = Duration::from_mins(2);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(15);
const KEEPALIVE_TRIES: u32 = 4;

/// Connects to the first address that answers, within the deadline, from an address of `source` where there is one
/// of its family; says which it was. `begun` hears of each attempt: the server's address and the own one.
pub(super) async fn dial(
    permit: &Permit,
    source: &[IpAddr],
    deadline: Instant,
    mut begun: impl FnMut(SocketAddr, SocketAddr),
) -> Result<(TcpStream, SocketAddr), DialError> {
    let mut last = DialError::Unreachable;
    let mut left = u32::try_from(permit.addresses().len()).unwrap_or(u32::MAX);
    for address in permit.addresses() {
        // A silent address must not use up the time of those behind it.
        let share = deadline.saturating_duration_since(Instant::now()) / left.max(1);
        left = left.saturating_sub(1);
        let source = source.iter().copied().find(|source| source.is_ipv4() == address.is_ipv4());
        let begun = |local| begun(*address, local);
        match timeout_at(Instant::now() + share, connect(*address, source, begun)).await {
            Ok(Ok(socket)) => {
                prepare(&SockRef::from(&socket)).map_err(|_| DialError::Unreachable)?;
                return Ok((socket, *address));
            }
            Ok(Err(error)) => last = classify(&error, *address),
            Err(_) => last = DialError::Timeout,
        }
    }
    Err(last)
}

/// Small messages go out at once, and vanished peers are noticed. What a listener accepts has this from the listener.
pub(super) fn prepare(socket: &socket2::Socket) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_AFTER)
        .with_interval(KEEPALIVE_EVERY)
        .with_retries(KEEPALIVE_TRIES);
    socket.set_tcp_keepalive(&keepalive)
}

fn classify(error: &io::Error, address: SocketAddr) -> DialError {
    tracing::debug!(%address, %error, "server not reached");
    match error.kind() {
        // Nothing else refuses a connection in this way before its first packet but a packet filter of the machine.
        io::ErrorKind::PermissionDenied => {
            tracing::warn!(
                %address,
                "the egress policy keeps this machine from contacting a server that a listener permits; see [xdp], \
                 and `portcullis ports test`"
            );
            DialError::Unreachable
        }
        io::ErrorKind::ConnectionRefused => DialError::Refused,
        io::ErrorKind::TimedOut => DialError::Timeout,
        _ if is_exhausted(error) => DialError::Exhausted,
        _ => DialError::Unreachable,
    }
}
