//! Ends that answer in the driver: client and server are programs of a few instructions on their interfaces, which turn
//! every small segment around. So no stack of an end wakes the receiver packet by packet, and no pair copies what a
//! socket sends: what is left is the gateway.

use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, Result};
use aya::Ebpf;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{setsockopt, sockopt};
use portcullis_tests::netns::Namespace;
use portcullis_tests::process;

use super::assembly::{self, Port};
use super::{bed, generator};
use crate::load::{PATIENCE, rounds};

/// One end's interface.
#[derive(Clone, Copy, Debug)]
pub(super) struct End<'a> {
    pub(super) namespace: &'a Namespace,
    pub(super) interface: &'a str,
}

impl End<'_> {
    /// Segments that the driver has sent back so far.
    pub(super) fn answered(self) -> Result<u64> {
        let mut ethtool = self.namespace.command("ethtool");
        let told = process::run(ethtool.args(["-S", self.interface]), PATIENCE)?.ok()?;
        let counts = told.stdout.lines().filter_map(|line| {
            let (name, count) = line.trim().split_once(": ")?;
            name.ends_with("_xdp_redirect").then(|| count.parse::<u64>().ok())?
        });
        Ok(counts.sum())
    }
}

/// How long the last answers take to the clients' end.
const LAST: Duration = Duration::from_millis(20);

/// The programs of both ends; they go with their owner.
pub(super) struct Answering {
    clients: Ebpf,
    _server: Ebpf,
}

impl Answering {
    /// Lets the clients' end answer what comes from one port, and the server's end what goes to one.
    pub(super) fn begin(ends: [End<'_>; 2], from: u16, to: u16) -> Result<Self> {
        let [clients, server] = ends;
        let attach = |end: End<'_>, port: Port| {
            let index = end.namespace.enter(|| Ok(if_nametoindex(end.interface)?))?;
            generator::attach(end.namespace, end.interface, &assembly::answer(index, port))
        };
        let clients = attach(clients, Port::Source(from))?;
        Ok(Self { clients, _server: attach(server, Port::Destination(to))? })
    }

    /// Ends every connection: answers come to a machine that knows of none, and says so.
    pub(super) fn end(self) {
        drop(self.clients);
        std::thread::sleep(LAST);
    }
}

/// Sends the first request of each connection, from which the programs go on. The sockets know nothing of that and
/// leave without a word (TCP_REPAIR in tcp(7) of the kernel), so that none sends its request again.
pub(super) fn hand_over(connections: Vec<TcpStream>) -> Result<()> {
    for mut tcp in connections {
        rounds::ask(&mut tcp)?;
        setsockopt(&tcp, sockopt::TcpRepair, &1).context("let a connection go without its end")?;
    }
    Ok(())
}

/// Lets the headers of TCP be without options, as the programs know them.
pub(super) fn keep_headers_short(namespace: &Namespace) -> Result<()> {
    bed::set(namespace, "net.ipv4.tcp_timestamps", "0")
}
