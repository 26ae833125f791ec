//! Connecting to a permitted server. Nothing else in the data path connects to anything.

use std::io;
use std::net::{IpAddr, SocketAddr};

use portcullis_core::policy::Permit;
use portcullis_core::tunnel::DialError;
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::forward::connect;
use crate::gate::is_exhausted;
use crate::sockets::prepare;

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
