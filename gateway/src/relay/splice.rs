//! Bytes between two plain sockets that never come to user space: through a pipe, by splice(2).
//!
//! A direction moves this way once enough has been copied to show that more will come, and then for good. Pipes cost
//! kernel memory only for what is in them, and their number is bounded: without a free one bytes are copied on.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags};

/// Payload that a direction copies before it is spliced.
pub(super) const SPLICE_AFTER_BYTES: u64 = 64 * 1024;
/// Payload that it copies until it asks again, when no pipe was free.
pub(super) const SPLICE_RETRY_BYTES: u64 = 16 * 1024 * 1024;
/// What a pipe holds, where the system lets it; the default of /proc/sys/fs/pipe-max-size.
const PIPE_BYTES: usize = 1024 * 1024;
/// A pipe that holds less, because the user has too many, is of no use.
const PIPE_LEAST_BYTES: usize = 64 * 1024;
/// Pipes of one worker; two descriptors each.
const PIPES_MAX: usize = 64;
/// Pipes that are kept for the next session.
const PIPES_IDLE_MAX: usize = 16;
/// How often a direction fills and empties its pipe before the others have their turn.
const ROUNDS: usize = 4;

/// The pipes of one worker.
#[derive(Debug, Default)]
pub(super) struct Pipes {
    idle: Vec<Pipe>,
    /// One reference for each pipe that there is, and this one.
    count: Rc<()>,
}

#[derive(Debug)]
struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
    size: usize,
    _counted: Rc<()>,
}

impl Pipes {
    /// A way for one direction; none when there are too many.
    pub(super) fn take(&mut self) -> Option<Box<Splice>> {
        let pipe = match self.idle.pop() {
            Some(pipe) => pipe,
            None if Rc::strong_count(&self.count) > PIPES_MAX => return None,
            None => self.make()?,
        };
        Some(Box::new(Splice { pipe, held: 0, source_ended: false, began: false, awaits: false }))
    }

    fn make(&self) -> Option<Pipe> {
        let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
        let size = match rustix::pipe::fcntl_setpipe_size(&writer, PIPE_BYTES) {
            Ok(size) => size,
            Err(_) => rustix::pipe::fcntl_getpipe_size(&writer).ok()?,
        };
        let counted = Rc::clone(&self.count);
        (size >= PIPE_LEAST_BYTES).then_some(Pipe { reader, writer, size, _counted: counted })
    }

    /// Pipes that were used and wait for the next direction.
    #[cfg(test)]
    pub(super) fn idle(&self) -> usize {
        self.idle.len()
    }

    /// Takes a direction's pipe back. One with bytes in it is closed: they belong to nobody else.
    pub(super) fn give_back(&mut self, splice: Splice) {
        if splice.held == 0 && self.idle.len() < PIPES_IDLE_MAX {
            self.idle.push(splice.pipe);
        }
    }
}

/// What a direction waits for, or how it ended.
#[derive(Debug)]
pub(super) enum Outlook {
    /// The socket that bytes come from has none.
    AwaitSource,
    /// The socket that bytes go to takes none.
    AwaitSink,
    /// It could go on; others should have their turn.
    Again,
    /// All is delivered and nothing more comes.
    Ended,
    /// What had come is delivered.
    SourceFailed(io::Error),
    SinkFailed,
}

/// A direction on its way through a pipe.
#[derive(Debug)]
pub(super) struct Splice {
    pipe: Pipe,
    /// Bytes in the pipe.
    held: usize,
    source_ended: bool,
    began: bool,
    /// The engine is to say when it can go on.
    pub(super) awaits: bool,
}

impl Splice {
    /// Moves what can be moved. Returns how many bytes were delivered, whether any moved, and how it goes on.
    pub(super) fn advance(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> (u64, bool, Outlook) {
        if !self.began {
            // Splicing from or to a socket heeds the descriptor's mode, not a flag.
            for socket in [from, to] {
                if let Err(error) = rustix::io::ioctl_fionbio(socket, true) {
                    return (0, false, Outlook::SourceFailed(error.into()));
                }
            }
            self.began = true;
        }
        let (mut delivered, mut moved) = (0_u64, false);
        for _ in 0..ROUNDS {
            let mut failure = None;
            let room = self.pipe.size.saturating_sub(self.held);
            if !self.source_ended && room > 0 {
                match splice(from, &self.pipe.writer, room) {
                    Ok(0) => self.source_ended = true,
                    Ok(count) => {
                        self.held = self.held.saturating_add(count);
                        moved = true;
                    }
                    Err(Errno::WOULDBLOCK) if self.held == 0 => {
                        return (delivered, moved, Outlook::AwaitSource);
                    }
                    // The pipe has no place for another piece, or what there was is in it.
                    Err(Errno::WOULDBLOCK) => {}
                    Err(error) => failure = Some(error),
                }
            }
            while self.held > 0 {
                match splice(&self.pipe.reader, to, self.held) {
                    Ok(0) => return (delivered, moved, Outlook::SinkFailed),
                    Ok(count) => {
                        self.held = self.held.saturating_sub(count);
                        delivered = delivered.saturating_add(count.try_into().unwrap_or(u64::MAX));
                        moved = true;
                    }
                    Err(Errno::WOULDBLOCK) => return (delivered, moved, Outlook::AwaitSink),
                    Err(_) => return (delivered, moved, Outlook::SinkFailed),
                }
            }
            if let Some(error) = failure {
                return (delivered, moved, Outlook::SourceFailed(error.into()));
            }
            if self.source_ended {
                return (delivered, moved, Outlook::Ended);
            }
        }
        (delivered, moved, Outlook::Again)
    }
}

fn splice(from: impl std::os::fd::AsFd, to: impl std::os::fd::AsFd, most: usize) -> Result<usize, Errno> {
    loop {
        match rustix::pipe::splice(&from, None, &to, None, most, SpliceFlags::MOVE | SpliceFlags::NONBLOCK) {
            Err(Errno::INTR) => {}
            outcome => return outcome,
        }
    }
}
