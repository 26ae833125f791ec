//! What carries the bytes of a worker: io_uring, or epoll where the kernel grants none.

use std::fmt;
use std::io;
use std::net::Shutdown;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use portcullis_uring::{Chunk, Class, Event, Ring, Settings, Socket, Token, Waker};

use super::epoll::Epoll;

/// What the configuration asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineChoice {
    /// io_uring, or epoll where that cannot be had.
    #[default]
    Auto,
    IoUring,
    Epoll,
}

impl EngineChoice {
    pub const ALL: [Self; 3] = [Self::Auto, Self::IoUring, Self::Epoll];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::IoUring => "io_uring",
            Self::Epoll => "epoll",
        }
    }
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
pub(super) enum Engine {
    Ring(Box<Ring>),
    Epoll(Box<Epoll>),
}

/// Calls the method of whichever engine it is.
macro_rules! engine {
    ($self:ident, $engine:ident => $call:expr) => {
        match $self {
            Self::Ring($engine) => $call,
            Self::Epoll($engine) => $call,
        }
    };
}

impl Engine {
    /// # Errors
    /// When the kernel refuses what was asked for.
    pub(super) fn new(choice: EngineChoice, settings: &Settings) -> io::Result<Self> {
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
            missing = refusal.missing(), remedy = refusal.remedy(),
            "io_uring cannot be used: relaying by epoll, which costs more processor time"
        );
        Self::epoll(settings)
    }

    fn epoll(settings: &Settings) -> io::Result<Self> {
        Ok(Self::Epoll(Box::new(Epoll::new(settings)?)))
    }

    pub(super) fn kind(&self) -> EngineKind {
        match self {
            Self::Ring(_) => EngineKind::IoUring,
            Self::Epoll(_) => EngineKind::Epoll,
        }
    }

    pub(super) fn waker(&self) -> Waker {
        engine!(self, engine => engine.waker())
    }

    pub(super) fn add(&mut self, socket: OwnedFd) -> io::Result<Socket> {
        engine!(self, engine => engine.add(socket))
    }

    pub(super) fn receive(&mut self, socket: Socket, class: Class, token: Token) {
        engine!(self, engine => engine.receive(socket, class, token));
    }

    pub(super) fn stop_receiving(&mut self, socket: Socket, token: Token) {
        engine!(self, engine => engine.stop_receiving(socket, token));
    }

    pub(super) fn send(&mut self, socket: Socket, chunks: impl IntoIterator<Item = Chunk>, token: Token) {
        engine!(self, engine => engine.send(socket, chunks, token));
    }

    pub(super) fn ready(&mut self, socket: Socket, write: bool, token: Token) {
        engine!(self, engine => engine.ready(socket, write, token));
    }

    pub(super) fn fd(&self, socket: Socket) -> Option<BorrowedFd<'_>> {
        engine!(self, engine => engine.fd(socket))
    }

    pub(super) fn shutdown(&mut self, socket: Socket, how: Shutdown) {
        engine!(self, engine => engine.shutdown(socket, how));
    }

    pub(super) fn close(&mut self, socket: Socket) {
        engine!(self, engine => engine.close(socket));
    }

    pub(super) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        engine!(self, engine => engine.wait(timeout))
    }

    pub(super) fn next(&mut self) -> Option<Event> {
        engine!(self, engine => engine.next())
    }

    /// Buffers of a class that hold no bytes of a session.
    pub(super) fn available(&self, class: Class) -> usize {
        engine!(self, engine => engine.available(class))
    }

    /// All buffers of a class.
    pub(super) fn buffers(&self, class: Class) -> usize {
        engine!(self, engine => engine.buffers(class))
    }
}
