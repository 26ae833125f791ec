//! `portcullis support shell`: the administrator's end of a Unix shell that the system opens for a while.

use std::io::{self, IsTerminal as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::Context;
use super::args::SupportShell;
use super::output::{Failure, Outcome, complain};
use super::terminal::Raw;
use crate::ctl::protocol::{Command, ShellGranted, ShellOrder};
use crate::exit::Exit;
use crate::support_shell::job::{self, Places};
use crate::support_shell::{Frame, Hello, REASON_MAX_CHARS, read_frame, write_frame};

/// What is typed at once, at most.
const TYPED_MAX_BYTES: usize = 4096;
/// How soon a change of the terminal's size is told, where nothing else happens.
const SIZE_EVERY: Timespec = Timespec { tv_sec: 0, tv_nsec: 500_000_000 };

pub(super) fn open(context: &Context, arguments: &SupportShell) -> Outcome {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        let text = "a support shell needs a terminal: `ssh -t … support shell --reason TEXT`";
        return Err(Failure::new(Exit::Usage, text));
    }
    let reason = match &arguments.reason {
        Some(reason) => reason.clone(),
        None => ask()?,
    };
    let order = ShellOrder { reason, seconds: Some(arguments.time.as_secs()) };
    let granted: ShellGranted = context.call(&Command::SupportShell(order))?;
    complain(&format!(
        "A Unix shell until {}. It ends then, or with `exit`, and so does everything that was started in it.\n\
         That it was opened is in the audit log; what is typed is not.",
        granted.until
    ));
    let connection = connect(Path::new(&granted.socket))?;
    let (rows, columns) = size();
    let terminal = std::env::var("TERM").unwrap_or_default();
    let hello = Frame::Hello(Hello { ticket: granted.ticket, terminal, rows, columns });
    write_frame(&mut &connection, &hello)?;
    let why = {
        let _raw = Raw::start()?;
        relay(&connection)?
    };
    context.output.note(format!("the support shell has ended{}", told(&why)));
    Ok(if why.is_empty() { Exit::Ok } else { Exit::Negative })
}

/// Serves one, as the system wants it.
pub(super) fn job() -> Outcome {
    let log = crate::log::init_early().map_err(|error| Failure::new(Exit::Internal, error.to_string()))?;
    let served = Places::of_the_unit().and_then(|places| job::run(&places));
    log.flush();
    served.map_err(|error| Failure::new(Exit::Unavailable, error.to_string()))?;
    Ok(Exit::Ok)
}

fn told(why: &str) -> String {
    if why.is_empty() { String::new() } else { format!(": {why}") }
}

fn ask() -> Result<String, Failure> {
    complain("Why is it needed? One line, for the audit log:");
    let mut line = [0; REASON_MAX_CHARS * 4];
    // A terminal hands over one line; std's buffer would keep what is typed after it.
    let count = rustix::io::read(io::stdin(), &mut line).map_err(io::Error::from)?;
    let line = String::from_utf8_lossy(line.get(..count).unwrap_or_default());
    Ok(line.trim().to_owned())
}

fn connect(socket: &Path) -> Result<UnixStream, Failure> {
    UnixStream::connect(socket).map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => {
            let text = "the system lets only members of the group portcullis-admin open a shell";
            Failure::new(Exit::Permission, text)
        }
        _ => Failure::new(
            Exit::Unavailable,
            format!("the system opens no shell at {}: {error}", socket.display()),
        ),
    })
}

/// Rows and columns.
fn size() -> (u16, u16) {
    terminal_size::terminal_size().map_or((24, 80), |(columns, rows)| (rows.0, columns.0))
}

/// Carries what is typed and shown, until the other side has had its last word. Nothing of it outlives this: what is typed
/// next is for the command line again.
fn relay(connection: &UnixStream) -> io::Result<String> {
    let (stdin, mut out) = (io::stdin(), io::stdout());
    let mut shown_size = size();
    let mut typed = [0; TYPED_MAX_BYTES];
    loop {
        let mut waited = [PollFd::new(&stdin, PollFlags::IN), PollFd::new(connection, PollFlags::IN)];
        match poll(&mut waited, Some(&SIZE_EVERY)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let [keys, shown] = waited.map(|one| !one.revents().is_empty());
        let now = size();
        if now != shown_size {
            shown_size = now;
            write_frame(&mut &*connection, &Frame::Size(now.0, now.1))?;
        }
        if keys {
            // Not by std's buffer, which would keep what is for others.
            let count = rustix::io::read(&stdin, &mut typed)?;
            if count == 0 {
                return Ok("the terminal is gone".to_owned());
            }
            let frame = Frame::Data(typed.get(..count).unwrap_or_default().to_vec());
            // Who has ended it has a last word, which comes next.
            write_frame(&mut &*connection, &frame).ok();
        }
        if shown {
            match read_frame(&mut &*connection) {
                Ok(Some(Frame::Data(bytes))) => {
                    out.write_all(&bytes)?;
                    out.flush()?;
                }
                Ok(Some(Frame::End(why))) => return Ok(why),
                Ok(Some(_)) => {}
                Ok(None) => return Ok("it was ended by the system".to_owned()),
                Err(error) => return Ok(error.to_string()),
            }
        }
    }
}
