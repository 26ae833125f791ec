//! The machine behind the contenders: one thread, plain TCP, and the client's first byte chooses what it does.
//!
//! One back end for everything means one target per contender. It must never be the limit: it reads into nowhere
//! (`MSG_TRUNC`, tcp(7)) when it counts, and writes large blocks when it sends. It runs in a thread of the load
//! generator, or, where both together need more descriptors than one process may have, in a process of its own, which
//! tells its counts to whoever asks.

use std::collections::HashMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{Backlog, MsgFlags, listen as listen_again, recv};
use portcullis_tests::process::{self, Child};
use serde_json::{Value, json};

use crate::cpu;
use crate::load::PATIENCE;

/// Send everything back.
pub(crate) const ECHO: u8 = b'E';
/// Send the pattern until the client goes.
pub(crate) const SOURCE: u8 = b'S';
/// Count and forget.
pub(crate) const SINK: u8 = b'K';
/// Tell the counts, in one line of JSON.
const COUNTS: u8 = b'Q';

/// A prime, so that a lost or repeated block of any usual size shows.
const PERIOD: usize = 251;
const BLOCK_BYTES: usize = PERIOD * 1_024;
/// Most that waits to be echoed on one connection before the back end stops reading from it.
const PENDING_MAX_BYTES: usize = 256 * 1_024;
const CONNECTIONS_MAX: usize = 16_384;
const EVENTS: usize = 256;
const LISTENER: u64 = 0;
/// How soon the thread notices that it shall end.
const TICK_MS: u16 = 50;

/// The byte that a source sends at an offset of its stream.
pub(crate) fn pattern(offset: usize) -> u8 {
    u8::try_from(offset % PERIOD).unwrap_or(0)
}

/// Longer than any line of counts.
const COUNTS_MAX_BYTES: u64 = 256;

#[derive(Debug, Default)]
struct Counters {
    stop: AtomicBool,
    sunk: AtomicU64,
    live: AtomicUsize,
}

impl Counters {
    fn line(&self) -> String {
        let (sunk, live) = (self.sunk.load(Ordering::Relaxed), self.live.load(Ordering::Relaxed));
        json!({"sunk": sunk, "live": live}).to_string()
    }
}

/// A running back end; ends when dropped.
#[derive(Debug)]
pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    home: Home,
}

#[derive(Debug)]
enum Home {
    Thread(Arc<Counters>, Option<JoinHandle<()>>),
    Process(Child),
}

impl Backend {
    /// Starts on a free port of loopback, on the CPU that the calling thread is bound to.
    pub(crate) fn start() -> Result<Self> {
        Self::start_at((Ipv4Addr::LOCALHOST, 0).into())
    }

    /// The same at an address of the caller's.
    pub(crate) fn start_at(address: SocketAddr) -> Result<Self> {
        let counters = Arc::new(Counters::default());
        let mut server = Server::new(listen(address)?, Arc::clone(&counters))?;
        let address = server.listener.local_addr()?;
        let thread = std::thread::Builder::new().name("backend".into()).spawn(move || server.run())?;
        Ok(Self { address, home: Home::Thread(counters, Some(thread)) })
    }

    /// The same in a process of its own, which inherits the CPU as well. Its output goes to `dir`.
    pub(crate) fn spawn(dir: &Path) -> Result<Self> {
        let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), process::free_port()?);
        let exe = std::env::current_exe().context("find this program")?;
        let mut command = Command::new(exe);
        command.arg("backend").arg(address.to_string());
        let mut child = Child::spawn("backend", &mut command, dir)?;
        child.wait_for_port(address, PATIENCE)?;
        Ok(Self { address, home: Home::Process(child) })
    }

    /// Bytes that sinks have counted so far.
    pub(crate) fn sunk(&self) -> Result<u64> {
        self.count(|counters| counters.sunk.load(Ordering::Relaxed), "sunk")
    }

    /// Connections that are open now and have said what they want.
    pub(crate) fn live(&self) -> Result<u64> {
        self.count(|counters| u64::try_from(counters.live.load(Ordering::Relaxed)).unwrap_or(0), "live")
    }

    /// CPU time of a process of its own; that of a thread counts as this process's.
    pub(crate) fn time(&self) -> Result<Duration> {
        match &self.home {
            Home::Thread(..) => Ok(Duration::ZERO),
            Home::Process(child) => cpu::time_of(child.pid()),
        }
    }

    fn count(&self, own: fn(&Counters) -> u64, name: &str) -> Result<u64> {
        match &self.home {
            Home::Thread(counters, _) => Ok(own(counters)),
            Home::Process(_) => {
                let mut tcp = TcpStream::connect(self.address).context("ask the back end")?;
                tcp.set_read_timeout(Some(PATIENCE))?;
                tcp.write_all(&[COUNTS]).context("ask the back end")?;
                let mut line = String::new();
                tcp.take(COUNTS_MAX_BYTES).read_to_string(&mut line).context("read the back end's counts")?;
                let counts: Value = serde_json::from_str(&line).context("the back end's counts")?;
                counts.get(name).and_then(Value::as_u64).context("the back end does not count that")
            }
        }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        if let Home::Thread(counters, thread) = &mut self.home {
            counters.stop.store(true, Ordering::Relaxed);
            if let Some(thread) = thread.take() {
                // A panic of that thread has been printed, and fails the measurement by its silence.
                drop(thread.join());
            }
        }
    }
}

/// A back end that lasts as long as its process: what [`Backend::spawn`] starts.
pub(crate) fn serve(address: SocketAddr) -> Result<()> {
    cpu::widen_descriptors()?;
    Server::new(listen(address)?, Arc::new(Counters::default()))?.run();
    Ok(())
}

fn listen(address: SocketAddr) -> Result<TcpListener> {
    let listener = TcpListener::bind(address).context("listen as the back end")?;
    // The standard library's queue of 128 is short for a storm of sessions.
    listen_again(&listener, Backlog::MAXALLOWABLE).context("lengthen the back end's queue")?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

enum Work {
    Undecided,
    Echo { pending: Vec<u8> },
    Source { offset: usize },
    Sink,
}

struct Peer {
    tcp: TcpStream,
    work: Work,
}

struct Server {
    listener: TcpListener,
    epoll: Epoll,
    peers: HashMap<u64, Peer>,
    next: u64,
    counters: Arc<Counters>,
    block: Vec<u8>,
    buffer: Vec<u8>,
}

/// Why a connection is over: the peer's wish or its fault; the back end does not care which.
struct Over;

impl From<std::io::Error> for Over {
    fn from(_: std::io::Error) -> Self {
        Self
    }
}

impl Server {
    fn new(listener: TcpListener, counters: Arc<Counters>) -> Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
        let block = (0..BLOCK_BYTES).map(pattern).collect();
        let buffer = vec![0; BLOCK_BYTES];
        Ok(Self { listener, epoll, peers: HashMap::new(), next: LISTENER + 1, counters, block, buffer })
    }

    fn run(&mut self) {
        let mut events = [EpollEvent::empty(); EVENTS];
        while !self.counters.stop.load(Ordering::Relaxed) {
            let count = match self.epoll.wait(&mut events, EpollTimeout::from(TICK_MS)) {
                Ok(count) => count,
                Err(Errno::EINTR) => 0,
                Err(_) => return,
            };
            for event in events.iter().take(count) {
                match event.data() {
                    LISTENER => self.accept(),
                    token => self.serve(token, event.events()),
                }
            }
        }
    }

    fn accept(&mut self) {
        // An error is "no more", or a peer that is gone again.
        while let Ok((tcp, _)) = self.listener.accept() {
            let ready = tcp.set_nonblocking(true).is_ok() && tcp.set_nodelay(true).is_ok();
            let event = EpollEvent::new(EpollFlags::EPOLLIN, self.next);
            if ready && self.peers.len() < CONNECTIONS_MAX && self.epoll.add(&tcp, event).is_ok() {
                self.peers.insert(self.next, Peer { tcp, work: Work::Undecided });
                self.next += 1;
            }
        }
    }

    fn serve(&mut self, token: u64, ready: EpollFlags) {
        let Some(peer) = self.peers.get_mut(&token) else { return };
        let step = peer.step(ready, &self.block, &mut self.buffer, &self.counters);
        let interest = match step {
            Ok(interest) => interest,
            // Closing the descriptor takes it out of the epoll set as well.
            Err(Over) => return self.forget(token),
        };
        if let Some(interest) = interest
            && self.epoll.modify(&peer.tcp, &mut EpollEvent::new(interest, token)).is_err()
        {
            self.forget(token);
        }
    }

    fn forget(&mut self, token: u64) {
        let gone = self.peers.remove(&token);
        if gone.is_some_and(|peer| !matches!(peer.work, Work::Undecided)) {
            self.counters.live.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Peer {
    /// Does one step and says what to wait for, if that changes.
    fn step(
        &mut self,
        ready: EpollFlags,
        block: &[u8],
        buffer: &mut [u8],
        counters: &Counters,
    ) -> Result<Option<EpollFlags>, Over> {
        match &mut self.work {
            Work::Undecided => {
                let mut choice = [0];
                let read = accepted(self.tcp.read(&mut choice))?;
                let Some(1) = read else { return if read.is_some() { Err(Over) } else { Ok(None) } };
                self.work = match choice {
                    [ECHO] => Work::Echo { pending: Vec::new() },
                    [SOURCE] => Work::Source { offset: 0 },
                    [SINK] => Work::Sink,
                    [COUNTS] => {
                        // A line this short fits into any fresh socket's buffer.
                        self.tcp.write_all(counters.line().as_bytes())?;
                        return Err(Over);
                    }
                    _ => return Err(Over),
                };
                counters.live.fetch_add(1, Ordering::Relaxed);
                let writes = matches!(self.work, Work::Source { .. });
                Ok(writes.then_some(EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT))
            }
            Work::Echo { pending } => echo(&mut self.tcp, pending, ready, buffer),
            Work::Source { offset } => {
                if ready.contains(EpollFlags::EPOLLOUT) {
                    let rest = block.get(*offset..).unwrap_or_default();
                    let written = accepted(self.tcp.write(rest))?.unwrap_or(0);
                    *offset = (*offset + written) % block.len();
                }
                // A client of a source says nothing more: what arrives is its end.
                let over = ready.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLHUP);
                if over { Err(Over) } else { Ok(None) }
            }
            Work::Sink => match recv(self.tcp.as_raw_fd(), buffer, MsgFlags::MSG_TRUNC) {
                Ok(0) => Err(Over),
                Ok(count) => {
                    counters.sunk.fetch_add(u64::try_from(count).unwrap_or(0), Ordering::Relaxed);
                    Ok(None)
                }
                Err(Errno::EAGAIN) => Ok(None),
                Err(_) => Err(Over),
            },
        }
    }
}

fn echo(
    tcp: &mut TcpStream,
    pending: &mut Vec<u8>,
    ready: EpollFlags,
    buffer: &mut [u8],
) -> Result<Option<EpollFlags>, Over> {
    let waited = !pending.is_empty();
    if ready.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLHUP) && pending.len() < PENDING_MAX_BYTES {
        match accepted(tcp.read(buffer))? {
            Some(0) => return Err(Over),
            Some(count) => pending.extend_from_slice(buffer.get(..count).unwrap_or_default()),
            None => {}
        }
    }
    if !pending.is_empty()
        && let Some(written) = accepted(tcp.write(pending))?
    {
        pending.drain(..written);
    }
    let reads = if pending.len() < PENDING_MAX_BYTES { EpollFlags::EPOLLIN } else { EpollFlags::empty() };
    match (waited, pending.is_empty()) {
        (true, true) => Ok(Some(EpollFlags::EPOLLIN)),
        (_, false) => Ok(Some(reads | EpollFlags::EPOLLOUT)),
        (false, true) => Ok(None),
    }
}

/// The count that a socket call has moved, `None` when it would have had to wait.
fn accepted(result: std::io::Result<usize>) -> Result<Option<usize>, Over> {
    match result {
        Ok(count) => Ok(Some(count)),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Shutdown;

    use portcullis_tests::wait::until;

    use super::*;

    fn connect(backend: &Backend, work: u8) -> TcpStream {
        let mut tcp = TcpStream::connect(backend.address).unwrap();
        tcp.set_read_timeout(Some(PATIENCE)).unwrap();
        tcp.write_all(&[work]).unwrap();
        tcp
    }

    #[test]
    fn a_source_sends_the_pattern_without_end() {
        let backend = Backend::start().unwrap();
        let mut tcp = connect(&backend, SOURCE);
        let mut bytes = vec![0; 3 * BLOCK_BYTES];
        tcp.read_exact(&mut bytes).unwrap();
        assert!(bytes.iter().enumerate().all(|(offset, byte)| *byte == pattern(offset)));
    }

    #[test]
    fn a_sink_counts_every_byte() {
        let backend = Backend::start().unwrap();
        let mut tcp = connect(&backend, SINK);
        tcp.write_all(&[7; 100_000]).unwrap();
        until(PATIENCE, "all bytes to be counted", || backend.sunk().unwrap() == 100_000).unwrap();
    }

    #[test]
    fn an_echo_that_nobody_reads_is_bounded_and_complete_in_the_end() {
        let backend = Backend::start().unwrap();
        let mut tcp = connect(&backend, ECHO);
        let sent = vec![42; 8 << 20];
        let mut writer = tcp.try_clone().unwrap();
        let copy = sent.clone();
        let thread = std::thread::spawn(move || writer.write_all(&copy).unwrap());
        let mut back = vec![0; sent.len()];
        tcp.read_exact(&mut back).unwrap();
        thread.join().unwrap();
        assert_eq!(back, sent);
    }

    #[test]
    fn connections_that_end_are_forgotten() {
        let backend = Backend::start().unwrap();
        let open: Vec<TcpStream> = [ECHO, SOURCE, SINK].map(|work| connect(&backend, work)).into();
        until(PATIENCE, "three connections", || backend.live().unwrap() == 3).unwrap();
        for tcp in open {
            tcp.shutdown(Shutdown::Write).unwrap();
        }
        until(PATIENCE, "no connection", || backend.live().unwrap() == 0).unwrap();
    }

    #[test]
    fn counts_are_told_to_whoever_asks() {
        let backend = Backend::start().unwrap();
        connect(&backend, SINK).write_all(&[7; 1_000]).unwrap();
        until(PATIENCE, "all bytes to be counted", || backend.sunk().unwrap() == 1_000).unwrap();
        let mut line = String::new();
        connect(&backend, COUNTS).read_to_string(&mut line).unwrap();
        let counts: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(counts["sunk"], 1_000);
    }

    #[test]
    fn an_unknown_first_byte_ends_the_connection() {
        let backend = Backend::start().unwrap();
        let mut tcp = connect(&backend, b'?');
        assert_eq!(tcp.read(&mut [0]).unwrap(), 0);
    }
}
