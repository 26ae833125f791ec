//! The flow table, seen from the daemon: both halves of each session are in it from admission to the end.
//!
//! The kernel's table is a cache of what is decided here. Where it is full, or where there is none, a session goes
//! on all the same: the program then finds its sockets. What keeps the books is touched when a session begins and
//! ends and when somebody asks, never for a packet.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aya::Ebpf;
use aya::maps::{HashMap as KernelMap, MapData};
use portcullis_core::session::SessionId;
use portcullis_ebpf_common::tables::FLOWS;
use portcullis_ebpf_common::{Addresses, Flow, FlowKey, Ports, Protocol};

use super::XdpError;
use super::maps::{now, take};
use crate::sync::lock;

/// Flows that are read without giving way to sessions that begin and end: a look costs about a microsecond.
const READ_AT_ONCE: usize = 64;

/// Which half of a session a flow is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Half {
    /// From the client.
    Edge,
    /// From the server.
    Farm,
}

impl Half {
    pub const ALL: [Self; 2] = [Self::Edge, Self::Farm];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Edge => "edge",
            Self::Farm => "farm",
        }
    }
}

/// Admits the flows of sessions. Without a kernel side there is nothing to do, and it does that.
#[derive(Clone, Debug, Default)]
pub struct Flows {
    shared: Option<Arc<Shared>>,
}

#[derive(Debug)]
struct Shared {
    table: Mutex<Table>,
    /// Flows that found no place, ever.
    unlisted: AtomicU64,
    most: u32,
}

struct Table {
    kernel: KernelMap<MapData, [u64; 5], [u64; 4]>,
    /// What is admitted, whether the kernel's table had a place or not. Bounded by the limit of sessions.
    admitted: HashMap<FlowKey, Admitted>,
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("admitted", &self.admitted.len()).finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, Debug)]
struct Admitted {
    session: SessionId,
    half: Half,
    owner: Option<u16>,
    listed: bool,
}

/// How full the table is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowUse {
    pub listed: usize,
    pub most: u32,
    /// Live flows without a place in it.
    pub unlisted: usize,
    /// Flows that found no place since the start.
    pub unlisted_total: u64,
}

/// One flow, and what came in of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowRow {
    pub session: SessionId,
    pub half: Half,
    pub peer: SocketAddr,
    pub local: SocketAddr,
    /// The processor that owns it.
    pub owner: Option<u16>,
    /// `false`: the table has no place for it, and nothing is counted.
    pub listed: bool,
    pub packets: u64,
    /// Bytes behind the TCP header, those that were sent again included.
    pub bytes: u64,
    /// Time since the last packet, or since admission.
    pub quiet: Duration,
}

impl Flows {
    /// Takes the program's table, and clears what an earlier daemon may have left there.
    pub(super) fn of(ebpf: &mut Ebpf, most: u32) -> Result<Self, XdpError> {
        let mut kernel: KernelMap<_, [u64; 5], [u64; 4]> = KernelMap::try_from(take(ebpf, FLOWS)?)?;
        let left: Vec<_> = kernel.keys().collect::<Result<_, _>>()?;
        for key in left {
            kernel.remove(&key)?;
        }
        let table = Mutex::new(Table { kernel, admitted: HashMap::new() });
        Ok(Self { shared: Some(Arc::new(Shared { table, unlisted: AtomicU64::new(0), most })) })
    }

    /// The flows of a session; none yet.
    #[must_use]
    pub fn pair(&self, session: SessionId) -> FlowPair {
        FlowPair { shared: self.shared.clone(), session, edge: None, farm: None }
    }

    /// `None` without a kernel side.
    #[must_use]
    pub fn usage(&self) -> Option<FlowUse> {
        let shared = self.shared.as_ref()?;
        let table = lock(&shared.table);
        let listed = table.admitted.values().filter(|admitted| admitted.listed).count();
        Some(FlowUse {
            listed,
            most: shared.most,
            unlisted: table.admitted.len().saturating_sub(listed),
            unlisted_total: shared.unlisted.load(Ordering::Relaxed),
        })
    }

    /// All flows with their counters, in order of sessions. It looks each one up, so it takes a while.
    #[must_use]
    pub fn rows(&self) -> Vec<FlowRow> {
        let Some(shared) = &self.shared else { return Vec::new() };
        let keys: Vec<FlowKey> = lock(&shared.table).admitted.keys().copied().collect();
        let mut rows = Vec::with_capacity(keys.len());
        for some in keys.chunks(READ_AT_ONCE) {
            let table = lock(&shared.table);
            let now = now();
            rows.extend(some.iter().filter_map(|key| table.row(key, now)));
        }
        rows.sort_unstable_by_key(|row| (row.session, row.half));
        rows
    }
}

impl Table {
    fn row(&self, key: &FlowKey, now: u64) -> Option<FlowRow> {
        let Admitted { session, half, owner, listed } = *self.admitted.get(key)?;
        let (addresses, _, ports) = key.parts()?;
        // One that cannot be read has counted nothing: the table may have been taken away from under the daemon.
        let read = if listed { self.kernel.get(&key.to_words(), 0).ok() } else { None };
        let flow = read.map_or_else(|| Flow::new(None, now), Flow::from_words);
        Some(FlowRow {
            session,
            half,
            peer: SocketAddr::new(addresses.source_ip(), ports.source),
            local: SocketAddr::new(addresses.destination_ip(), ports.destination),
            owner,
            listed: read.is_some(),
            packets: flow.packets,
            bytes: flow.bytes,
            quiet: Duration::from_nanos(now.saturating_sub(flow.seen)),
        })
    }
}

impl Shared {
    fn admit(&self, key: FlowKey, session: SessionId, half: Half, owner: Option<u16>) {
        let mut table = lock(&self.table);
        let refused = table.kernel.insert(key.to_words(), Flow::new(owner, now()).to_words(), 0).err();
        let listed = refused.is_none();
        table.admitted.insert(key, Admitted { session, half, owner, listed });
        drop(table);
        let Some(error) = refused else { return };
        if self.unlisted.fetch_add(1, Ordering::Relaxed) == 0 {
            tracing::warn!(
                error = %anyhow::Error::from(error),
                flows = self.most,
                "a session has no place in the flow table; it goes on by its socket. Raise `flows` in [xdp]"
            );
        }
    }

    fn remove(&self, key: &FlowKey, session: SessionId) {
        let mut table = lock(&self.table);
        // The client may have come again from the same port before the end of its last session was noted.
        if table.admitted.get(key).is_none_or(|admitted| admitted.session != session) {
            return;
        }
        if table.admitted.remove(key).is_some_and(|admitted| admitted.listed)
            && let Err(error) = table.kernel.remove(&key.to_words())
        {
            tracing::debug!(%session, %error, "a flow was gone before its session");
        }
    }
}

/// Both halves of one session. They are admitted as long as this value lives.
#[derive(Debug)]
pub struct FlowPair {
    shared: Option<Arc<Shared>>,
    session: SessionId,
    edge: Option<FlowKey>,
    farm: Option<FlowKey>,
}

impl FlowPair {
    /// Admits what comes from `peer` to `local`, and no longer what this half was before. Packets go to the
    /// processor `owner`, where there is one.
    pub fn admit(&mut self, half: Half, peer: SocketAddr, local: SocketAddr, owner: Option<u16>) {
        self.remove(half);
        let (Some(shared), Some(key)) = (&self.shared, key(peer, local)) else { return };
        shared.admit(key, self.session, half, owner);
        *self.place(half) = Some(key);
    }

    fn remove(&mut self, half: Half) {
        if let (Some(key), Some(shared)) = (self.place(half).take(), &self.shared) {
            shared.remove(&key, self.session);
        }
    }

    fn place(&mut self, half: Half) -> &mut Option<FlowKey> {
        match half {
            Half::Edge => &mut self.edge,
            Half::Farm => &mut self.farm,
        }
    }
}

impl Drop for FlowPair {
    fn drop(&mut self) {
        for half in Half::ALL {
            self.remove(half);
        }
    }
}

/// `None` for what is on no wire: two families.
fn key(peer: SocketAddr, local: SocketAddr) -> Option<FlowKey> {
    let addresses = match (peer.ip().to_canonical(), local.ip().to_canonical()) {
        (IpAddr::V4(peer), IpAddr::V4(local)) => Addresses::v4(peer.octets(), local.octets()),
        (IpAddr::V6(peer), IpAddr::V6(local)) => Addresses::v6(peer.octets(), local.octets()),
        _ => return None,
    };
    Some(FlowKey::new(&addresses, Protocol::Tcp, Ports { source: peer.port(), destination: local.port() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_is_found_by_its_addresses_and_ports_in_either_family() {
        for (peer, local) in
            [("192.0.2.1:50000", "192.0.2.2:443"), ("[2001:db8::1]:50000", "[2001:db8::2]:443")]
        {
            let key = key(peer.parse().unwrap(), local.parse().unwrap()).unwrap();
            let (addresses, protocol, ports) = key.parts().unwrap();
            assert_eq!(SocketAddr::new(addresses.source_ip(), ports.source), peer.parse().unwrap());
            assert_eq!(
                SocketAddr::new(addresses.destination_ip(), ports.destination),
                local.parse().unwrap()
            );
            assert_eq!(protocol, Protocol::Tcp);
        }
        let mapped = key("[::ffff:192.0.2.1]:1".parse().unwrap(), "192.0.2.2:2".parse().unwrap());
        assert_eq!(mapped, key("192.0.2.1:1".parse().unwrap(), "192.0.2.2:2".parse().unwrap()));
        assert_eq!(key("[2001:db8::1]:1".parse().unwrap(), "192.0.2.2:2".parse().unwrap()), None);
    }

    #[test]
    fn without_a_kernel_side_there_are_no_flows() {
        let flows = Flows::default();
        let mut pair = flows.pair(SessionId(1));
        pair.admit(Half::Edge, "192.0.2.1:1".parse().unwrap(), "192.0.2.2:2".parse().unwrap(), None);
        assert_eq!((flows.usage(), flows.rows()), (None, Vec::new()));
    }
}
