//! What the two directions of one session share.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::Shutdown;
use std::sync::Arc;
use std::time::{Duration, Instant};

use portcullis_core::session::{Counters, EndReason};
use portcullis_proto::websocket;
use tokio::sync::Notify;
use tokio_uring::net::{TcpStream, UnixStream};

use crate::tls::connection::Connection;

/// Most bytes that one read takes: four TLS records.
pub(super) const CHUNK_BYTES: usize = 64 * 1024;

/// How long a session may be silent once one side is done.
const HALF_CLOSED_IDLE: Duration = Duration::from_mins(5);
/// How long a server may be silent after a WebSocket client's close frame before the frame is answered.
const WEBSOCKET_ANSWER_WAIT: Duration = Duration::from_secs(5);
/// How long a client may take to answer a WebSocket close frame (RFC 6455 §7.1.1).
const WEBSOCKET_CLOSE_WAIT: Duration = Duration::from_secs(10);

/// The server's socket.
pub(super) enum ServerSocket {
    Tcp(TcpStream),
    Web(UnixStream),
}

impl ServerSocket {
    pub(super) async fn read(&self, buffer: Vec<u8>) -> (io::Result<usize>, Vec<u8>) {
        match self {
            Self::Tcp(socket) => socket.read(buffer).await,
            Self::Web(socket) => socket.read(buffer).await,
        }
    }

    pub(super) async fn write_all(&self, buffer: Vec<u8>) -> (io::Result<()>, Vec<u8>) {
        match self {
            Self::Tcp(socket) => socket.write_all(buffer).await,
            Self::Web(socket) => socket.write_all(buffer).await,
        }
    }

    pub(super) fn shutdown(&self, how: Shutdown) {
        // It fails only where the peer has cut the connection already, which is what is wanted.
        match self {
            Self::Tcp(socket) => socket.shutdown(how),
            Self::Web(socket) => socket.shutdown(how),
        }
        .ok();
    }
}

/// Control frames of the WebSocket framing that wait for the client, and what was sent of them.
#[derive(Debug, Default)]
pub(super) struct WebSocketState {
    /// RFC 6455 §5.5.3: only the latest ping needs its answer, so one slot is enough.
    pub(super) pong: Option<Vec<u8>>,
    pub(super) close: Option<u16>,
    /// The code of the client's close frame, to be echoed once the server is done.
    pub(super) closed_by_client: Option<u16>,
    pub(super) close_sent: bool,
}

/// One session on its worker.
pub(super) struct Live {
    pub(super) client: TcpStream,
    pub(super) server: ServerSocket,
    pub(super) tls: Option<RefCell<Box<Connection>>>,
    pub(super) websocket: Option<RefCell<WebSocketState>>,
    /// Tells the direction that writes to the client that something waits besides the server's bytes.
    pub(super) for_client: Notify,
    /// Tells the direction that reads from the client that the other one is over.
    pub(super) server_done: Notify,
    pub(super) counters: Arc<Counters>,
    idle_timeout: Cell<Duration>,
    last_activity: Cell<Instant>,
    end: Cell<Option<EndReason>>,
}

impl Live {
    pub(super) fn new(
        client: TcpStream,
        server: ServerSocket,
        tls: Option<Box<Connection>>,
        is_websocket: bool,
        counters: Arc<Counters>,
        idle_timeout: Duration,
    ) -> Self {
        Self {
            client,
            server,
            tls: tls.map(RefCell::new),
            websocket: is_websocket.then(RefCell::default),
            for_client: Notify::new(),
            server_done: Notify::new(),
            counters,
            idle_timeout: Cell::new(idle_timeout),
            last_activity: Cell::new(Instant::now()),
            end: Cell::new(None),
        }
    }

    /// A byte moved.
    pub(super) fn touch(&self) {
        self.last_activity.set(Instant::now());
    }

    pub(super) fn is_idle(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last_activity.get()) >= self.idle_timeout.get()
    }

    /// One side is done: tells the server, and lets the other direction finish in a shorter while.
    pub(super) fn part(&self, reason: EndReason, how: Shutdown) {
        self.note_end(reason);
        self.server.shutdown(how);
        self.shorten_idle();
    }

    /// WebSocket has no half-close of its own, but a close frame may be answered after the last message (RFC 6455
    /// §5.5.1). So the server hears of the client's end, and what it still has to say is passed on.
    pub(super) async fn close_after_server(&self) {
        self.part(EndReason::ClientClosed, Shutdown::Write);
        loop {
            let due = self.last_activity.get() + WEBSOCKET_ANSWER_WAIT;
            if tokio::time::timeout_at(due.into(), self.server_done.notified()).await.is_ok() {
                return;
            }
            if self.last_activity.get() + WEBSOCKET_ANSWER_WAIT <= Instant::now() {
                return self.server.shutdown(Shutdown::Both);
            }
        }
    }

    /// With one side done, silence means something else.
    pub(super) fn shorten_idle(&self) {
        let most = if self.websocket.is_some() { WEBSOCKET_CLOSE_WAIT } else { HALF_CLOSED_IDLE };
        self.idle_timeout.set(self.idle_timeout.get().min(most));
    }

    /// The first reason is the reason.
    pub(super) fn note_end(&self, reason: EndReason) {
        if self.end.get().is_none() {
            self.end.set(Some(reason));
        }
    }

    pub(super) fn end_reason(&self) -> EndReason {
        self.end.get().unwrap_or(EndReason::ClientClosed)
    }

    /// Ends both directions now. A read or write that is in flight on the ring cannot be dropped without leaking
    /// its socket; after a shutdown it completes at once.
    pub(super) fn abort(&self, reason: EndReason) {
        self.note_end(reason);
        self.client.shutdown(Shutdown::Both).ok();
        self.server.shutdown(Shutdown::Both);
        self.for_client.notify_one();
    }

    /// Everything besides the server's bytes that waits for the client: WebSocket control frames go into the TLS
    /// connection (or `out` without TLS), then all TLS records into `out`.
    pub(super) fn collect_for_client(&self, out: &mut Vec<u8>) -> Result<(), rustls::Error> {
        if let Some(state) = &self.websocket {
            let mut state = state.borrow_mut();
            let mut frames = Vec::new();
            if let Some(payload) = state.pong.take() {
                frames.extend(websocket::pong(&payload));
            }
            if let Some(code) = state.close.take()
                && !state.close_sent
            {
                frames.extend(websocket::close_frame(code));
                state.close_sent = true;
            }
            if !frames.is_empty() {
                self.encrypt(&frames, out)?;
            }
        }
        if let Some(tls) = &self.tls {
            tls.borrow_mut().take_outgoing(out);
        }
        Ok(())
    }

    /// Puts plaintext for the client into `out`, as TLS records where TLS is spoken.
    pub(super) fn encrypt(&self, plaintext: &[u8], out: &mut Vec<u8>) -> Result<(), rustls::Error> {
        let Some(tls) = &self.tls else {
            out.extend_from_slice(plaintext);
            return Ok(());
        };
        let mut tls = tls.borrow_mut();
        let written = tls.write(plaintext);
        tls.take_outgoing(out);
        written
    }
}

/// Whether an error says that the peer, not the network, cut the connection.
pub(super) fn is_reset(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionAborted
    )
}
