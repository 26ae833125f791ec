//! One `forward` listener as a value: what the front chooses by, and what the kernel side writes into its maps.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use portcullis_core::balance;
use portcullis_core::balance::health::State;
use portcullis_core::limits::DIAL_ADDRESSES_MAX;
use portcullis_ebpf_common::{Addresses, Ports, maglev};

use super::source_towards;
use crate::config::DataPath;

/// One `forward` listener as it is now.
#[derive(Clone, Debug)]
pub struct Service {
    pub listener: Arc<str>,
    /// An unspecified address stands for every one of this machine.
    pub listen: Vec<SocketAddr>,
    /// Source prefixes of clients.
    pub allow_from: Vec<IpNet>,
    pub data_path: DataPath,
    /// Why it cannot be forwarded in the kernel, where that is known from the configuration alone.
    pub user_only: Option<&'static str>,
    /// All servers, the unusable ones too.
    pub servers: Vec<Server>,
    /// For each of [`maglev::SLOTS`] slots the place of a server in `servers`, or [`maglev::NO_SERVER`].
    pub table: Arc<[u16]>,
    pub idle_timeout: Duration,
    /// Configured own addresses towards the servers; see [`Service::source_towards`].
    pub source: Vec<IpAddr>,
    /// Own ports towards the servers, for the kernel.
    pub source_ports: RangeInclusive<u16>,
}

/// A server of a service.
#[derive(Clone, Debug)]
pub struct Server {
    pub name: Arc<str>,
    pub address: SocketAddr,
    pub weight: u16,
    pub state: State,
    /// An operator lets it take no new flows.
    pub drained: bool,
}

impl Server {
    /// Whether new flows may go there.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.weight > 0 && !self.drained && self.state.is_usable()
    }
}

impl Service {
    /// The servers for a new flow, the best first: one slot of the table decides, further ones are tried when it
    /// does not answer.
    #[must_use]
    pub fn choose(&self, client: SocketAddr, local: SocketAddr) -> Vec<SocketAddr> {
        let slot = usize::try_from(maglev::slot(flow_hash(client, local))).unwrap_or(0);
        // With all of them found there is no need to look through the rest of the table.
        let usable = self.servers.iter().filter(|server| server.is_usable()).count();
        let order = balance::in_order(&self.table, slot, usable.min(DIAL_ADDRESSES_MAX));
        order.into_iter().filter_map(|index| Some(self.servers.get(usize::from(index))?.address)).collect()
    }

    /// The own address with which flows reach a server: the configured one of its family, else that of the
    /// interface which routes there.
    ///
    /// # Errors
    /// When nothing routes there.
    pub fn source_towards(&self, server: IpAddr) -> std::io::Result<IpAddr> {
        let configured = self.source.iter().find(|source| source.is_ipv4() == server.is_ipv4());
        configured.copied().map_or_else(|| source_towards(server), Ok)
    }
}

/// The hash of a flow as the kernel computes it from its packets.
#[must_use]
pub fn flow_hash(client: SocketAddr, local: SocketAddr) -> u32 {
    let addresses = match (client.ip().to_canonical(), local.ip().to_canonical()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => Addresses::v4(source.octets(), destination.octets()),
        (source, destination) => {
            let v6 = |ip: IpAddr| match ip {
                IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
                IpAddr::V6(v6) => v6.octets(),
            };
            Addresses::v6(v6(source), v6(destination))
        }
    };
    maglev::flow_hash(&addresses, Ports { source: client.port(), destination: local.port() })
}
