//! Talking to a person who may sit at any console: everything is said on all of them, and whoever answers first is heard.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use nix::fcntl::OFlag;
use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};

/// Longer lines are no answers; keys are shorter.
const LINE_MAX: usize = 4096;

pub struct Terminals {
    outputs: Vec<Box<dyn Write + Send>>,
    /// The same, where they can be told not to show what is typed.
    devices: Vec<File>,
    lines: Receiver<String>,
}

impl std::fmt::Debug for Terminals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Terminals").field("outputs", &self.outputs.len()).finish_non_exhaustive()
    }
}

impl Terminals {
    /// Those of the devices that there are.
    #[must_use]
    pub fn open(devices: &[&str]) -> Self {
        let (sender, lines) = mpsc::channel();
        let mut outputs: Vec<Box<dyn Write + Send>> = Vec::new();
        let mut devices_open = Vec::new();
        for device in devices.iter().map(Path::new).filter(|device| device.exists()) {
            let Ok(file) = OpenOptions::new()
                .read(true)
                .write(true)
                // No key that is pressed there is a signal, and others may have it for their own later.
                .custom_flags(OFlag::O_NOCTTY.bits())
                .open(device)
            else {
                continue;
            };
            let Ok(input) = file.try_clone() else { continue };
            devices_open.extend(file.try_clone());
            let sender = sender.clone();
            // It ends with the program: nothing else ends a read from a terminal.
            thread::spawn(move || hear(input, &sender));
            outputs.push(Box::new(file));
        }
        Self { outputs, devices: devices_open, lines }
    }

    /// Output and answers of somebody's choice, for tests.
    #[must_use]
    pub fn of(output: Box<dyn Write + Send>, lines: Receiver<String>) -> Self {
        Self { outputs: vec![output], devices: Vec::new(), lines }
    }

    /// Says a line. A console that is gone is no reason to stop.
    pub fn say(&mut self, line: &str) {
        for output in &mut self.outputs {
            drop(write!(output, "{line}\r\n").and_then(|()| output.flush()));
        }
    }

    /// As [`Self::ask`], without showing what is typed, and with the spaces around it.
    pub fn ask_unseen(&mut self, question: &str) -> Option<String> {
        self.echo(false);
        let answer = self.ask_for_line(question);
        self.echo(true);
        // The return that ended it was not shown either.
        self.say("");
        answer.map(|line| line.trim_end_matches(['\r', '\n']).to_owned())
    }

    fn echo(&self, on: bool) {
        for device in &self.devices {
            // What is no terminal shows nothing by itself.
            let Ok(mut terminal) = tcgetattr(device) else { continue };
            terminal.local_flags.set(LocalFlags::ECHO, on);
            tcsetattr(device, SetArg::TCSADRAIN, &terminal).ok();
        }
    }

    /// Asks and waits for a line; `None` when no console is left to answer.
    pub fn ask(&mut self, question: &str) -> Option<String> {
        self.ask_for_line(question).map(|line| line.trim().to_owned())
    }

    fn ask_for_line(&mut self, question: &str) -> Option<String> {
        // What was typed before the question is no answer to it.
        while self.lines.try_recv().is_ok() {}
        for output in &mut self.outputs {
            drop(write!(output, "{question} ").and_then(|()| output.flush()));
        }
        self.lines.recv().ok()
    }
}

fn hear(input: File, sender: &Sender<String>) {
    let mut reader = BufReader::new(input);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
        if line.len() <= LINE_MAX && sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
            return;
        }
        line.clear();
    }
}
