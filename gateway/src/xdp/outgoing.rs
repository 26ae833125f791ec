//! Brings the programs for what leaves into the kernel: at the sockets of a cgroup, and at the interfaces.
//!
//! Their links are pinned beside those of the filter. At an interface the new program takes the old one's place in
//! one step; at a cgroup it comes beside the old one, which goes when the new pin takes the place of its pin.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::programs::links::{CgroupAttachMode, FdLink, Link as _, LinkError, LinkOrder, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::{CgroupSockAddr, SchedClassifier, TcAttachType};
use nix::net::if_::if_nametoindex;
use portcullis_ebpf_common::tables::{PROGRAM_EGRESS, PROGRAMS_DIAL};

use super::XdpError;
use super::watch::Condition;
use crate::config::XdpConfig;

/// Names of pinned links begin with these; interface or program follow.
const OUT: &str = "egress-";
const DIAL: &str = "dial-";
/// Before the name of a new pin until it takes the old one's place.
const NEW: &str = "new-";

/// Whether a pin is one of ours.
pub(super) fn is_pin(name: &str) -> bool {
    let name = name.strip_prefix(NEW).unwrap_or(name);
    name.starts_with(OUT) || name.starts_with(DIAL)
}

/// Judges what leaves from now on.
pub(super) fn attach(ebpf: &mut Ebpf, xdp: &XdpConfig, interfaces: &[String]) -> Result<(), XdpError> {
    for interface in interfaces {
        at_interface(ebpf, xdp, interface)?;
    }
    at_sockets(ebpf, xdp)
}

/// How the programs for what leaves were found when they were last looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outgoing {
    /// `None` while nothing that leaves is judged.
    pub condition: Option<Condition>,
    /// How often one of them had to be put back.
    pub repairs: u64,
}

/// Puts back what others have taken off or replaced, and says where.
pub(super) fn look(ebpf: &mut Ebpf, xdp: &XdpConfig, interfaces: &[String]) -> Result<Vec<String>, XdpError> {
    let mut back = Vec::new();
    for name in interfaces {
        // One that is gone is looked after by those who look after the filter.
        if if_nametoindex(name.as_str()).is_ok() && at_interface(ebpf, xdp, name)? {
            back.push(name.clone());
        }
    }
    let mut cgroup = None;
    for name in PROGRAMS_DIAL {
        let ours = dial(ebpf, name)?.info()?.id();
        if is_at_a_cgroup(&dial_pin(xdp, name), ours) {
            continue;
        }
        let (path, cgroup) = match &cgroup {
            Some(open) => open,
            None => cgroup.insert(open_cgroup(xdp)?),
        };
        at_cgroup(ebpf, xdp, name, path, cgroup)?;
        back.push(name.to_owned());
    }
    Ok(back)
}

/// Whether a pin is that of a link which holds this program, and that is at a cgroup: it can be detached, and the pin
/// stays.
fn is_at_a_cgroup(pin: &Path, ours: u32) -> bool {
    let Ok(link) = PinnedLink::from_pin(pin).map(FdLink::from) else { return false };
    let Ok(info) = link.info() else { return false };
    // The library does not give the descriptor away, but names it. What the kernel says of it in proc(5) is only
    // believed of this link.
    let name = format!("{:?}", link.id());
    let number = name.trim_matches(|character: char| !character.is_ascii_digit());
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap_or_default();
    info.program_id() == ours && !says_detached(&text, info.id())
}

/// Whether the kernel's description of a link says that it is that one, and at no cgroup.
fn says_detached(text: &str, link: u32) -> bool {
    let has = |key: &str, value: &str| text.lines().any(|line| line.split_whitespace().eq([key, value]));
    has("link_id:", &link.to_string()) && has("cgroup_id:", "0")
}

/// The program for what leaves by an interface that is another by now. It is attached anew at the next look.
pub(super) fn let_go(xdp: &XdpConfig, interface: &str) -> Result<(), XdpError> {
    let pin = out_pin(xdp, interface);
    if pin.exists() { remove(&pin) } else { Ok(()) }
}

fn out_pin(xdp: &XdpConfig, interface: &str) -> PathBuf {
    xdp.pins.join(format!("{OUT}{}", interface.replace('.', ":")))
}

/// Judges what leaves by an interface; whether nothing of ours was there before.
fn at_interface(ebpf: &mut Ebpf, xdp: &XdpConfig, interface: &str) -> Result<bool, XdpError> {
    let program = ebpf.program_mut(PROGRAM_EGRESS).ok_or(XdpError::Object(PROGRAM_EGRESS))?;
    let program: &mut SchedClassifier = program.try_into()?;
    if program.fd().is_err() {
        program.load()?;
    }
    let pin = out_pin(xdp, interface);
    if pin.exists() {
        let old =
            PinnedLink::from_pin(&pin).and_then(|link| SchedClassifierLink::try_from(FdLink::from(link)));
        // A link whose interface is gone, or which somebody has detached, refuses.
        if let Ok(old) = old
            && let Ok(id) = program.attach_to_link(old)
        {
            // Ours is one of two references to the link; the pin keeps the other.
            drop(program.take_link(id));
            return Ok(false);
        }
    }
    let failed = |reason: String| XdpError::Egress { at: format!("interface `{interface}`"), reason };
    let options = TcAttachOptions::TcxOrder(LinkOrder::default());
    let id = program
        .attach_with_options(interface, TcAttachType::Egress, options)
        .map_err(|error| failed(format!("{}; a kernel with tcx is needed (6.6 or later)", chain(&error))))?;
    let link = program.take_link(id).map_err(|error| failed(chain(&error)))?;
    let link: FdLink = link.try_into().map_err(|error: LinkError| failed(chain(&error)))?;
    put_pin(link, &pin)?;
    Ok(true)
}

fn at_sockets(ebpf: &mut Ebpf, xdp: &XdpConfig) -> Result<(), XdpError> {
    let (path, cgroup) = open_cgroup(xdp)?;
    for name in PROGRAMS_DIAL {
        at_cgroup(ebpf, xdp, name, &path, &cgroup)?;
    }
    tracing::info!(cgroup = %path.display(), "what the machine contacts is judged by the egress rules");
    Ok(())
}

fn open_cgroup(xdp: &XdpConfig) -> Result<(PathBuf, File), XdpError> {
    let path = xdp.cgroup.clone().map_or_else(own_cgroup, Ok)?;
    let cgroup = File::open(&path).map_err(|error| refused(&path, error.to_string()))?;
    Ok((path, cgroup))
}

fn refused(cgroup: &Path, reason: String) -> XdpError {
    XdpError::Egress { at: format!("cgroup {}", cgroup.display()), reason }
}

fn dial<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut CgroupSockAddr, XdpError> {
    let program: &mut CgroupSockAddr = ebpf.program_mut(name).ok_or(XdpError::Object(name))?.try_into()?;
    if program.fd().is_err() {
        program.load()?;
    }
    Ok(program)
}

fn dial_pin(xdp: &XdpConfig, name: &str) -> PathBuf {
    xdp.pins.join(format!("{DIAL}{name}"))
}

/// Judges what sockets of a cgroup contact, beside an older program of ours, which is then removed.
fn at_cgroup(
    ebpf: &mut Ebpf,
    xdp: &XdpConfig,
    name: &'static str,
    path: &Path,
    cgroup: &File,
) -> Result<(), XdpError> {
    let failed = |reason: String| refused(path, reason);
    let program = dial(ebpf, name)?;
    // A link never excludes others; the kernel refuses to be told so.
    let id = program.attach(cgroup, CgroupAttachMode::Single).map_err(|error| {
        failed(format!("{}; `cgroup` in [xdp] has to be a directory of cgroup v2", chain(&error)))
    })?;
    let link = program.take_link(id).map_err(|error| failed(chain(&error)))?;
    let link: FdLink = link.try_into().map_err(|error: LinkError| failed(chain(&error)))?;
    put_pin(link, &dial_pin(xdp, name))
}

/// Pins a link in the place of an older one. At no moment is there none: what the daemon has attached outlives it.
fn put_pin(link: FdLink, pin: &Path) -> Result<(), XdpError> {
    let failed = |reason| XdpError::Pin { path: pin.to_owned(), reason };
    let name = pin.file_name().unwrap_or_default().to_string_lossy();
    let beside = pin.with_file_name(format!("{NEW}{name}"));
    if beside.exists() {
        remove(&beside)?;
    }
    link.pin(&beside).map_err(|error| failed(io::Error::other(chain(&error))))?;
    fs::rename(&beside, pin).map_err(failed)
}

/// Nothing that leaves is judged any more.
pub(super) fn remove_all(pins: &Path) -> Result<(), XdpError> {
    let Ok(entries) = fs::read_dir(pins) else { return Ok(()) };
    for entry in entries.flatten() {
        if is_pin(&entry.file_name().to_string_lossy()) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// The daemon's own cgroup; under systemd that is the service's.
fn own_cgroup() -> Result<PathBuf, XdpError> {
    let none = || XdpError::Egress {
        at: "the daemon's cgroup".to_owned(),
        reason: "this machine has no cgroup v2; mount one, or leave out egress rules".to_owned(),
    };
    let mounts = fs::read_to_string("/proc/self/mounts").map_err(|_| none())?;
    let own = fs::read_to_string("/proc/self/cgroup").map_err(|_| none())?;
    cgroup_of(&mounts, &own).ok_or_else(none)
}

/// From the tables of mounts and of this process's cgroups (cgroups(7)).
fn cgroup_of(mounts: &str, own: &str) -> Option<PathBuf> {
    let mut fields = mounts.lines().map(|line| line.split(' '));
    let root = fields.find_map(|mut fields| {
        let (_, at, kind) = (fields.next()?, fields.next()?, fields.next()?);
        (kind == "cgroup2").then_some(at)
    })?;
    let path = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(Path::new(root).join(path))
}

fn remove(path: &Path) -> Result<(), XdpError> {
    fs::remove_file(path).map_err(|reason| XdpError::Pin { path: path.to_owned(), reason })
}

fn chain(error: &dyn std::error::Error) -> String {
    super::loader::chain(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_service_s_own_cgroup_is_found() {
        let unified = "sysfs /sys sysfs rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n";
        let own = "0::/system.slice/portcullisd.service\n";
        let expected = Path::new("/sys/fs/cgroup/system.slice/portcullisd.service");
        assert_eq!(cgroup_of(unified, own).as_deref(), Some(expected));
        let hybrid =
            "cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        let own = "4:memory:/a\n0::/\n";
        assert_eq!(cgroup_of(hybrid, own).as_deref(), Some(Path::new("/sys/fs/cgroup/unified/")));
        assert_eq!(cgroup_of("cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\n", own), None);
    }

    #[test]
    fn pins_of_what_leaves_are_known_by_their_names() {
        assert!(
            ["egress-edge", "dial-connect_v4", "new-egress-vlan:7", "new-dial-connect_v6"]
                .into_iter()
                .all(is_pin)
        );
        assert!(!["link-driver-edge", "new-link", "detached"].into_iter().any(is_pin));
    }

    #[test]
    fn a_link_at_no_cgroup_is_detached_and_another_link_says_nothing() {
        let text = |cgroup| format!("pos:\t0\nlink_type:\tcgroup\nlink_id:\t7\ncgroup_id:\t{cgroup}\n");
        assert!(says_detached(&text(0), 7));
        assert!(!says_detached(&text(4_711), 7));
        assert!(!says_detached(&text(0), 8));
        assert!(!says_detached("", 7));
    }
}
