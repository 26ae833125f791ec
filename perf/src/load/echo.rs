//! Small messages on many connections, at a fixed rate: what a remote desktop looks like to a gateway.
//!
//! Open loop: a message goes out when it is due, whether or not the one before has come back, so that a slow
//! contender gets the same work as a fast one. Gaps are jittered, so that messages neither march in step nor arrive
//! in clumps that would spare a contender its wake-ups.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::epoll::{EpollEvent, EpollFlags};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use super::connection::{Clients, Connection, Received};
use super::{Poller, Slice, Window};
use crate::backend;
use crate::contender::Contender;
use crate::stats::Random;

pub(crate) const CONNECTIONS: usize = 200;
pub(crate) const MESSAGE_BYTES: usize = 256;
/// Per connection. All together 10,000 messages a second: about a third of a core of HAProxy's.
pub(crate) const GAP: Duration = Duration::from_millis(20);
/// Messages of one connection that may be under way; what is due beyond is missed, and reported.
const UNDER_WAY_MAX: usize = 16;
const BUFFER_BYTES: usize = 32 * 1_024;

pub(crate) fn run(
    contender: &Contender,
    clients: &Clients,
    warm_up: Duration,
    length: Duration,
) -> Result<Slice> {
    let mut load = Load::start(contender.relay, clients, MIX)?;
    let mut window = Window::open(contender.meter(), warm_up, length);
    loop {
        load.turn().with_context(|| format!("echo through {}", contender.label))?;
        if let Some(slice) = window.turn(load.returned(), load.missed)? {
            return Ok(slice);
        }
    }
}

const MESSAGE: u64 = 256;

/// How many connections, and how often each sends a message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mix {
    pub(crate) connections: usize,
    pub(crate) gap: Duration,
}

/// The mix that stands for a gateway's sessions.
pub(crate) const MIX: Mix = Mix { connections: CONNECTIONS, gap: GAP };

struct Peer {
    connection: Connection,
    under_way: usize,
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
    buffer: Vec<u8>,
}

impl Load {
    pub(crate) fn start(relay: SocketAddr, clients: &Clients, mix: Mix) -> Result<Self> {
        let poller = Poller::new()?;
        let mut peers = Vec::with_capacity(mix.connections);
        for index in 0..mix.connections {
            let mut connection = Connection::establish(relay, &clients.cheap)?;
            connection.send(&[backend::ECHO])?;
            poller.add(index, &connection, EpollFlags::EPOLLIN)?;
            peers.push(Peer { connection, under_way: 0 });
        }
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC)?;
        let event = EpollEvent::new(EpollFlags::EPOLLIN, u64::try_from(mix.connections)?);
        poller.epoll.add(timer.as_fd(), event)?;
        let mut random = Random::new(1);
        let now = Instant::now();
        let due = (0..mix.connections).map(|index| Reverse((now + jittered(&mut random, mix.gap), index)));
        let due = due.collect();
        let buffer = vec![0; BUFFER_BYTES];
        Ok(Self { mix, poller, timer, peers, due, random, returned: 0, missed: 0, buffer })
    }

    /// Messages that have come back so far.
    pub(crate) fn returned(&self) -> u64 {
        self.returned / MESSAGE
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
        const TEXT: [u8; MESSAGE_BYTES] = [b'm'; MESSAGE_BYTES];
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
            self.due.push(Reverse((at + jittered(&mut self.random, self.mix.gap), index)));
            let Some(peer) = self.peers.get_mut(index) else { continue };
            if peer.under_way >= UNDER_WAY_MAX * MESSAGE_BYTES {
                self.missed += 1;
                continue;
            }
            peer.connection.send(&TEXT)?;
            peer.under_way += MESSAGE_BYTES;
        }
        Ok(())
    }

    fn receive(&mut self, index: usize) -> Result<()> {
        let Some(peer) = self.peers.get_mut(index) else { return Ok(()) };
        match peer.connection.receive(&mut self.buffer)? {
            Received::Bytes(count) => {
                peer.under_way = peer.under_way.checked_sub(count).context("more came back than was sent")?;
                self.returned += u64::try_from(count)?;
                Ok(())
            }
            Received::End => bail!("the connection was ended"),
        }
    }
}

/// Between half and one and a half of the gap.
fn jittered(random: &mut Random, gap: Duration) -> Duration {
    let nanos = usize::try_from(gap.as_nanos()).unwrap_or(usize::MAX);
    gap / 2 + Duration::from_nanos(u64::try_from(random.below(nanos)).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_keep_their_mean_and_their_bounds() {
        let mut random = Random::new(3);
        let gaps: Vec<Duration> = (0..10_000).map(|_| jittered(&mut random, GAP)).collect();
        assert!(gaps.iter().all(|gap| (GAP / 2..=GAP * 3 / 2).contains(gap)));
        let mean = gaps.iter().sum::<Duration>() / 10_000;
        assert!(mean.abs_diff(GAP) < GAP / 50, "{mean:?}");
    }
}
