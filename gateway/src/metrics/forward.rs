//! How `forward` listeners and their servers do, for metrics.

use super::names;
use super::text;

/// What is told of one listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    pub listener: String,
    /// Whether its new flows run in the kernel.
    pub in_kernel: bool,
    pub servers: Vec<Server>,
}

/// One of its servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    pub name: String,
    pub up: bool,
    /// 0 of one that takes no new flows.
    pub weight: u16,
    /// Live ones, in user space and in the kernel.
    pub flows: u64,
    /// Of the kernel, live and ended.
    pub kernel_flows: u64,
    /// Up and down, in the kernel.
    pub kernel_bytes: [u64; 2],
    pub kernel_packets: [u64; 2],
}

pub(super) fn render(facts: &[Fact], writer: &mut text::Writer) {
    let in_kernel = facts.iter().map(|fact| (vec![fact.listener.clone()], u8::from(fact.in_kernel)));
    writer.family(names::FORWARD_IN_KERNEL, in_kernel);
    let servers = || {
        let of = |fact: &Fact, server: &Server| vec![fact.listener.clone(), server.name.clone()];
        facts.iter().flat_map(move |fact| fact.servers.iter().map(move |server| (of(fact, server), server)))
    };
    writer.family(names::FORWARD_SERVER_UP, servers().map(|(labels, server)| (labels, u8::from(server.up))));
    writer.family(names::FORWARD_SERVER_WEIGHT, servers().map(|(labels, server)| (labels, server.weight)));
    writer.family(names::FORWARD_FLOWS, servers().map(|(labels, server)| (labels, server.flows)));
    let flows = servers().map(|(labels, server)| (labels, server.kernel_flows));
    writer.family(names::FORWARD_KERNEL_FLOWS, flows);
    let directions = |of: fn(&Server) -> [u64; 2]| {
        servers().flat_map(move |(labels, server)| {
            let row = |direction: &str, count| ([&labels[..], &[direction.to_owned()]].concat(), count);
            let [up, down] = of(server);
            [row("up", up), row("down", down)]
        })
    };
    writer.family(names::FORWARD_KERNEL_BYTES, directions(|server| server.kernel_bytes));
    writer.family(names::FORWARD_KERNEL_PACKETS, directions(|server| server.kernel_packets));
}
