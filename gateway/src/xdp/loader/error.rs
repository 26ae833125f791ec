//! Why packets are not filtered, in words for operators.

use std::io;
use std::path::PathBuf;

use aya::EbpfError;
use aya::maps::MapError;
use aya::programs::ProgramError;

/// Why packets are not filtered.
#[derive(Debug, thiserror::Error)]
pub enum XdpError {
    #[error("this build has no kernel side; build it with `cargo xtask ebpf`, or leave out [xdp]")]
    Absent,
    #[error("`{0}` is missing in the built kernel side; build it again with `cargo xtask ebpf`")]
    Object(&'static str),
    #[error("{}: not a directory on a BPF file system; `mount -t bpf bpf /sys/fs/bpf` mounts one", .0.display())]
    NoBpfFs(PathBuf),
    #[error("there is no interface `{0}` on this machine; `ip link` lists them")]
    NoInterface(String),
    #[error("{0}")]
    Rules(String),
    #[error("{}: {reason}", .path.display())]
    Pin { path: PathBuf, reason: io::Error },
    #[error(
        "the kernel refuses the program; the daemon needs root, or the capabilities CAP_BPF, CAP_NET_ADMIN and \
         CAP_PERFMON"
    )]
    Load(#[from] EbpfError),
    #[error("a table of the program cannot be used")]
    Map(#[from] MapError),
    #[error("the program cannot be loaded")]
    Program(#[from] ProgramError),
    #[error("interface `{interface}`: the program cannot be attached")]
    Attach { interface: String, source: ProgramError },
    #[error("interface `{interface}`: the program cannot be pinned: {reason}")]
    Link { interface: String, reason: String },
    #[error("interface `{interface}`: {reason}")]
    Vlan { interface: String, reason: String },
    #[error(
        "interface `{interface}`: VLANs of it have roles in [xdp], and its card takes VLAN tags off before the filter sees \
         them: {reason}; see `ethtool -k` for rx-vlan, or give the whole interface one role"
    )]
    TagsTakenOff { interface: String, reason: String },
    #[error("the kernel does not list its network devices")]
    Devices(#[source] io::Error),
    #[error("{at}: what leaves cannot be judged: {reason}")]
    Egress { at: String, reason: String },
    #[error("{}: the note that a policy is not confirmed cannot be written: {reason}", .path.display())]
    Note { path: PathBuf, reason: io::Error },
}

/// An error with its causes.
pub(in crate::xdp) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}
