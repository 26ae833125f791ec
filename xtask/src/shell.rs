//! Running programs and talking to the person who watches.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use portcullis_tests::{process, wait};
use tokio::signal::unix::{SignalKind, signal};

/// How often a watched program's time limit and the interruption flag are looked at.
const TICK: Duration = Duration::from_millis(100);

/// A line for the person who watches, on standard error.
pub(crate) fn say(line: &str) {
    // In unit tests nobody watches, and a line about a failed step would only alarm.
    if cfg!(test) {
        return;
    }
    // Nobody can be told when standard error is gone.
    drop(writeln!(std::io::stderr(), "{line}"));
}

/// A line of the result, on standard output.
pub(crate) fn print(line: &str) {
    // A reader that went away (`| head`) wants no more.
    drop(writeln!(std::io::stdout(), "{line}"));
}

/// Prints findings and returns whether there were none.
pub(crate) fn report(name: &str, findings: &[String]) -> Result<bool> {
    for finding in findings {
        print(finding);
    }
    print(&format!("{name}: {}", if findings.is_empty() { "in order" } else { "NOT in order" }));
    Ok(findings.is_empty())
}

/// The cargo that runs us, at the root of the repository.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(program);
    command.current_dir(process::repository()).args(arguments);
    // `cargo xtask` told us about our own package. Build scripts that look at that would run again, and with them
    // half of the dependencies be built again, each time that somebody changes between `cargo xtask` and `cargo`.
    let ours = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(ours) {
            command.env_remove(name);
        }
    }
    command
}

/// Runs a program that shows its own output; `false` when it fails.
pub(crate) fn succeeds(command: &mut Command) -> Result<bool> {
    let status = command.status().with_context(|| format!("start `{}`", process::describe(command)))?;
    Ok(status.success())
}

/// Runs a program and returns what it printed.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let text = process::describe(command);
    let output = command.stderr(Stdio::inherit()).output().with_context(|| format!("start `{text}`"))?;
    if !output.status.success() {
        bail!("`{text}` ended with {}", output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("output of `{text}`"))
}

/// Runs a program in a process group of its own, shows each line of its standard output, and hands the line to
/// `read`. Ends the whole group when the time is over or a person interrupts.
pub(crate) fn stream(command: &mut Command, limit: Duration, mut read: impl FnMut(&str)) -> Result<bool> {
    let text = process::describe(command);
    command.stdout(Stdio::piped()).process_group(0);
    let mut child = command.spawn().with_context(|| format!("start `{text}`"))?;
    let lines = lines_of(&mut child);
    let deadline = Instant::now() + limit;
    loop {
        match lines.recv_timeout(TICK) {
            Ok(line) => {
                print(&line);
                read(&line);
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {}
        }
        if wait::interrupted() || Instant::now() > deadline {
            end_group(&mut child);
            let why = if wait::interrupted() { "was interrupted" } else { "took too long and was ended" };
            bail!("`{text}` {why} after {} s", limit.as_secs());
        }
    }
    Ok(child.wait().with_context(|| format!("wait for `{text}`"))?.success())
}

fn lines_of(child: &mut Child) -> Receiver<String> {
    // Bounded: a program that prints faster than the terminal takes it waits for us.
    let (sender, receiver) = mpsc::sync_channel(1_000);
    if let Some(stdout) = child.stdout.take() {
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
    }
    receiver
}

fn end_group(child: &mut Child) {
    if let Ok(id) = i32::try_from(child.id()) {
        // The group is gone already when this fails, which is what is wanted.
        killpg(Pid::from_raw(id), Signal::SIGKILL).unwrap_or_default();
    }
    drop(child.wait());
}

/// From now on Ctrl-C and SIGTERM make all waits fail, so that everything unwinds and cleans up; a second one ends
/// the program at once.
///
/// Signals are caught, not blocked: a child would inherit a blocked signal and never end by it.
pub(crate) fn unwind_on_interrupt() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("make a runtime for signals")?;
    let handlers: std::io::Result<Vec<_>> = {
        let _inside = runtime.enter();
        [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()]
            .into_iter()
            .map(signal)
            .collect()
    };
    let mut handlers = handlers.context("catch signals")?;
    thread::spawn(move || {
        runtime.block_on(async {
            for count in 0_u8.. {
                any(&mut handlers).await;
                if count > 0 {
                    std::process::exit(130);
                }
                say("interrupted: cleaning up (once more to stop at once)");
                wait::interrupt();
            }
        });
    });
    Ok(())
}

/// Waits for any of the signals.
async fn any(handlers: &mut [tokio::signal::unix::Signal]) {
    std::future::poll_fn(|context| {
        let caught = handlers.iter_mut().any(|handler| handler.poll_recv(context).is_ready());
        if caught { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// All files of the repository that git tracks or would track, relative to its root.
pub(crate) fn repository_files() -> Result<Vec<String>> {
    let mut git = Command::new("git");
    git.current_dir(process::repository());
    let listing = output(git.args(["ls-files", "--cached", "--others", "--exclude-standard"]));
    let listing = listing.context("list the repository's files (git is needed)")?;
    let exists = |path: &&str| process::repository().join(path).is_file();
    Ok(listing.lines().filter(exists).map(str::to_owned).collect())
}
