//! Network namespaces of our own, with Ethernet pairs between them, driven by the `ip` command.
//!
//! Names begin with `pc-PID-`; a namespace goes, with everything in it, when its guard is dropped.

use std::fs::{self, File};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use nix::sched::{CloneFlags, setns};

use crate::{cards, process};

const LIMIT: Duration = Duration::from_secs(20);

/// A network namespace that is deleted with its guard.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

/// One end of a pair: the interface's name in its namespace and its addresses with prefix lengths.
#[derive(Debug, Clone, Copy)]
pub struct End<'a> {
    pub namespace: &'a Namespace,
    pub interface: &'a str,
    pub addresses: &'a [String],
}

impl Namespace {
    /// Makes a namespace with its loopback interface up.
    ///
    /// # Errors
    /// What `ip` said.
    pub fn new(role: &str) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("pc-{}-{count}-{role}", std::process::id());
        ip(&["netns", "add", &name])?;
        let namespace = Self { name };
        namespace.ip(&["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// One that another process has made. It goes when this is dropped, so a static holds it.
    pub(crate) fn named(name: String) -> Self {
        Self { name }
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `ip` on this namespace.
    ///
    /// # Errors
    /// What `ip` said.
    pub fn ip(&self, arguments: &[&str]) -> Result<()> {
        let mut all = vec!["-n", self.name.as_str()];
        all.extend_from_slice(arguments);
        ip(&all)
    }

    /// A command that runs inside. `ip netns exec` replaces itself, so the child's process id is the program's.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// Runs `work` on a thread of its own inside the namespace. Sockets made there stay there.
    ///
    /// # Errors
    /// When the namespace cannot be entered, or the error of `work`.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let path = format!("/run/netns/{}", self.name);
        let file = File::open(&path).with_context(|| format!("open {path}"))?;
        thread::scope(|scope| {
            let inside = scope.spawn(move || {
                setns(&file, CloneFlags::CLONE_NEWNET).context("enter the network namespace")?;
                work()
            });
            inside.join().map_err(|_| anyhow!("the thread inside {} panicked", self.name))?
        })
    }

    /// Gives the programs inside a hosts file of their own.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn hosts(&self, names: &[(IpAddr, &str)]) -> Result<()> {
        let dir = etc(&self.name);
        fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        let lines = names.iter().map(|(address, name)| format!("{address} {name}\n"));
        fs::write(dir.join("hosts"), lines.collect::<String>()).context("write the hosts file")
    }

    /// Sends what has no other route through `gateway`.
    ///
    /// # Errors
    /// What `ip` said.
    pub fn route(&self, destination: &str, gateway: &str) -> Result<()> {
        let family = if gateway.contains(':') { "-6" } else { "-4" };
        ip(&["-n", &self.name, family, "route", "add", destination, "via", gateway])
    }
}

/// Where `ip netns exec` finds files that take the place of those in /etc.
fn etc(name: &str) -> PathBuf {
    Path::new("/etc/netns").join(name)
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Most namespaces have no such files. The directory above goes with the last of them; it is not removed
        // while it holds anything.
        if fs::remove_dir_all(etc(&self.name)).is_ok() {
            drop(fs::remove_dir(etc("")));
        }
        cards::give_back(&self.name);
        // Not by `ip()`: cleaning up goes on after an interruption. A namespace that does not go away cannot be
        // helped from here; its name shows whose it was.
        drop(Command::new("ip").args(["netns", "del", &self.name]).output());
    }
}

/// Joins two namespaces by an Ethernet pair, or by two cards where there are some to spare, with addresses that are usable at once.
///
/// # Errors
/// What `ip` said.
pub fn join(left: End<'_>, right: End<'_>) -> Result<()> {
    let (l, r) = (left.namespace.name(), right.namespace.name());
    if let Some(cards) = cards::pair()? {
        ip(&["link", "set", "dev", &cards.left, "netns", l, "name", left.interface])?;
        ip(&["link", "set", "dev", &cards.right, "netns", r, "name", right.interface])?;
    } else {
        let pair = ["link", "add", "name", left.interface, "netns", l, "type", "veth"];
        ip(&[&pair[..], &["peer", "name", right.interface, "netns", r]].concat())?;
    }
    for end in [left, right] {
        for address in end.addresses {
            // Without duplicate address detection an IPv6 address is usable immediately.
            let flags: &[&str] = if address.contains(':') { &["nodad"] } else { &[] };
            end.namespace.ip(&[&["addr", "add", address, "dev", end.interface], flags].concat())?;
        }
    }
    for end in [left, right] {
        end.namespace.ip(&["link", "set", "dev", end.interface, "up"])?;
    }
    Ok(())
}

/// Takes away what [`join`] has put between two namespaces.
///
/// # Errors
/// What `ip` said.
pub fn part(left: (&Namespace, &str), right: (&Namespace, &str)) -> Result<()> {
    if cards::replug(&left.0.name, left.1)? {
        return cards::replug(&right.0.name, right.1).map(drop);
    }
    // The other end of a pair goes with the first.
    left.0.ip(&["link", "del", left.1])
}

/// Whether namespaces and pairs can be made here.
///
/// # Errors
/// Why not, in words for a person.
pub fn available() -> Result<(), String> {
    static ANSWER: OnceLock<Result<(), String>> = OnceLock::new();
    ANSWER.get_or_init(|| probe().map_err(|error| format!("{error:#}"))).clone()
}

fn probe() -> Result<()> {
    process::find_program("ip").context("the program `ip` is missing (Debian package iproute2)")?;
    let (left, right) = (Namespace::new("probe")?, Namespace::new("probe")?);
    let end = |namespace| End { namespace, interface: "probe", addresses: &[] };
    join(end(&left), end(&right))
}

fn ip(arguments: &[&str]) -> Result<()> {
    process::run(Command::new("ip").args(arguments), LIMIT)?.ok().map(drop)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn two_joined_namespaces_reach_each_other_and_leave_nothing() {
        if let Err(reason) = available() {
            return crate::skip::skip(&format!("no network namespaces: {reason}"));
        }
        let (left, right) = (Namespace::new("left").unwrap(), Namespace::new("right").unwrap());
        let addresses = |host: u8| [format!("192.0.2.{host}/24"), format!("2001:db8::{host}/64")];
        join(
            End { namespace: &left, interface: "a", addresses: &addresses(1) },
            End { namespace: &right, interface: "b", addresses: &addresses(2) },
        )
        .unwrap();
        let listener = right.enter(|| Ok(TcpListener::bind("[2001:db8::2]:7000")?)).unwrap();
        left.enter(|| Ok(TcpStream::connect("[2001:db8::2]:7000")?)).unwrap();
        listener.accept().unwrap();
        left.hosts(&[("192.0.2.2".parse().unwrap(), "right.example")]).unwrap();
        let found = process::run(left.command("getent").args(["hosts", "right.example"]), LIMIT).unwrap();
        assert!(found.stdout.starts_with("192.0.2.2"), "{found:?}");
        let path = format!("/run/netns/{}", left.name());
        drop((left, right));
        assert!(!Path::new(&path).exists());
    }
}
