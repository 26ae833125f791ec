//! The addresses of this machine, which sessions are not relayed to unless the operator permits it, and the networks
//! that its interfaces are in.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use nix::sys::socket::SockaddrStorage;

/// Every IPv4 and IPv6 address of every interface, sorted.
pub(crate) fn own_addresses() -> Result<BTreeSet<IpAddr>, nix::Error> {
    Ok(nix::ifaddrs::getifaddrs()?
        .filter_map(|interface| interface.address)
        .filter_map(|address| ip(&address))
        .collect())
}

/// The name of the interface that has this address. `None` for any address, and for one that no interface has (yet).
pub(crate) fn interface_of(address: IpAddr) -> Option<String> {
    let interfaces = nix::ifaddrs::getifaddrs().ok()?;
    let has = |interface: &nix::ifaddrs::InterfaceAddress| Some(ip(&interface.address?)? == address);
    interfaces.into_iter().find(|interface| has(interface) == Some(true)).map(|found| found.interface_name)
}

/// Every address of every interface with its network, by the interface's name.
pub(crate) fn own_networks() -> Vec<(String, IpNet)> {
    let interfaces = nix::ifaddrs::getifaddrs().into_iter().flatten();
    interfaces
        .filter_map(|interface| {
            let address = ip(&interface.address?)?;
            let network = interface.netmask.as_ref().and_then(ip);
            let network = network.and_then(|mask| IpNet::with_netmask(address, mask).ok());
            Some((interface.interface_name, network.unwrap_or_else(|| address.into())))
        })
        .collect()
}

/// The networks that the interface is connected to.
pub(crate) fn networks_of(interface: &str) -> Vec<IpNet> {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else { return Vec::new() };
    let network = |found: nix::ifaddrs::InterfaceAddress| {
        let (address, mask) = (ip(&found.address?)?, ip(&found.netmask?)?);
        IpNet::with_netmask(address, mask).ok().map(|network| network.trunc())
    };
    interfaces.filter(|found| found.interface_name == interface).filter_map(network).collect()
}

fn ip(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_among_the_machines_addresses() {
        assert!(own_addresses().unwrap().iter().any(IpAddr::is_loopback));
    }

    #[test]
    fn loopback_is_connected_to_its_network() {
        assert!(networks_of("lo").contains(&"127.0.0.0/8".parse().unwrap()));
        assert_eq!(networks_of("nowhere0"), []);
    }

    #[test]
    fn an_address_leads_to_its_interface() {
        assert_eq!(interface_of(IpAddr::from([127, 0, 0, 1])).as_deref(), Some("lo"));
        assert_eq!(interface_of(IpAddr::from([0, 0, 0, 0])), None);
    }
}
