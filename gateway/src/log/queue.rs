//! The bounded queue between those who log and the one thread that writes.
//!
//! The lock is held to move lines, never while a file is written. A line that cannot be written is lost and
//! counted, and the next one is tried afresh: a disk that has room again needs nobody's help.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::format::{self, Style};

/// How long lines that follow others wait for more: waking the writer for each costs more than writing it.
const GATHER: Duration = Duration::from_millis(5);
/// Lines go out together until they are that long: a call for each costs more than its bytes.
const BATCH_BYTES: usize = 16 * 1024;

/// Where lines go.
#[derive(Debug)]
pub(super) enum Output {
    Stderr,
    File { path: PathBuf, file: Option<File> },
}

impl Output {
    /// Writes whole lines by one call, if it takes them. `torn` says that the last one before broke off inside. Says how
    /// many bytes were written before a failure.
    fn write(&mut self, lines: &[u8], torn: &mut bool) -> Result<(), usize> {
        match self {
            Self::Stderr => write_lines(&mut io::stderr().lock(), lines, torn),
            Self::File { path, file } => {
                let mut open = match file.take() {
                    Some(file) => file,
                    None => super::open(path).map_err(|_| 0_usize)?,
                };
                write_lines(&mut open, lines, torn)?;
                // After a failed write the file is opened anew: it may have been on a file system that is gone.
                *file = Some(open);
                Ok(())
            }
        }
    }

    /// Writes lines, and says how many were lost. After a failure the next line is tried afresh.
    fn write_all(&mut self, mut lines: &[u8], torn: &mut bool) -> u64 {
        let mut lost = 0;
        while let Err(written) = self.write(lines, torn) {
            lost += 1;
            lines = behind_line(lines, written);
            if lines.is_empty() {
                break;
            }
        }
        lost
    }
}

/// What follows the line in which the byte at `at` is.
fn behind_line(lines: &[u8], at: usize) -> &[u8] {
    let rest = lines.get(at..).unwrap_or_default();
    let end = rest.iter().position(|byte| *byte == b'\n');
    end.and_then(|end| rest.get(end + 1..)).unwrap_or_default()
}

fn write_lines(to: &mut impl io::Write, lines: &[u8], torn: &mut bool) -> Result<(), usize> {
    if *torn {
        to.write_all(b"\n").map_err(|_| 0_usize)?;
        *torn = false;
    }
    let mut written = 0;
    while let Some(rest) = lines.get(written..).filter(|rest| !rest.is_empty()) {
        match to.write(rest) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(count) if count > 0 => written += count,
            Ok(_) | Err(_) => {
                *torn =
                    lines.get(..written).is_some_and(|begun| !begun.is_empty() && !begun.ends_with(b"\n"));
                return Err(written);
            }
        }
    }
    Ok(())
}

#[derive(Debug, Default)]
struct State {
    lines: VecDeque<Vec<u8>>,
    /// A new destination, which applies to the lines that follow.
    redirect: Option<Output>,
    reopen: bool,
    /// Whether the writer is at work on lines that it has taken.
    writing: bool,
    /// Whether the writer, which has just written, lets lines gather.
    gathering: bool,
    /// Somebody waits for what is there.
    hurry: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Queue {
    most: usize,
    state: Mutex<State>,
    work: Condvar,
    idle: Condvar,
    lost: AtomicU64,
}

impl Queue {
    /// Starts the writer; it lives as long as the program.
    pub(super) fn start(most: usize, output: Output) -> io::Result<Arc<Self>> {
        let queue = Arc::new(Self {
            most,
            state: Mutex::default(),
            work: Condvar::new(),
            idle: Condvar::new(),
            lost: AtomicU64::new(0),
        });
        let writer = Arc::clone(&queue);
        std::thread::Builder::new().name("log".into()).spawn(move || writer.write_all(output))?;
        Ok(queue)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic cannot leave a queue of lines in a state that matters.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, line: Vec<u8>) {
        let mut state = self.lock();
        if state.lines.len() >= self.most {
            drop(state);
            self.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        state.lines.push_back(line);
        let wake = !state.gathering || state.lines.len() >= self.most / 2;
        drop(state);
        if wake {
            self.work.notify_one();
        }
    }

    pub(super) fn redirect(&self, output: Output) {
        let mut state = self.lock();
        (state.redirect, state.hurry) = (Some(output), true);
        drop(state);
        self.work.notify_one();
    }

    pub(super) fn reopen(&self) {
        let mut state = self.lock();
        (state.reopen, state.hurry) = (true, true);
        drop(state);
        self.work.notify_one();
    }

    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    pub(super) fn flush(&self, at_most: Duration) {
        let busy = |state: &mut State| state.writing || !state.lines.is_empty();
        let mut state = self.lock();
        state.hurry = true;
        self.work.notify_one();
        // Whether it was enough is of no consequence: there is nothing else to do.
        drop(self.idle.wait_timeout_while(state, at_most, busy));
    }

    /// Lets lines gather, unless somebody is in a hurry or they are many already.
    fn gather<'a>(&self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.idle.notify_all();
        state.gathering = true;
        let wait = |state: &mut State| !state.hurry && state.lines.len() < self.most / 2;
        let waited = self.work.wait_timeout_while(state, GATHER, wait);
        state = waited.unwrap_or_else(PoisonError::into_inner).0;
        (state.gathering, state.hurry) = (false, false);
        state
    }

    fn write_all(&self, mut output: Output) {
        let (mut told, mut torn) = (0, false);
        loop {
            let mut state = self.lock();
            if std::mem::take(&mut state.writing) && state.lines.is_empty() {
                state = self.gather(state);
            }
            let idle =
                |state: &mut State| state.lines.is_empty() && state.redirect.is_none() && !state.reopen;
            let waited = self.work.wait_while(state, idle);
            state = waited.unwrap_or_else(PoisonError::into_inner);
            state.writing = true;
            let redirect = state.redirect.take();
            let reopen = std::mem::take(&mut state.reopen);
            let mut lines = Vec::new();
            while lines.len() < BATCH_BYTES
                && let Some(line) = state.lines.pop_front()
            {
                lines.extend_from_slice(&line);
            }
            drop(state);
            if let Some(other) = redirect {
                output = other;
            }
            if let Output::File { path, file } = &mut output
                && reopen
            {
                // Where it cannot be opened now, writing tries again.
                *file = super::open(path).ok();
            }
            if lines.is_empty() {
                continue;
            }
            let lost_now = output.write_all(&lines, &mut torn);
            let lost = self.lost.fetch_add(lost_now, Ordering::Relaxed) + lost_now;
            if lost_now == 0 && lost > told {
                let style = if lines.first() == Some(&b'{') { Style::Json } else { Style::text() };
                let notice = format::notice(&format!("{} log lines were lost", lost - told), style);
                if output.write(&notice, &mut torn).is_ok() {
                    told = lost;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk that has room for a few bytes.
    struct Small(Vec<u8>, usize);

    impl io::Write for Small {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let room = self.1.min(bytes.len());
            if room == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.0.extend(&bytes[..room]);
            self.1 -= room;
            Ok(room)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_that_broke_off_does_not_swallow_the_next() {
        let (mut disk, mut torn) = (Small(Vec::new(), 8), false);
        let lines = b"first\nsecond\nthird\n";
        assert_eq!(write_lines(&mut disk, lines, &mut torn), Err(8));
        assert_eq!(behind_line(lines, 8), b"third\n");
        assert_eq!(write_lines(&mut disk, b"third\n", &mut torn), Err(0));
        disk.1 = 100;
        assert_eq!(write_lines(&mut disk, b"fourth\n", &mut torn), Ok(()));
        assert_eq!(disk.0, b"first\nse\nfourth\n");
    }
}
