//! Live sessions: a daemon behind a filter, a machine behind the daemon, and clients outside.

use std::time::{Duration, Instant};

use anyhow::Result;
use portcullis_tests::gateway::Gateway;
use portcullis_tests::wait;

use super::bed::{Bed, GATEWAY, Pins, Threads};
use super::filters::{self, OPEN};
use crate::backend::Backend;
use crate::cpu::{Cpus, Meter};
use crate::interrupt;
use crate::load::PATIENCE;
use crate::load::connection::{Clients, Entry};
use crate::load::echo::{Load, Mix};

/// One gateway with sessions.
pub(super) struct Site {
    pub(super) bed: Bed,
    pub(super) clients: Clients,
    backend: Backend,
    receiver: Threads,
    daemon: Gateway,
    meter: Meter,
}

impl Site {
    /// A gateway that our program filters, or nothing does yet.
    pub(super) fn start(role: &str, cpus: Cpus, pins: Option<&Pins>) -> Result<Self> {
        let bed = Bed::new(role, cpus)?;
        let backend = bed.gateway.enter(Backend::start)?;
        let daemon = filters::daemon(&bed, backend.address, pins, cpus.contender)?;
        let clients = Clients::of(daemon.dir())?;
        let meter = Meter::attach(&bed.edge, daemon.pid(), cpus.contender);
        let receiver = bed.receiver()?;
        Ok(Self { bed, clients, backend, receiver, daemon, meter })
    }

    /// Looks for the receiver's threads again, after something was attached.
    pub(super) fn find_receiver(&mut self) -> Result<()> {
        self.receiver = self.bed.receiver()?;
        Ok(())
    }

    /// Lets nothing on their CPU delay the receiver's threads.
    pub(super) fn hurry(&self) -> Result<()> {
        self.receiver.hurry()
    }

    /// CPU time of the daemon and of the threads that receive from outside.
    pub(super) fn time(&self) -> Result<Duration> {
        Ok(self.meter.read()? + self.receiver.time()?)
    }

    /// Opens the sessions; to be called, as the rest, from the namespace outside.
    pub(super) fn connect(&self, mix: Mix) -> Result<Load> {
        Load::start(Entry::Tls((GATEWAY, OPEN).into()), &self.clients, mix)
            .map_err(|error| self.with_log(&error))
    }

    /// Lets the sessions live for a time.
    pub(super) fn live(&self, load: &mut Load, time: Duration) -> Result<()> {
        let begin = Instant::now();
        while begin.elapsed() < time {
            interrupt::check()?;
            load.turn().map_err(|error| self.with_log(&error))?;
        }
        Ok(())
    }

    /// Waits until nothing of the last slice is left.
    pub(super) fn settle(&self) -> Result<()> {
        wait::until(PATIENCE, "the gateway to close its connections", || {
            self.backend.live().is_ok_and(|live| live == 0)
        })
    }

    fn with_log(&self, error: &anyhow::Error) -> anyhow::Error {
        let log = self.daemon.log();
        let tail: Vec<&str> = log.lines().rev().take(5).collect();
        anyhow::anyhow!("{error:#}; the daemon's last lines, latest first:\n{}", tail.join("\n"))
    }
}
