//! Bonds: a program in the driver runs at their ports, and a frame comes by the port for it, not by the bond. So each port
//! has what its bond has, as long as it is one.

use super::XdpError;
use super::loader::{Active, Filtered};
use super::maps;
use super::netlink::Device;
use crate::sync::lock;

/// The ports of a bond but for those that are interfaces of their own. Of everything else there are none: a program at a
/// bridge runs at the bridge.
pub(super) fn ports(devices: &[Device], index: u32, own: &[u32]) -> Vec<u32> {
    let is_bond = devices.iter().any(|device| device.index == index && device.is_bond);
    let ports = devices.iter().filter(|device| is_bond && device.master == Some(index));
    ports.map(|device| device.index).filter(|port| !own.contains(port)).collect()
}

/// Looks what the ports of bonds are now.
pub(super) fn look(active: &Active, interfaces: &mut [Filtered], devices: &[Device]) -> Result<(), XdpError> {
    let own: Vec<u32> = interfaces.iter().map(|interface| interface.index).collect();
    for interface in interfaces.iter_mut().filter(|interface| interface.vlan.is_none()) {
        let now = ports(devices, interface.index, &own);
        if now == interface.ports {
            continue;
        }
        let mut ebpf = lock(&active.ebpf);
        for gone in interface.ports.iter().filter(|port| !now.contains(port) && !own.contains(port)) {
            maps::withdraw(&mut ebpf, *gone)?;
        }
        for port in &now {
            maps::assign(&mut ebpf, *port, interface.value)?;
        }
        tracing::info!(interface = interface.name, ports = now.len(), "a bond has other ports");
        interface.ports = now;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bond_has_the_ports_that_are_no_interfaces_of_their_own_and_a_bridge_has_none() {
        let device = |index, master, is_bond| Device { index, master, is_bond, ..Device::default() };
        let devices = [
            device(1, None, true),
            device(2, None, false),
            device(3, Some(1), false),
            device(4, Some(1), false),
            device(5, Some(2), false),
        ];
        assert_eq!(ports(&devices, 1, &[1, 2]), [3, 4]);
        assert_eq!(ports(&devices, 1, &[1, 4]), [3]);
        assert_eq!(ports(&devices, 2, &[1, 2]), [0; 0]);
    }
}
