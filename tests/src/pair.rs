//! Two appliances on one network that share an address, with real keepalived beside the daemons.
//!
//! ```text
//!   lan 192.0.2.10 (bridge): clients, a ticket authority, servers
//!    ├── first  192.0.2.1, 2001:db8::1   priority 150
//!    └── second 192.0.2.2, 2001:db8::2   priority 100      the shared ones: 192.0.2.100, 2001:db8::100
//! ```
//! keepalived is started as the appliance's unit says, with the paths of the test.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::gateway::{Gateway, Setup};
use crate::netns::{self, End, Namespace};
use crate::process::{self, Child};
use crate::wait::{self, PATIENCE};

const UNIT: &str = "appliance-image/overlay/usr/lib/systemd/system/portcullis-keepalived.service";
const DIRECTORY: &str = "/run/portcullis-ha";
/// What both appliances listen on for clients.
pub const SHARED: [&str; 2] = ["192.0.2.100:8443", "[2001:db8::100]:8443"];

/// The network between.
#[derive(Debug)]
pub struct Lan {
    pub namespace: Namespace,
}

/// One of the two.
#[derive(Debug)]
pub struct Appliance {
    pub gateway: Gateway,
    // The order is that of the end: keepalived gives its addresses back before its network is gone.
    keepalived: Option<Child>,
    pub namespace: Namespace,
    number: u8,
}

/// Whether there can be two appliances here.
///
/// # Errors
/// Why not.
pub fn available() -> Result<(), String> {
    netns::available()?;
    let missing = "the program `keepalived` is missing (Debian package keepalived)";
    process::find_program("keepalived").map(drop).ok_or_else(|| missing.to_owned())
}

impl Lan {
    /// A bridge with an address of its own.
    ///
    /// # Errors
    /// What `ip` said.
    pub fn new() -> Result<Self> {
        let namespace = Namespace::new("lan")?;
        namespace.ip(&["link", "add", "br0", "type", "bridge"])?;
        for address in ["192.0.2.10/24", "192.0.2.11/24", "2001:db8::10/64"] {
            let flags: &[&str] = if address.contains(':') { &["nodad"] } else { &[] };
            namespace.ip(&[&["addr", "add", address, "dev", "br0"], flags].concat())?;
        }
        namespace.ip(&["link", "set", "br0", "up"])?;
        Ok(Self { namespace })
    }

    fn plug_in(&self, number: u8) -> Result<Namespace> {
        let namespace = Namespace::new(&format!("node{number}"))?;
        let port = format!("port{number}");
        let addresses = [format!("192.0.2.{number}/24"), format!("2001:db8::{number}/64")];
        netns::join(
            End { namespace: &self.namespace, interface: &port, addresses: &[] },
            End { namespace: &namespace, interface: "eth0", addresses: &addresses },
        )?;
        self.namespace.ip(&["link", "set", &port, "master", "br0"])?;
        Ok(namespace)
    }
}

/// The section of one appliance.
fn section(number: u8, directory: &Path) -> String {
    let (priority, peer) = if number == 1 { (150, 2) } else { (100, 1) };
    format!(
        "[high_availability]\ninterface = \"eth0\"\nrouter_id = 51\nadvertise = \"200ms\"\ndirectory = \"{}\"\n\
         [[high_availability.virtual_address]]\naddress = \"192.0.2.100/24\"\n\
         [[high_availability.virtual_address]]\naddress = \"2001:db8::100/64\"\n\
         [high_availability.node]\npriority = {priority}\naddress = \"192.0.2.{number}\"\npeer = \"192.0.2.{peer}\"\n\
         keep = [\"high_availability.directory\"]\n",
        directory.display()
    )
}

impl Appliance {
    /// Starts the first or the second one: a daemon with these further settings, and keepalived.
    ///
    /// # Errors
    /// When something cannot be started.
    pub fn start(lan: &Lan, number: u8, mut setup: Setup) -> Result<Self> {
        let directory = setup.dir().join("ha");
        setup.merge(&section(number, &directory))?;
        let namespace = lan.plug_in(number)?;
        let gateway = daemon(&namespace, setup)?;
        let mut appliance = Self { gateway, keepalived: None, namespace, number };
        appliance.start_keepalived()?;
        Ok(appliance)
    }

    /// As the unit does.
    fn start_keepalived(&mut self) -> Result<()> {
        let unit = fs::read_to_string(process::repository().join(UNIT)).context("the unit of keepalived")?;
        let line = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).context("ExecStart")?;
        let directory = self.gateway.dir().join("ha");
        let line = line.replace(DIRECTORY, &directory.display().to_string());
        let mut words = line.split(' ');
        words.next().context("the program of ExecStart")?;
        let mut command = self.namespace.command("keepalived");
        let child = Child::spawn("keepalived", command.args(words), self.gateway.dir())?;
        self.keepalived = Some(child);
        Ok(())
    }

    /// Starts the daemon again that has ended, with what it had.
    ///
    /// # Errors
    /// As [`Appliance::start`].
    pub fn restart(self) -> Result<Self> {
        let Self { gateway, keepalived, namespace, number } = self;
        let gateway = daemon(&namespace, gateway.left()?)?;
        Ok(Self { gateway, keepalived, namespace, number })
    }

    /// Ends the daemon without warning. What systemd does then is done: `ExecStopPost` of the unit.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub fn kill(&mut self) -> Result<()> {
        self.gateway.signal(nix::sys::signal::Signal::SIGKILL)?;
        self.gateway.child().wait(PATIENCE)?;
        fs::remove_file(self.gateway.dir().join("ha/serving")).context("what ExecStopPost removes")
    }

    /// `state` of `high-availability`.
    #[must_use]
    pub fn state(&self) -> String {
        let answer = self.gateway.control().ask(&json!({"v": 1, "cmd": "high-availability"}));
        let state = answer.ok().and_then(|answer| Some(answer.get("state")?.as_str()?.to_owned()));
        state.unwrap_or_else(|| "no answer".to_owned())
    }

    /// Waits until keepalived has told the daemon of that state.
    ///
    /// # Errors
    /// When it does not come: with what keepalived has said.
    pub fn wait_for(&self, state: &str) -> Result<()> {
        let what = format!("appliance {} to be {state}", self.number);
        wait::until(PATIENCE, &what, || self.state() == state).map_err(|error| {
            let log = self.keepalived.as_ref().map(Child::log_tail).unwrap_or_default();
            error.context(format!(
                "it is {}; keepalived said:\n{log}\nthe daemon:\n{}",
                self.state(),
                self.gateway.log()
            ))
        })
    }

    /// Whether this machine has the address.
    ///
    /// # Errors
    /// What `ip` said.
    pub fn has(&self, address: &str) -> Result<bool> {
        let mut command = Command::new("ip");
        command.args(["-n", self.namespace.name(), "-o", "addr", "show", "to", address]);
        Ok(!process::run(&mut command, PATIENCE)?.ok()?.stdout.is_empty())
    }
}

fn daemon(namespace: &Namespace, setup: Setup) -> Result<Gateway> {
    let config = setup.write()?;
    let program = process::binary("portcullisd")?;
    let mut command = namespace.command(program.to_str().context("path of portcullisd")?);
    command.arg("--config").arg(&config).current_dir(setup.dir()).env("RUST_BACKTRACE", "1");
    setup.start_command(&mut command)
}

/// A shared address as a socket's.
#[must_use]
pub fn shared(index: usize) -> SocketAddr {
    let text = SHARED.get(index).copied().unwrap_or("192.0.2.100:8443");
    text.parse().unwrap_or_else(|_| SocketAddr::new(IpAddr::from([192, 0, 2, 100]), 8443))
}
