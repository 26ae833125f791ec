//! One relay worker: a thread, an engine, its sessions, and the time by which each is to be looked at.
//!
//! A turn: wait for events, hand each to its session, then let every session that had one go on. Clock and orders
//! (kill, cut) are looked at once a turn. A session whose code panics ends alone.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use portcullis_core::limits::RELAY_QUEUE;
use portcullis_core::session::EndReason;
use portcullis_uring::{Class, Event, Settings, Token};

use super::engine::{Engine, EngineKind, EngineWanted};
use super::gathering::{Gathering, thread_time};
use super::session::{Op, Parts, Session, Side};
use super::splice::Pipes;
use super::timer::{Entry, Wheel};
use super::{Context, Enrolled, Handover, Known, Server, Worker};
use crate::config::Gather;
use crate::gate::ConnectionPass;
use crate::tls::codec::Codec;
use crate::xdp::steering::Cores;

/// How often what a turn has finished at once is looked at before the kernel is asked again.
const ROUNDS: usize = 2;

/// Starts worker `index`. It ends when its queue is closed and its last session has ended.
///
/// # Errors
/// When the thread cannot be started or the system grants no engine.
pub fn spawn(
    index: usize,
    context: Arc<Context>,
    cores: Cores,
    wanted: EngineWanted,
) -> io::Result<(Worker, JoinHandle<()>, EngineKind)> {
    let (queue, inbox) = sync_channel(RELAY_QUEUE);
    let (tell, told) = std::sync::mpsc::channel();
    let to_wake = Arc::clone(&context);
    let thread = std::thread::Builder::new().name(format!("relay-{index}")).spawn(move || {
        // Before the engine is made: its own threads stay where this one is.
        cores.pin_relay(index);
        match Engine::new(wanted.choice, &Settings::default()) {
            Ok(engine) => {
                if matches!(wanted.gather, Gather::Always(time) if !time.is_zero()) && !engine.can_gather() {
                    tracing::warn!("`relay_gather` does nothing: it needs io_uring of Linux 6.12 or newer");
                }
                let enters = engine.enters().map(|count| Arc::new(AtomicU64::new(count)));
                // Who started us waits for it.
                tell.send(Ok((engine.waker(), engine.kind(), enters.clone()))).ok();
                drop(tell);
                Relay::new(context, inbox, engine, enters, Gathering::new(wanted.gather)).run();
            }
            Err(error) => {
                tell.send(Err(error)).ok();
            }
        }
    })?;
    let told = told.recv().unwrap_or_else(|_| Err(io::Error::other("the thread ended")));
    let (waker, kind, enters) = told?;
    to_wake.add(Known { waker: waker.clone(), enters });
    Ok((Worker::new(queue, waker), thread, kind))
}

/// What the sessions of a worker use together.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) engine: Engine,
    /// The time of this turn.
    pub(super) now: Instant,
    pub(super) scratch: Vec<u8>,
    pub(super) pipes: Pipes,
    /// Who found no buffer to receive into.
    pub(super) starved: VecDeque<(u32, Side)>,
    /// Sessions that go on in the next turn, whatever happens.
    pub(super) again: Vec<u32>,
}

/// A session and what goes with it, in the order in which it goes: who reads the record may count on the
/// connection's place being free.
#[derive(Debug)]
struct Held {
    session: Session,
    pass: ConnectionPass,
    enrolled: Option<Enrolled>,
}

#[derive(Debug)]
struct Relay {
    context: Arc<Context>,
    inbox: Receiver<Handover>,
    is_open: bool,
    shared: Shared,
    sessions: Vec<Option<Box<Held>>>,
    free: Vec<u32>,
    /// Sessions that had events in this turn.
    listed: Vec<u32>,
    wheel: Wheel,
    due: Vec<Entry>,
    /// How many orders to kill have been followed.
    kills: u64,
    /// Where others read how often the kernel was entered.
    enters: Option<Arc<AtomicU64>>,
    gathering: Gathering,
}

impl Relay {
    fn new(
        context: Arc<Context>,
        inbox: Receiver<Handover>,
        engine: Engine,
        enters: Option<Arc<AtomicU64>>,
        gathering: Gathering,
    ) -> Self {
        let now = Instant::now();
        let shared = Shared {
            engine,
            now,
            scratch: Vec::new(),
            pipes: Pipes::default(),
            starved: VecDeque::new(),
            again: Vec::new(),
        };
        Self {
            context,
            inbox,
            is_open: true,
            shared,
            sessions: Vec::new(),
            free: Vec::new(),
            listed: Vec::new(),
            wheel: Wheel::new(now),
            due: Vec::new(),
            kills: 0,
            enters,
            gathering,
        }
    }

    fn run(mut self) {
        while self.is_open || self.count() > 0 {
            if let Err(error) = self.turn(self.patience()) {
                tracing::error!(%error, "a relay worker ends: its engine has failed");
                return;
            }
        }
    }

    fn turn(&mut self, patience: Option<Duration>) -> io::Result<()> {
        self.shared.engine.wait(patience)?;
        if let (Some(place), Some(enters)) = (&self.enters, self.shared.engine.enters()) {
            place.store(enters, Ordering::Relaxed);
        }
        self.shared.now = Instant::now();
        self.list_again();
        for _ in 0..ROUNDS {
            while let Some(event) = self.shared.engine.next() {
                self.dispatch(event);
            }
            self.go_on();
        }
        self.follow_orders();
        self.look_at_due();
        self.feed_starved();
        self.go_on();
        let time = self.gathering.after_turn(self.shared.now, thread_time);
        self.shared.engine.set_gather(time);
        Ok(())
    }

    /// Live sessions.
    fn count(&self) -> usize {
        self.sessions.len().saturating_sub(self.free.len())
    }

    /// How long nothing happens unless the kernel says so.
    fn patience(&self) -> Option<Duration> {
        if !self.shared.again.is_empty() {
            return Some(Duration::ZERO);
        }
        // The last turn's clock makes it late rather than early, by as long as a turn takes.
        self.wheel.until_next(self.shared.now)
    }

    fn dispatch(&mut self, event: Event) {
        if let Event::Received { chunk, .. } = &event {
            self.gathering.count(chunk.len());
        }
        let token = match &event {
            Event::Received { token, .. }
            | Event::End { token }
            | Event::Stopped { token, .. }
            | Event::Sent { token, .. }
            | Event::Ready { token } => *token,
            Event::Woken => return self.take_in(),
        };
        self.hand(token, event);
    }

    fn hand(&mut self, token: Token, event: Event) {
        let Some((key, op)) = Op::of(token) else { return };
        self.guarded(key, |session, shared| session.handle(op, event, shared));
        self.list(key);
    }

    /// Lets a session do something. Should it panic, it ends, and no other.
    fn guarded(&mut self, key: u32, act: impl FnOnce(&mut Session, &mut Shared)) {
        let Some(held) = held(&mut self.sessions, key) else { return };
        let shared = &mut self.shared;
        let outcome = catch_unwind(AssertUnwindSafe(|| act(&mut held.session, shared)));
        if outcome.is_err() {
            tracing::error!("a session broke off by a fault of the gateway");
            held.session.abort(EndReason::NotEstablished);
        }
    }

    fn list(&mut self, key: u32) {
        if let Some(held) = held(&mut self.sessions, key)
            && !std::mem::replace(&mut held.session.is_listed, true)
        {
            self.listed.push(key);
        }
    }

    fn list_again(&mut self) {
        while let Some(key) = self.shared.again.pop() {
            self.list(key);
        }
    }

    /// Takes new sessions.
    fn take_in(&mut self) {
        loop {
            match self.inbox.try_recv() {
                Ok(handover) => self.begin(handover),
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => {
                    self.is_open = false;
                    return;
                }
            }
        }
    }

    fn begin(&mut self, handover: Handover) {
        self.gathering.begin();
        let Handover { session: enrolled, client, codec, server, beginning, idle_timeout, pass } = handover;
        let (server, server_codec, unread, is_tcp) = match server {
            Server::Tcp(socket) => (OwnedFd::from(socket), Codec::Plain, Vec::new(), true),
            Server::Tls(parts) => (parts.socket.into(), parts.codec, parts.unread, true),
            Server::Web(socket) => (OwnedFd::from(socket), Codec::Plain, Vec::new(), false),
        };
        let sockets = (self.shared.engine.add(client.into()), self.shared.engine.add(server));
        let (client, server) = match sockets {
            (Ok(client), Ok(server)) => (client, server),
            (client, server) => {
                for outcome in [client, server] {
                    match outcome {
                        Ok(socket) => self.shared.engine.close(socket),
                        Err(error) => tracing::error!(%error, "a session cannot be relayed"),
                    }
                }
                return;
            }
        };
        let key = self.free.pop().unwrap_or_else(|| {
            self.sessions.push(None);
            u32::try_from(self.sessions.len().saturating_sub(1)).unwrap_or(u32::MAX)
        });
        let counters = enrolled.as_ref().map(Enrolled::counters).unwrap_or_default();
        let parts =
            Parts { key, client, server, codec, server_codec, unread, counters, idle_timeout, is_tcp };
        let shared = &mut self.shared;
        let begun = catch_unwind(AssertUnwindSafe(|| Session::new(parts, beginning, shared)));
        let Ok(mut session) = begun else {
            tracing::error!("a session broke off at its beginning by a fault of the gateway");
            self.shared.engine.close(client);
            self.shared.engine.close(server);
            self.free.push(key);
            return;
        };
        let tick = self.wheel.tick_of(session.due());
        session.armed = tick;
        self.wheel.put(Entry { key, tick });
        if let Some(slot) = usize::try_from(key).ok().and_then(|at| self.sessions.get_mut(at)) {
            *slot = Some(Box::new(Held { session, pass, enrolled }));
        }
        if self.context.is_cut() {
            self.guarded(key, |session, _| session.abort(EndReason::Drained));
        }
        self.list(key);
    }

    /// Lets every session go on that had events, and ends those that are over.
    fn go_on(&mut self) {
        let mut listed = std::mem::take(&mut self.listed);
        for key in listed.drain(..) {
            self.guarded(key, |session, shared| {
                session.is_listed = false;
                session.go_on(shared);
            });
            let Some(held) = held(&mut self.sessions, key) else { continue };
            if held.session.is_over() {
                self.end(key);
            } else if std::mem::take(&mut held.session.is_due_sooner) {
                let tick = self.wheel.tick_of(held.session.due());
                if tick < held.session.armed {
                    held.session.armed = tick;
                    self.wheel.put(Entry { key, tick });
                }
            }
        }
        self.listed = listed;
    }

    /// The sockets and the connection's place go before the record is written: who reads it may count on that.
    fn end(&mut self, key: u32) {
        let slot = usize::try_from(key).ok().and_then(|at| self.sessions.get_mut(at));
        let Some(held) = slot.and_then(Option::take) else { return };
        self.free.push(key);
        let Held { mut session, pass, enrolled } = *held;
        session.release(&mut self.shared);
        for (socket, was_told) in session.sockets() {
            if !was_told {
                // What the peer is sending meanwhile must not turn a close into a reset before it was told.
                self.shared.engine.shutdown(socket, std::net::Shutdown::Both);
            }
            self.shared.engine.close(socket);
        }
        let reason = session.end_reason();
        drop(session);
        drop(pass);
        if let Some(mut enrolled) = enrolled {
            enrolled.set_reason(reason);
        }
    }

    /// Looks whether sessions are to be killed or the drain is over.
    fn follow_orders(&mut self) {
        let kills = self.context.kills.load(Ordering::Acquire);
        let cut = self.context.is_cut();
        if kills == self.kills && !cut {
            return;
        }
        self.kills = kills;
        for key in 0..u32::try_from(self.sessions.len()).unwrap_or(u32::MAX) {
            if cut {
                self.guarded(key, |session, _| session.abort(EndReason::Drained));
            }
            // A killed session notices when it goes on.
            self.list(key);
        }
    }

    /// Ends what was idle for too long.
    fn look_at_due(&mut self) {
        let mut due = std::mem::take(&mut self.due);
        due.extend(std::iter::from_fn(|| self.wheel.pop_due(self.shared.now)));
        for Entry { key, tick } in due.drain(..) {
            // Others are left over from when it was due at another time, or from another session.
            if held(&mut self.sessions, key).is_none_or(|held| held.session.armed != tick) {
                continue;
            }
            self.guarded(key, Session::expire);
            let Some(held) = held(&mut self.sessions, key) else { continue };
            let tick = self.wheel.tick_of(held.session.due());
            held.session.armed = tick;
            self.wheel.put(Entry { key, tick });
            self.list(key);
        }
        self.due = due;
    }

    /// Lets sessions receive that found no buffer, as far as there are some again.
    fn feed_starved(&mut self) {
        let free = [Class::Client, Class::Server].map(|class| self.shared.engine.available(class));
        let most = free.into_iter().min().unwrap_or_default().min(self.shared.starved.len());
        for _ in 0..most {
            let Some((key, side)) = self.shared.starved.pop_front() else { return };
            self.guarded(key, |session, _| session.feed(side));
            self.list(key);
        }
    }
}

fn held(sessions: &mut [Option<Box<Held>>], key: u32) -> Option<&mut Held> {
    sessions.get_mut(usize::try_from(key).ok()?)?.as_deref_mut()
}

#[cfg(test)]
mod tests;
