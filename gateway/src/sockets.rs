//! Sockets of TCP: those that listen, and what each one of a session is set to.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

/// After that much silence the kernel asks whether the peer still lives, that often, that many times: a vanished
/// peer is noticed within three minutes although an idle session may last hours.
const KEEPALIVE_AFTER: Duration = Duration::from_mins(2);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(15);
const KEEPALIVE_TRIES: u32 = 4;

/// Binds one address of a listener; every front thread binds it again, and the kernel spreads connections: by hash,
/// or where `processor` is given to the socket of the processor on which a connection begins. An address that `floats` need
/// not be there (yet): it may be with the peer.
///
/// # Errors
/// What the system says.
pub fn bind(address: SocketAddr, floats: bool, processor: Option<u16>) -> io::Result<TcpListener> {
    let socket = bound(address, true, floats)?;
    if let Some(processor) = processor {
        // `SO_INCOMING_CPU`; among sockets that share a port it decides since Linux 6.2, before it does nothing.
        rustix::net::sockopt::set_socket_incoming_cpu(&socket, processor.into())?;
    }
    listen(socket)
}

/// Binds an address for one socket alone.
///
/// # Errors
/// What the system says, for instance that the address is in use.
pub fn bind_alone(address: SocketAddr, floats: bool) -> io::Result<TcpListener> {
    listen(bound(address, false, floats)?)
}

/// Fails when somebody listens at the address. [`bind`] alone would share it with a second daemon of the same user,
/// and each would get half of the connections.
///
/// # Errors
/// What the system says, for instance that the address is in use.
pub fn ensure_free(address: SocketAddr, floats: bool) -> io::Result<()> {
    bound(address, false, floats).map(drop)
}

fn bound(address: SocketAddr, shared: bool, floats: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if floats {
        if address.is_ipv6() { socket.set_freebind_v6(true)? } else { socket.set_freebind_v4(true)? }
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn listen(socket: Socket) -> io::Result<TcpListener> {
    const BACKLOG: i32 = 4096;
    socket.set_nonblocking(true)?;
    prepare(&socket)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Small messages go out at once, and vanished peers are noticed. What a listener accepts has this from the listener.
pub(crate) fn prepare(socket: &Socket) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_AFTER)
        .with_interval(KEEPALIVE_EVERY)
        .with_retries(KEEPALIVE_TRIES);
    socket.set_tcp_keepalive(&keepalive)
}

#[cfg(test)]
mod tests {
    use socket2::SockRef;

    use super::*;

    #[test]
    fn what_a_listener_accepts_sends_small_messages_at_once_and_notices_vanished_peers() {
        let listener = bind_alone("127.0.0.1:0".parse().unwrap(), false).unwrap();
        listener.set_nonblocking(false).unwrap();
        let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let accepted = SockRef::from(&accepted);
        assert!(accepted.tcp_nodelay().unwrap() && accepted.keepalive().unwrap());
        assert_eq!(accepted.tcp_keepalive_time().unwrap(), Duration::from_mins(2));
    }
}
