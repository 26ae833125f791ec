//! `portcullis support-job`: what the system starts for each connection of an administrator
//! (`appliance-support@.service`). It takes the grant, opens a terminal with a shell behind it, and ends both when the
//! administrator is gone or the time is over. What stays behind then the system ends, with the unit.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pty::OpenptFlags;

use super::frames::FRAME_MAX_BYTES;
use super::{
    Frame, GRANTS, Grant, Hello, TIME_MAX, USED_WITHIN, grant_file, read_frame, unix_now, write_frame,
};
use crate::role::Origin;
use crate::sync::lock;
use crate::update::{read_json, write_json};

/// How long the first frame may take, and how long a client may not read.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often somebody looks whether the shell is over.
const LOOK: Duration = Duration::from_millis(500);
/// What the administrator is told, and the daemon reads.
pub(super) const RECORD: &str = "shell.json";
const RECORD_MODE: u32 = 0o644;
/// Why a shell ends that did not end itself.
const OVER: &str = "its time was over";
const GONE: &str = "the administrator has gone";
const TERMINAL_MAX_CHARS: usize = 32;
const SIZE_MAX: u16 = 1000;

/// Where the shell's files are.
#[derive(Clone, Debug)]
pub struct Places {
    pub grants: PathBuf,
    /// Made by the system for this shell alone; the daemon sees by it that the shell is open.
    pub own: PathBuf,
}

impl Places {
    /// # Errors
    /// When the system has not made a directory.
    pub fn of_the_unit() -> io::Result<Self> {
        let own = std::env::var_os("RUNTIME_DIRECTORY").map(PathBuf::from);
        let own =
            own.ok_or_else(|| io::Error::other("the system runs this, for `portcullis support shell`"))?;
        Ok(Self { grants: GRANTS.into(), own })
    }
}

/// Serves the connection that is standard input.
///
/// # Errors
/// When there is no grant, or no shell; the administrator was told.
pub fn run(places: &Places) -> io::Result<()> {
    let connection = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    connection.set_write_timeout(Some(PATIENCE))?;
    let served = serve(places, &connection);
    fs::remove_dir_all(&places.own).ok();
    let why = served.as_ref().map_or_else(ToString::to_string, |why| why.clone());
    // Who has gone needs no word.
    write_frame(&mut &connection, &Frame::End(why)).ok();
    connection.shutdown(Shutdown::Both).ok();
    served.map(drop)
}

fn serve(places: &Places, connection: &UnixStream) -> io::Result<String> {
    let uid = getsockopt(connection, PeerCredentials)?.uid();
    if is_from_within(uid, nix::unistd::geteuid().as_raw()) {
        return Err(io::Error::other("a support shell opens no other"));
    }
    connection.set_read_timeout(Some(PATIENCE))?;
    let Some(Frame::Hello(hello)) = read_frame(&mut &*connection)? else {
        return Err(io::Error::other("nobody has said for what this is"));
    };
    let grant = take(&places.grants, &hello.ticket, uid)?;
    write_json(&places.own.join(RECORD), &grant, RECORD_MODE)?;
    let ends = Instant::now() + Duration::from_secs(grant.seconds).min(TIME_MAX);
    let Origin { who, claimed_from, .. } = &grant.origin;
    tracing::warn!(who, from = claimed_from, reason = grant.reason, "a support shell begins");
    let mut shell = Shell::start(&hello)?;
    let why = shell.relay(connection, ends)?;
    tracing::warn!(who, why, "a support shell ends");
    Ok(why)
}

/// Who has such a shell may write grants and reach the socket, and would have no end, no reason and any name in the audit
/// log. This user is nobody's login.
fn is_from_within(uid: u32, own: u32) -> bool {
    uid == own && own != 0
}

/// A grant serves once, soon, and whoever it was given to.
fn take(directory: &Path, id: &str, uid: u32) -> io::Result<Grant> {
    let refused = || io::Error::other("nobody has granted that, or it was too long ago");
    let file = grant_file(directory, id).ok_or_else(refused)?;
    let grant: Grant = read_json(&file).map_err(|_| refused())?;
    fs::remove_file(&file)?;
    let age = unix_now().checked_sub(grant.granted);
    let fresh = age.is_some_and(|age| age <= USED_WITHIN.as_secs());
    if fresh && grant.origin.uid == Some(uid) { Ok(grant) } else { Err(refused()) }
}

/// A shell and the terminal that it is in.
struct Shell {
    child: Child,
    master: File,
}

impl Drop for Shell {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Shell {
    fn start(hello: &Hello) -> io::Result<Self> {
        // No other program that is started here gets hold of it.
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = File::from(rustix::pty::openpt(flags)?);
        rustix::io::ioctl_fionbio(&master, true)?;
        rustix::pty::unlockpt(&master)?;
        let terminal_end = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
        resize(&master, hello.rows, hello.columns)?;
        let end = || terminal_end.try_clone().map(Stdio::from);
        let plain = |c: &char| c.is_ascii_alphanumeric() || "-+._".contains(*c);
        let terminal: String = hello.terminal.chars().filter(plain).take(TERMINAL_MAX_CHARS).collect();
        let mut command = Command::new("/usr/bin/setsid");
        command.args(["--ctty", "--wait", "/bin/bash", "--noprofile", "--norc"]).env_clear();
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("TERM", if terminal.is_empty() { "dumb" } else { &terminal });
        command.env("HOME", "/tmp").env("LANG", "C.UTF-8").env("PS1", "support:\\w# ").env("HISTFILE", "");
        command.stdin(end()?).stdout(end()?).stderr(end()?);
        let directory = if Path::new("/tmp").is_dir() { "/tmp" } else { "/" };
        let child = command.current_dir(directory).spawn()?;
        Ok(Self { child, master })
    }

    /// Carries what is typed and shown, until the shell or its time is over, or the administrator is gone: says which.
    fn relay(&mut self, connection: &UnixStream, ends: Instant) -> io::Result<String> {
        let over: Arc<Mutex<bool>> = Arc::default();
        let (mut output, mut shown) = (self.master.try_clone()?, connection.try_clone()?);
        let tell = Arc::clone(&over);
        std::thread::spawn(move || {
            let mut bytes = vec![0; FRAME_MAX_BYTES];
            // The end of the last process at the terminal is an error here.
            while let Ok(count @ 1..) = readable(&output).and_then(|()| output.read(&mut bytes)) {
                let frame = Frame::Data(bytes.get(..count).unwrap_or_default().to_vec());
                if write_frame(&mut shown, &frame).is_err() {
                    break;
                }
            }
            *lock(&tell) = true;
            // Wakes who waits for what is typed.
            shown.shutdown(Shutdown::Read).ok();
        });
        self.carry(connection, ends, &over)
    }

    /// Carries what is typed, and says why no more.
    fn carry(&mut self, connection: &UnixStream, ends: Instant, over: &Mutex<bool>) -> io::Result<String> {
        loop {
            keep_watchdog_quiet();
            let left = ends.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(OVER.to_owned());
            }
            // Frames are small and their sender writes each at once: one that has begun is there.
            connection.set_read_timeout(Some(left.min(LOOK)))?;
            match read_frame(&mut &*connection) {
                Ok(Some(Frame::Data(bytes))) => {
                    if let Some(why) = self.type_in(&bytes, connection, ends)? {
                        return Ok(why.to_owned());
                    }
                }
                Ok(Some(Frame::Size(rows, columns))) => resize(&self.master, rows, columns)?,
                Ok(Some(_)) => return Err(io::ErrorKind::InvalidData.into()),
                Ok(None) if *lock(over) => return Ok(String::new()),
                Ok(None) => return Ok(GONE.to_owned()),
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    // What was started in it may keep the terminal open, and ends with it.
                    if self.child.try_wait()?.is_some() {
                        return Ok(String::new());
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Types, as fast as the terminal takes it: says why the rest is lost, if it is.
    fn type_in(
        &mut self,
        mut bytes: &[u8],
        connection: &UnixStream,
        ends: Instant,
    ) -> io::Result<Option<&'static str>> {
        while !bytes.is_empty() {
            keep_watchdog_quiet();
            match self.master.write(bytes) {
                Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let left = ends.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Ok(Some(OVER));
                    }
                    if self.child.try_wait()?.is_some() {
                        return Ok(Some(""));
                    }
                    let look = Timespec::try_from(left.min(LOOK)).map_err(io::Error::other)?;
                    let mut waited_for = [
                        PollFd::new(&self.master, PollFlags::OUT),
                        // Its end is told unasked.
                        PollFd::new(connection, PollFlags::empty()),
                    ];
                    poll(&mut waited_for, Some(&look))?;
                    if waited_for[1].revents().intersects(PollFlags::HUP | PollFlags::ERR) {
                        return Ok(Some(GONE));
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}

/// Somebody watches the time (systemd.service(5), `WatchdogSec=`). Who stops this job from within the shell gains nothing:
/// then the system ends the unit.
fn keep_watchdog_quiet() {
    sd_notify::notify(&[sd_notify::NotifyState::Watchdog]).ok();
}

fn readable(terminal: &File) -> io::Result<()> {
    poll(&mut [PollFd::new(terminal, PollFlags::IN)], None)?;
    Ok(())
}

fn resize(terminal: &File, rows: u16, columns: u16) -> io::Result<()> {
    let (ws_row, ws_col) = (rows.min(SIZE_MAX), columns.min(SIZE_MAX));
    let size = rustix::termios::Winsize { ws_row, ws_col, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(rustix::termios::tcsetwinsize(terminal, size)?)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;
    use crate::role::Origin;

    const ID: &str = "0123456789abcdef0123456789abcdef";

    fn granted(directory: &Path, uid: u32, granted: u64) {
        let origin = Origin { who: "ann".into(), uid: Some(uid), ..Origin::default() };
        let grant = Grant { origin, reason: "a disk".into(), seconds: 60, granted };
        write_json(&grant_file(directory, ID).unwrap(), &grant, 0o600).unwrap();
    }

    #[test]
    fn a_grant_serves_once_and_only_whom_it_was_given_to_and_not_for_long() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path();
        assert!(take(directory, ID, 7).is_err());
        granted(directory, 7, unix_now());
        assert_eq!(take(directory, ID, 7).unwrap().reason, "a disk");
        assert!(take(directory, ID, 7).is_err(), "twice");
        granted(directory, 7, unix_now());
        assert!(take(directory, ID, 8).is_err(), "somebody else");
        assert!(take(directory, ID, 7).is_err(), "after somebody else has tried");
        granted(directory, 7, unix_now() - USED_WITHIN.as_secs() - 2);
        assert!(take(directory, ID, 7).is_err(), "too late");
        granted(directory, 7, unix_now() + 1000);
        assert!(take(directory, ID, 7).is_err(), "from the future");
        assert!(take(directory, "../x", 7).is_err());
    }

    #[test]
    fn who_has_a_shell_gets_no_second_one_by_a_grant_of_their_own() {
        assert!(is_from_within(990, 990));
        assert!(!is_from_within(1000, 990) && !is_from_within(0, 0));
    }

    fn shell() -> Shell {
        Shell::start(&Hello { ticket: ID.into(), terminal: "xterm; id".into(), rows: 30, columns: 90 })
            .unwrap()
    }

    /// All that is shown until a text is.
    fn shown_until(client: &UnixStream, text: &str) -> String {
        let mut shown = String::new();
        while !shown.contains(text) {
            match read_frame(&mut &*client).unwrap() {
                Some(Frame::Data(bytes)) => shown += &String::from_utf8_lossy(&bytes),
                other => panic!("{other:?} after {shown}"),
            }
        }
        shown
    }

    fn patient() -> Instant {
        Instant::now() + Duration::from_mins(1)
    }

    #[test]
    fn what_is_typed_runs_at_a_terminal_of_its_own_and_leaving_ends_it() {
        let (client, served) = UnixStream::pair().unwrap();
        let serving = std::thread::spawn(move || shell().relay(&served, patient()).unwrap());
        let send = |frame: Frame| write_frame(&mut &client, &frame).unwrap();
        send(Frame::Data(b"stty size; echo $TERM $((6 * 7))\n".to_vec()));
        let shown = shown_until(&client, "xtermid 42\r\n");
        assert!(shown.contains("30 90\r\n"), "{shown}");
        send(Frame::Size(40, 120));
        send(Frame::Data(b"stty size\n".to_vec()));
        shown_until(&client, "40 120\r\n");
        send(Frame::Data(b"exit\n".to_vec()));
        assert_eq!(serving.join().unwrap(), "");
    }

    #[test]
    fn leaving_ends_it_whatever_keeps_its_terminal_open() {
        let (client, served) = UnixStream::pair().unwrap();
        let serving = std::thread::spawn(move || shell().relay(&served, patient()).unwrap());
        let typed = b"sleep 1000 & echo left=$! $((6 * 7))\n".to_vec();
        write_frame(&mut &client, &Frame::Data(typed)).unwrap();
        let shown = shown_until(&client, " 42\r\n");
        let left =
            shown.rsplit("left=").next().and_then(|rest| rest.split(' ').next()?.parse().ok()).unwrap();
        write_frame(&mut &client, &Frame::Data(b"exit\n".to_vec())).unwrap();
        assert_eq!(serving.join().unwrap(), "");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(left), nix::sys::signal::Signal::SIGKILL).unwrap();
    }

    #[test]
    fn it_ends_when_its_time_is_over_whatever_runs_in_it() {
        let (client, served) = UnixStream::pair().unwrap();
        write_frame(&mut &client, &Frame::Data(b"exec sleep 1000\n".to_vec())).unwrap();
        let mut shell = shell();
        let ended = shell.relay(&served, Instant::now() + Duration::from_millis(200)).unwrap();
        assert_eq!(ended, OVER);
    }

    #[test]
    fn it_ends_when_its_time_is_over_although_its_terminal_takes_nothing_more() {
        let (client, served) = UnixStream::pair().unwrap();
        let typist = std::thread::spawn(move || {
            let mut typed = b"stty raw -echo; exec sleep 1000\n".to_vec();
            // Until nobody is there any more.
            while write_frame(&mut &client, &Frame::Data(typed)).is_ok() {
                typed = vec![b'x'; 1000];
            }
        });
        let (tell, told) = channel();
        std::thread::spawn(move || {
            let ended = shell().relay(&served, Instant::now() + Duration::from_millis(700));
            served.shutdown(Shutdown::Both).unwrap();
            tell.send(ended.unwrap()).unwrap();
        });
        assert_eq!(told.recv_timeout(Duration::from_mins(1)).unwrap(), OVER);
        typist.join().unwrap();
    }

    #[test]
    fn it_ends_when_the_administrator_is_gone_or_sends_nonsense() {
        let (client, served) = UnixStream::pair().unwrap();
        drop(client);
        let ended = shell().relay(&served, patient());
        // The shell's first words may have been refused before.
        assert!(ended.is_err() || ended.unwrap() == GONE);
        let (mut client, served) = UnixStream::pair().unwrap();
        client.write_all(b"zzzzzz").unwrap();
        assert!(shell().relay(&served, patient()).is_err());
    }
}
