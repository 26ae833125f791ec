//! Servers behind the gateway: one that echoes, one whose connections the test handles, and one that never answers.

use std::collections::HashMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result};
use socket2::{Domain, Socket, Type};

use crate::filtered::farm;
use crate::wait::{self, PATIENCE};

/// A thread that handles each connection of a listener on a thread of its own, until it is dropped.
#[derive(Debug)]
pub struct Service {
    address: SocketAddr,
    stopped: Arc<AtomicBool>,
    accepted: Arc<AtomicUsize>,
    /// Handles of the connections, so that they end with the service.
    open: Arc<Mutex<HashMap<usize, TcpStream>>>,
    acceptor: Option<JoinHandle<()>>,
}

impl Service {
    /// Listens at a free port of `ip` and gives each connection to `handle`.
    ///
    /// # Errors
    /// When nothing can be bound.
    pub fn start(ip: IpAddr, handle: impl Fn(TcpStream) + Send + Sync + 'static) -> Result<Self> {
        let listener = TcpListener::bind((ip, 0)).with_context(|| format!("listen on {ip}"))?;
        Self::on(listener, handle)
    }

    /// Serves a listener that is already bound.
    ///
    /// # Errors
    /// When the listener has no address.
    pub fn on(listener: TcpListener, handle: impl Fn(TcpStream) + Send + Sync + 'static) -> Result<Self> {
        let address = listener.local_addr()?;
        let (stopped, accepted) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let open = Arc::<Mutex<HashMap<usize, TcpStream>>>::default();
        let (stop, count, handle) = (Arc::clone(&stopped), Arc::clone(&accepted), Arc::new(handle));
        let opened = Arc::clone(&open);
        let acceptor = thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let number = count.fetch_add(1, Ordering::Relaxed);
                let (handle, opened) = (Arc::clone(&handle), Arc::clone(&opened));
                if let Ok(twin) = stream.try_clone() {
                    lock(&opened).insert(number, twin);
                }
                thread::spawn(move || {
                    handle(stream);
                    lock(&opened).remove(&number);
                });
            }
        });
        Ok(Self { address, stopped, accepted, open, acceptor: Some(acceptor) })
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections so far.
    #[must_use]
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        // Wakes the acceptor; when nobody listens any more it has ended already.
        drop(TcpStream::connect_timeout(&self.address, PATIENCE));
        if let Some(acceptor) = self.acceptor.take() {
            drop(acceptor.join());
        }
        for stream in lock(&self.open).values() {
            // One that has ended already cannot be ended again.
            drop(stream.shutdown(Shutdown::Both));
        }
    }
}

fn lock(open: &Mutex<HashMap<usize, TcpStream>>) -> MutexGuard<'_, HashMap<usize, TcpStream>> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A server that sends back what it gets and half-closes when the client does.
///
/// # Errors
/// When nothing can be bound.
pub fn echo() -> Result<Service> {
    Service::start(farm(), |mut stream| {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            if stream.write_all(buffer.get(..count).unwrap_or_default()).is_err() {
                return;
            }
        }
        // The client may be gone already.
        drop(stream.shutdown(Shutdown::Write));
    })
}

/// A server whose connections the test itself accepts and handles.
#[derive(Debug)]
pub struct Stage {
    listener: TcpListener,
}

impl Stage {
    /// # Errors
    /// When nothing can be bound.
    pub fn open() -> Result<Self> {
        Self::at(farm())
    }

    /// # Errors
    /// When nothing can be bound.
    pub fn at(ip: IpAddr) -> Result<Self> {
        let listener = TcpListener::bind((ip, 0)).with_context(|| format!("listen on {ip}"))?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener })
    }

    /// # Errors
    /// When the listener has no address.
    pub fn address(&self) -> Result<SocketAddr> {
        self.listener.local_addr().context("address of the back end")
    }

    /// Waits for the next connection.
    ///
    /// # Errors
    /// When none comes in time.
    pub fn accept(&self) -> Result<TcpStream> {
        let stream = wait::attempt(PATIENCE, "a connection to the back end", || self.try_accept())?;
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    /// The next connection, if one is there.
    ///
    /// # Errors
    /// When accepting fails.
    pub fn try_accept(&self) -> std::io::Result<Option<TcpStream>> {
        match self.listener.accept() {
            Ok((stream, _)) => Ok(Some(stream)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Resets a connection instead of closing it.
///
/// # Errors
/// When the socket does not take the option.
pub fn reset(stream: TcpStream) -> Result<()> {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).context("set linger")?;
    drop(stream);
    Ok(())
}

/// A port on which connecting neither succeeds nor fails: its queue is full, so the kernel drops every SYN.
#[derive(Debug)]
pub struct Hole {
    address: SocketAddr,
    _listener: Socket,
    _queued: Vec<Socket>,
}

impl Hole {
    /// # Errors
    /// When the queue cannot be filled.
    pub fn dig() -> Result<Self> {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        listener.bind(&SocketAddr::new(farm(), 0).into())?;
        listener.listen(0)?;
        let address = listener.local_addr()?.as_socket().context("address of the hole")?;
        let mut queued = Vec::new();
        // A connection that is not made at once found the queue full.
        loop {
            let filler = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            let made = filler.connect_timeout(&address.into(), Duration::from_millis(300));
            let full = made.is_err();
            queued.push(filler);
            if full {
                return Ok(Self { address, _listener: listener, _queued: queued });
            }
            anyhow::ensure!(queued.len() < 64, "the queue of {address} does not fill up");
        }
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// A long stream of bytes that both ends can make for themselves, so that each byte is checked where it arrives.
#[derive(Debug, Clone)]
pub struct Pattern(u64);

impl Pattern {
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// The next `words` times eight bytes.
    #[must_use]
    pub fn bytes(&mut self, words: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(words * 8);
        for _ in 0..words {
            // xorshift64: no two windows of a transfer look alike.
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            bytes.extend_from_slice(&self.0.to_le_bytes());
        }
        bytes
    }
}

/// Checks a stream that arrives in pieces of any size against its [`Pattern`].
#[derive(Debug)]
pub struct Checker {
    pattern: Pattern,
    ahead: Vec<u8>,
    pub seen: u64,
}

impl Checker {
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { pattern: Pattern::new(seed), ahead: Vec::new(), seen: 0 }
    }

    /// # Errors
    /// When the bytes are not the next ones of the pattern.
    pub fn check(&mut self, bytes: &[u8]) -> Result<()> {
        if self.ahead.len() < bytes.len() {
            let more = self.pattern.bytes((bytes.len() - self.ahead.len()).div_ceil(8));
            self.ahead.extend(more);
        }
        let rest = self.ahead.split_off(bytes.len());
        let expected = std::mem::replace(&mut self.ahead, rest);
        anyhow::ensure!(expected == bytes, "the bytes after {} are not those that were sent", self.seen);
        self.seen += u64::try_from(bytes.len())?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hole_lets_nobody_connect() {
        let hole = Hole::dig().unwrap();
        let made = TcpStream::connect_timeout(&hole.address(), Duration::from_millis(100));
        assert_eq!(made.unwrap_err().kind(), ErrorKind::TimedOut);
    }

    #[test]
    fn a_pattern_is_checked_in_pieces_of_any_size() {
        let sent = Pattern::new(7).bytes(100);
        let mut checker = Checker::new(7);
        for piece in sent.chunks(13) {
            checker.check(piece).unwrap();
        }
        assert_eq!(checker.seen, 800);
        assert!(checker.check(&[0; 8]).is_err());
    }
}
