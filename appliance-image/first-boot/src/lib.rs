//! The first boot of the appliance: what it needs to know, and where it learns that.
//!
//! `portcullis-first-boot configure` (`appliance-configuration.service`, before the network and the gateway) makes the
//! gateway's configuration of what the machine was given: a credential, a NoCloud volume ([`seed`]), what a factory reset
//! has kept, or the image's own. `portcullis-first-boot ask` (`appliance-wizard.service`) asks a person at the console when
//! nobody may log in yet ([`wizard`]). `portcullis-first-boot login` lets people in there by password, from then on
//! ([`login`]). All run as root, the first two once; what they write is checked by `portcullis` before it counts.

pub mod cloud;
pub mod configure;
pub mod login;
pub mod network;
pub mod seed;
pub mod wizard;
mod yaml;

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use portcullis_installer::terminals::Terminals;

const HELP: &str = "usage: portcullis-first-boot configure | ask TERMINAL... | login TERMINAL\n\
    What the appliance runs at its first boot: `configure` makes the gateway's configuration of what the machine was\n\
    given, `ask` asks at these terminals who may log in, and how the machine is reached. `login` lets one in at a\n\
    terminal by password, whenever the machine runs.\n";

/// There is no terminal where a login was to be: the unit is not started again.
const NO_TERMINAL: u8 = 66;

/// Where everything is.
#[derive(Debug, Clone)]
pub struct Places {
    /// Stands before every path but those of `/dev` and `/sys`.
    pub root: PathBuf,
    /// The file system `sysfs`.
    pub sys: PathBuf,
    /// Device nodes.
    pub dev: PathBuf,
    /// What the unit was given.
    pub credentials: Option<PathBuf>,
    /// The gateway's command.
    pub portcullis: PathBuf,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            root: "/".into(),
            sys: "/sys".into(),
            dev: "/dev".into(),
            credentials: std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from),
            portcullis: "/usr/local/bin/portcullis".into(),
        }
    }
}

impl Places {
    pub(crate) fn at(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// Who may log in as an administrator.
    #[must_use]
    pub fn keys(&self) -> PathBuf {
        self.at("/var/lib/appliance/keys/admin")
    }

    #[must_use]
    pub fn configuration(&self) -> PathBuf {
        self.at("/etc/portcullis/portcullis.toml")
    }

    /// The configuration of a machine that was told nothing.
    pub(crate) fn configuration_default(&self) -> PathBuf {
        self.at("/usr/lib/credstore/appliance.configuration")
    }

    /// Whether somebody may log in.
    #[must_use]
    pub fn has_keys(&self) -> bool {
        fs::metadata(self.keys()).is_ok_and(|meta| meta.len() > 0)
    }

    /// Whether a user has a password for the console.
    #[must_use]
    pub fn has_password(&self, user: &str) -> bool {
        self.at("/var/lib/appliance/passwords").join(user).is_file()
    }

    pub(crate) fn has_any_password(&self) -> bool {
        ["admin", "operator", "viewer"].into_iter().any(|user| self.has_password(user))
    }

    /// Whether an administrator can get in, by SSH or at the console.
    #[must_use]
    pub fn somebody_may_log_in(&self) -> bool {
        self.has_keys() || self.has_password("admin")
    }
}

/// Runs with the arguments of the process.
#[must_use]
pub fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let places = Places::default();
    let done = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["configure"] => configure::run(&places, &mut tell),
        ["ask", terminals @ ..] if !terminals.is_empty() => {
            wizard::run(&places, &mut Terminals::open(terminals))
        }
        ["login", terminal] if login::is_there(terminal.as_ref()) => {
            login::run(&places, &login::Login::default(), terminal.as_ref())
        }
        ["login", _] => return ExitCode::from(NO_TERMINAL),
        ["--help" | "-h"] => {
            io::stdout().write_all(HELP.as_bytes()).ok();
            return ExitCode::SUCCESS;
        }
        _ => {
            io::stderr().write_all(HELP.as_bytes()).ok();
            return ExitCode::from(64);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Longest line that is told.
const LINE_MAX_CHARS: usize = 1000;

/// Says a line to whoever looks at the start: the journal and the console. What a volume has written into it moves no
/// cursor there.
fn tell(line: &str) {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    let line: String = line.chars().take(LINE_MAX_CHARS).map(plain).collect();
    // The outcome counts; who cannot be told is no reason to stop.
    writeln!(io::stderr(), "{line}").ok();
}

/// A file that is whole and on the disk, whenever the power goes.
fn put(path: &Path, text: &str, mode: u32, owner: Option<(u32, u32)>) -> io::Result<()> {
    use std::os::unix::fs::{PermissionsExt as _, chown};
    let directory = path.parent().unwrap_or_else(|| Path::new("/"));
    fs::create_dir_all(directory)?;
    let mut staged = path.as_os_str().to_owned();
    staged.push(".new");
    let mut file = File::create(&staged)?;
    file.write_all(text.as_bytes())?;
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    if let Some((user, group)) = owner {
        chown(&staged, Some(user), Some(group))?;
    }
    file.sync_all()?;
    fs::rename(&staged, path)?;
    File::open(directory)?.sync_all()
}

/// Whether the gateway takes a key or a password, asked before anything is changed.
fn taken(places: &Places, how: &[&str], what: &str) -> anyhow::Result<()> {
    let input = zeroize::Zeroizing::new(format!("{what}\n"));
    match portcullis(places, &[&["access-job"], how].concat(), &input) {
        Ok(_) => Ok(()),
        Err((_, why)) => anyhow::bail!("{}", why.trim_start_matches("portcullis: ").to_owned()),
    }
}

/// Runs the gateway's command; what it printed, or its exit code and what it complained of.
fn portcullis(places: &Places, arguments: &[&str], input: &str) -> Result<String, (Option<i32>, String)> {
    let failed = |error: io::Error| (None, format!("{} cannot be run: {error}", places.portcullis.display()));
    let mut child = Command::new(&places.portcullis)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut pipe) = child.stdin.take() {
        // Who does not read to the end says why.
        pipe.write_all(input.as_bytes()).ok();
    }
    let output = child.wait_with_output().map_err(failed)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() {
        return Ok(text(&output.stdout));
    }
    let complaint = [text(&output.stdout), text(&output.stderr)].join("\n");
    Err((output.status.code(), complaint.trim().to_owned()))
}
