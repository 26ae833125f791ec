//! The daemon's end of the control socket: who may connect, how much they may send, and line by line the answers.
//!
//! It knows no command; `services` answers. Only who has a role gets in (`role`), by SO_PEERCRED; where nobody but root
//! and the daemon's own user can have one, by the socket's mode as well.

use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _};
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::protocol::{Answer, Command, ErrorCode, Failure, REQUEST_MAX_BYTES, Request};
use crate::role::Caller;

/// How long to wait after a failed accept: descriptors are short and come back when connections end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a client of the control socket may take.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Open connections. More than a few people and scripts means that something is wrong.
    pub connections: usize,
    pub request_bytes: usize,
    /// How long a connection may wait for its next whole request, or for the client to read an answer.
    pub idle: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { connections: 32, request_bytes: REQUEST_MAX_BYTES, idle: Duration::from_secs(30) }
    }
}

/// Why the control socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("another daemon listens at {0}; stop it, or set another `control.socket`")]
    InUse(PathBuf),
    #[error("{0} exists and is no socket; remove it, or set another `control.socket`")]
    NotASocket(PathBuf),
    #[error("cannot open the control socket {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
}

/// Opens the socket with mode 0600, making its directory (0755) when it is absent and replacing a stale socket.
///
/// # Errors
/// When somebody listens there, something else is there, or the file system refuses.
pub fn bind(path: &Path) -> Result<StdListener, BindError> {
    let failed = |source| BindError::Io { path: path.to_owned(), source };
    match path.symlink_metadata() {
        Ok(found) if !found.file_type().is_socket() => return Err(BindError::NotASocket(path.to_owned())),
        Ok(_) if StdStream::connect(path).is_ok() => return Err(BindError::InUse(path.to_owned())),
        _ => {}
    }
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        std::fs::DirBuilder::new().recursive(true).mode(0o755).create(directory).map_err(failed)?;
    }
    // Bound under another name and renamed, the socket never exists at its own name with a wider mode.
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    let temporary = PathBuf::from(name);
    let listener = bind_new(&temporary).map_err(failed)?;
    std::fs::set_permissions(&temporary, std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .map_err(failed)?;
    std::fs::rename(&temporary, path).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

/// Lets members of the groups that have a role connect: the daemon looks at each of them. One socket has one group, and
/// there are three, so the mode cannot say it.
///
/// # Errors
/// When the file system refuses.
pub fn open_to_groups(path: &Path) -> io::Result<()> {
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o666))
}

/// Removes the socket at the end of the daemon's life.
pub fn remove(path: &Path) {
    // A socket that stays behind is replaced by the next start.
    std::fs::remove_file(path).ok();
}

fn bind_new(path: &Path) -> io::Result<StdListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => StdListener::bind(path),
    }
}

/// Answers requests until the future is dropped. `answer` decides; it is called for one request of a connection
/// at a time.
///
/// # Errors
/// When the listener cannot be used at all.
pub async fn serve<F, A>(listener: StdListener, bounds: Bounds, answer: F) -> io::Result<()>
where
    F: Fn(Caller, Command) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Answer> + Send,
{
    let listener = UnixListener::from_std(listener)?;
    let permits = Arc::new(Semaphore::new(bounds.connections));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "the control socket cannot accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
            let full = Failure::new(ErrorCode::Unavailable, "too many control connections; close some");
            refuse(&stream, full);
            continue;
        };
        let answer = answer.clone();
        tokio::spawn(async move {
            // A client that went away needs no record; nothing here outlives its connection.
            if let Err(error) = connection(stream, bounds, answer).await {
                tracing::debug!(%error, "control connection ended");
            }
            drop(permit);
        });
    }
}

/// Says why without waiting: the line fits any fresh socket's buffer, and nobody may hold the accept loop.
fn refuse(stream: &UnixStream, failure: Failure) {
    if let Err(error) = stream.try_write(&Answer::from(Err(failure)).to_line()) {
        tracing::debug!(%error, "a refusal on the control socket was not delivered");
    }
}

async fn connection<F, A>(mut stream: UnixStream, bounds: Bounds, answer: F) -> io::Result<()>
where
    F: Fn(Caller, Command) -> A,
    A: Future<Output = Answer>,
{
    let peer = stream.peer_cred()?;
    let (uid, gid) = (peer.uid(), peer.gid());
    // Lists of users may be elsewhere, and slow.
    let caller = match tokio::task::spawn_blocking(move || Caller::of(uid, gid)).await {
        Ok(Ok(caller)) => caller,
        Ok(Err(name)) => {
            tracing::warn!(uid, user = name, "a user who may not use the control socket tried to");
            let text = "only root, the daemon's own user and members of the groups portcullis-viewer, \
                        portcullis-operator and portcullis-admin may ask";
            refuse(&stream, Failure::new(ErrorCode::Refused, text));
            return Ok(());
        }
        Err(error) => return Err(io::Error::other(error)),
    };
    let mut lines = Lines { pending: Vec::new(), most: bounds.request_bytes };
    loop {
        let line = match timeout(bounds.idle, lines.next(&mut stream)).await {
            Err(_) | Ok(Ok(Line::End)) => return Ok(()),
            Ok(Ok(Line::Whole(line))) => line,
            Ok(Ok(Line::TooLong)) => {
                let message = format!("a request has at most {} bytes", bounds.request_bytes);
                refuse(&stream, Failure::bad_request(message));
                return Ok(());
            }
            Ok(Err(error)) => return Err(error),
        };
        let answered = match Request::from_line(&line) {
            Ok(Request { command, claimed_from }) => {
                answer(Caller { claimed_from, ..caller.clone() }, command).await
            }
            Err(failure) => Err(failure).into(),
        };
        drop(line);
        let Ok(written) = timeout(bounds.idle, stream.write_all(&answered.to_line())).await else {
            return Ok(());
        };
        written?;
    }
}

enum Line {
    Whole(zeroize::Zeroizing<Vec<u8>>),
    TooLong,
    End,
}

/// Cuts a stream into lines of bounded length.
struct Lines {
    pending: Vec<u8>,
    most: usize,
}

impl Lines {
    /// The next line without its newline. What follows the last newline counts as a line at the end of the
    /// stream, so that `printf '{…}' | nc -NU …` works.
    async fn next(&mut self, stream: &mut UnixStream) -> io::Result<Line> {
        let mut searched = 0;
        loop {
            let unsearched = self.pending.iter().skip(searched);
            if let Some(found) = unsearched.clone().position(|byte| *byte == b'\n') {
                let rest = self.pending.split_off(searched + found + 1);
                let mut line = std::mem::replace(&mut self.pending, rest);
                line.pop();
                return Ok(if line.len() < self.most { Line::Whole(line.into()) } else { Line::TooLong });
            }
            searched = self.pending.len();
            if searched >= self.most {
                return Ok(Line::TooLong);
            }
            if stream.read_buf(&mut self.pending).await? == 0 {
                let line = std::mem::take(&mut self.pending);
                return Ok(if line.is_empty() { Line::End } else { Line::Whole(line.into()) });
            }
        }
    }
}
