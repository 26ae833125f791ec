//! The addresses of this machine, which sessions are not relayed to unless the operator permits it.

use std::collections::BTreeSet;
use std::net::IpAddr;

/// Every IPv4 and IPv6 address of every interface, sorted.
pub(super) fn own_addresses() -> Result<BTreeSet<IpAddr>, nix::Error> {
    Ok(nix::ifaddrs::getifaddrs()?
        .filter_map(|interface| interface.address)
        .filter_map(|address| {
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_among_the_machines_addresses() {
        assert!(own_addresses().unwrap().iter().any(IpAddr::is_loopback));
    }
}
