//! Small requests and their answers on plain connections: closed loop, one under way on each, as fast as it goes.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context as _, Result, bail, ensure};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::{EVENTS, PATIENCE, TICK_MS};
use crate::backend;

const REQUEST: [u8; 64] = [b'r'; 64];

/// A connection to a back end that echoes.
pub(crate) fn connect(to: SocketAddr) -> Result<TcpStream> {
    let mut tcp = TcpStream::connect_timeout(&to, PATIENCE).with_context(|| format!("connect to {to}"))?;
    tcp.set_nodelay(true)?;
    tcp.set_read_timeout(Some(PATIENCE))?;
    tcp.write_all(&[backend::ECHO])?;
    Ok(tcp)
}

/// One request, whose answer somebody else waits for.
pub(crate) fn ask(tcp: &mut TcpStream) -> Result<()> {
    tcp.write_all(&REQUEST).context("send a request")
}

/// One request and its answer, blocking.
pub(crate) fn once(tcp: &mut TcpStream) -> Result<()> {
    let mut answer = [0; REQUEST.len()];
    ask(tcp)?;
    tcp.read_exact(&mut answer).context("read an answer")?;
    ensure!(answer == REQUEST, "the answer is not the request");
    Ok(())
}

/// Connections that keep asking.
#[derive(Debug)]
pub(crate) struct Exchange {
    epoll: Epoll,
    events: Vec<EpollEvent>,
    peers: Vec<Peer>,
    answered: u64,
}

#[derive(Debug)]
struct Peer {
    tcp: TcpStream,
    received: usize,
}

impl Exchange {
    pub(crate) fn start(to: SocketAddr, connections: usize) -> Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("make an epoll set")?;
        let mut peers = Vec::with_capacity(connections);
        for index in 0..connections {
            let mut tcp = connect(to)?;
            once(&mut tcp)?;
            tcp.set_nonblocking(true)?;
            epoll.add(&tcp, EpollEvent::new(EpollFlags::EPOLLIN, u64::try_from(index)?))?;
            ask(&mut tcp)?;
            peers.push(Peer { tcp, received: 0 });
        }
        Ok(Self { epoll, events: vec![EpollEvent::empty(); EVENTS], peers, answered: 0 })
    }

    /// Answers so far.
    pub(crate) fn answered(&self) -> u64 {
        self.answered
    }

    /// Takes the answers that have come and asks again; waits a short while at most.
    pub(crate) fn turn(&mut self) -> Result<()> {
        let count = match self.epoll.wait(&mut self.events, EpollTimeout::from(TICK_MS)) {
            Ok(count) => count,
            Err(Errno::EINTR) => 0,
            Err(error) => bail!("wait for answers: {error}"),
        };
        for event in self.events.iter().take(count) {
            let Some(peer) = self.peers.get_mut(usize::try_from(event.data())?) else { continue };
            let mut answer = [0; REQUEST.len()];
            match peer.tcp.read(&mut answer) {
                Ok(0) => bail!("a connection was ended"),
                Ok(count) => peer.received += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error).context("read an answer"),
            }
            if peer.received >= REQUEST.len() {
                peer.received -= REQUEST.len();
                self.answered += 1;
                // One request is under way: the socket's buffer has room.
                ask(&mut peer.tcp)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use portcullis_tests::wait;

    use super::*;
    use crate::backend::Backend;

    #[test]
    fn every_answer_is_counted_and_followed_by_a_request() {
        let backend = Backend::start().unwrap();
        let mut load = Exchange::start(backend.address, 3).unwrap();
        wait::attempt(PATIENCE, "a hundred answers", || {
            load.turn()?;
            Ok::<_, anyhow::Error>((load.answered() >= 100).then_some(()))
        })
        .unwrap();
    }
}
