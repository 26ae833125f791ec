//! Logins at the machine's own console: by password, into the operator's command line and nothing else.
//!
//! One of these runs for each console (`appliance-console@.service`), behind the questions of the first boot: as long as
//! these wait for an answer nobody logs in. Passwords are `portcullis access-job`'s to check. There is no password that
//! nobody has set; until then the console says how that is done. Who is let in has the same program as over SSH, as the
//! same user, and no way out of it but to log out. What is typed is never repeated, on the screen or in the journal.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail};
use nix::fcntl::OFlag;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use nix::sys::signal::{Signal, killpg};
use nix::sys::termios::{
    ControlFlags, FlushArg, InputFlags, LocalFlags, OutputFlags, SetArg, tcflush, tcgetattr, tcsetattr,
};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use zeroize::Zeroizing;

use crate::wizard::{HOST_KEY, fingerprint};
use crate::{Places, portcullis, tell};

/// One for each role.
const USERS: [&str; 3] = ["admin", "operator", "viewer"];
/// Longer lines are no names and no passwords.
const LINE_MAX_BYTES: usize = 256;
/// The longest pause after wrong passwords: it keeps nobody out for ever.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// How often it is looked whether the machine has another address or password.
const LOOK: Duration = Duration::from_secs(5);
const PASSWORD_WAIT: Duration = Duration::from_secs(60);
/// After the end of input, which a terminal can send as fast as it likes.
const BREATH: Duration = Duration::from_millis(500);
const ENDS_WITHIN: Duration = Duration::from_secs(5);
/// Clears the screen and what was on it before: the next one there is somebody else.
const CLEAR: &str = "\x1b[0m\x1b[3J\x1b[H\x1b[2J";

/// Who logs in, and what that starts.
#[derive(Clone, Debug)]
pub struct Login {
    /// The operator's command line.
    pub shell: PathBuf,
    /// User and group of a name.
    pub ids: fn(&str) -> Option<(u32, u32)>,
    /// Who types nothing for that long is logged out.
    pub idle: Duration,
    /// After the first wrong password; twice that after the next.
    pub pause: Duration,
}

impl Default for Login {
    fn default() -> Self {
        Self {
            shell: "/usr/local/bin/portcullis-shell".into(),
            ids: |name| {
                let user = nix::unistd::User::from_name(name).ok()??;
                Some((user.uid.as_raw(), user.gid.as_raw()))
            },
            idle: Duration::from_mins(15),
            pause: Duration::from_secs(1),
        }
    }
}

/// Whether that is a terminal that somebody may sit at: devices are there for lines that the machine does not have.
#[must_use]
pub fn is_there(device: &Path) -> bool {
    Console::open(device).is_ok()
}

/// Lets one person in, and comes back when they have left.
///
/// # Errors
/// When the terminal is gone.
pub fn run(places: &Places, login: &Login, device: &Path) -> Result<()> {
    let mut console = Console::open(device)?;
    while !places.somebody_may_log_in() {
        thread::sleep(LOOK);
    }
    let mut wrong = 0;
    loop {
        let Some(user) = console.ask_for_user(places, wrong)? else { continue };
        // A name that there is not may be a password that was typed too early, and is not repeated.
        let known = USERS.into_iter().find(|known| *known == user.as_str());
        let Some(password) = console.ask_for_password(known)? else { continue };
        match known.filter(|known| is_right(places, known, &password)) {
            Some(user) => {
                drop(password);
                tell(&format!("{user} has logged in at {}", console.name));
                let ended = console.serve(login, user);
                let why = ended.as_ref().map_or_else(|error| format!("{error:#}"), |why| (*why).to_owned());
                tell(&format!("{user} is logged out at {}: {why}", console.name));
                return ended.map(drop);
            }
            None => {
                wrong += 1;
                let whose = known.unwrap_or("a user that there is not");
                tell(&format!("wrong password for {whose} at {}, {wrong} in a row", console.name));
                console.say("\r\nThat is not right.\r\n")?;
                thread::sleep(pause(login.pause, wrong));
                tcflush(&console.file, FlushArg::TCIFLUSH).context("the terminal is gone")?;
            }
        }
    }
}

fn pause(first: Duration, wrong: u32) -> Duration {
    let doubled = 1_u32.checked_shl(wrong.saturating_sub(1)).unwrap_or(u32::MAX);
    first.saturating_mul(doubled).min(PAUSE_MAX)
}

fn is_right(places: &Places, user: &str, password: &str) -> bool {
    if password.is_empty() || !places.has_password(user) {
        return false;
    }
    let input = Zeroizing::new(format!("{password}\n"));
    match portcullis(places, &["access-job", "--check", user], &input) {
        Ok(_) => true,
        Err((Some(1), _)) => false,
        Err((_, why)) => {
            tell(&format!("the password cannot be checked: {why}"));
            false
        }
    }
}

/// What was typed.
enum Typed {
    Line(Zeroizing<String>),
    /// Too long, or no text.
    Garbage,
    Nothing,
}

/// How a terminal takes what is typed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Shown,
    Unseen,
    Session,
}

#[derive(Debug)]
struct Console {
    file: File,
    name: String,
    /// Its fingerprint, of the machine's own key for SSH.
    host_key: Option<String>,
}

impl Console {
    fn open(device: &Path) -> Result<Self> {
        let told = || format!("no terminal at {}", device.display());
        // It becomes the terminal of whoever logs in, not of this.
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(OFlag::O_NOCTTY.bits())
            .open(device)
            .with_context(told)?;
        let name = device.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let console = Self { file, name, host_key: None };
        console.prepare(Mode::Shown).with_context(told)?;
        Ok(console)
    }

    /// As a line at a time is typed, whatever has been there before.
    fn prepare(&self, mode: Mode) -> Result<()> {
        let mut terminal = tcgetattr(&self.file)?;
        terminal.input_flags = InputFlags::ICRNL | InputFlags::IXON | InputFlags::IUTF8;
        terminal.output_flags = OutputFlags::OPOST | OutputFlags::ONLCR;
        terminal.control_flags |= ControlFlags::CLOCAL | ControlFlags::CREAD;
        terminal.local_flags = LocalFlags::ICANON | LocalFlags::ECHOE | LocalFlags::ECHOK;
        terminal.local_flags.set(LocalFlags::ECHO, mode != Mode::Unseen);
        // Before somebody has logged in no key is a signal.
        terminal.local_flags.set(LocalFlags::ISIG | LocalFlags::IEXTEN, mode == Mode::Session);
        tcsetattr(&self.file, SetArg::TCSAFLUSH, &terminal)?;
        Ok(())
    }

    fn say(&mut self, text: &str) -> Result<()> {
        self.file.write_all(text.as_bytes()).and_then(|()| self.file.flush()).context("the terminal is gone")
    }

    /// What stands above the login.
    fn banner(&self, places: &Places, wrong: u32) -> String {
        let read = |path: &str| fs::read_to_string(places.at(path)).unwrap_or_default();
        let host = read("/proc/sys/kernel/hostname");
        let release = read("/etc/os-release");
        let version =
            release.lines().find_map(|line| line.strip_prefix("IMAGE_VERSION=")).unwrap_or_default();
        let mut text =
            format!("\r\n{} - Portcullis {}\r\n", plain(host.trim()), plain(version.trim_matches('"')));
        let addresses = addresses();
        let listed = if addresses.is_empty() { "none yet".to_owned() } else { addresses.join(" ") };
        text += &format!("  addresses     {listed}\r\n");
        if let Some(print) = &self.host_key {
            text += &format!("  SSH host key  {print}\r\n");
        }
        if wrong > 0 {
            text += &format!("  wrong tries   {wrong} since the last login\r\n");
        }
        text + if places.has_any_password() {
            "\r\nlogin: "
        } else {
            "\r\nNo password is set: nobody can log in here, only by SSH with a key. An administrator sets one there:\r\n  \
             access password set admin\r\n"
        }
    }

    fn ask_for_user(&mut self, places: &Places, wrong: u32) -> Result<Option<Zeroizing<String>>> {
        self.prepare(Mode::Shown)?;
        // A program says it, which is not asked again and again.
        if self.host_key.is_none() {
            self.host_key = fingerprint(&places.at(HOST_KEY));
        }
        let shown = self.banner(places, wrong);
        self.say(&shown)?;
        loop {
            match self.read(LOOK)? {
                Typed::Nothing if self.banner(places, wrong) == shown => {}
                Typed::Line(user) if !user.is_empty() && places.has_any_password() => return Ok(Some(user)),
                // A new address or password, or somebody is there.
                _ => return Ok(None),
            }
        }
    }

    fn ask_for_password(&mut self, known: Option<&str>) -> Result<Option<Zeroizing<String>>> {
        self.prepare(Mode::Unseen)?;
        self.say(&known.map_or_else(|| "Password: ".to_owned(), |user| format!("Password of {user}: ")))?;
        let typed = self.read(PASSWORD_WAIT)?;
        self.prepare(Mode::Shown)?;
        self.say("\r\n")?;
        Ok(match typed {
            Typed::Line(password) => Some(password),
            Typed::Garbage => Some(Zeroizing::default()),
            Typed::Nothing => None,
        })
    }

    /// One line, or nothing when none comes.
    fn read(&mut self, patience: Duration) -> Result<Typed> {
        let ends = Instant::now() + patience;
        let mut line = Zeroizing::new(Vec::with_capacity(2 * LINE_MAX_BYTES));
        let mut bytes = Zeroizing::new([0; LINE_MAX_BYTES]);
        let mut garbage = false;
        loop {
            let left = ends.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Typed::Nothing);
            }
            let left = Timespec::try_from(left).unwrap_or_default();
            let mut waited = [PollFd::new(&self.file, PollFlags::IN)];
            if poll(&mut waited, Some(&left)).is_ok_and(|count| count == 0) {
                return Ok(Typed::Nothing);
            }
            let [waited] = waited;
            if waited.revents().intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL) {
                bail!("the terminal is gone");
            }
            let count = match self.file.read(&mut bytes[..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                count => count.context("the terminal is gone")?,
            };
            let read = bytes.get(..count).unwrap_or_default();
            if line.len() + count > LINE_MAX_BYTES {
                garbage = true;
            } else {
                line.extend_from_slice(read);
            }
            if count == 0 {
                thread::sleep(BREATH);
            }
            if count == 0 || read.last() == Some(&b'\n') {
                break;
            }
        }
        let text = str::from_utf8(&line).ok().filter(|_| !garbage);
        Ok(text.map_or(Typed::Garbage, |text| {
            Typed::Line(Zeroizing::new(text.trim_end_matches('\n').to_owned()))
        }))
    }

    /// Lets somebody in until they leave; why they have.
    fn serve(&mut self, login: &Login, user: &str) -> Result<&'static str> {
        let (uid, gid) = (login.ids)(user).with_context(|| format!("there is no user {user}"))?;
        self.prepare(Mode::Session)?;
        let terminal = || self.file.try_clone().map(Stdio::from);
        let kind =
            if self.name.starts_with("tty") && !self.name.starts_with("ttyS") { "linux" } else { "vt220" };
        let mut shell = Command::new("/usr/bin/setsid");
        shell.args(["--ctty", "--wait"]).arg(&login.shell).env_clear();
        shell.env("PATH", "/usr/local/bin:/usr/bin:/bin").env("LANG", "C.UTF-8").env("TERM", kind);
        shell.env("USER", user).env("LOGNAME", user).env("HOME", "/var/lib/appliance/home");
        shell.env("PORTCULLIS_CONSOLE", &self.name).current_dir("/");
        // As its own user before it begins; other groups than that one are dropped.
        shell.stdin(terminal()?).stdout(terminal()?).stderr(terminal()?).uid(uid).gid(gid);
        let mut child = shell.spawn().context("the command line cannot be started")?;
        let why = self.watch(login, &mut child);
        end(&mut child);
        self.say(CLEAR)?;
        why
    }

    fn watch(&self, login: &Login, child: &mut Child) -> Result<&'static str> {
        let begun = SystemTime::now();
        loop {
            if child.try_wait()?.is_some() {
                return Ok("they have left");
            }
            // When something was read from the terminal last.
            let typed = self.file.metadata()?.accessed()?.max(begun);
            if SystemTime::now().duration_since(typed).is_ok_and(|idle| idle > login.idle) {
                return Ok("nothing was typed for too long");
            }
            thread::sleep(BREATH);
        }
    }
}

/// Ends what is left of a session.
fn end(child: &mut Child) {
    let group = i32::try_from(child.id()).map(Pid::from_raw);
    let begun = Instant::now();
    let mut signal = Signal::SIGHUP;
    while let Ok(None) = child.try_wait() {
        if begun.elapsed() > ENDS_WITHIN {
            signal = Signal::SIGKILL;
        }
        if let Ok(group) = group {
            killpg(group, signal).ok();
        }
        thread::sleep(BREATH);
    }
}

fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(64).collect()
}

/// Those by which others reach the machine.
fn addresses() -> Vec<String> {
    let up = getifaddrs().into_iter().flatten().filter(|one| {
        one.flags.contains(InterfaceFlags::IFF_UP) && !one.flags.contains(InterfaceFlags::IFF_LOOPBACK)
    });
    let address = |one: nix::ifaddrs::InterfaceAddress| {
        let address = one.address?;
        let four = address.as_sockaddr_in().map(|four| four.ip().to_string());
        let six = address.as_sockaddr_in6().map(nix::sys::socket::SockaddrIn6::ip);
        four.or_else(|| six.filter(|six| !six.is_unicast_link_local()).map(|six| six.to_string()))
    };
    let mut all: Vec<String> = up.filter_map(address).collect();
    all.sort();
    all.dedup();
    all.truncate(8);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_grows_and_has_an_end() {
        let second = Duration::from_secs(1);
        let pauses: Vec<u64> =
            [1, 2, 3, 6, 7, 40, u32::MAX].map(|wrong| pause(second, wrong).as_secs()).into();
        assert_eq!(pauses, [1, 2, 4, 32, 60, 60, 60]);
    }
}
