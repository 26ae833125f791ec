//! The other end of the control socket, for the command line and for tests: blocking, one connection per client.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::claim;
use super::protocol::{ANSWER_MAX_BYTES, Answer, Command, Failure};

/// Longest wait for one answer: `sta-test` and `reload` ask others first.
const ANSWER_WAIT: Duration = Duration::from_secs(60);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody could be asked.
    #[error("cannot reach the daemon at {}: {}", path.display(), reason(source))]
    Connect { path: PathBuf, source: io::Error },
    /// The connection broke.
    #[error("the daemon at {} did not answer: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    /// What came back is no answer.
    #[error("what listens at {} does not speak the control protocol: {what}", path.display())]
    Garbage { path: PathBuf, what: String },
    /// The daemon answered with a failure.
    #[error(transparent)]
    Failure(#[from] Failure),
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file".into(),
        io::ErrorKind::ConnectionRefused => "nobody listens there any more".into(),
        io::ErrorKind::PermissionDenied => "permission denied".into(),
        _ => error.to_string(),
    }
}

/// One connection to a daemon.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    stream: BufReader<UnixStream>,
    /// Where an SSH session came from, for the audit log.
    claimed_from: Option<String>,
}

impl Client {
    /// # Errors
    /// [`ClientError::Connect`]
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let opened = UnixStream::connect(path).and_then(|stream| {
            stream.set_read_timeout(Some(ANSWER_WAIT))?;
            stream.set_write_timeout(Some(ANSWER_WAIT))?;
            Ok(stream)
        });
        match opened {
            Ok(stream) => Ok(Self {
                path: path.to_owned(),
                stream: BufReader::new(stream),
                claimed_from: claim::from_environment(),
            }),
            Err(source) => Err(ClientError::Connect { path: path.to_owned(), source }),
        }
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// Every [`ClientError`] but `Connect`.
    pub fn call<T: DeserializeOwned>(&mut self, command: &Command) -> Result<T, ClientError> {
        let line = self.exchange(&command.to_line_from(self.claimed_from.as_deref()));
        let line = line.map_err(|source| ClientError::Io { path: self.path.clone(), source })?;
        let answer: Answer = serde_json::from_slice(&line)
            .map_err(|error| ClientError::Garbage { path: self.path.clone(), what: error.to_string() })?;
        Ok(answer.into_result()?)
    }

    fn exchange(&mut self, request: &[u8]) -> io::Result<Vec<u8>> {
        // A server that refuses says so and closes, possibly before it has read: the answer counts, not the
        // write. Where there is none, the write's error is the better one.
        let sent = self.stream.get_mut().write_all(request);
        let mut line = Vec::new();
        let limit = u64::try_from(ANSWER_MAX_BYTES).unwrap_or(u64::MAX);
        let received = self.stream.by_ref().take(limit).read_until(b'\n', &mut line);
        if line.last() == Some(&b'\n') {
            return Ok(line);
        }
        sent?;
        received?;
        let what = if line.len() >= ANSWER_MAX_BYTES {
            "the answer is too long"
        } else {
            "it closed the connection"
        };
        Err(io::Error::new(io::ErrorKind::UnexpectedEof, what))
    }
}
