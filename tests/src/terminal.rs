//! A program behind a pseudo-terminal, as sshd runs it: what is typed goes in, what is shown comes out.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use nix::pty::{Winsize, openpty};

use crate::wait::{self, PATIENCE};

/// A program and its terminal; it is killed when dropped.
#[derive(Debug)]
pub struct Terminal {
    child: std::process::Child,
    master: File,
    shown: Arc<Mutex<Vec<u8>>>,
    /// Bytes that were expected already.
    seen: usize,
}

impl Terminal {
    /// Starts a program in a session of its own, whose controlling terminal is so wide and high.
    ///
    /// # Errors
    /// When there is no terminal, or the program cannot be started.
    pub fn start(command: &Command, columns: u16, rows: u16) -> Result<Self> {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(Some(&size), None).context("open a pseudo-terminal")?;
        let end = |fd: &OwnedFd| fd.try_clone().map(Stdio::from).context("use a pseudo-terminal");
        let mut session = Command::new("setsid");
        session.args(["--ctty", "--wait"]).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => session.env(name, value),
                None => session.env_remove(name),
            };
        }
        session
            .env("TERM", "xterm")
            .stdin(end(&pty.slave)?)
            .stdout(end(&pty.slave)?)
            .stderr(end(&pty.slave)?);
        let child = session.spawn().context("start a program behind a terminal")?;
        drop((session, pty.slave));
        let master = File::from(pty.master);
        let shown: Arc<Mutex<Vec<u8>>> = Arc::default();
        let (mut reader, keeper) =
            (master.try_clone().context("read a pseudo-terminal")?, Arc::clone(&shown));
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // The end of the last process on the terminal is an error here.
            while let Ok(count @ 1..) = reader.read(&mut bytes) {
                let new = bytes.get(..count).unwrap_or_default();
                keeper.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(new);
            }
        });
        Ok(Self { child, master, shown, seen: 0 })
    }

    /// Types.
    ///
    /// # Errors
    /// When nobody reads.
    pub fn send(&mut self, keys: &str) -> Result<()> {
        self.master.write_all(keys.as_bytes()).context("type")
    }

    /// Waits until a text is shown that was not expected before, and returns all that was shown until its end, without
    /// colours and movements.
    ///
    /// # Errors
    /// When it does not come, with what came instead.
    pub fn expect(&mut self, text: &str) -> Result<String> {
        let mut found = None;
        let waited = wait::until(PATIENCE, text, || {
            found = self.find(text);
            found.is_some()
        });
        waited.with_context(|| format!("shown instead: {:?}", plain(&self.since(self.seen))))?;
        let (end, shown) = found.context("what was found is gone")?;
        self.seen = end;
        Ok(shown)
    }

    /// What was shown since the last expectation, with everything in it.
    #[must_use]
    pub fn raw(&self) -> String {
        String::from_utf8_lossy(&self.since(self.seen)).into_owned()
    }

    fn since(&self, from: usize) -> Vec<u8> {
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.get(from..).unwrap_or_default().to_vec()
    }

    /// The shortest piece that shows the text.
    fn find(&self, text: &str) -> Option<(usize, String)> {
        let new = self.since(self.seen);
        let has = |length: &usize| plain(new.get(..*length).unwrap_or_default()).contains(text);
        if !has(&new.len()) {
            return None;
        }
        let lengths: Vec<usize> = (0..=new.len()).collect();
        let length = lengths.partition_point(|length| !has(length));
        Some((self.seen + length, plain(new.get(..length).unwrap_or_default())))
    }

    /// Waits for the end of the program.
    ///
    /// # Errors
    /// When it goes on.
    pub fn end(&mut self) -> Result<ExitStatus> {
        let child = &mut self.child;
        wait::attempt(PATIENCE, "the end of the program", || child.try_wait())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // One that has ended already is no trouble.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Text without control sequences and carriage returns.
#[must_use]
pub fn plain(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut plain = String::new();
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        match c {
            '\u{1b}' => {
                if characters.next() == Some('[') {
                    // Parameters, then one letter.
                    for c in characters.by_ref() {
                        if c.is_ascii_alphabetic() {
                            break;
                        }
                    }
                }
            }
            '\r' | '\u{7}' => {}
            c => plain.push(c),
        }
    }
    plain
}
