//! The relay: established sessions, bytes both ways, until both sides are done.
//!
//! A worker is one thread with its own ring. A session comes to it once, over a bounded queue, and stays for good;
//! the worker shares nothing with others but the session's counters. It never shakes hands, redeems or dials.
//! [`Handover`] is the whole interface: whatever moves the bytes can change behind it.

mod down;
pub mod record;
mod session;
mod up;
mod worker;

use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use portcullis_core::command::Relay as Beginning;
use portcullis_core::deny::Deny;
use portcullis_core::limits::Limits;
use portcullis_core::session::{Counters, EndReason, Session, SessionId, SessionInfo, Table};
use tokio::sync::mpsc;

use crate::front::gate::ConnectionPass;
use crate::sync::lock;
use crate::tls::connection::Connection;
use crate::xdp::{FlowPair, Flows, Half};
use crate::{log, metrics};

use record::Records;
pub use worker::spawn;

/// The other end of a session.
#[derive(Debug)]
pub enum Server {
    /// A server of the farm.
    Tcp(TcpStream),
    /// The control plane of this daemon.
    Web(UnixStream),
}

/// How the bytes of one side are protected.
#[derive(Debug)]
pub enum Codec {
    Plain,
    /// By our record layer; `leftover` is ciphertext that has come already.
    Sealed {
        records: Box<Records>,
        leftover: Vec<u8>,
    },
    /// By rustls, or with something left to send.
    Rustls(Box<Connection>),
}

impl From<Connection> for Codec {
    fn from(tls: Connection) -> Self {
        match tls.into_records() {
            Ok((records, leftover)) => Self::Sealed { records, leftover },
            Err(tls) => Self::Rustls(tls),
        }
    }
}

impl Codec {
    /// The connection that the codec came of, where TLS is spoken.
    #[must_use]
    pub fn into_connection(self) -> Option<Box<Connection>> {
        match self {
            Self::Plain => None,
            Self::Sealed { records, leftover } => Some(Box::new(Connection::from_records(records, leftover))),
            Self::Rustls(tls) => Some(tls),
        }
    }
}

/// An established session on its way to a worker. Sockets are in blocking mode, as the ring wants them.
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
    queue: mpsc::Sender<Handover>,
}

impl Worker {
    /// Gives a session to the worker.
    ///
    /// # Errors
    /// The session itself, when the worker's queue is full.
    pub fn hand_over(&self, handover: Handover) -> Result<(), Box<Handover>> {
        self.queue.try_send(handover).map_err(|error| Box::new(error.into_inner()))
    }
}

/// What front and workers share: the table, and whether time is up.
#[derive(Debug)]
pub struct Context {
    pub sessions: Arc<Mutex<Table>>,
    /// Where the kernel side knows sessions by.
    pub flows: Flows,
    /// Set when the drain is over: every session ends now.
    pub cut: AtomicBool,
}

impl Context {
    fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Relaxed)
    }
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
