//! What carries the bytes of a worker: io_uring, or epoll where the kernel grants none.

use std::fmt;
use std::io;
use std::net::Shutdown;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use portcullis_uring::{Chunk, Class, Event, Ring, Settings, Socket, Token, Waker};

use super::epoll::Epoll;
use crate::config::{EngineChoice, Gather};

/// The engine of the configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineWanted {
    pub choice: EngineChoice,
    pub gather: Gather,
}

/// What a worker runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineKind {
    IoUring,
    Epoll,
}

impl EngineKind {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::IoUring => "io_uring",
            Self::Epoll => "epoll",
        }
    }
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The engine of one thread.
#[derive(Debug)]
pub(super) struct Engine {
    carrier: Carrier,
    /// Buffers of each class.
    client_buffers: usize,
    server_buffers: usize,
}

#[derive(Debug)]
enum Carrier {
    Ring(Box<Ring>),
    Epoll(Box<Epoll>),
}

/// Calls the method of whichever engine it is.
macro_rules! engine {
    ($carrier:expr, $engine:ident => $call:expr) => {
        match $carrier {
            Carrier::Ring($engine) => $call,
            Carrier::Epoll($engine) => $call,
        }
    };
}

impl Engine {
    /// # Errors
    /// When the kernel refuses what was asked for.
    pub(super) fn new(choice: EngineChoice, settings: &Settings) -> io::Result<Self> {
        Ok(Self {
            carrier: Carrier::new(choice, settings)?,
            client_buffers: settings.client_buffers.into(),
            server_buffers: settings.server_buffers.into(),
        })
    }

    /// Whether `set_gather` does something.
    pub(super) fn can_gather(&self) -> bool {
        match &self.carrier {
            Carrier::Ring(ring) => ring.can_gather(),
            Carrier::Epoll(_) => false,
        }
    }

    /// For how long waits may leave what arrives, to hand out several arrivals at once.
    pub(super) fn set_gather(&mut self, time: Duration) {
        if let Carrier::Ring(ring) = &mut self.carrier {
            ring.set_gather(time);
        }
    }

    pub(super) fn kind(&self) -> EngineKind {
        match self.carrier {
            Carrier::Ring(_) => EngineKind::IoUring,
            Carrier::Epoll(_) => EngineKind::Epoll,
        }
    }

    /// Whether sessions that cannot pass on what they hold would soon take all buffers of a class. Then bytes that
    /// wait are copied to memory of their own, so that half of the buffers always come back.
    pub(super) fn runs_short(&self, class: Class) -> bool {
        let all = match class {
            Class::Client => self.client_buffers,
            Class::Server => self.server_buffers,
        };
        self.available(class) < all / 2
    }

    /// Calls of `io_uring_enter` so far.
    pub(super) fn enters(&self) -> Option<u64> {
        match &self.carrier {
            Carrier::Ring(ring) => Some(ring.enters()),
            Carrier::Epoll(_) => None,
        }
    }

    pub(super) fn waker(&self) -> Waker {
        engine!(&self.carrier, engine => engine.waker())
    }

    pub(super) fn add(&mut self, socket: OwnedFd) -> io::Result<Socket> {
        engine!(&mut self.carrier, engine => engine.add(socket))
    }

    pub(super) fn receive(&mut self, socket: Socket, class: Class, token: Token) {
        engine!(&mut self.carrier, engine => engine.receive(socket, class, token));
    }

    pub(super) fn stop_receiving(&mut self, socket: Socket, token: Token) {
        engine!(&mut self.carrier, engine => engine.stop_receiving(socket, token));
    }

    pub(super) fn send(&mut self, socket: Socket, chunks: impl IntoIterator<Item = Chunk>, token: Token) {
        engine!(&mut self.carrier, engine => engine.send(socket, chunks, token));
    }

    /// Sends what is followed by a `shutdown` at once.
    pub(super) fn send_last(
        &mut self,
        socket: Socket,
        chunks: impl IntoIterator<Item = Chunk>,
        token: Token,
    ) {
        match &mut self.carrier {
            Carrier::Ring(ring) => ring.send_last(socket, chunks, token),
            Carrier::Epoll(epoll) => epoll.send(socket, chunks, token),
        }
    }

    pub(super) fn ready(&mut self, socket: Socket, write: bool, token: Token) {
        engine!(&mut self.carrier, engine => engine.ready(socket, write, token));
    }

    pub(super) fn fd(&self, socket: Socket) -> Option<BorrowedFd<'_>> {
        engine!(&self.carrier, engine => engine.fd(socket))
    }

    pub(super) fn shutdown(&mut self, socket: Socket, how: Shutdown) {
        engine!(&mut self.carrier, engine => engine.shutdown(socket, how));
    }

    pub(super) fn close(&mut self, socket: Socket) {
        engine!(&mut self.carrier, engine => engine.close(socket));
    }

    pub(super) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        engine!(&mut self.carrier, engine => engine.wait(timeout))
    }

    pub(super) fn next(&mut self) -> Option<Event> {
        engine!(&mut self.carrier, engine => engine.next())
    }

    /// Buffers of a class that hold no bytes of a session.
    pub(super) fn available(&self, class: Class) -> usize {
        engine!(&self.carrier, engine => engine.available(class))
    }
}

impl Carrier {
    fn new(choice: EngineChoice, settings: &Settings) -> io::Result<Self> {
        let refusal = match choice {
            EngineChoice::Epoll => return Self::epoll(settings),
            EngineChoice::Auto | EngineChoice::IoUring => match Ring::new(settings) {
                Ok(ring) => return Ok(Self::Ring(Box::new(ring))),
                Err(refusal) => refusal,
            },
        };
        if choice == EngineChoice::IoUring {
            return Err(io::Error::other(refusal));
        }
        tracing::warn!(
            missing = refusal.missing(),
            remedy = refusal.remedy(),
            "io_uring cannot be used: relaying by epoll, which costs more processor time"
        );
        Self::epoll(settings)
    }

    fn epoll(settings: &Settings) -> io::Result<Self> {
        Ok(Self::Epoll(Box::new(Epoll::new(settings)?)))
    }
}
