//! Network interfaces as the kernel shows them to everybody (sysfs(5), getifaddrs(3)).

use std::fs;
use std::io;
use std::path::Path;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use serde::Serialize;

pub(crate) const INTERFACES: &str = "/sys/class/net";

#[derive(Debug, Serialize)]
pub(crate) struct Interface {
    pub(crate) name: String,
    /// As `operstate`: `up`, `down`, `unknown`, …
    pub(crate) state: String,
    /// Absent for what is no hardware.
    pub(crate) driver: Option<String>,
    pub(crate) link_address: String,
    pub(crate) mtu: u32,
    pub(crate) receive_queues: usize,
    pub(crate) transmit_queues: usize,
    pub(crate) addresses: Vec<String>,
    /// Absent where it is not filtered.
    pub(crate) role: Option<String>,
    /// Where the filter sits: `driver`, or `generic`, behind the driver.
    pub(crate) xdp: Option<String>,
    /// Why it is filtered so; whoever asks the daemon fills it and the two above.
    pub(crate) why: String,
}

/// All of them by name, without what only the daemon knows of its filter.
///
/// # Errors
/// When they cannot be listed.
pub(crate) fn look() -> io::Result<Vec<Interface>> {
    let entries = fs::read_dir(INTERFACES)?;
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    let addresses = addresses();
    let row = |name: String| {
        let place = Path::new(INTERFACES).join(&name);
        let driver = fs::read_link(place.join("device/driver")).ok();
        let driver = driver.and_then(|link| link.file_name()?.to_str().map(str::to_owned));
        let own = addresses.iter().filter(|(interface, _)| *interface == name);
        Interface {
            state: word(&place.join("operstate")),
            link_address: word(&place.join("address")),
            mtu: word(&place.join("mtu")).parse().unwrap_or(0),
            receive_queues: queues(&place, "rx-"),
            transmit_queues: queues(&place, "tx-"),
            addresses: own.map(|(_, address)| address.clone()).collect(),
            role: None,
            xdp: None,
            why: String::new(),
            driver,
            name,
        }
    };
    Ok(names.into_iter().map(row).collect())
}

/// Addresses with their prefix lengths, by interface.
fn addresses() -> Vec<(String, String)> {
    let Ok(all) = getifaddrs() else { return Vec::new() };
    let shown = |interface: nix::ifaddrs::InterfaceAddress| {
        let up = interface.flags.contains(InterfaceFlags::IFF_UP);
        let (address, mask) = (interface.address.filter(|_| up)?, interface.netmask);
        let text = if let Some(address) = address.as_sockaddr_in() {
            let mask = mask.as_ref().and_then(|mask| mask.as_sockaddr_in());
            let length = mask.map_or(32, |mask| u32::from(mask.ip()).leading_ones());
            format!("{}/{length}", address.ip())
        } else {
            let address = address.as_sockaddr_in6()?;
            let mask = mask.as_ref().and_then(|mask| mask.as_sockaddr_in6());
            let length = mask.map_or(128, |mask| u128::from(mask.ip()).leading_ones());
            format!("{}/{length}", address.ip())
        };
        Some((interface.interface_name, text))
    };
    all.filter_map(shown).collect()
}

/// What cannot be read is empty: an interface may go while it is looked at.
fn word(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn queues(interface: &Path, kind: &str) -> usize {
    let entries = fs::read_dir(interface.join("queues")).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(kind)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_has_its_address_and_no_driver() {
        let interfaces = look().unwrap();
        let lo = interfaces.iter().find(|interface| interface.name == "lo").unwrap();
        assert_eq!(lo.driver, None);
        assert!(lo.mtu > 0 && lo.receive_queues > 0);
        assert!(lo.addresses.is_empty() || lo.addresses.contains(&"127.0.0.1/8".to_owned()));
    }
}
