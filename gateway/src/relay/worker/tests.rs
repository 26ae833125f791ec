//! Workers on both engines, with real sockets on loopback.

mod memory;

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::sync::mpsc::SyncSender;
use std::thread;

use portcullis_core::command::{Framing, Relay as Beginning};
use portcullis_core::limits::Limits;
use portcullis_core::session::Table;

use super::*;
use crate::config::{EngineChoice, Gather};
use crate::gate::Gate;
use crate::tls::codec::Codec;
use crate::xdp::Flows;

const MIB: usize = 1024 * 1024;
const PATIENCE: Duration = Duration::from_secs(60);

/// Those that this machine has.
fn engines() -> Vec<EngineChoice> {
    let mut engines = vec![EngineChoice::Epoll];
    if Engine::new(EngineChoice::IoUring, &Settings::default()).is_ok() {
        engines.push(EngineChoice::IoUring);
    }
    engines
}

fn context() -> Arc<Context> {
    Arc::new(Context::new(Arc::new(Mutex::new(Table::new(1))), Flows::default()))
}

/// Both ends of a connection over loopback.
fn tcp() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (far, _) = listener.accept().unwrap();
    for socket in [&near, &far] {
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_write_timeout(Some(PATIENCE)).unwrap();
    }
    (near, far)
}

/// What a worker gets, without TLS.
fn handover(client: TcpStream, server: Server) -> Handover {
    let (_, metrics) = crate::metrics::build().unwrap();
    let gate = Arc::new(Gate::default());
    let pass = gate.connection(&metrics.listener("test"), [127, 0, 0, 1].into(), &Limits::default());
    Handover {
        session: None,
        client,
        codec: Codec::Plain,
        server,
        beginning: Beginning { framing: Framing::Direct, forward: Vec::new(), undecoded: Vec::new() },
        idle_timeout: PATIENCE,
        pass: pass.unwrap(),
    }
}

/// A worker on its own thread.
struct Running {
    worker: Option<Worker>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    fn start(choice: EngineChoice) -> Self {
        Self::start_as(EngineWanted { choice, ..EngineWanted::default() })
    }

    fn start_as(wanted: EngineWanted) -> Self {
        let (worker, thread, kind) = spawn(0, context(), Cores::default(), wanted).unwrap();
        assert_eq!(kind.as_str(), wanted.choice.as_str());
        Self { worker: Some(worker), thread: Some(thread) }
    }

    /// A session between two TCP connections: the ends of client and server.
    fn session(&self) -> (TcpStream, TcpStream) {
        let ((client, near), (far, server)) = (tcp(), tcp());
        self.hand_over(handover(near, Server::Tcp(far)));
        (client, server)
    }

    fn hand_over(&self, handover: Handover) {
        assert!(self.worker.as_ref().unwrap().hand_over(handover).is_ok());
    }
}

impl Drop for Running {
    /// A worker ends when its queue is closed and its sessions are over.
    fn drop(&mut self) {
        self.worker = None;
        if !thread::panicking() {
            self.thread.take().unwrap().join().unwrap();
        }
    }
}

/// xorshift64: the same bytes and sizes at both ends.
struct Stream {
    state: u64,
    ahead: Vec<u8>,
}

impl Stream {
    fn new(seed: u64) -> Self {
        Self { state: seed | 1, ahead: Vec::new() }
    }

    fn next(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state
    }

    fn take(&mut self, count: usize) -> Vec<u8> {
        while self.ahead.len() < count {
            let word = self.next();
            self.ahead.extend_from_slice(&word.to_le_bytes());
        }
        let rest = self.ahead.split_off(count);
        std::mem::replace(&mut self.ahead, rest)
    }
}

/// Sends `total` bytes in pieces of random sizes, mostly small ones, and half-closes.
fn send(mut socket: &TcpStream, seed: u64, total: usize) {
    let (mut stream, mut sizes, mut left) = (Stream::new(seed), Stream::new(!seed), total);
    while left > 0 {
        let most = if sizes.next() % 4 == 0 { 200_000 } else { 3_000 };
        let size = 1 + usize::try_from(sizes.next()).unwrap() % most;
        let piece = stream.take(size.min(left));
        socket.write_all(&piece).unwrap();
        left -= piece.len();
    }
    socket.shutdown(Shutdown::Write).unwrap();
}

fn receive(mut socket: &TcpStream, seed: u64, total: usize) {
    let (mut stream, mut buffer, mut seen) = (Stream::new(seed), vec![0; 100_000], 0);
    while let count @ 1.. = socket.read(&mut buffer).unwrap() {
        assert!(stream.take(count) == buffer[..count], "other bytes than were sent after {seen}");
        seen += count;
    }
    assert_eq!(seen, total);
}

fn both_ways(client: &TcpStream, server: &TcpStream, up: usize, down: usize) {
    thread::scope(|scope| {
        scope.spawn(|| send(client, 11, up));
        scope.spawn(|| send(server, 22, down));
        scope.spawn(|| receive(server, 11, up));
        scope.spawn(|| receive(client, 22, down));
    });
}

#[test]
fn bytes_arrive_in_order_and_exactly_in_both_directions() {
    for engine in engines() {
        let running = Running::start(engine);
        let sessions: Vec<_> = (0..4).map(|_| running.session()).collect();
        thread::scope(|scope| {
            for (client, server) in &sessions {
                scope.spawn(|| both_ways(client, server, 5 * MIB + 1, 3 * MIB + 17));
            }
        });
    }
}

#[test]
fn so_do_those_that_are_handled_several_at_once() {
    for choice in engines() {
        let running =
            Running::start_as(EngineWanted { choice, gather: Gather::Always(Duration::from_millis(2)) });
        let sessions: Vec<_> = (0..4).map(|_| running.session()).collect();
        thread::scope(|scope| {
            for (client, server) in &sessions {
                scope.spawn(|| both_ways(client, server, MIB + 1, MIB + 17));
            }
        });
    }
}

#[test]
fn so_do_those_that_are_never_spliced() {
    for engine in engines() {
        let running = Running::start(engine);
        let ((client, near), (far, server)) = (tcp(), UnixStream::pair().unwrap());
        running.hand_over(handover(near, Server::Web(far)));
        thread::scope(|scope| {
            scope.spawn(|| send(&client, 5, 3 * MIB));
            scope.spawn(|| {
                let (mut stream, mut buffer) = (Stream::new(5), vec![0; 70_000]);
                while let count @ 1.. = (&server).read(&mut buffer).unwrap() {
                    assert!(stream.take(count) == buffer[..count]);
                    (&server).write_all(&buffer[..count]).unwrap();
                }
                server.shutdown(Shutdown::Write).unwrap();
            });
            scope.spawn(|| receive(&client, 5, 3 * MIB));
        });
    }
}

/// Writes until nothing is taken any more.
fn fill(server: &UnixStream) {
    server.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let piece = vec![7; 64 * 1024];
    while (&*server).write(&piece).is_ok() {}
}

#[test]
fn sessions_that_are_stuck_leave_buffers_for_others() {
    for engine in engines() {
        let running = Running::start(engine);
        // Twice as many as would do if each kept what it may hold.
        let stuck: Vec<_> = (0..80)
            .map(|_| {
                let ((client, near), (far, server)) = (tcp(), UnixStream::pair().unwrap());
                socket2::SockRef::from(&client).set_recv_buffer_size(4096).unwrap();
                socket2::SockRef::from(&near).set_send_buffer_size(4096).unwrap();
                running.hand_over(handover(near, Server::Web(far)));
                (client, server)
            })
            .collect();
        thread::scope(|scope| stuck.iter().for_each(|(_, server)| drop(scope.spawn(|| fill(server)))));
        let ((mut client, near), (far, mut server)) = (tcp(), UnixStream::pair().unwrap());
        running.hand_over(handover(near, Server::Web(far)));
        for _ in 0..100 {
            client.write_all(&[1; 1000]).unwrap();
            server.read_exact(&mut [0; 1000]).unwrap();
            server.write_all(&[2; 1000]).unwrap();
            client.read_exact(&mut [0; 1000]).unwrap();
        }
    }
}

/// A worker that the test itself takes from turn to turn.
fn by_hand(choice: EngineChoice) -> (Relay, SyncSender<Handover>) {
    let (queue, inbox) = sync_channel(RELAY_QUEUE);
    let engine = Engine::new(choice, &Settings::default()).unwrap();
    (Relay::new(context(), inbox, engine, None, Gathering::new(Gather::Adaptive)), queue)
}

fn turns(relay: &mut Relay, what: &str, mut done: impl FnMut(&Relay) -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done(relay) {
        assert!(Instant::now() < end, "{what}");
        relay.turn(Some(Duration::from_millis(10))).unwrap();
    }
}

#[test]
fn a_session_that_finds_the_queue_full_comes_back() {
    let (queue, _inbox) = sync_channel(1);
    let engine = Engine::new(EngineChoice::Epoll, &Settings::default()).unwrap();
    let worker = Worker::new(queue, engine.waker());
    let session = || handover(tcp().1, Server::Tcp(tcp().0));
    assert!(worker.hand_over(session()).is_ok());
    assert!(worker.hand_over(session()).is_err());
}

#[test]
fn idle_sessions_hold_no_buffers() {
    for engine in engines() {
        let (mut relay, queue) = by_hand(engine);
        let mut peers = Vec::new();
        for _ in 0..1_000 {
            let ((client, near), (far, server)) = (tcp(), tcp());
            queue.send(handover(near, Server::Tcp(far))).unwrap();
            relay.take_in();
            peers.push((client, server));
        }
        assert_eq!(relay.count(), 1_000);
        for (client, server) in &mut peers {
            client.write_all(b"up").unwrap();
            server.write_all(b"down").unwrap();
        }
        for (client, server) in &mut peers {
            for socket in [&*client, &*server] {
                socket.set_nonblocking(true).unwrap();
            }
            let (mut up, mut down) = ([0; 2], [0; 4]);
            turns(&mut relay, "the bytes to pass", |_| server.peek(&mut up).is_ok_and(|count| count == 2));
            turns(&mut relay, "the bytes to pass", |_| client.peek(&mut down).is_ok_and(|count| count == 4));
        }
        turns(&mut relay, "all buffers to be back", |relay| {
            let Settings { client_buffers, server_buffers, .. } = Settings::default();
            [(Class::Client, client_buffers), (Class::Server, server_buffers)]
                .iter()
                .all(|(class, all)| relay.shared.engine.available(*class) == usize::from(*all))
        });
        assert!(size_of::<Held>() < 1024, "{}", size_of::<Held>());
        drop(peers);
        turns(&mut relay, "the sessions to end", |relay| relay.count() == 0);
    }
}

#[test]
fn directions_that_move_much_are_spliced_and_give_their_pipes_back() {
    for engine in engines() {
        let (mut relay, queue) = by_hand(engine);
        let ((client, near), (far, server)) = (tcp(), tcp());
        queue.send(handover(near, Server::Tcp(far))).unwrap();
        relay.take_in();
        let done = std::sync::atomic::AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                both_ways(&client, &server, 40 * MIB, 30 * MIB);
                done.store(true, Ordering::Relaxed);
            });
            turns(&mut relay, "the bytes to pass", |_| done.load(Ordering::Relaxed));
        });
        turns(&mut relay, "the session to end", |relay| relay.count() == 0);
        assert_eq!(relay.shared.pipes.idle(), 2, "{engine:?}");
    }
}

#[test]
fn a_session_that_panics_ends_alone() {
    for engine in engines() {
        let (mut relay, queue) = by_hand(engine);
        let ((mut client, near), (far, mut server)) = (tcp(), tcp());
        let ((mut other, near_too), (far_too, _server_too)) = (tcp(), tcp());
        queue.send(handover(near, Server::Tcp(far))).unwrap();
        queue.send(handover(near_too, Server::Tcp(far_too))).unwrap();
        relay.take_in();
        relay.guarded(1, |_, _| std::panic::resume_unwind(Box::new("a fault")));
        relay.list(1);
        turns(&mut relay, "the faulty session to end", |relay| relay.count() == 1);
        assert_eq!(other.read(&mut [0; 1]).unwrap_or(0), 0);
        client.write_all(b"unharmed").unwrap();
        server.set_nonblocking(true).unwrap();
        let mut got = [0; 8];
        turns(&mut relay, "the other to go on", |_| server.peek(&mut got).is_ok_and(|count| count == 8));
        assert_eq!(&got, b"unharmed");
        server.read_exact(&mut got).unwrap();
    }
}

#[test]
fn a_worker_asked_for_an_engine_runs_on_that_one() {
    let engine = Engine::new(EngineChoice::Epoll, &Settings::default()).unwrap();
    assert_eq!(engine.kind(), EngineKind::Epoll);
    let nothing = Settings { entries: u32::MAX, ..Settings::default() };
    let refusal = Engine::new(EngineChoice::IoUring, &nothing).unwrap_err();
    assert!(refusal.to_string().starts_with("io_uring cannot be used: "), "{refusal}");
    let engine = Engine::new(EngineChoice::Auto, &nothing).unwrap();
    assert_eq!(engine.kind(), EngineKind::Epoll);
}
