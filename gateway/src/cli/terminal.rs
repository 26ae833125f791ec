//! The terminal and the small runtime of commands that wait for more than one thing.

use std::io::{self, BufRead as _, IsTerminal as _};
use std::time::Duration;

use nix::sys::termios::{LocalFlags, SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use tokio::signal::unix::{Signal, SignalKind, signal};
use zeroize::Zeroizing;

use super::output::{Failure, complain};
use crate::exit::Exit;

/// One thread is enough for a command.
pub(super) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Internal, format!("cannot start: {error}")))
}

/// Asks for a password without showing it, or reads a line where standard input is no terminal.
pub(super) fn password(prompt: &str) -> Result<Zeroizing<String>, Failure> {
    let stdin = io::stdin();
    let quiet = if stdin.is_terminal() {
        complain(prompt);
        Some(Quiet::start()?)
    } else {
        None
    };
    let mut line = Zeroizing::new(String::new());
    let read = stdin.lock().read_line(&mut line);
    drop(quiet);
    read.map_err(|error| Failure::new(Exit::Data, format!("cannot read standard input: {error}")))?;
    let length = line.trim_end_matches(['\r', '\n']).len();
    line.truncate(length);
    Ok(line)
}

/// A terminal that does not echo; back to what it was on drop.
struct Quiet(Termios);

impl Quiet {
    fn start() -> Result<Self, Failure> {
        let failed = |error| Failure::new(Exit::Internal, format!("cannot quieten the terminal: {error}"));
        let before = tcgetattr(io::stdin()).map_err(failed)?;
        let mut quiet = before.clone();
        quiet.local_flags.remove(LocalFlags::ECHO);
        quiet.local_flags.insert(LocalFlags::ECHONL);
        tcsetattr(io::stdin(), SetArg::TCSAFLUSH, &quiet).map_err(failed)?;
        Ok(Self(before))
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        if let Err(error) = tcsetattr(io::stdin(), SetArg::TCSAFLUSH, &self.0) {
            complain(&format!("portcullis: the terminal stays quiet ({error}); `stty sane` repairs it"));
        }
    }
}

/// A terminal that hands every key over as it is; back to what it was on drop.
pub(super) struct Raw(Termios);

impl Raw {
    pub(super) fn start() -> Result<Self, Failure> {
        let failed = |error| Failure::new(Exit::Internal, format!("cannot change the terminal: {error}"));
        let before = tcgetattr(io::stdin()).map_err(failed)?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(io::stdin(), SetArg::TCSADRAIN, &raw).map_err(failed)?;
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Err(error) = tcsetattr(io::stdin(), SetArg::TCSADRAIN, &self.0) {
            complain(&format!("portcullis: the terminal stays raw ({error}); `stty sane` repairs it"));
        }
    }
}

/// A signal is seen when the runtime has looked, which it does while it waits.
const LOOK: Duration = Duration::from_millis(2);

/// Notices Ctrl-C and its like while a command goes on by steps, so that it can end in order.
pub(super) struct Stop {
    runtime: tokio::runtime::Runtime,
    interrupt: Signal,
    terminate: Signal,
    /// Who has come by SSH has gone.
    hangup: Signal,
}

impl Stop {
    /// From now on.
    pub(super) fn listen() -> Result<Self, Failure> {
        let runtime = runtime()?;
        let entered = runtime.enter();
        let handler = |kind| signal(kind).map_err(|error| Failure::new(Exit::Internal, error.to_string()));
        let (interrupt, terminate) = (handler(SignalKind::interrupt())?, handler(SignalKind::terminate())?);
        let hangup = handler(SignalKind::hangup())?;
        drop(entered);
        Ok(Self { runtime, interrupt, terminate, hangup })
    }

    /// Waits that long, or until the command is to end: then it is true.
    pub(super) fn within(&mut self, time: Duration) -> bool {
        let Self { runtime, interrupt, terminate, hangup } = self;
        runtime.block_on(async {
            tokio::select! {
                biased;
                _ = interrupt.recv() => true,
                _ = terminate.recv() => true,
                _ = hangup.recv() => true,
                () = tokio::time::sleep(time.max(LOOK)) => false,
            }
        })
    }
}
