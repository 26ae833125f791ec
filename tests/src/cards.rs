//! Network cards in place of Ethernet pairs, on a machine that has some to spare: then a real driver hands the frames
//! to the kernel side. `cargo xtask boot` starts such a machine.
//!
//! `PORTCULLIS_CARDS` names pairs of cards, each pair joined by a wire, by their hardware addresses: `A=B,C=D`.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};

use crate::process;
use crate::wait::{self, PATIENCE};

/// All interfaces of the first network namespace, where cards are that nobody uses.
const INTERFACES: &str = "/sys/class/net";

/// One test at a time looks for a pair that is free and takes it.
static TAKING: Mutex<()> = Mutex::new(());

/// The interfaces of two cards that a wire joins. Nobody else looks for some until it is dropped.
pub(crate) struct Pair {
    pub(crate) left: String,
    pub(crate) right: String,
    _taking: MutexGuard<'static, ()>,
}

/// A pair of cards that is free, or `None` on a machine without spare cards.
///
/// A card comes back when the guard of the namespace that had it goes, see [`give_back`].
///
/// # Errors
/// When all pairs stay in use.
pub(crate) fn pair() -> Result<Option<Pair>> {
    let Ok(pairs) = std::env::var("PORTCULLIS_CARDS") else { return Ok(None) };
    let taking = TAKING.lock().unwrap_or_else(PoisonError::into_inner);
    let free = || {
        let interfaces = interfaces();
        let name = |address: &str| {
            let found = interfaces.iter().find(|(_, of)| of == address);
            found.map(|(name, _)| name.clone())
        };
        let pairs = pairs.split(',').filter_map(|pair| pair.split_once('='));
        pairs.filter_map(|(left, right)| name(left).zip(name(right))).next()
    };
    let found = wait::value(PATIENCE, "two network cards to be free", free).context("take network cards");
    found.map(|(left, right)| Some(Pair { left, right, _taking: taking }))
}

/// Takes the cards out of a namespace that is about to be deleted. The kernel would do so itself, but not before the
/// last socket of the namespace is gone, and one that still waits for an answer to its FIN stays for minutes.
pub(crate) fn give_back(namespace: &str) {
    let Ok(pairs) = std::env::var("PORTCULLIS_CARDS") else { return };
    let ip = |arguments: &[&str]| Command::new("ip").args(["-n", namespace]).args(arguments).output();
    // One line for each: `2: edge: <UP> …\    link/ether 02:00:00:00:00:00 brd …`.
    let Ok(listed) = ip(&["-o", "link"]) else { return };
    for line in String::from_utf8_lossy(&listed.stdout).lines() {
        let mut words = line.split_whitespace();
        let name = words.nth(1).and_then(|name| name.strip_suffix(':'));
        let address = words.skip_while(|word| *word != "link/ether").nth(1);
        let (Some(name), Some(address)) = (name, address) else { continue };
        if pairs.split([',', '=']).any(|card| card == address) {
            // Under a name that no other has. A card that stays away is missed by who wants it next, with a deadline.
            let home = format!("c{}", address.replace(':', ""));
            drop(ip(&["link", "set", "dev", name, "netns", "1", "name", &home]));
        }
    }
}

/// Pulls a card out of its machine and plugs it in again: it leaves the namespace as a card does that breaks. `false`:
/// there are no cards.
pub(crate) fn replug(namespace: &str, interface: &str) -> Result<bool> {
    if std::env::var_os("PORTCULLIS_CARDS").is_none() {
        return Ok(false);
    }
    let path = format!("/sys/class/net/{interface}/device");
    let mut readlink = Command::new("ip");
    readlink.args(["netns", "exec", namespace, "readlink", "-f", &path]);
    let found = process::run(&mut readlink, PATIENCE)?.ok()?;
    let device = found.stdout.trim().rsplit('/').next().unwrap_or_default().to_owned();
    for how in ["unbind", "bind"] {
        let file = format!("/sys/bus/virtio/drivers/virtio_net/{how}");
        fs::write(&file, &device).with_context(|| format!("write {device} to {file}"))?;
    }
    Ok(true)
}

/// Names and hardware addresses.
fn interfaces() -> Vec<(String, String)> {
    let entries = fs::read_dir(INTERFACES).into_iter().flatten().flatten();
    let address = |path: &Path| fs::read_to_string(path.join("address")).ok();
    let named =
        entries.filter_map(|entry| Some((entry.file_name().into_string().ok()?, address(&entry.path())?)));
    named.map(|(name, address)| (name, address.trim().to_owned())).collect()
}
