//! `[high_availability]`: two appliances that share addresses, and how they know each other.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde_json::{Value, json};

use super::duration::format;
use super::json::digits;

/// This appliance as one of two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HighAvailability {
    /// Over which the two tell each other that they are there.
    pub interface: String,
    /// 1 to 255; both have the same, and nobody else on that network.
    pub router_id: u8,
    pub advertise: Duration,
    /// Whether the one with the higher priority takes the addresses back when it returns.
    pub preempt: bool,
    /// Interfaces without which this one cannot have the addresses, besides those that the addresses are on.
    pub track: Vec<String>,
    /// What the daemon and keepalived tell each other by.
    pub directory: PathBuf,
    pub addresses: Vec<VirtualAddress>,
    pub node: Node,
}

/// An address that one of the two has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualAddress {
    /// The address itself with the length of its network's prefix.
    pub address: IpNet,
    pub interface: String,
}

/// What differs between the two, and is never given to the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// 1 to 254.
    pub priority: u8,
    pub address: IpAddr,
    pub peer: IpAddr,
    /// Without it no configuration is given or taken.
    pub sync: Option<Sync>,
    /// Paths of the configuration that are this appliance's own, too.
    pub keep: Vec<String>,
}

/// How configurations go from one to the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sync {
    pub listen: SocketAddr,
    pub peer: SocketAddr,
    /// SHA-256 of the peer's certificate (DER).
    pub pin: [u8; 32],
}

impl HighAvailability {
    /// Whether the address is one that this appliance has at times only.
    #[must_use]
    pub fn floats(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|floating| floating.address.addr() == address)
    }

    /// The interface that has the virtual address when this appliance has it.
    #[must_use]
    pub fn interface_of(&self, address: IpAddr) -> Option<&str> {
        let mut all = self.addresses.iter();
        all.find(|floating| floating.address.addr() == address).map(|floating| floating.interface.as_str())
    }

    pub(super) fn to_json(&self) -> Value {
        let address = |floating: &VirtualAddress| json!({ "address": floating.address, "interface": floating.interface });
        json!({
            "interface": self.interface,
            "router_id": self.router_id,
            "advertise": format(self.advertise),
            "preempt": self.preempt,
            "track": self.track,
            "directory": self.directory,
            "virtual_address": self.addresses.iter().map(address).collect::<Value>(),
            "node": {
                "priority": self.node.priority,
                "address": self.node.address,
                "peer": self.node.peer,
                "peer_sha256": self.node.sync.as_ref().map(|sync| digits(&sync.pin)),
                "port": self.node.sync.as_ref().map(|sync| sync.listen.port()),
                "keep": self.node.keep,
            },
        })
    }
}
