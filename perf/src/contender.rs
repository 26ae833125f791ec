//! A proxy under measurement: where it listens, how a session gets in, and what it costs.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use portcullis_tests::gateway::Gateway;
use portcullis_tests::process::Child;

use crate::cpu::{self, Meter};
use crate::load::connection::Entry;
use crate::stats::float;
use crate::tickets::Tickets;

/// What has to stay alive while a contender runs.
#[derive(Debug)]
pub(crate) enum Process {
    Peer(Child),
    Portcullis(Box<Gateway>),
}

impl Process {
    fn pid(&self) -> u32 {
        match self {
            Self::Peer(child) => child.pid(),
            Self::Portcullis(gateway) => gateway.pid(),
        }
    }
}

/// The ways through a contender; not each has every one.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ways {
    /// TLS in, the back end out.
    pub(crate) tls: Option<Entry>,
    /// Bytes as they are.
    pub(crate) plain: Option<Entry>,
    /// The same by splice(2).
    pub(crate) splice: Option<Entry>,
}

#[derive(Debug)]
pub(crate) struct Contender {
    pub(crate) ways: Ways,
    pub(crate) door: Door,
    /// Where its metrics are.
    pub(crate) metrics: Option<SocketAddr>,
    /// Ends before its meter is taken away: a cgroup can only be removed when it is empty.
    process: Process,
    meter: Meter,
}

impl Contender {
    pub(crate) fn new(label: &str, ways: Ways, door: Door, process: Process, cpu: usize) -> Self {
        let meter = Meter::attach(label, process.pid(), cpu);
        Self { ways, door, metrics: None, process, meter }
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

    /// The last that it has said, for errors.
    pub(crate) fn log_tail(&self) -> String {
        let log = match &self.process {
            Process::Peer(child) => child.log(),
            Process::Portcullis(gateway) => gateway.log(),
        };
        let mut lines: Vec<&str> = log.lines().rev().take(5).collect();
        lines.reverse();
        lines.join("\n")
    }

    /// User memory of all its processes, shared pages in proportion (Pss), in bytes.
    pub(crate) fn memory(&self) -> Result<f64> {
        cpu::family(self.process.pid()).into_iter().try_fold(0.0, |sum, pid| {
            let path = format!("/proc/{pid}/smaps_rollup");
            let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
            Ok(sum + pss(&text).with_context(|| format!("no Pss in {path}"))?)
        })
    }
}

/// The sum of a process's `smaps_rollup`, in bytes; proc(5).
fn pss(text: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(float(kibibytes) * 1024.0)
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

    /// Where new sessions go.
    pub(crate) fn address(&self) -> SocketAddr {
        match self {
            Self::Open(address) | Self::Ticketed(address, _) => *address,
        }
    }

    /// Lets new sessions go somewhere else, which leads here.
    pub(crate) fn lead_to(&mut self, other: SocketAddr) {
        match self {
            Self::Open(address) | Self::Ticketed(address, _) => *address = other,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_memory_is_read_from_the_rollup() {
        let text = "00400000-7ff [rollup]\nRss:  9000 kB\nPss:                1234 kB\nPss_Dirty:  7 kB\n";
        assert!((pss(text).unwrap() - 1_263_616.0).abs() < 1e-6);
        assert_eq!(pss("Rss: 5 kB\n"), None);
    }
}
