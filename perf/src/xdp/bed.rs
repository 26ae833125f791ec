//! A test bed: a machine outside and the gateway, in namespaces of their own with an Ethernet pair between them.
//!
//! The gateway's end receives by threaded NAPI, and its threads are bound to the contender's CPU: what a packet costs
//! the receiver is then the CPU time of those threads, and nothing of the sender's is in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::net::if_::if_nametoindex;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use portcullis_tests::netns::{self, End, Namespace};
use portcullis_tests::process;
use tempfile::TempDir;

use super::frames::Macs;
use crate::cpu::Cpus;

const LIMIT: Duration = Duration::from_secs(20);
/// The gateway's address; the machine outside is the next one, and the last of the prefix are nobody's.
pub(super) const GATEWAY: [u8; 4] = [203, 0, 113, 1];
pub(super) const OUTSIDE: [u8; 4] = [203, 0, 113, 10];

/// Two namespaces and the pair between them.
#[derive(Debug)]
pub(super) struct Bed {
    pub(super) outside: Namespace,
    pub(super) gateway: Namespace,
    pub(super) wan: String,
    pub(super) edge: String,
    cpus: Cpus,
}

impl Bed {
    pub(super) fn new(role: &str, cpus: Cpus) -> Result<Self> {
        let outside = Namespace::new(&format!("{role}-out"))?;
        let gateway = Namespace::new(&format!("{role}-gw"))?;
        let (wan, edge) = (name("w"), name("e"));
        let at = |ip: [u8; 4]| [format!("{}/24", dotted(ip))];
        netns::join(
            End { namespace: &outside, interface: &wan, addresses: &at(OUTSIDE) },
            End { namespace: &gateway, interface: &edge, addresses: &at(GATEWAY) },
        )?;
        let bed = Self { outside, gateway, wan, edge, cpus };
        thread_napi(&bed.gateway, &bed.edge)?;
        thread_napi(&bed.outside, &bed.wan)?;
        bed.outside.ip(&["route", "add", "default", "dev", &bed.wan])?;
        bed.gateway.ip(&["route", "add", "default", "via", &dotted(OUTSIDE)])?;
        introduce((&bed.gateway, &bed.edge, GATEWAY), (&bed.outside, &bed.wan, OUTSIDE))?;
        Ok(bed)
    }

    pub(super) fn macs(&self) -> Result<Macs> {
        Ok(Macs { to: mac(&self.gateway, &self.edge)?, from: mac(&self.outside, &self.wan)? })
    }

    pub(super) fn wan_index(&self) -> Result<u32> {
        self.outside.enter(|| Ok(if_nametoindex(self.wan.as_str())?))
    }

    /// Binds the receiver's threads to the contender's CPU and returns them. To be called when nothing is attached
    /// or detached any more, because that makes new threads.
    pub(super) fn receiver(&self) -> Result<Threads> {
        Threads::of(&self.wan, self.cpus.load)?;
        Threads::of(&self.edge, self.cpus.contender)
    }

    /// Loads rules of nftables at the gateway.
    pub(super) fn nft(&self, rules: &str, dir: &Path) -> Result<()> {
        let file = dir.join(format!("{}.nft", self.edge));
        fs::write(&file, rules).context("write rules for nftables")?;
        run(self.gateway.command("nft").arg("-f").arg(&file))
    }

    /// Sets a kernel parameter of the gateway.
    pub(super) fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        set(&self.gateway, key, value)
    }
}

/// Sets a kernel parameter.
pub(super) fn set(namespace: &Namespace, key: &str, value: &str) -> Result<()> {
    let file = format!("/proc/sys/{}", key.replace('.', "/"));
    namespace.enter(|| fs::write(&file, value).with_context(|| format!("set {key}")))
}

pub(super) fn run(command: &mut Command) -> Result<()> {
    process::run(command, LIMIT)?.ok().map(drop)
}

/// The name of an interface, which is in the names of its threads as well: so no other on this machine has it.
pub(super) fn name(prefix: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{prefix}{}x{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

type Neighbour<'a> = (&'a Namespace, &'a str, [u8; 4]);

/// Lets both ends of a pair know each other for good, so that nothing has to be asked under a flood.
pub(super) fn introduce(left: Neighbour<'_>, right: Neighbour<'_>) -> Result<()> {
    for ((namespace, interface, _), (there, other, ip)) in [(left, right), (right, left)] {
        let mac = mac(there, other)?.map(|byte| format!("{byte:02x}")).join(":");
        let ip = dotted(ip);
        namespace.ip(&["neigh", "replace", &ip, "lladdr", &mac, "dev", interface, "nud", "permanent"])?;
    }
    Ok(())
}

pub(super) fn dotted(ip: [u8; 4]) -> String {
    std::net::Ipv4Addr::from(ip).to_string()
}

/// Lets an interface receive in threads of its own. A pair has NAPI, and takes redirected frames, when it has GRO or
/// a program. With TSO, what a socket of the peer sends would be received by the sender, in its time, as long as no
/// program is attached: without it all packets take the same way, whatever is attached.
pub(super) fn thread_napi(namespace: &Namespace, interface: &str) -> Result<()> {
    run(namespace.command("ethtool").args(["-K", interface, "gro", "on", "tso", "off"]))?;
    let script = format!("echo 1 > /sys/class/net/{interface}/threaded");
    run(namespace.command("sh").args(["-c", &script]))
}

/// Lets an interface write checksums itself, as they are on a wire. A socket on a pair otherwise leaves them to the
/// hardware, which there is none of; a packet that XDP redirects has lost that promise and would arrive as damaged.
pub(super) fn write_checksums(namespace: &Namespace, interface: &str) -> Result<()> {
    run(namespace.command("ethtool").args(["-K", interface, "tx", "off"]))
}

pub(super) fn mac(namespace: &Namespace, interface: &str) -> Result<[u8; 6]> {
    let found = namespace.enter(|| {
        let mut all = nix::ifaddrs::getifaddrs().context("list the interfaces")?;
        Ok(all.find_map(|one| {
            if one.interface_name != interface {
                return None;
            }
            one.address?.as_link_addr()?.addr()
        }))
    })?;
    found.with_context(|| format!("{interface} has no Ethernet address"))
}

/// Packets of an interface of the calling thread's namespace: received, sent.
pub(super) fn packets(interface: &str) -> Result<[u64; 2]> {
    let text = fs::read_to_string("/proc/thread-self/net/dev").context("read the counters of interfaces")?;
    parse_packets(&text, interface).with_context(|| format!("no counters of {interface}"))
}

fn parse_packets(text: &str, interface: &str) -> Option<[u64; 2]> {
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix(interface)?.strip_prefix(':'))?;
    let fields: Vec<u64> = line.split_whitespace().filter_map(|field| field.parse().ok()).collect();
    Some([*fields.get(1)?, *fields.get(9)?])
}

/// The threads that receive for one interface.
#[derive(Clone, Debug)]
pub(super) struct Threads(Vec<i32>);

impl Threads {
    /// Finds them by the interface's name and binds them to `cpu`.
    pub(super) fn of(interface: &str, cpu: usize) -> Result<Self> {
        let prefix = format!("napi/{interface}-");
        let threads: Vec<i32> = fs::read_dir("/proc")?
            .flatten()
            .filter(|entry| {
                let comm = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
                comm.starts_with(&prefix)
            })
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect();
        ensure!(!threads.is_empty(), "{interface} has no thread that receives for it: is its NAPI threaded?");
        let mut set = CpuSet::new();
        set.set(cpu)?;
        for thread in &threads {
            sched_setaffinity(Pid::from_raw(*thread), &set).context("bind a receiving thread")?;
        }
        Ok(Self(threads))
    }

    /// Lets nothing else on their CPU delay them, so that what else runs on the machine makes no ring overflow.
    pub(super) fn hurry(&self) -> Result<()> {
        let set =
            |thread: &i32| run(Command::new("chrt").args(["--fifo", "--pid", "2", &thread.to_string()]));
        self.0.iter().try_for_each(set)
    }

    /// CPU time so far. Exact while they sleep, else late by one tick at most.
    pub(super) fn time(&self) -> Result<Duration> {
        self.0.iter().try_fold(Duration::ZERO, |sum, thread| {
            let text = fs::read_to_string(format!("/proc/{thread}/schedstat"))
                .context("a receiving thread is gone: something was attached or detached meanwhile")?;
            let nanos = text.split(' ').next().and_then(|first| first.parse().ok());
            Ok(sum + Duration::from_nanos(nanos.context("schedstat holds no time")?))
        })
    }

    pub(super) fn and(self, more: Self) -> Self {
        Self([self.0, more.0].concat())
    }
}

/// A BPF file system of one run; what is pinned goes with it.
#[derive(Debug)]
pub(super) struct Pins(TempDir);

impl Pins {
    pub(super) fn mount() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("pc-perf-bpf-").tempdir()?;
        mount(Some("bpf"), dir.path(), Some("bpf"), MsFlags::empty(), None::<&str>)
            .context("mount a BPF file system: this needs root outside of a container")?;
        Ok(Self(dir))
    }

    pub(super) fn dir(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        // A mount that stays cannot be helped from here.
        umount2(self.0.path(), MntFlags::MNT_DETACH).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_by_the_whole_name() {
        let text = "Inter-|   Receive\n face |bytes\n  e1x1: 9 8 0 0 0 0 0 0 7 6 0 0 0 0 0 0\n e1x11:1 2 0 0 0 0 0 0 3 4 0 0 0 0 0 0\n";
        assert_eq!(parse_packets(text, "e1x1"), Some([8, 6]));
        assert_eq!(parse_packets(text, "e1x11"), Some([2, 4]));
        assert_eq!(parse_packets(text, "e1"), None);
    }

    #[test]
    fn names_fit_an_interface_and_are_all_different() {
        let (first, second) = (name("w"), name("w"));
        assert!(first != second && first.len() < 16, "{first} {second}");
    }
}
