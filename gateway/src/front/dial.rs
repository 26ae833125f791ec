//! Connecting to a permitted server. Nothing else in the data path connects to anything.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use nix::errno::Errno;
use portcullis_core::policy::Permit;
use portcullis_core::tunnel::DialError;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

/// After that much silence the kernel asks whether the peer still lives, that often, that many times: a vanished
/// peer is noticed within three minutes although an idle session may last hours.
const KEEPALIVE_AFTER: Duration = Duration::from_mins(2);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(15);
const KEEPALIVE_TRIES: u32 = 4;

/// Connects to the first address that answers, within the deadline. `begun` hears of each attempt: the server's
/// address and the own one.
pub(super) async fn dial(
    permit: &Permit,
    deadline: Instant,
    mut begun: impl FnMut(SocketAddr, SocketAddr),
) -> Result<TcpStream, DialError> {
    let mut last = DialError::Unreachable;
    let mut left = u32::try_from(permit.addresses().len()).unwrap_or(u32::MAX);
    for address in permit.addresses() {
        // A silent address must not use up the time of those behind it.
        let share = deadline.saturating_duration_since(Instant::now()) / left.max(1);
        left = left.saturating_sub(1);
        match timeout_at(Instant::now() + share, connect(*address, |local| begun(*address, local))).await {
            Ok(Ok(socket)) => {
                prepare(&socket).map_err(|_| DialError::Unreachable)?;
                return Ok(socket);
            }
            Ok(Err(error)) => last = classify(&error, *address),
            Err(_) => last = DialError::Timeout,
        }
    }
    Err(last)
}

/// Connects, and tells the own address as soon as there is one, which is before the server can have sent anything.
async fn connect(server: SocketAddr, begun: impl FnOnce(SocketAddr)) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(server), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    match socket.connect(&server.into()) {
        Err(error) if error.raw_os_error().map(Errno::from_raw) == Some(Errno::EINPROGRESS) => {}
        outcome => outcome?,
    }
    if let Some(local) = socket.local_addr()?.as_socket() {
        begun(local);
    }
    let stream = TcpStream::from_std(socket.into())?;
    stream.writable().await?;
    match stream.take_error()? {
        Some(error) => Err(error),
        None => Ok(stream),
    }
}

/// Small messages go out at once, and vanished peers are noticed.
pub(super) fn prepare(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_AFTER)
        .with_interval(KEEPALIVE_EVERY)
        .with_retries(KEEPALIVE_TRIES);
    SockRef::from(socket).set_tcp_keepalive(&keepalive)
}

fn classify(error: &io::Error, address: SocketAddr) -> DialError {
    tracing::debug!(%address, %error, "server not reached");
    match error.kind() {
        io::ErrorKind::ConnectionRefused => DialError::Refused,
        io::ErrorKind::TimedOut => DialError::Timeout,
        _ if super::is_exhausted(error) => DialError::Exhausted,
        _ => DialError::Unreachable,
    }
}
