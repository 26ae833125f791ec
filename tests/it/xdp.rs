//! The kernel side in a real kernel: the program on frames of our making, and the filter on real interfaces.

#[cfg(test)]
#[path = "xdp/bans.rs"]
mod bans;
#[cfg(test)]
#[path = "xdp/bond.rs"]
mod bond;
#[cfg(test)]
#[path = "xdp/causes.rs"]
mod causes;
#[cfg(test)]
#[path = "xdp/delay.rs"]
mod delay;
#[cfg(test)]
#[path = "xdp/events.rs"]
mod events;
#[cfg(test)]
#[path = "xdp/flood.rs"]
mod flood;
#[cfg(test)]
#[path = "xdp/flows.rs"]
mod flows;
#[cfg(test)]
#[path = "xdp/forward.rs"]
mod forward;
#[cfg(test)]
#[path = "xdp/forward_program.rs"]
mod forward_program;
#[cfg(test)]
#[path = "xdp/forward_wire.rs"]
mod forward_wire;
#[cfg(test)]
#[path = "xdp/monitoring.rs"]
mod monitoring;
#[cfg(test)]
#[path = "xdp/nmap.rs"]
mod nmap;
#[cfg(test)]
#[path = "xdp/outgoing.rs"]
mod outgoing;
#[cfg(test)]
#[path = "xdp/policy.rs"]
mod policy;
#[cfg(test)]
#[path = "xdp/program.rs"]
mod program;
#[cfg(test)]
#[path = "xdp/rare.rs"]
mod rare;
#[cfg(test)]
#[path = "xdp/robust.rs"]
mod robust;
#[cfg(test)]
#[path = "xdp/scapy.rs"]
mod scapy;
#[cfg(test)]
#[path = "xdp/sessions.rs"]
mod sessions;
#[cfg(test)]
#[path = "xdp/steer.rs"]
mod steer;
#[cfg(test)]
#[path = "xdp/verifier.rs"]
mod verifier;
#[cfg(test)]
#[path = "xdp/vlan.rs"]
mod vlan;
#[cfg(test)]
#[path = "xdp/vlan_program.rs"]
mod vlan_program;
#[cfg(test)]
#[path = "xdp/vlan_roles.rs"]
mod vlan_roles;
#[cfg(test)]
#[path = "xdp/vlan_roles_program.rs"]
mod vlan_roles_program;
#[cfg(test)]
#[path = "xdp/wire.rs"]
mod wire;

#[cfg(test)]
use std::path::PathBuf;

#[cfg(test)]
use portcullis_tests::{process, skip::skip};

/// What `cargo xtask ebpf` has built, or `None` after having skipped aloud.
#[cfg(test)]
fn object() -> Option<PathBuf> {
    if !nix::unistd::geteuid().is_root() {
        skip("programs are loaded into the kernel by root only");
        return None;
    }
    // Where the daemon was built lies what it was built with.
    let programs = process::binary("portcullisd").unwrap();
    let target = programs.ancestors().find(|directory| directory.join("CACHEDIR.TAG").is_file());
    let object = target.map(|target| target.join("ebpf/portcullis-ebpf.o")).filter(|object| object.is_file());
    if object.is_none() {
        skip("the kernel side is not built (`cargo xtask ebpf`)");
    }
    if let Err(error) = wire::BpfFs::try_mount() {
        skip(&format!("no BPF file system can be mounted: {error}"));
        return None;
    }
    object
}
