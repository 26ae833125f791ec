//! The addresses of this machine, which sessions are not relayed to unless the operator permits it.

use std::collections::BTreeSet;
use std::net::IpAddr;

/// Every IPv4 and IPv6 address of every interface, sorted.
pub(crate) fn own_addresses() -> Result<BTreeSet<IpAddr>, nix::Error> {
    Ok(nix::ifaddrs::getifaddrs()?
        .filter_map(|interface| interface.address)
        .filter_map(|address| {
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        })
        .collect())
}

/// The name of the interface that has this address. `None` for any address, and for one that no interface has (yet).
pub(crate) fn interface_of(address: IpAddr) -> Option<String> {
    let interfaces = nix::ifaddrs::getifaddrs().ok()?;
    let has = |interface: &nix::ifaddrs::InterfaceAddress| {
        let found = interface.address?;
        let v4 = found.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        Some(v4.or_else(|| found.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))? == address)
    };
    interfaces.into_iter().find(|interface| has(interface) == Some(true)).map(|found| found.interface_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_among_the_machines_addresses() {
        assert!(own_addresses().unwrap().iter().any(IpAddr::is_loopback));
    }

    #[test]
    fn an_address_leads_to_its_interface() {
        assert_eq!(interface_of(IpAddr::from([127, 0, 0, 1])).as_deref(), Some("lo"));
        assert_eq!(interface_of(IpAddr::from([0, 0, 0, 0])), None);
    }
}
