//! A proxy under measurement: where it listens, how a session gets in, and what it costs.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use portcullis_tests::gateway::Gateway;
use portcullis_tests::process::Child;

use crate::cpu::{self, Meter};
use crate::tickets::Tickets;

/// What has to stay alive while a contender runs.
#[derive(Debug)]
pub(crate) enum Process {
    Haproxy(Child),
    Portcullis(Box<Gateway>),
}

impl Process {
    pub(crate) fn pid(&self) -> u32 {
        match self {
            Self::Haproxy(child) => child.pid(),
            Self::Portcullis(gateway) => gateway.pid(),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Contender {
    pub(crate) label: String,
    pub(crate) version: String,
    /// TLS in, the back end out.
    pub(crate) relay: SocketAddr,
    pub(crate) door: Door,
    /// Ends before its meter is taken away: a cgroup can only be removed when it is empty.
    process: Process,
    meter: Meter,
}

impl Contender {
    pub(crate) fn new(
        label: &str,
        version: String,
        relay: SocketAddr,
        door: Door,
        process: Process,
        cpu: usize,
    ) -> Self {
        let meter = Meter::attach(label, process.pid(), cpu);
        Self { label: label.to_owned(), version, relay, door, process, meter }
    }

    /// Fails unless it can only run where it should.
    pub(crate) fn expect_pinned(&self) -> Result<()> {
        cpu::expect_pinned(self.process.pid(), self.meter.cpu)
    }

    pub(crate) fn meter(&self) -> &Meter {
        &self.meter
    }

    pub(crate) fn door_and_meter(&mut self) -> (&mut Door, &Meter) {
        (&mut self.door, &self.meter)
    }
}

/// How a new session gets through.
#[derive(Debug)]
pub(crate) enum Door {
    /// TLS leads straight to the back end.
    Open(SocketAddr),
    /// Every session shows a ticket of its own, which is redeemed.
    Ticketed(SocketAddr, Tickets),
}

impl Door {
    /// Makes ready for as many sessions as could be made in a time: outside of what is measured.
    pub(crate) fn prepare(&mut self, time: Duration) -> Result<()> {
        match self {
            Self::Open(_) => Ok(()),
            Self::Ticketed(_, tickets) => tickets.stock_for(time),
        }
    }

    /// Where a new session goes and what it says first. `None`: out of tickets.
    pub(crate) fn enter(&mut self) -> Option<(SocketAddr, Option<Vec<u8>>)> {
        match self {
            Self::Open(address) => Some((*address, None)),
            Self::Ticketed(address, tickets) => Some((*address, Some(tickets.request()?))),
        }
    }
}
