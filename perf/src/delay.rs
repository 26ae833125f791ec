//! What changes with 50 ms of delay: a relay of our own that holds every byte for half of it, in each direction, in front
//! of each contender. This kernel has no netem.
//!
//! The relay delays what applications say to each other: round trips of a logon, messages, and bytes that wait for
//! acknowledgement end to end. Segments and windows of TCP it does not delay, because it ends TCP on both sides: instead
//! it carries no more than a window's worth of bytes at a time, as a path with that window would. So what is shown is
//! how many round trips a logon takes, and whether a contender adds to the bandwidth-delay product's limit.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

/// One direction of one connection holds at most this: the window of the path.
pub(crate) const WINDOW_BYTES: usize = 4 << 20;
const BLOCK_BYTES: usize = 64 * 1_024;
/// How soon threads notice the end, and how finely time is kept.
const TICK: Duration = Duration::from_millis(1);
const CONNECTIONS_MAX: usize = 256;

/// A running relay; ends when dropped.
#[derive(Debug)]
pub(crate) struct Delay {
    pub(crate) address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Delay {
    /// Relays to `to`, with `round_trip` there and back.
    pub(crate) fn start(to: SocketAddr, round_trip: Duration) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listen as the delaying relay")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        let thread = thread::Builder::new().name("delay".into());
        let thread = thread.spawn(move || accept(&listener, to, round_trip / 2, &flag))?;
        Ok(Self { address, stop, thread: Some(thread) })
    }
}

impl Drop for Delay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of that thread has been printed.
            drop(thread.join());
        }
    }
}

fn accept(listener: &TcpListener, to: SocketAddr, delay: Duration, stop: &Arc<AtomicBool>) {
    let mut pairs: Vec<JoinHandle<()>> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((client, _)) if pairs.len() < CONNECTIONS_MAX => {
                let flag = Arc::clone(stop);
                // A connection that cannot be served is closed, which its client notices.
                pairs.push(thread::spawn(move || drop(relay(&client, to, delay, &flag))));
            }
            Ok(_) => {}
            Err(_) => thread::sleep(TICK),
        }
        pairs.retain(|pair| !pair.is_finished());
    }
    for pair in pairs {
        drop(pair.join());
    }
}

fn relay(client: &TcpStream, to: SocketAddr, delay: Duration, stop: &AtomicBool) -> Result<()> {
    let server = TcpStream::connect(to)?;
    for tcp in [client, &server] {
        tcp.set_nonblocking(true)?;
        tcp.set_nodelay(true)?;
    }
    // The handshake of TCP takes a round trip as well.
    thread::sleep(delay * 2);
    let (mut up, mut down) = (Line::new(delay), Line::new(delay));
    while !stop.load(Ordering::Relaxed) {
        let moved = up.turn(client, &server)? | down.turn(&server, client)?;
        if up.is_over && down.is_over {
            break;
        }
        if !moved {
            thread::sleep(TICK / 4);
        }
    }
    Ok(())
}

/// One direction: bytes on their way, oldest first.
struct Line {
    delay: Duration,
    on_the_way: VecDeque<(Instant, Vec<u8>)>,
    bytes: usize,
    /// When the end of the stream arrives.
    end: Option<Instant>,
    is_over: bool,
}

impl Line {
    fn new(delay: Duration) -> Self {
        Self { delay, on_the_way: VecDeque::new(), bytes: 0, end: None, is_over: false }
    }

    /// Takes what fits and delivers what is due; true when something moved.
    fn turn(&mut self, from: &TcpStream, to: &TcpStream) -> Result<bool> {
        let taken = self.take(from)?;
        Ok(self.deliver(to)? || taken)
    }

    fn take(&mut self, mut from: impl Read) -> Result<bool> {
        if self.end.is_some() || self.bytes >= WINDOW_BYTES {
            return Ok(false);
        }
        let mut block = vec![0; BLOCK_BYTES];
        match from.read(&mut block) {
            Ok(0) => self.end = Some(Instant::now() + self.delay),
            Ok(count) => {
                block.truncate(count);
                self.bytes += count;
                self.on_the_way.push_back((Instant::now() + self.delay, block));
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        Ok(true)
    }

    fn deliver(&mut self, to: &TcpStream) -> Result<bool> {
        let mut moved = false;
        while let Some((due, block)) = self.on_the_way.front_mut().filter(|(due, _)| *due <= Instant::now()) {
            let _when = due;
            match (&mut &*to).write(block) {
                Ok(count) => {
                    block.drain(..count);
                    self.bytes -= count;
                    moved = true;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(moved),
                Err(error) => return Err(error.into()),
            }
            if block.is_empty() {
                self.on_the_way.pop_front();
            }
        }
        let ended = self.end.is_some_and(|end| end <= Instant::now()) && self.on_the_way.is_empty();
        if ended && !self.is_over {
            self.is_over = true;
            to.shutdown(Shutdown::Write)?;
        }
        Ok(moved)
    }
}

#[cfg(test)]
mod tests {
    use portcullis_tests::wait::PATIENCE;

    use super::*;
    use crate::backend::{self, Backend};

    #[test]
    fn an_echo_takes_the_round_trip_and_comes_back_whole() {
        let backend = Backend::start().unwrap();
        let delay = Delay::start(backend.address, Duration::from_millis(40)).unwrap();
        let mut tcp = TcpStream::connect(delay.address).unwrap();
        tcp.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut sent = vec![7; 300_000];
        sent[0] = backend::ECHO;
        let begin = Instant::now();
        tcp.write_all(&sent).unwrap();
        let mut back = vec![0; sent.len() - 1];
        tcp.read_exact(&mut back).unwrap();
        assert!(begin.elapsed() >= Duration::from_millis(80), "{:?}", begin.elapsed());
        assert_eq!(back, sent[1..]);
    }

    #[test]
    fn the_end_of_a_stream_is_delayed_and_passed_on() {
        let backend = Backend::start().unwrap();
        let delay = Delay::start(backend.address, Duration::from_millis(10)).unwrap();
        let mut tcp = TcpStream::connect(delay.address).unwrap();
        tcp.set_read_timeout(Some(PATIENCE)).unwrap();
        tcp.write_all(&[backend::ECHO]).unwrap();
        tcp.shutdown(Shutdown::Write).unwrap();
        assert_eq!(tcp.read(&mut [0]).unwrap(), 0);
    }
}
