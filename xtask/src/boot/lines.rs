//! Following a log that another program writes.

use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

/// A growing file, line by line.
#[derive(Debug)]
pub(crate) struct Lines {
    path: PathBuf,
    file: Option<File>,
    /// A line without its end.
    begun: Vec<u8>,
}

impl Lines {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, file: None, begun: Vec::new() }
    }

    /// The lines that were finished since the last call.
    pub(crate) fn read(&mut self) -> Result<Vec<String>> {
        if self.file.is_none() {
            // QEMU makes it some time after its start.
            self.file = File::open(&self.path).ok();
        }
        let Some(file) = &mut self.file else { return Ok(Vec::new()) };
        file.read_to_end(&mut self.begun).with_context(|| format!("read {}", self.path.display()))?;
        let Some(end) = self.begun.iter().rposition(|byte| *byte == b'\n') else { return Ok(Vec::new()) };
        let rest = self.begun.split_off(end + 1);
        let finished = std::mem::replace(&mut self.begun, rest);
        Ok(String::from_utf8_lossy(&finished).lines().map(str::to_owned).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_growing_file_is_read_line_by_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut lines = Lines::new(path.clone());
        assert!(lines.read().unwrap().is_empty(), "there is no file yet");
        let mut file = File::create(path).unwrap();
        file.write_all(b"one\r\ntwo").unwrap();
        assert_eq!(lines.read().unwrap(), ["one"]);
        file.write_all(b" and more\n\xff\n").unwrap();
        assert_eq!(lines.read().unwrap(), ["two and more", "\u{fffd}"]);
        assert!(lines.read().unwrap().is_empty());
    }
}
