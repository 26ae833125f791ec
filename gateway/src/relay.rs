//! The relay: established sessions, bytes both ways, until both sides are done.
//!
//! A worker is one thread with its own engine: io_uring, or epoll where that cannot be had. A session comes to it
//! once, over a bounded queue, and stays for good; the worker shares nothing with others but the session's counters.
//! It never shakes hands, redeems or dials. [`Handover`] is the whole interface: whatever moves the bytes can change
//! behind it.

mod direction;
mod engine;
mod epoll;
mod framing;
mod gathering;
mod session;
mod splice;
mod timer;
mod worker;

use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::{Duration, Instant, SystemTime};

use portcullis_core::command::Relay as Beginning;
use portcullis_core::deny::Deny;
use portcullis_core::limits::Limits;
use portcullis_core::session::{Counters, EndReason, Session, SessionId, SessionInfo, Table};
use portcullis_uring::Waker;

use crate::gate::ConnectionPass;
use crate::sync::lock;
use crate::tls::codec::Codec;
use crate::tls::stream::Parts;
use crate::xdp::{FlowPair, Flows, Half};
use crate::{log, metrics};

pub use engine::{EngineKind, EngineWanted};
pub use worker::spawn;

/// The other end of a session.
#[derive(Debug)]
pub enum Server {
    /// A server of the farm.
    Tcp(TcpStream),
    /// The same inside TLS.
    Tls(Parts),
    /// The control plane of this daemon.
    Web(UnixStream),
}

/// An established session on its way to a worker. Sockets are in blocking mode, as io_uring wants them.
#[derive(Debug)]
pub struct Handover {
    /// `None` for the control plane's connections, which are no sessions.
    pub session: Option<Enrolled>,
    pub client: TcpStream,
    pub codec: Codec,
    pub server: Server,
    pub beginning: Beginning,
    pub idle_timeout: Duration,
    /// Counts the connection until it ends.
    pub pass: ConnectionPass,
}

/// How sessions reach one worker.
#[derive(Clone, Debug)]
pub struct Worker {
    door: Arc<Door>,
}

/// The worker ends when its last door is closed and its last session has ended.
#[derive(Debug)]
struct Door {
    /// Taken only when the door is closed.
    queue: Option<SyncSender<Handover>>,
    waker: Waker,
}

impl Worker {
    fn new(queue: SyncSender<Handover>, waker: Waker) -> Self {
        Self { door: Arc::new(Door { queue: Some(queue), waker }) }
    }

    /// Gives a session to the worker.
    ///
    /// # Errors
    /// The session itself, when the worker's queue is full.
    pub fn hand_over(&self, handover: Handover) -> Result<(), Box<Handover>> {
        let Some(queue) = &self.door.queue else { return Err(Box::new(handover)) };
        match queue.try_send(handover) {
            Ok(()) => {
                self.door.waker.wake();
                Ok(())
            }
            Err(TrySendError::Full(handover) | TrySendError::Disconnected(handover)) => {
                Err(Box::new(handover))
            }
        }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        // The worker must find the queue closed when it looks.
        self.queue = None;
        self.waker.wake();
    }
}

/// What front and workers share: the table, and orders to the workers.
#[derive(Debug)]
pub struct Context {
    pub sessions: Arc<Mutex<Table>>,
    /// Where the kernel side knows sessions by.
    pub flows: Flows,
    /// Set when the drain is over: every session ends now.
    cut: AtomicBool,
    /// Goes up when sessions in the table have been marked as killed.
    kills: AtomicU64,
    workers: Mutex<Vec<Known>>,
}

impl Context {
    #[must_use]
    pub fn new(sessions: Arc<Mutex<Table>>, flows: Flows) -> Self {
        Self { sessions, flows, cut: false.into(), kills: 0.into(), workers: Mutex::default() }
    }

    /// Lets the workers end the sessions that were marked as killed.
    pub fn look_for_killed(&self) {
        self.kills.fetch_add(1, Ordering::Release);
        self.wake();
    }

    /// Ends all sessions, those that come later too.
    pub fn cut(&self) {
        self.cut.store(true, Ordering::Release);
        self.wake();
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Acquire)
    }

    /// How often workers have called `io_uring_enter`; `None` where they run on something else.
    #[must_use]
    pub fn enters(&self) -> Option<u64> {
        lock(&self.workers).iter().try_fold(0_u64, |sum, worker| {
            Some(sum.saturating_add(worker.enters.as_ref()?.load(Ordering::Relaxed)))
        })
    }

    fn add(&self, worker: Known) {
        lock(&self.workers).push(worker);
    }

    fn wake(&self) {
        lock(&self.workers).iter().for_each(|worker| worker.waker.wake());
    }
}

/// A worker as others know it.
#[derive(Debug)]
struct Known {
    waker: Waker,
    /// Written by the worker alone.
    enters: Option<Arc<AtomicU64>>,
}

/// A session's place in the table: it is there as long as this value lives, whatever happens to its task.
#[derive(Debug)]
pub struct Enrolled {
    session: Session,
    flows: FlowPair,
    context: Arc<Context>,
    metrics: metrics::Listener,
    reason: EndReason,
}

impl Enrolled {
    /// Admits a session.
    ///
    /// # Errors
    /// The limit that is met.
    pub fn new(
        context: &Arc<Context>,
        metrics: &metrics::Listener,
        info: SessionInfo,
        limits: &Limits,
    ) -> Result<Self, Deny> {
        let session = lock(&context.sessions).admit(Instant::now(), SystemTime::now(), info, limits)?;
        let flows = context.flows.pair(session.id);
        let (context, metrics) = (Arc::clone(context), metrics.clone());
        Ok(Self { session, flows, context, metrics, reason: EndReason::NotEstablished })
    }

    #[must_use]
    pub fn id(&self) -> SessionId {
        self.session.id
    }

    /// Lets the packets of one half in from now on; they go to the processor `owner`, where there is one.
    pub fn admit(&mut self, half: Half, peer: SocketAddr, local: SocketAddr, owner: Option<u16>) {
        self.flows.admit(half, peer, local, owner);
    }

    /// What the worker counts.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.session.counters)
    }

    /// It goes to another server than it was admitted for.
    pub fn retarget(&mut self, target: String) {
        lock(&self.context.sessions).retarget(self.session.id, target);
    }

    /// The server answered.
    pub fn establish(&mut self) {
        lock(&self.context.sessions).establish(self.session.id);
    }

    /// Ends the session for that reason when the value is dropped.
    pub fn set_reason(&mut self, reason: EndReason) {
        self.reason = reason;
    }
}

impl Drop for Enrolled {
    fn drop(&mut self) {
        let record = lock(&self.context.sessions).end(Instant::now(), self.session.id, self.reason);
        if let Some(record) = record {
            self.metrics.session_ended(&record);
            log::session_record(&record);
        }
    }
}
