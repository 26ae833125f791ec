//! Small messages on many connections, at a fixed rate: what a remote desktop looks like to a gateway.
//!
//! Open loop: a message goes out when it is due, whether or not the one before has come back, so that a slow
//! contender gets the same work as a fast one. Its latency counts from when it was due, not from when it was sent, so
//! that a stall is charged with all that waited for it. Gaps are jittered, so that messages neither march in step nor
//! arrive in clumps that would spare a contender its wake-ups.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use hdrhistogram::Histogram;
use nix::sys::epoll::{EpollEvent, EpollFlags};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use super::connection::{Clients, Connection, Entry, Received};
use super::{Latency, Poller, Slice, Target, Timing, Window};
use crate::backend;
use crate::stats::{Random, float};

/// Messages of one connection that may be under way; what is due beyond is missed, and reported.
const UNDER_WAY_MAX: usize = 16;
const BUFFER_BYTES: usize = 32 * 1_024;
const KEEP_ALIVE_BYTES: usize = 16;
/// A latency beyond is counted as this.
const LATENCY_MAX: Duration = Duration::from_secs(60);
const MICROSECOND: f64 = 1e3;

/// How many connections, how often each sends a message, and how long that is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mix {
    /// Connections that send messages.
    pub(crate) active: usize,
    pub(crate) gap: Duration,
    /// Bytes of a message, both included.
    pub(crate) sizes: (usize, usize),
    /// Connections that only keep alive.
    pub(crate) idle: usize,
    pub(crate) idle_gap: Duration,
}

/// The mix that stands for a gateway's sessions: 10,000 messages a second, about a third of a core of HAProxy's.
pub(crate) const MIX: Mix = Mix {
    active: 200,
    gap: Duration::from_millis(20),
    sizes: (256, 256),
    idle: 0,
    idle_gap: Duration::from_secs(5),
};

impl Mix {
    fn connections(&self) -> usize {
        self.active + self.idle
    }

    fn gap_of(&self, index: usize) -> Duration {
        if index < self.active { self.gap } else { self.idle_gap }
    }
}

/// Lets a mix live through a window.
pub(crate) fn run(target: &Target<'_>, mix: Mix, timing: Timing) -> Result<Slice> {
    let mut load = Load::start(target.entry, target.clients, mix)?;
    run_open(&mut load, target, timing)
}

/// The same with sessions that are open already.
pub(crate) fn run_open(load: &mut Load, target: &Target<'_>, timing: Timing) -> Result<Slice> {
    let mut window = Window::open(*target, timing);
    let mut counts = false;
    loop {
        load.turn().with_context(|| format!("messages through {}", target.label))?;
        let slice = window.turn(|| Ok(load.returned()), load.missed)?;
        if let Some(slice) = slice {
            return Ok(Slice { latency: load.latency(), ..slice });
        }
        if !counts && window.has_begun() {
            load.latencies.reset();
            counts = true;
        }
    }
}

/// A message that has not come back yet.
struct UnderWay {
    due: Instant,
    left: usize,
}

struct Peer {
    connection: Connection,
    under_way: VecDeque<UnderWay>,
}

/// The connections of one slice and their messages so far.
pub(crate) struct Load {
    mix: Mix,
    poller: Poller,
    /// Its index in the poller is the number of connections.
    timer: TimerFd,
    peers: Vec<Peer>,
    due: BinaryHeap<Reverse<(Instant, usize)>>,
    random: Random,
    returned: u64,
    missed: u64,
    latencies: Histogram<u64>,
    buffer: Vec<u8>,
    text: Vec<u8>,
}

impl Load {
    pub(crate) fn start(entry: Entry, clients: &Clients, mix: Mix) -> Result<Self> {
        let poller = Poller::new()?;
        let count = mix.connections();
        let mut peers = Vec::with_capacity(count);
        for (index, mut connection) in Connection::open_many(entry, clients, count)?.into_iter().enumerate() {
            connection.send(&[backend::ECHO])?;
            poller.add(index, &connection, EpollFlags::EPOLLIN)?;
            peers.push(Peer { connection, under_way: VecDeque::new() });
        }
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC)?;
        let event = EpollEvent::new(EpollFlags::EPOLLIN, u64::try_from(count)?);
        poller.epoll.add(timer.as_fd(), event)?;
        let mut random = Random::new(1);
        let now = Instant::now();
        // Somewhere in its first gap: keep-alives must not come in a clump.
        let first = |index: usize| now + mix.gap_of(index).mul_f64(random.share());
        let due: Vec<Instant> = (0..count).map(first).collect();
        let due = due.into_iter().enumerate().map(|(index, at)| Reverse((at, index))).collect();
        let latencies = Histogram::new_with_bounds(1, u64::try_from(LATENCY_MAX.as_nanos())?, 3)?;
        let (buffer, text) = (vec![0; BUFFER_BYTES], vec![b'm'; mix.sizes.1.max(KEEP_ALIVE_BYTES)]);
        Ok(Self { mix, poller, timer, peers, due, random, returned: 0, missed: 0, latencies, buffer, text })
    }

    /// Messages that have come back so far.
    pub(crate) fn returned(&self) -> u64 {
        self.returned
    }

    /// Sends what is due and receives what has come; waits a short while at most.
    pub(crate) fn turn(&mut self) -> Result<()> {
        self.send_what_is_due()?;
        for (index, _) in self.poller.wait()? {
            self.receive(index)?;
        }
        Ok(())
    }

    fn send_what_is_due(&mut self) -> Result<()> {
        let now = Instant::now();
        while let Some(&Reverse((at, index))) = self.due.peek() {
            if at > now {
                // Setting the timer again also clears its last expiry, so it need not be read.
                let wait = TimeSpec::from_duration((at - now).max(Duration::from_nanos(1)));
                return self
                    .timer
                    .set(Expiration::OneShot(wait), TimerSetTimeFlags::empty())
                    .context("set the timer of the load");
            }
            self.due.pop();
            self.due.push(Reverse((at + jittered(&mut self.random, self.mix.gap_of(index)), index)));
            let Some(peer) = self.peers.get_mut(index) else { continue };
            if peer.under_way.len() >= UNDER_WAY_MAX {
                self.missed += 1;
                continue;
            }
            let (least, most) = self.mix.sizes;
            let length = match index < self.mix.active {
                true => least + self.random.below(most - least + 1),
                false => KEEP_ALIVE_BYTES,
            };
            peer.connection.send(self.text.get(..length).unwrap_or_default())?;
            peer.under_way.push_back(UnderWay { due: at, left: length });
        }
        Ok(())
    }

    fn receive(&mut self, index: usize) -> Result<()> {
        let Some(peer) = self.peers.get_mut(index) else { return Ok(()) };
        let mut count = match peer.connection.receive(&mut self.buffer)? {
            Received::Bytes(count) => count,
            Received::End => bail!("the connection was ended"),
        };
        let now = Instant::now();
        while count > 0 {
            let first = peer.under_way.front_mut().context("more came back than was sent")?;
            let now_back = first.left.min(count);
            first.left -= now_back;
            count -= now_back;
            if first.left == 0 {
                let nanos = u64::try_from(now.saturating_duration_since(first.due).as_nanos())?;
                self.latencies.saturating_record(nanos);
                self.returned += 1;
                peer.under_way.pop_front();
            }
        }
        Ok(())
    }

    fn latency(&self) -> Option<Latency> {
        let at = |quantile| float(self.latencies.value_at_quantile(quantile)) / MICROSECOND;
        (!self.latencies.is_empty()).then(|| Latency {
            count: self.latencies.len(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            most: float(self.latencies.max()) / MICROSECOND,
        })
    }
}

/// Between half and one and a half of the gap.
fn jittered(random: &mut Random, gap: Duration) -> Duration {
    gap.mul_f64(0.5 + random.share())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Backend;

    #[test]
    fn gaps_keep_their_mean_and_their_bounds() {
        let (mut random, gap) = (Random::new(3), MIX.gap);
        let gaps: Vec<Duration> = (0..10_000).map(|_| jittered(&mut random, gap)).collect();
        assert!(gaps.iter().all(|one| (gap / 2..=gap * 3 / 2).contains(one)));
        let mean = gaps.iter().sum::<Duration>() / 10_000;
        assert!(mean.abs_diff(gap) < gap / 50, "{mean:?}");
    }

    #[test]
    fn messages_of_all_sizes_come_back_with_their_latencies() {
        let backend = Backend::start().unwrap();
        let setup = portcullis_tests::gateway::Setup::new().unwrap();
        let clients = Clients::of(setup.dir()).unwrap();
        let mix = Mix { active: 3, gap: Duration::from_millis(1), sizes: (256, 1_228), idle: 2, ..MIX };
        let mut load = Load::start(Entry::Plain(backend.address), &clients, mix).unwrap();
        portcullis_tests::wait::attempt(Duration::from_secs(10), "200 messages", || {
            load.turn()?;
            Ok::<_, anyhow::Error>((load.returned() >= 200).then_some(()))
        })
        .unwrap();
        let latency = load.latency().unwrap();
        assert_eq!(latency.count, load.returned());
        assert!(0.0 < latency.p50 && latency.p50 <= latency.p99 && latency.p99 <= latency.most);
    }
}
