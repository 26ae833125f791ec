//! The load generator: clients in one thread over epoll, and the window in which their work counts.

pub(crate) mod bulk;
pub(crate) mod connection;
pub(crate) mod echo;
pub(crate) mod hold;
pub(crate) mod rounds;
pub(crate) mod setup;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use serde::{Serialize, Serializer};

use self::connection::{Clients, Connection, Entry};
use crate::backend::Backend;
use crate::cpu::{self, Machine, Meter};
use crate::interrupt;

/// How long connections may take to be made, and how long a stalled measurement is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// The wait for events is bounded so that a window ends on time even when nothing happens.
const TICK_MS: u16 = 10;
const EVENTS: usize = 256;

/// A way through one contender, and all that a load needs to use it.
#[derive(Clone, Copy)]
pub(crate) struct Target<'a> {
    pub(crate) label: &'a str,
    pub(crate) entry: Entry,
    pub(crate) clients: &'a Clients,
    pub(crate) backend: &'a Backend,
    pub(crate) meter: &'a Meter,
    /// A further count of the contender's that is read at both ends of the window.
    pub(crate) probe: Option<&'a dyn Fn() -> Result<u64>>,
}

/// A warm-up that does not count, and the time that does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    pub(crate) warm_up: Duration,
    pub(crate) length: Duration,
}

impl Timing {
    pub(crate) fn whole(self) -> Duration {
        self.warm_up + self.length
    }
}

/// What one contender did in one window.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Slice {
    /// Bytes, sessions or round trips.
    pub(crate) units: u64,
    #[serde(serialize_with = "rounded")]
    pub(crate) wall_seconds: f64,
    #[serde(serialize_with = "rounded")]
    pub(crate) contender_cpu_seconds: f64,
    /// How long the contender's CPU had nothing to do.
    #[serde(serialize_with = "rounded")]
    pub(crate) contender_idle_seconds: f64,
    /// Load generator and back end together, which share one CPU.
    #[serde(serialize_with = "rounded")]
    pub(crate) load_cpu_seconds: f64,
    #[serde(serialize_with = "rounded")]
    pub(crate) machine_busy_seconds: f64,
    #[serde(serialize_with = "rounded")]
    pub(crate) machine_stolen_seconds: f64,
    /// Messages that were due but not sent, because too many had not come back.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) missed: u64,
    /// What the target's probe counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) probed: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) latency: Option<Latency>,
}

/// From when messages were due until they were back, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Latency {
    pub(crate) count: u64,
    #[serde(serialize_with = "rounded")]
    pub(crate) p50: f64,
    #[serde(serialize_with = "rounded")]
    pub(crate) p90: f64,
    #[serde(serialize_with = "rounded")]
    pub(crate) p99: f64,
    #[serde(serialize_with = "rounded")]
    pub(crate) p999: f64,
    #[serde(serialize_with = "rounded")]
    pub(crate) most: f64,
}

/// To the millionth: results are kept, and nothing here is measured better.
fn rounded<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((value * 1e6).round() / 1e6)
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

struct Sample {
    at: Instant,
    units: u64,
    missed: u64,
    contender: Duration,
    load: Duration,
    machine: Machine,
    probed: Option<u64>,
}

impl Sample {
    fn take(target: &Target<'_>, units: u64, missed: u64) -> Result<Self> {
        Ok(Self {
            at: Instant::now(),
            units,
            missed,
            contender: target.meter.read()?,
            load: cpu::own_time()? + target.backend.time()?,
            machine: Machine::read(target.meter.cpu)?,
            probed: target.probe.map(|probe| probe()).transpose()?,
        })
    }
}

/// A warm-up, and then the time that counts.
pub(crate) struct Window<'a> {
    target: Target<'a>,
    begin: Instant,
    length: Duration,
    first: Option<Sample>,
}

impl<'a> Window<'a> {
    pub(crate) fn open(target: Target<'a>, timing: Timing) -> Self {
        Self { target, begin: Instant::now() + timing.warm_up, length: timing.length, first: None }
    }

    /// Whether what happens now counts.
    pub(crate) fn has_begun(&self) -> bool {
        self.first.is_some()
    }

    /// Called at every turn of a load loop with its counts so far; returns the slice when the window is over.
    pub(crate) fn turn(&mut self, units: impl FnOnce() -> Result<u64>, missed: u64) -> Result<Option<Slice>> {
        interrupt::check()?;
        match &self.first {
            None if Instant::now() >= self.begin => {
                self.first = Some(Sample::take(&self.target, units()?, missed)?);
                Ok(None)
            }
            Some(first) if first.at.elapsed() >= self.length => self.close(units()?, missed),
            _ => Ok(None),
        }
    }

    /// Ends the window before its time, if it has begun.
    pub(crate) fn close(&self, units: u64, missed: u64) -> Result<Option<Slice>> {
        let Some(first) = &self.first else { return Ok(None) };
        let last = Sample::take(&self.target, units, missed)?;
        let seconds = |late: Duration, early: Duration| late.saturating_sub(early).as_secs_f64();
        Ok(Some(Slice {
            units: last.units.saturating_sub(first.units),
            wall_seconds: (last.at - first.at).as_secs_f64(),
            contender_cpu_seconds: seconds(last.contender, first.contender),
            contender_idle_seconds: seconds(last.machine.idle, first.machine.idle),
            load_cpu_seconds: seconds(last.load, first.load),
            machine_busy_seconds: seconds(last.machine.busy, first.machine.busy),
            machine_stolen_seconds: seconds(last.machine.stolen, first.machine.stolen),
            missed: last.missed.saturating_sub(first.missed),
            probed: last.probed.zip(first.probed).map(|(last, first)| last.saturating_sub(first)),
            latency: None,
        }))
    }
}

/// An epoll set of connections that are known by their index.
struct Poller {
    epoll: Epoll,
    events: Vec<EpollEvent>,
}

impl Poller {
    fn new() -> Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("make an epoll set")?;
        Ok(Self { epoll, events: vec![EpollEvent::empty(); EVENTS] })
    }

    fn add(&self, index: usize, connection: &Connection, interest: EpollFlags) -> Result<()> {
        let event = EpollEvent::new(interest, u64::try_from(index)?);
        self.epoll.add(connection, event).context("watch a connection")
    }

    /// Waits a short while at most and returns the indices that are ready.
    fn wait(&mut self) -> Result<Vec<(usize, EpollFlags)>> {
        self.wait_for(TICK_MS)
    }

    /// The same until a time, to the millisecond: at least one, and not longer than usual.
    fn wait_until(&mut self, time: Instant) -> Result<Vec<(usize, EpollFlags)>> {
        let left = time.saturating_duration_since(Instant::now()).as_millis();
        self.wait_for(u16::try_from(left).unwrap_or(TICK_MS).clamp(1, TICK_MS))
    }

    fn wait_for(&mut self, milliseconds: u16) -> Result<Vec<(usize, EpollFlags)>> {
        let count = match self.epoll.wait(&mut self.events, EpollTimeout::from(milliseconds)) {
            Ok(count) => count,
            Err(Errno::EINTR) => 0,
            Err(error) => bail!("wait for connections: {error}"),
        };
        let ready = self.events.iter().take(count);
        ready.map(|event| Ok((usize::try_from(event.data())?, event.events()))).collect()
    }
}
