//! Counts connections and handshakes, in all and by source, and refuses past the limits.

use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use nix::errno::Errno;
use portcullis_core::deny::Deny;
use portcullis_core::limits::Limits;
use portcullis_core::quota::{Over, Quota, source_key};

use crate::metrics::{self, ConnectionGuard, HandshakeGuard};
use crate::sync::lock;

/// The counts of all front threads together.
#[derive(Debug, Default)]
pub struct Gate {
    connections: Mutex<Quota<IpAddr>>,
    handshakes: Mutex<Quota<IpAddr>>,
}

/// One counted connection; dropping it gives its place back.
#[derive(Debug)]
pub struct ConnectionPass {
    gate: Arc<Gate>,
    source: IpAddr,
    _counted: ConnectionGuard,
}

impl Drop for ConnectionPass {
    fn drop(&mut self) {
        lock(&self.gate.connections).release(&self.source);
    }
}

/// One counted handshake.
#[derive(Debug)]
pub(crate) struct HandshakePass {
    gate: Arc<Gate>,
    source: IpAddr,
    _counted: HandshakeGuard,
}

impl Drop for HandshakePass {
    fn drop(&mut self) {
        lock(&self.gate.handshakes).release(&self.source);
    }
}

impl Gate {
    /// Lets a connection in.
    pub(crate) fn connection(
        self: &Arc<Self>,
        metrics: &metrics::Listener,
        source: IpAddr,
        limits: &Limits,
    ) -> Result<ConnectionPass, Deny> {
        let source = source_key(source);
        let taken = lock(&self.connections).take(&source, limits.connections, limits.connections_per_source);
        taken.map_err(|over| match over {
            Over::Total => Deny::TooManyConnections,
            Over::Key => Deny::TooManyConnectionsFromSource,
        })?;
        Ok(ConnectionPass { gate: Arc::clone(self), source, _counted: metrics.connection() })
    }

    /// Lets a handshake begin.
    pub(crate) fn handshake(
        self: &Arc<Self>,
        metrics: &metrics::Listener,
        source: IpAddr,
        limits: &Limits,
    ) -> Result<HandshakePass, Deny> {
        let source = source_key(source);
        let taken = lock(&self.handshakes).take(&source, limits.handshakes, limits.handshakes_per_source);
        taken.map_err(|over| match over {
            Over::Total => Deny::TooManyHandshakes,
            Over::Key => Deny::TooManyHandshakesFromSource,
        })?;
        Ok(HandshakePass { gate: Arc::clone(self), source, _counted: metrics.handshake() })
    }

    /// Connections and handshakes in use.
    #[must_use]
    pub fn in_use(&self) -> (usize, usize) {
        (lock(&self.connections).total(), lock(&self.handshakes).total())
    }
}

/// EMFILE, ENFILE, ENOBUFS, ENOMEM and EADDRNOTAVAIL: nothing is wrong with the connection, there is only no room
/// for it.
pub(crate) fn is_exhausted(error: &io::Error) -> bool {
    let exhausted = [Errno::EMFILE, Errno::ENFILE, Errno::ENOBUFS, Errno::ENOMEM, Errno::EADDRNOTAVAIL];
    error.raw_os_error().is_some_and(|code| exhausted.contains(&Errno::from_raw(code)))
}
