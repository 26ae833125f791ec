//! What is pinned on the BPF file system: one link for each interface, the bans, and the flows
//! that are forwarded.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use portcullis_ebpf_common::tables::{BANS_V4, BANS_V6, FORWARDS};

use super::Filtered;
use super::attach::Mode;
use super::error::XdpError;
use crate::config::PINS_DEFAULT;
use crate::xdp::outgoing;

/// Names of pinned links begin with that; mode and interface follow.
const LINK: &str = "link-";
/// A directory that says that an administrator has detached the filter.
const DETACHED: &str = "detached";

/// Takes every program of ours off its interface and forgets the bans; needs no daemon. Returns what was detached.
///
/// # Errors
/// The pin that cannot be removed.
pub fn detach(pins: &Path) -> Result<Vec<String>, XdpError> {
    let mut detached = Vec::new();
    let all = entries(pins)?;
    if all.iter().any(|(name, _)| interface_of_pin(name).is_some()) {
        mark_detached(pins)?;
    }
    for (name, path) in all {
        // Whatever else is in the directory is somebody else's, above all when it is the wrong directory.
        let interface = interface_of_pin(&name).map(|(_, interface)| interface);
        let ours = outgoing::is_pin(&name) || [BANS_V4, BANS_V6, FORWARDS].contains(&name.as_str());
        if interface.is_some() || ours {
            remove(&path)?;
        }
        detached.extend(interface);
    }
    detached.sort();
    Ok(detached)
}

/// A daemon that runs must not put back what an administrator takes off. The BPF file system has no plain files, but
/// directories.
fn mark_detached(pins: &Path) -> Result<(), XdpError> {
    let path = pins.join(DETACHED);
    match fs::create_dir(&path) {
        Err(reason) if reason.kind() != io::ErrorKind::AlreadyExists => Err(XdpError::Pin { path, reason }),
        _ => Ok(()),
    }
}

/// Whether an administrator has detached the filter since a daemon started.
pub(in crate::xdp) fn is_marked_detached(pins: &Path) -> bool {
    pins.join(DETACHED).is_dir()
}

pub(super) fn unmark_detached(pins: &Path) {
    // Mostly there is none.
    fs::remove_dir(pins.join(DETACHED)).ok();
}

pub(in crate::xdp) fn prepare(pins: &Path) -> Result<(), XdpError> {
    let no = || XdpError::NoBpfFs(pins.to_owned());
    fs::create_dir_all(pins).map_err(|_| no())?;
    let found = statfs(pins).map_err(|_| no())?;
    if found.filesystem_type() == BPF_FS_MAGIC { Ok(()) } else { Err(no()) }
}

/// Interfaces that are filtered no longer.
pub(super) fn remove_others(pins: &Path, interfaces: &[Filtered]) -> Result<(), XdpError> {
    for (name, path) in entries(pins)? {
        let Some((_, interface)) = interface_of_pin(&name) else { continue };
        if interfaces.iter().all(|filtered| filtered.pin != path) {
            remove(&path)?;
            tracing::info!(interface, "packets are not filtered any more");
        }
    }
    Ok(())
}

pub(super) fn warn_of_leftovers() {
    let pins = entries(Path::new(PINS_DEFAULT)).unwrap_or_default();
    let left: Vec<String> = pins.iter().filter_map(|(name, _)| Some(interface_of_pin(name)?.1)).collect();
    if !left.is_empty() {
        tracing::warn!(
            interfaces = left.join(" "),
            "filters of an earlier configuration are in force; `portcullis xdp detach` takes them off"
        );
    }
}

/// A dot is not allowed in names on the BPF file system, and a colon not in those of interfaces.
pub(super) fn pin_path(pins: &Path, mode: Mode, interface: &str) -> PathBuf {
    pins.join(format!("{LINK}{}-{}", mode.as_str(), interface.replace('.', ":")))
}

fn interface_of_pin(name: &str) -> Option<(Mode, String)> {
    let rest = name.strip_prefix(LINK)?;
    Mode::ALL.into_iter().find_map(|mode| {
        let interface = rest.strip_prefix(mode.as_str())?.strip_prefix('-')?;
        Some((mode, interface.replace(':', ".")))
    })
}

/// Names and paths in a directory; none when there is no such directory.
fn entries(pins: &Path) -> Result<Vec<(String, PathBuf)>, XdpError> {
    let failed = |reason| XdpError::Pin { path: pins.to_owned(), reason };
    let listing = match fs::read_dir(pins) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listing => listing.map_err(failed)?,
    };
    listing
        .map(|entry| {
            let entry = entry.map_err(failed)?;
            Ok((entry.file_name().to_string_lossy().into_owned(), entry.path()))
        })
        .collect()
}

pub(in crate::xdp) fn remove(path: &Path) -> Result<(), XdpError> {
    fs::remove_file(path).map_err(|reason| XdpError::Pin { path: path.to_owned(), reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_pins_lead_back_to_their_interfaces() {
        for (mode, interface) in
            [(Mode::Driver, "eth0"), (Mode::Generic, "eth0.100"), (Mode::Driver, "a-b.c")]
        {
            let pin = pin_path(Path::new("/x"), mode, interface);
            let name = pin.file_name().unwrap().to_str().unwrap();
            assert!(!name.contains('.'));
            assert_eq!(interface_of_pin(name), Some((mode, interface.to_owned())));
        }
        assert_eq!(interface_of_pin("BANS_V4"), None);
    }

    #[test]
    fn detaching_leaves_alone_what_is_not_ours() {
        let directory = tempfile::tempdir().unwrap();
        for name in
            ["passwd", "BANS_V4", "link-driver-eth0", "link-other", "RULES", "egress-eth0", "dial-connect_v4"]
        {
            fs::write(directory.path().join(name), "").unwrap();
        }
        assert_eq!(detach(directory.path()).unwrap(), ["eth0"]);
        let mut left: Vec<String> =
            entries(directory.path()).unwrap().into_iter().map(|(name, _)| name).collect();
        left.sort();
        assert_eq!(left, ["RULES", "detached", "link-other", "passwd"]);
        assert!(is_marked_detached(directory.path()));
        unmark_detached(directory.path());
        assert!(!is_marked_detached(directory.path()));
        assert!(detach(Path::new("/nonexistent/pins")).unwrap().is_empty());
    }
}
