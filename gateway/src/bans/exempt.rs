//! Who is never banned on this machine and by this configuration.

use std::net::IpAddr;

use ipnet::IpNet;
use portcullis_core::penalty::exempt::{Exempt, Reason};
use portcullis_ebpf_common::tables::Role;
use portcullis_proto::host_port::Host;

use crate::config::{self, Config};

/// What the configuration says about it; the machine is asked each time.
#[derive(Debug)]
pub(super) struct Sources {
    promised: Vec<(IpNet, Reason)>,
    management: Vec<String>,
}

impl Sources {
    pub(super) fn new(config: &Config) -> Self {
        let allowed = config.bans.iter().flat_map(|bans| &bans.allow);
        let promised = allowed.map(|prefix| (*prefix, Reason::Allowed));
        let stas = config.stas.iter().filter_map(|sta| match sta.url.server.host() {
            Host::Ip(address) => Some(*address),
            // What a name stands for changes; who is sure of it can write it into `allow`.
            Host::Name(_) => None,
        });
        let servers = config.dns.servers.iter().map(|server| server.ip());
        let forwards = config.listeners.iter().filter_map(|listener| listener.forward.as_ref());
        let behind = forwards.flat_map(|forward| &forward.servers).map(|server| server.address.ip());
        let targets = config.listeners.iter().filter_map(|listener| match listener.target.as_ref()?.host() {
            Host::Ip(address) => Some(*address),
            Host::Name(_) => None,
        });
        let needed =
            stas.chain(servers).chain(behind).chain(targets).map(|address| (single(address), Reason::Needed));
        let interfaces = config.xdp.iter().flat_map(|xdp| &xdp.interfaces);
        let management = interfaces.filter(|interface| interface.role == Role::Mgmt);
        Self {
            promised: promised.chain(needed).collect(),
            management: management.map(|interface| interface.name.clone()).collect(),
        }
    }

    pub(super) fn exempt(&self) -> Exempt {
        let own = config::own_addresses().unwrap_or_else(|error| {
            tracing::error!(%error, "the machine's addresses cannot be read");
            Default::default()
        });
        let own = own.into_iter().map(|address| (single(address), Reason::Own));
        let networks = self.management.iter().flat_map(|name| config::networks_of(name));
        let management = networks.map(|network| (network, Reason::Management));
        Exempt::new(self.promised.iter().copied().chain(own).chain(management))
    }
}

fn single(address: IpAddr) -> IpNet {
    address.to_canonical().into()
}
