//! keepalived's side: its configuration (keepalived.conf(5), version 2.2 and 2.3), and the running process.
//!
//! One VRRP instance (version 3, RFC 5798) carries all addresses, so that they never part; those of the other family than
//! the adverts' go with it as "excluded" ones. Adverts go to the peer's address and to nobody else, and count only with
//! a hop limit of 255, which no router lets through. No script is configured: keepalived learns from files whether this
//! appliance serves, and tells its state by a FIFO.

use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::config::{HighAvailability, VirtualAddress};

/// The file in the directory that keepalived is started with.
pub const CONFIGURATION: &str = "keepalived.conf";
/// Holds `1` while this appliance serves. Without it the instance is in fault: whoever ends the daemon removes it.
pub const SERVING: &str = "serving";
/// What is added to the priority: 0, or `WEAK`.
pub const HANDICAP: &str = "handicap";
/// Where keepalived tells what becomes of the instance.
pub const NOTIFY: &str = "notify";
const PID: &str = "keepalived.pid";
/// The name of the instance.
pub(super) const INSTANCE: &str = "portcullis";
/// As low as it gets without being a fault: whoever has the same or more keeps or takes the addresses.
pub(super) const WEAK: i32 = -253;
/// As the kernel names the process in proc(5).
const PROGRAM: &str = "keepalived";

/// What keepalived is to do.
#[must_use]
pub(super) fn render(config: &HighAvailability) -> String {
    let mut text = String::from(
        "# Written by portcullisd from [high_availability]; what is changed here is lost.\n\
         global_defs {\n    router_id portcullis\n    vrrp_skip_check_adv_addr\n    \
         fifo_write_vrrp_states_on_reload\n",
    );
    let file = |name: &str| config.directory.join(name).display().to_string();
    // Writing to a String cannot fail.
    writeln!(text, "    vrrp_notify_fifo {}\n}}", file(NOTIFY)).ok();
    for (name, weight) in [(SERVING, "0 reverse"), (HANDICAP, "1")] {
        writeln!(text, "track_file {name} {{\n    file \"{}\"\n    weight {weight}\n}}", file(name)).ok();
    }
    let HighAvailability { interface, router_id, node, .. } = config;
    let advertise = config.advertise.as_millis() / 10;
    writeln!(
        text,
        "vrrp_instance {INSTANCE} {{\n    version 3\n    state BACKUP\n    interface {interface}\n    \
         virtual_router_id {router_id}\n    priority {}\n    advert_int {}.{:02}\n    \
         unicast_src_ip {}\n    unicast_ttl 255\n    unicast_peer {{\n        {} min_ttl 255 max_ttl 255\n    }}\n    \
         track_file {{\n        {SERVING}\n        {HANDICAP}\n    }}",
        node.priority,
        advertise / 100,
        advertise % 100,
        node.address,
        node.peer,
    )
    .ok();
    if !config.preempt {
        text.push_str("    nopreempt\n");
    }
    block(&mut text, "track_interface", tracked(config));
    let told = |floating: &&VirtualAddress| is_told(config, floating.address.addr());
    let line = |floating: &VirtualAddress| format!("{} dev {}", floating.address, floating.interface);
    block(&mut text, "virtual_ipaddress", config.addresses.iter().filter(told).map(line));
    let (_, silent): (Vec<_>, Vec<_>) = config.addresses.iter().partition(told);
    block(&mut text, "virtual_ipaddress_excluded", silent.into_iter().map(line));
    text.push_str("}\n");
    text
}

/// Whether adverts name the address: they can when it is of their own family.
fn is_told(config: &HighAvailability, address: IpAddr) -> bool {
    address.is_ipv4() == config.node.address.is_ipv4()
}

/// The interfaces that matter besides the one of the adverts.
fn tracked(config: &HighAvailability) -> Vec<String> {
    let of_addresses = config.addresses.iter().map(|floating| &floating.interface);
    let mut all: Vec<String> = of_addresses.chain(&config.track).cloned().collect();
    all.sort();
    all.dedup();
    all.retain(|interface| *interface != config.interface);
    all
}

fn block(text: &mut String, name: &str, lines: impl IntoIterator<Item = String>) {
    let lines: Vec<String> = lines.into_iter().collect();
    if !lines.is_empty() {
        writeln!(text, "    {name} {{\n        {}\n    }}", lines.join("\n        ")).ok();
    }
}

/// The running keepalived whose files are in a directory.
#[derive(Debug)]
pub(super) struct Process(PathBuf);

impl Process {
    pub(super) fn of(directory: &Path) -> Self {
        Self(directory.join(PID))
    }

    /// The process, if it runs and is what its file says.
    fn pid(&self) -> Option<Pid> {
        let number: i32 = fs::read_to_string(&self.0).ok()?.trim().parse().ok()?;
        let name = fs::read_to_string(format!("/proc/{number}/comm")).ok()?;
        (number > 1 && name.trim_end() == PROGRAM).then(|| Pid::from_raw(number))
    }

    pub(super) fn runs(&self) -> bool {
        self.pid().is_some()
    }

    /// Lets it read its configuration again.
    pub(super) fn reload(&self) {
        self.signal(Signal::SIGHUP);
    }

    /// Lets it give the addresses away and end.
    pub(super) fn stop(&self) {
        self.signal(Signal::SIGTERM);
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid()
            && let Err(error) = kill(pid, signal)
        {
            tracing::error!(%error, %pid, "keepalived cannot be told of a change: it must run as the daemon's user");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "[high_availability]\ninterface = \"farm0\"\nrouter_id = 51\npreempt = false\n\
        advertise = \"250ms\"\ntrack = [\"mgmt0\", \"farm0\"]\n\
        [[high_availability.virtual_address]]\naddress = \"203.0.113.10/24\"\ninterface = \"edge0\"\n\
        [[high_availability.virtual_address]]\naddress = \"2001:db8::10/64\"\ninterface = \"edge0\"\n\
        [high_availability.node]\npriority = 150\naddress = \"10.0.0.2\"\npeer = \"10.0.0.3\"\n";

    #[test]
    fn one_instance_has_all_addresses_and_its_peer_alone_hears_of_it() {
        let config = crate::config::parse(TEXT, Path::new("/etc/portcullis/x.toml")).unwrap();
        let text = render(config.high_availability.as_ref().unwrap());
        for line in [
            "    interface farm0\n",
            "    virtual_router_id 51\n",
            "    priority 150\n",
            "    advert_int 0.25\n",
            "    unicast_src_ip 10.0.0.2\n",
            "        10.0.0.3 min_ttl 255 max_ttl 255\n",
            "    nopreempt\n",
            "    track_interface {\n        edge0\n        mgmt0\n    }\n",
            "    virtual_ipaddress {\n        203.0.113.10/24 dev edge0\n    }\n",
            "    virtual_ipaddress_excluded {\n        2001:db8::10/64 dev edge0\n    }\n",
            "    file \"/run/portcullis-ha/serving\"\n    weight 0 reverse\n",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        assert_eq!(text.matches("vrrp_instance").count(), 1);
        assert!(!text.contains("script"));
    }

    #[test]
    fn a_process_is_believed_only_under_its_name() {
        let directory = tempfile::tempdir().unwrap();
        let process = Process::of(directory.path());
        assert!(!process.runs());
        fs::write(directory.path().join(PID), format!("{}\n", std::process::id())).unwrap();
        assert!(!process.runs());
    }
}
