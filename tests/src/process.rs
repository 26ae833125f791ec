//! Child processes whose output goes to files and that end with their guard, and where our programs are.
//!
//! A child is the leader of its own process group; only that group is ever signalled.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use crate::wait;

/// How long a child may take to end after SIGTERM before it is killed.
const GRACE: Duration = Duration::from_secs(5);
/// How much of a log an error message shows.
const TAIL_LINES: usize = 30;

/// A running child. Ends with SIGTERM, then SIGKILL, when dropped.
#[derive(Debug)]
pub struct Child {
    name: String,
    inner: std::process::Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Child {
    /// Starts `command` with its output in `dir/NAME.out` and `dir/NAME.err`, and nothing on standard input
    /// unless the caller has set one.
    ///
    /// # Errors
    /// Names the program when it cannot be started.
    pub fn spawn(name: &str, command: &mut Command, dir: &Path) -> Result<Self> {
        let stdout = dir.join(format!("{name}.out"));
        let stderr = dir.join(format!("{name}.err"));
        let open = |path: &Path| File::create(path).with_context(|| format!("create {}", path.display()));
        command.stdin(Stdio::null()).stdout(open(&stdout)?).stderr(open(&stderr)?).process_group(0);
        let inner = command.spawn().with_context(|| format!("start {}", describe(command)))?;
        Ok(Self { name: name.to_owned(), inner, stdout, stderr })
    }

    #[must_use]
    pub fn pid(&self) -> u32 {
        self.inner.id()
    }

    fn group(&self) -> Pid {
        // A process id always fits: the kernel's limit is 2^22.
        Pid::from_raw(i32::try_from(self.inner.id()).unwrap_or(i32::MAX))
    }

    /// Sends one signal to the child itself.
    ///
    /// # Errors
    /// When the child has already been collected.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(self.group(), signal).with_context(|| format!("send {signal} to {}", self.name))
    }

    /// The exit status, if the child has ended.
    ///
    /// # Errors
    /// When the child cannot be asked.
    pub fn try_status(&mut self) -> Result<Option<ExitStatus>> {
        self.inner.try_wait().with_context(|| format!("wait for {}", self.name))
    }

    /// Waits for the child to end by itself.
    ///
    /// # Errors
    /// When it still runs after `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("the end of {}", self.name);
        wait::attempt(limit, &what, || self.try_status())
    }

    /// Ends the child and returns its status: SIGTERM, and SIGKILL after `grace`.
    ///
    /// # Errors
    /// When it cannot even be killed.
    pub fn stop(&mut self, grace: Duration) -> Result<ExitStatus> {
        if let Some(status) = self.try_status()? {
            return Ok(status);
        }
        signal_group(self.group(), Signal::SIGTERM)?;
        let what = format!("the end of {}", self.name);
        if let Ok(status) = wait::uninterrupted(grace, &what, || self.try_status()) {
            return Ok(status);
        }
        signal_group(self.group(), Signal::SIGKILL)?;
        self.inner.wait().with_context(|| format!("wait for {}", self.name))
    }

    /// Everything that the child has written so far: standard output, then standard error.
    #[must_use]
    pub fn log(&self) -> String {
        let read = |path: &Path| fs::read(path).map(|b| String::from_utf8_lossy(&b).into_owned());
        read(&self.stdout).unwrap_or_default() + &read(&self.stderr).unwrap_or_default()
    }

    /// The last lines of the log, for error messages.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines.get(lines.len().saturating_sub(TAIL_LINES)..).unwrap_or_default().join("\n")
    }

    /// An error, followed by the end of the log.
    #[must_use]
    pub fn with_log(&self, error: &anyhow::Error) -> anyhow::Error {
        anyhow::anyhow!("{error:#}; the log of {} ends:\n{}", self.name, self.log_tail())
    }

    #[must_use]
    pub fn stderr_path(&self) -> &Path {
        &self.stderr
    }

    /// Waits until the log holds `text`, and returns the line that does.
    ///
    /// # Errors
    /// When the child ends first or the time is over; both show the end of the log.
    pub fn wait_for_log(&mut self, text: &str, limit: Duration) -> Result<String> {
        let what = format!("`{text}` in the log of {}", self.name);
        let found = wait::attempt(limit, &what, || {
            let ended = self.try_status()?;
            let line = self.log().lines().find(|line| line.contains(text)).map(str::to_owned);
            match (line, ended) {
                (Some(line), _) => Ok(Some(line)),
                (None, Some(status)) => bail!("it ended with {status}"),
                (None, None) => Ok(None),
            }
        });
        found.map_err(|error| self.with_log(&error))
    }

    /// Waits until the child's network has a listener on a TCP port, without connecting to it: a connection may
    /// use up what the child serves only once.
    ///
    /// # Errors
    /// When the child ends first or the time is over.
    pub fn wait_for_listen(&mut self, port: u16, limit: Duration) -> Result<()> {
        let what = format!("{} to listen on port {port}", self.name);
        let found = wait::attempt(limit, &what, || match self.try_status()? {
            Some(status) => bail!("it ended with {status}"),
            None => Ok(listens(self.inner.id(), port).then_some(())),
        });
        found.map_err(|error| self.with_log(&error))
    }

    /// Waits until something accepts connections at `address`, in this process's own namespace.
    ///
    /// # Errors
    /// When the child ends first or the time is over.
    pub fn wait_for_port(&mut self, address: SocketAddr, limit: Duration) -> Result<()> {
        let what = format!("{} to listen on {address}", self.name);
        let found = wait::attempt(limit, &what, || match self.try_status()? {
            Some(status) => bail!("it ended with {status}"),
            None => Ok(std::net::TcpStream::connect(address).ok()),
        });
        found.map(drop).map_err(|error| self.with_log(&error))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Nothing more can be done about a child that not even SIGKILL ends.
        drop(self.stop(GRACE));
    }
}

/// Whether the network namespace of process `pid` has a listener on `port`, or a socket that gets datagrams there
/// (proc_pid_net(5)).
fn listens(pid: u32, port: u16) -> bool {
    const LISTEN: &str = "0A";
    // As the table of UDP says that there is no peer.
    const UNCONNECTED: &str = "07";
    let wanted = format!(":{port:04X}");
    [("tcp", LISTEN), ("tcp6", LISTEN), ("udp", UNCONNECTED), ("udp6", UNCONNECTED)].iter().any(
        |(table, state)| {
            let text = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
            text.lines().any(|line| {
                let mut words = line.split_whitespace().skip(1);
                words.next().is_some_and(|local| local.ends_with(&wanted)) && words.nth(1) == Some(state)
            })
        },
    )
}

fn signal_group(group: Pid, signal: Signal) -> Result<()> {
    match killpg(group, signal) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("send {signal} to process group {group}")),
    }
}

/// What a program that ran to its end said.
#[derive(Debug, Clone)]
pub struct Output {
    pub command: String,
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    #[must_use]
    pub fn success(&self) -> bool {
        self.code == Some(0)
    }

    /// The output of a program that succeeded.
    ///
    /// # Errors
    /// The exit code and what the program wrote to standard error.
    pub fn ok(self) -> Result<Self> {
        if self.success() {
            return Ok(self);
        }
        let code = self.code.map_or_else(|| String::from("a signal"), |code| code.to_string());
        bail!("`{}` ended with {code}: {}", self.command, self.stderr.trim_end())
    }
}

/// Runs a program to its end with a time limit; its whole output is kept.
///
/// # Errors
/// When it cannot be started or does not end in time. A failing exit code is no error here: see [`Output::ok`].
pub fn run(command: &mut Command, limit: Duration) -> Result<Output> {
    run_with_input(command, b"", limit)
}

/// Like [`run`], with bytes on standard input.
///
/// # Errors
/// As [`run`].
pub fn run_with_input(command: &mut Command, input: &[u8], limit: Duration) -> Result<Output> {
    let dir = tempfile::Builder::new().prefix("pc-run-").tempdir().context("make a temporary directory")?;
    let text = describe(command);
    let stdin = dir.path().join("stdin");
    fs::write(&stdin, input).context("write standard input")?;
    let (out, err) = (dir.path().join("out"), dir.path().join("err"));
    command.stdin(File::open(&stdin)?).stdout(File::create(&out)?).stderr(File::create(&err)?);
    command.process_group(0);
    let inner = command.spawn().with_context(|| format!("start `{text}`"))?;
    let mut child = Child { name: text.clone(), inner, stdout: out.clone(), stderr: err.clone() };
    let status = child.wait(limit).map_err(|error| child.with_log(&error))?;
    let read = |path: &Path| fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    Ok(Output { command: text, code: status.code(), stdout: read(&out)?, stderr: read(&err)? })
}

/// The command as one line. Arguments that look like tickets are left out: they are secrets.
#[must_use]
pub fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let shown = words
        .map(OsStr::to_string_lossy)
        .map(|word| if word.contains(";STA") { String::from("<ticket>") } else { word.into_owned() });
    shown.collect::<Vec<_>>().join(" ")
}

/// A TCP and UDP port that is free on both loopback addresses, and that this process has not handed out before.
///
/// It lies below the range that the kernel gives to outgoing connections, so that none takes it in between.
///
/// # Errors
/// When no port is free after many tries.
pub fn free_port() -> Result<u16> {
    const FIRST: u32 = 12_000;
    const COUNT: u32 = 20_000;
    const TRIES: u32 = 500;
    static TAKEN: Mutex<Option<(HashSet<u16>, u32)>> = Mutex::new(None);
    let mut guard = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    let (taken, next) =
        guard.get_or_insert_with(|| (HashSet::new(), std::process::id().wrapping_mul(2_654_435_761) % COUNT));
    for _ in 0..TRIES {
        // 7919 is prime to 20000: every port comes up once before one comes up again.
        *next = (*next + 7_919) % COUNT;
        let port = u16::try_from(FIRST + *next).context("ports are below 65536")?;
        if !taken.contains(&port) && is_free(port) {
            taken.insert(port);
            return Ok(port);
        }
    }
    bail!("no free port on loopback after {TRIES} tries")
}

fn is_free(port: u16) -> bool {
    let v4 = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port);
    let v6 = SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), port);
    // A machine without IPv6 says AddrNotAvailable or Unsupported: that port is as free as it can be.
    let refused = |error: &std::io::Error| error.kind() == std::io::ErrorKind::AddrInUse;
    TcpListener::bind(v4).is_ok()
        && UdpSocket::bind(v4).is_ok()
        && TcpListener::bind(v6).err().is_none_or(|error| !refused(&error))
}

/// Whether a program can be found by its name, also in the system administrator's directories.
#[must_use]
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(usual).map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// The root of the repository.
#[must_use]
pub fn repository() -> &'static Path {
    // This crate lies one level below the root.
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or_else(|| Path::new("."))
}

static DIRECTORY: OnceLock<Result<PathBuf, String>> = OnceLock::new();

/// Makes [`binary`] take finished programs from `dir`. Has no effect once a program was asked for.
pub fn use_binaries(dir: &Path) {
    drop(DIRECTORY.set(Ok(dir.to_owned())));
}

/// The Python interpreter that has the client libraries of `tests/requirements.txt`, once `cargo xtask setup` has
/// made it.
#[must_use]
pub fn python() -> Option<PathBuf> {
    let python = repository().join("target/python/bin/python3");
    python.is_file().then_some(python)
}

/// One of our own programs, built if need be.
///
/// `PORTCULLIS_BIN_DIR` names a directory with finished programs; otherwise cargo is asked once per process to
/// build them in the profile of the running program, which costs little when they are up to date.
///
/// # Errors
/// When cargo fails or the program is not there afterwards.
pub fn binary(name: &str) -> Result<PathBuf> {
    let dir = match std::env::var_os("PORTCULLIS_BIN_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => DIRECTORY
            .get_or_init(|| build().map_err(|error| format!("{error:#}")))
            .clone()
            .map_err(anyhow::Error::msg)?,
    };
    let program = dir.join(name);
    if !program.is_file() {
        bail!("{} is missing: run `cargo build -p portcullis`, or set PORTCULLIS_BIN_DIR", program.display());
    }
    Ok(program)
}

fn build() -> Result<PathBuf> {
    let exe = std::env::current_exe().context("find the running program")?;
    let mut dir = exe.parent().context("the running program lies in no directory")?.to_owned();
    if dir.ends_with("deps") {
        dir.pop();
    }
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(repository()).args(["build", "--quiet", "-p", "portcullis", "--bins"]);
    if dir.ends_with("release") {
        cargo.arg("--release");
    }
    if let Some(target) = dir.parent() {
        cargo.arg("--target-dir").arg(target);
    }
    run(&mut cargo, Duration::from_secs(1_800))?.ok()?;
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_child_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let child = Child::spawn("cat", Command::new("sleep").arg("600"), dir.path()).unwrap();
        let pid = child.group();
        drop(child);
        assert_eq!(kill(pid, None), Err(Errno::ESRCH));
    }

    #[test]
    fn the_log_of_a_child_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        let mut child =
            Child::spawn("sh", command.args(["-c", "echo one; echo two >&2"]), dir.path()).unwrap();
        assert_eq!(child.wait_for_log("tw", wait::PATIENCE).unwrap(), "two");
        assert!(child.wait_for_log("three", wait::PATIENCE).unwrap_err().to_string().contains("two"));
    }

    #[test]
    fn a_listener_of_a_child_is_seen_without_connecting() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(listens(std::process::id(), port));
        drop(listener);
        assert!(!listens(std::process::id(), port));
    }

    #[test]
    fn output_of_a_finished_program_is_kept() {
        let output = run_with_input(&mut Command::new("cat"), b"hello", wait::PATIENCE).unwrap();
        assert_eq!((output.success(), output.stdout.as_str()), (true, "hello"));
    }

    #[test]
    fn tickets_are_left_out_of_described_commands() {
        assert_eq!(describe(Command::new("x").arg(";40;STA1;AB")), "x <ticket>");
    }

    #[test]
    fn free_ports_differ() {
        assert_ne!(free_port().unwrap(), free_port().unwrap());
    }
}
