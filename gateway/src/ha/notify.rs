//! What keepalived says through its FIFO: one line for each change, `INSTANCE "name" STATE priority`.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use super::State;
use super::keepalived::INSTANCE;

/// A line is about forty bytes; what is longer than this without an end is none.
const LINE_MAX_BYTES: usize = 512;
/// What is read at a time; the rest waits.
const READ_BYTES: usize = 4096;

/// The daemon's end.
#[derive(Debug)]
pub(super) struct Fifo {
    file: File,
    pending: Vec<u8>,
}

impl Fifo {
    /// Opens the FIFO, and makes it where there is none.
    ///
    /// # Errors
    /// When something else is there, or the file system refuses.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        match nix::unistd::mkfifo(path, Mode::from_bits_truncate(0o600)) {
            Ok(()) | Err(nix::errno::Errno::EEXIST) => {}
            Err(error) => return Err(error.into()),
        }
        // Open for writing too, it never ends, whether keepalived runs or not.
        let flags = (OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW).bits();
        let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)?;
        if !file.metadata()?.file_type().is_fifo() {
            return Err(io::Error::other("it is no FIFO"));
        }
        Ok(Self { file, pending: Vec::new() })
    }

    /// The states of our instance that were told since the last look, in their order.
    pub(super) fn read(&mut self) -> Vec<State> {
        let mut bytes = [0; READ_BYTES];
        if let Ok(count) = self.file.read(&mut bytes) {
            self.pending.extend(bytes.iter().take(count));
        }
        let Some(end) = self.pending.iter().rposition(|byte| *byte == b'\n') else {
            if self.pending.len() > LINE_MAX_BYTES {
                self.pending.clear();
            }
            return Vec::new();
        };
        let rest = self.pending.split_off(end + 1);
        let lines = std::mem::replace(&mut self.pending, rest);
        String::from_utf8_lossy(&lines).lines().filter_map(state).collect()
    }
}

fn state(line: &str) -> Option<State> {
    let mut words = line.split(' ');
    let (kind, name, state) = (words.next()?, words.next()?, words.next()?);
    if kind != "INSTANCE" || name.trim_matches('"') != INSTANCE {
        return None;
    }
    match state {
        "MASTER" => Some(State::Master),
        "BACKUP" => Some(State::Backup),
        "FAULT" => Some(State::Fault),
        "STOP" | "DELETED" => Some(State::Stopped),
        // News of priorities, and of a peer with a lower one.
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn states_of_our_instance_are_told_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let mut fifo = Fifo::open(&path).unwrap();
        assert_eq!(fifo.read(), []);
        let mut writer = OpenOptions::new().write(true).open(&path).unwrap();
        writer.write_all(b"INSTANCE \"portcullis\" BACKUP 150\nGROUP \"portcullis\" FAULT 0\nINSTANCE \"other\" FAULT 1\nnoise\nINSTANCE \"portcullis\" MAS").unwrap();
        assert_eq!(fifo.read(), [State::Backup]);
        writer.write_all(b"TER 150\nINSTANCE \"portcullis\" MASTER_RX_LOWER_PRI 150\n").unwrap();
        assert_eq!(fifo.read(), [State::Master]);
        drop(writer);
        assert_eq!(fifo.read(), [], "the end of the writer is no end");
    }

    #[test]
    fn something_else_in_its_place_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        std::fs::write(&path, "MASTER").unwrap();
        assert!(Fifo::open(&path).is_err());
    }
}
