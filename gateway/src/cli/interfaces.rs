//! `portcullis interfaces`: network interfaces as the kernel shows them to everybody (sysfs(5), getifaddrs(3)), beside
//! what the daemon says of its packet filter there.

use std::fs;
use std::path::Path;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use serde::Serialize;

use super::Context;
use super::output::{Failure, Outcome};
use super::table::{Paint, Table};
use crate::ctl::protocol::{Command, XdpInterfaceStatus, XdpStatus};
use crate::exit::Exit;
use crate::settings::{self, Standing};

const INTERFACES: &str = "/sys/class/net";

#[derive(Debug, Serialize)]
pub(super) struct Interface {
    name: String,
    /// As `operstate`: `up`, `down`, `unknown`, …
    state: String,
    /// Absent for what is no hardware.
    driver: Option<String>,
    link_address: String,
    mtu: u32,
    receive_queues: usize,
    transmit_queues: usize,
    addresses: Vec<String>,
    /// Absent where it is not filtered.
    role: Option<String>,
    /// Where the filter sits: `driver`, or `generic`, behind the driver.
    xdp: Option<String>,
    why: String,
}

pub(super) fn run(context: &Context) -> Outcome {
    let filtered = match context.call::<XdpStatus>(&Command::XdpStatus {}) {
        Ok(status) => status.interfaces,
        Err(failure) => {
            context.output.warn(format!("the daemon cannot be asked about the filter: {}", failure.message));
            Vec::new()
        }
    };
    match settings::standing() {
        Some(Standing::NotApplied(why)) => {
            context.output.warn(format!("[network] of the configuration was not applied: {why}"));
        }
        Some(Standing::UnderWay { since }) => {
            context
                .output
                .warn(format!("[network] of the configuration is being applied since {since}, and not done"));
        }
        Some(Standing::Applied) | None => {}
    }
    let interfaces = look(&filtered)?;
    let mut table = Table::new()
        .column("INTERFACE")
        .column("STATE")
        .column("DRIVER")
        .column("ROLE")
        .column("XDP")
        .column("QUEUES")
        .number("MTU")
        .wide("ADDRESSES")
        .wide("WHY");
    let dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    for interface in &interfaces {
        let state = if interface.state == "up" { Paint::Good } else { Paint::Plain };
        let xdp = match interface.xdp.as_deref() {
            Some("driver") => Paint::Good,
            Some(_) => Paint::Doubtful,
            None => Paint::Plain,
        };
        let cells = [
            interface.name.clone(),
            interface.state.clone(),
            dash(&interface.driver),
            dash(&interface.role),
            dash(&interface.xdp),
            format!("{} in, {} out", interface.receive_queues, interface.transmit_queues),
            interface.mtu.to_string(),
            interface.addresses.join(" "),
            interface.why.clone(),
        ];
        table.row(cells, &[(1, state), (4, xdp)]);
    }
    context.output.value_or_table(&interfaces, &table)?;
    Ok(Exit::Ok)
}

pub(super) fn look(filtered: &[XdpInterfaceStatus]) -> Result<Vec<Interface>, Failure> {
    let entries =
        fs::read_dir(INTERFACES).map_err(|error| Failure::file("list", INTERFACES.as_ref(), &error))?;
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    let addresses = addresses();
    let row = |name: String| {
        let place = Path::new(INTERFACES).join(&name);
        let filter = filtered.iter().find(|interface| interface.name == name);
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
            role: filter.map(|filter| filter.role.clone()),
            xdp: filter.map(|filter| filter.mode.clone()),
            why: why(filter),
            driver,
            name,
        }
    };
    Ok(names.into_iter().map(row).collect())
}

fn why(filter: Option<&XdpInterfaceStatus>) -> String {
    match filter {
        None => "no [[xdp.interface]] names it".to_owned(),
        Some(filter) if !filter.attached => filter.condition.clone(),
        Some(XdpInterfaceStatus { vlan_of: Some(trunk), .. }) => format!("by its tag, at {trunk}"),
        Some(filter) if filter.role == "none" => {
            "for its VLANs that have roles; what has no tag is dropped".to_owned()
        }
        Some(filter) => filter.mode_reason.clone(),
    }
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
        let interfaces = look(&[]).unwrap();
        let lo = interfaces.iter().find(|interface| interface.name == "lo").unwrap();
        assert_eq!(lo.driver, None);
        assert!(lo.mtu > 0 && lo.receive_queues > 0);
        assert!(lo.addresses.is_empty() || lo.addresses.contains(&"127.0.0.1/8".to_owned()));
    }
}
