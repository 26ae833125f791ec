//! One relay worker: a thread, a ring, its sessions, and a sweep that ends the idle, killed and cut ones.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use portcullis_core::command::Framing;
use portcullis_core::limits::RELAY_QUEUE;
use portcullis_core::session::EndReason;
use tokio::sync::mpsc;
use tokio_uring::net::{TcpStream, UnixStream};

use super::session::{Live, ServerSocket};
use crate::xdp::steering::Cores;

use super::{Context, Enrolled, Handover, Server, Worker, down, up};

/// How soon an idle, killed or cut session notices. One timer for all sessions of a worker: none per session.
const SWEEP_INTERVAL: Duration = Duration::from_millis(200);
/// Entries of the submission queue.
const RING_ENTRIES: u32 = 4096;

type Sessions = RefCell<HashMap<u64, Weak<Live>>>;

/// Starts worker `index`. It ends when its queue is closed and its last session has ended.
///
/// # Errors
/// When the thread cannot be started or the system grants no io_uring.
pub fn spawn(index: usize, context: Arc<Context>, cores: Cores) -> io::Result<(Worker, JoinHandle<()>)> {
    let (queue, inbox) = mpsc::channel(RELAY_QUEUE);
    let (tell, told) = std::sync::mpsc::channel();
    let thread = std::thread::Builder::new().name(format!("relay-{index}")).spawn(move || {
        // Before the ring is made: its own threads stay where this one is.
        cores.pin_thread(index);
        let runtime = tokio_uring::Runtime::new(tokio_uring::builder().entries(RING_ENTRIES));
        match runtime {
            Ok(runtime) => {
                // Who started us waits for it.
                tell.send(Ok(())).ok();
                runtime.block_on(run(context, inbox));
            }
            Err(error) => {
                tell.send(Err(error)).ok();
            }
        }
    })?;
    told.recv().unwrap_or_else(|_| Err(io::Error::other("the thread ended")))?;
    Ok((Worker { queue }, thread))
}

async fn run(context: Arc<Context>, mut inbox: mpsc::Receiver<Handover>) {
    let sessions: Rc<Sessions> = Rc::default();
    let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
    sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut next_key = 0_u64;
    let mut open = true;
    while open || !sessions.borrow().is_empty() {
        tokio::select! {
            handover = inbox.recv(), if open => match handover {
                Some(handover) => {
                    next_key = next_key.wrapping_add(1);
                    let session = relay(Rc::clone(&sessions), next_key, handover);
                    tokio_uring::spawn(session);
                }
                None => open = false,
            },
            _ = sweep.tick() => sweep_once(&context, &sessions),
        }
    }
}

fn sweep_once(context: &Context, sessions: &Sessions) {
    let now = Instant::now();
    let cut = context.is_cut();
    // A session whose task broke off has left its key behind.
    sessions.borrow_mut().retain(|_, live| live.strong_count() > 0);
    for live in sessions.borrow().values().filter_map(Weak::upgrade) {
        if live.counters.is_killed() {
            live.abort(EndReason::Killed);
        } else if cut {
            live.abort(EndReason::Drained);
        } else if live.is_idle(now) {
            live.abort(EndReason::Idle);
        }
    }
}

/// One session from hand-over to its record.
async fn relay(sessions: Rc<Sessions>, key: u64, handover: Handover) {
    let Handover { mut session, client, codec, server, beginning, idle_timeout, pass } = handover;
    let server = match server {
        Server::Tcp(socket) => ServerSocket::Tcp(TcpStream::from_std(socket)),
        Server::Web(socket) => ServerSocket::Web(UnixStream::from_std(socket)),
    };
    let counters = session.as_ref().map(Enrolled::counters).unwrap_or_default();
    let is_websocket = matches!(beginning.framing, Framing::WebSocket(_));
    let (client, tls) = (TcpStream::from_std(client), codec.into_connection());
    let live = Rc::new(Live::new(client, server, tls, is_websocket, counters, idle_timeout));
    sessions.borrow_mut().insert(key, Rc::downgrade(&live));
    tokio::join!(up::run(&live, beginning), down::run(&live));
    sessions.borrow_mut().remove(&key);
    if let Some(session) = &mut session {
        session.set_reason(live.end_reason());
    }
    // The sockets and the connection's place go before the record is written: who reads it may count on that.
    drop(live);
    drop(pass);
    drop(session);
}
