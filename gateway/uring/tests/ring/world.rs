//! A ring, pairs of sockets, and waiting for events with a deadline.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use portcullis_uring::{Event, Ring, Settings, Socket, Token};

/// Long enough for any healthy step on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
const STEP: Duration = Duration::from_millis(50);

pub(crate) fn small() -> Settings {
    Settings { entries: 64, sockets: 64, client_buffers: 8, server_buffers: 8, ..Settings::default() }
}

/// Both ways to send.
pub(crate) fn both() -> [Settings; 2] {
    [true, false].map(|send_at_once| Settings { send_at_once, ..small() })
}

pub(crate) fn ring(settings: &Settings) -> Ring {
    Ring::new(settings).expect("this kernel has io_uring")
}

/// A socket in the ring, and its peer.
pub(crate) fn pair(ring: &mut Ring) -> (Socket, UnixStream) {
    let (ours, peer) = UnixStream::pair().expect("a pair");
    (ring.add(ours.into()).expect("a place"), peer)
}

pub(crate) fn tcp_pair(ring: &mut Ring) -> (Socket, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let peer = TcpStream::connect(listener.local_addr().expect("its address")).expect("a connection");
    let (ours, _) = listener.accept().expect("the other end");
    peer.set_nodelay(true).expect("an option");
    (ring.add(ours.into()).expect("a place"), peer)
}

pub(crate) fn token(value: u64) -> Token {
    Token::new(value)
}

/// All events that are there without waiting.
pub(crate) fn now(ring: &mut Ring) -> Vec<Event> {
    ring.wait(Some(Duration::ZERO)).expect("the kernel answers");
    std::iter::from_fn(|| ring.next()).collect()
}

/// Events until `enough` says so of what came.
pub(crate) fn until(ring: &mut Ring, what: &str, mut enough: impl FnMut(&[Event]) -> bool) -> Vec<Event> {
    let deadline = Instant::now() + PATIENCE;
    let mut events = Vec::new();
    while !enough(&events) {
        assert!(Instant::now() < deadline, "{what}: not after {PATIENCE:?}, but {events:?}");
        ring.wait(Some(STEP)).expect("the kernel answers");
        events.extend(std::iter::from_fn(|| ring.next()));
    }
    events
}

/// The next `count` events.
pub(crate) fn events(ring: &mut Ring, count: usize) -> Vec<Event> {
    until(ring, &format!("{count} events"), |events| events.len() >= count)
}

/// Runs the ring until a condition holds that no event tells of; nothing may come meanwhile.
pub(crate) fn quiet_until(ring: &mut Ring, what: &str, mut condition: impl FnMut(&Ring) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition(ring) {
        assert!(Instant::now() < deadline, "{what}: not after {PATIENCE:?}");
        ring.wait(Some(Duration::from_millis(1))).expect("the kernel answers");
        let event = ring.next();
        assert!(event.is_none(), "{what}: unexpected {event:?}");
    }
}

/// The bytes of all `Received` in order.
pub(crate) fn bytes(events: &[Event]) -> Vec<u8> {
    let mut all = Vec::new();
    for event in events {
        if let Event::Received { chunk, .. } = event {
            all.extend_from_slice(chunk.bytes());
        }
    }
    all
}

pub(crate) fn put(peer: &mut impl std::io::Write, bytes: &[u8]) {
    peer.write_all(bytes).expect("the socket takes it");
}

pub(crate) fn get(peer: &mut impl std::io::Read, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    peer.read_exact(&mut bytes).expect("the bytes arrive");
    bytes
}

/// Bytes in which every place looks different from its neighbours and from the same place elsewhere.
pub(crate) fn pattern(start: usize, length: usize) -> Vec<u8> {
    let byte = |at: usize| u8::try_from((at ^ (at >> 8).wrapping_mul(31) ^ (at >> 16)) & 0xff).unwrap_or(0);
    (start..start + length).map(byte).collect()
}

/// Fills the way to a peer that does not read; whether it took anything.
pub(crate) fn clog(peer: &mut UnixStream) -> usize {
    peer.set_nonblocking(true).expect("an option");
    let mut taken = 0;
    while let Ok(count) = peer.write(&[0; 4096]) {
        taken += count;
    }
    peer.set_nonblocking(false).expect("an option");
    taken
}

/// Whether the peer sees the end of the stream.
pub(crate) fn ended(peer: &mut UnixStream) -> bool {
    peer.set_read_timeout(Some(PATIENCE)).expect("an option");
    let mut rest = Vec::new();
    match peer.read_to_end(&mut rest) {
        Ok(_) => true,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}
