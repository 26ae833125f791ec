//! `portcullis support shell`: the administrator's end of a Unix shell that the system opens for a while.

use std::io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex};

use tokio::signal::unix::{SignalKind, signal};

use super::Context;
use super::args::SupportShell;
use super::output::{Failure, Outcome, complain};
use super::terminal::{Raw, runtime};
use crate::ctl::protocol::{Command, ShellGranted, ShellOrder};
use crate::exit::Exit;
use crate::support_shell::job::{self, Places};
use crate::support_shell::{Frame, Hello, REASON_MAX_CHARS, read_frame, write_frame};
use crate::sync::lock;

/// What is typed at once, at most.
const TYPED_MAX_BYTES: usize = 4096;

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
        relay(connection)?
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
    let mut line = String::new();
    let most = u64::try_from(REASON_MAX_CHARS * 4).unwrap_or(u64::MAX);
    io::stdin().lock().take(most).read_line(&mut line)?;
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

/// Carries what is typed and shown, until the other side has had its last word.
fn relay(connection: UnixStream) -> io::Result<String> {
    let mut shown = connection.try_clone()?;
    let connection = Arc::new(Mutex::new(connection));
    // Both threads wait for things that may never come; they end with the program.
    let typed = Arc::clone(&connection);
    std::thread::spawn(move || {
        let mut bytes = [0; TYPED_MAX_BYTES];
        while let Ok(count @ 1..) = io::stdin().read(&mut bytes) {
            let frame = Frame::Data(bytes.get(..count).unwrap_or_default().to_vec());
            if write_frame(&mut *lock(&typed), &frame).is_err() {
                break;
            }
        }
    });
    std::thread::spawn(move || follow_size(&connection));
    let mut out = io::stdout();
    loop {
        match read_frame(&mut shown) {
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

fn follow_size(connection: &Mutex<UnixStream>) {
    let Ok(runtime) = runtime() else { return };
    runtime.block_on(async {
        let Ok(mut changed) = signal(SignalKind::window_change()) else { return };
        while changed.recv().await.is_some() {
            let (rows, columns) = size();
            if write_frame(&mut *lock(connection), &Frame::Size(rows, columns)).is_err() {
                return;
            }
        }
    });
}
