//! Connections to servers from the own address that the configuration names.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpStream;

/// Connects from `source` where there is one, else from the address that the system chooses. `begun` hears of the own
/// address as soon as there is one, which is before the server's first bytes can have crossed a network.
pub(crate) async fn connect(
    server: SocketAddr,
    source: Option<IpAddr>,
    begun: impl FnOnce(SocketAddr),
) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(server), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    if let Some(source) = source {
        // The port is chosen with the destination in sight: ports run out for each server, not for all together.
        setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
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

/// The address of the interface that routes to a server. No packet is sent: connecting a datagram socket only looks
/// the route up.
///
/// # Errors
/// When nothing routes there.
pub fn source_towards(server: IpAddr) -> io::Result<IpAddr> {
    const ANY_PORT: u16 = 9;
    let any: IpAddr = if server.is_ipv4() { [0_u8; 4].into() } else { [0_u16; 8].into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
    socket.connect(SocketAddr::new(server, ANY_PORT))?;
    Ok(socket.local_addr()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_route_to_this_machine_has_its_own_address() {
        let loopback = IpAddr::from([127, 0, 0, 1]);
        assert_eq!(source_towards(loopback).unwrap(), loopback);
    }

    #[tokio::test]
    async fn a_connection_comes_from_the_address_that_was_asked_for() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let source = IpAddr::from([127, 0, 0, 9]);
        let stream = connect(listener.local_addr().unwrap(), Some(source), |_| ()).await.unwrap();
        assert_eq!(stream.local_addr().unwrap().ip(), source);
    }
}
