//! Drop events: the program's sample of what it dropped, read as it comes, the last ones kept for who asks.
//!
//! The daemon reads always, whether somebody looks or not: what is asked about has mostly just happened. The program
//! bounds how many there are, so this costs little under a flood too.

use std::collections::VecDeque;
use std::io;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use aya::maps::{MapData, RingBuf};
use portcullis_ebpf_common::event::Event;
use tokio::io::unix::AsyncFd;

use super::maps::now;
use crate::sync::lock;

/// Events that are kept.
pub const KEPT: usize = 1024;
/// Events that are read before other tasks have their turn.
const AT_ONCE: usize = 256;

/// The last events, each with its number.
#[derive(Debug, Default)]
pub struct Events {
    log: Mutex<Log>,
}

#[derive(Debug, Default)]
struct Log {
    kept: VecDeque<Event>,
    /// Number of the next one.
    next: u64,
}

/// Some events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    pub events: Vec<Event>,
    /// Number of the first of them.
    pub first: u64,
    /// Ask with this for what comes after them.
    pub next: u64,
    /// Events since the number that was asked for, which are kept no longer.
    pub missed: u64,
}

impl Events {
    fn push(&self, event: Event) {
        let mut log = lock(&self.log);
        if log.kept.len() >= KEPT {
            log.kept.pop_front();
        }
        log.kept.push_back(event);
        log.next = log.next.wrapping_add(1);
    }

    /// What came from number `after` on, or the last `most` of it. A number that there was never (of an earlier
    /// daemon) asks for all.
    #[must_use]
    pub fn since(&self, after: Option<u64>, most: usize) -> Page {
        let log = lock(&self.log);
        let kept = u64::try_from(log.kept.len()).unwrap_or(u64::MAX);
        let oldest = log.next.saturating_sub(kept);
        let from = after.filter(|after| *after <= log.next).unwrap_or(oldest);
        let skip = usize::try_from(from.saturating_sub(oldest)).unwrap_or(usize::MAX);
        let surplus = log.kept.len().saturating_sub(skip).saturating_sub(most);
        let events: Vec<Event> = log.kept.iter().skip(skip).skip(surplus).copied().collect();
        let first = log.next.saturating_sub(u64::try_from(events.len()).unwrap_or(u64::MAX));
        let missed = if after.is_some() { first.saturating_sub(from) } else { 0 };
        Page { events, first, next: log.next, missed }
    }

    /// Reads until the end of time; dropping it loses nothing that the ring has room for.
    ///
    /// # Errors
    /// When the ring cannot be waited for.
    pub(super) async fn read(&self, ring: RingBuf<MapData>) -> io::Result<()> {
        #[expect(
            deprecated,
            reason = "its successor is unsafe; the ring owns its descriptor, which stays the same"
        )]
        let mut ring = AsyncFd::new(ring)?;
        loop {
            let mut ready = ring.readable_mut().await?;
            let mut left = AT_ONCE;
            while left > 0
                && let Some(item) = ready.get_inner_mut().next()
            {
                if let Some(event) = Event::from_bytes(&item) {
                    self.push(event);
                }
                left = left.saturating_sub(1);
            }
            if left > 0 {
                ready.clear_ready();
            } else {
                tokio::task::yield_now().await;
            }
        }
    }
}

/// When an event was, by the wall clock.
#[must_use]
pub fn wall_time(event: &Event) -> SystemTime {
    let ago = Duration::from_nanos(now().saturating_sub(event.time()));
    SystemTime::now().checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(time: u64) -> Event {
        let words = [time, 0, 0, 0, 0, 0, 0, 1];
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        Event::from_bytes(&bytes).unwrap()
    }

    fn times(page: &Page) -> Vec<u64> {
        page.events.iter().map(Event::time).collect()
    }

    #[test]
    fn who_follows_sees_each_event_once() {
        let events = Events::default();
        assert_eq!(events.since(Some(0), 10), Page::default());
        (0..3).for_each(|time| events.push(event(time)));
        let page = events.since(Some(0), 10);
        assert_eq!((times(&page), page.first, page.next, page.missed), (vec![0, 1, 2], 0, 3, 0));
        assert!(events.since(Some(page.next), 10).events.is_empty());
        events.push(event(3));
        assert_eq!(times(&events.since(Some(page.next), 10)), [3]);
        assert_eq!(times(&events.since(None, 2)), [2, 3]);
    }

    #[test]
    fn who_asks_too_seldom_is_told_what_was_missed() {
        let events = Events::default();
        let many = u64::try_from(KEPT).unwrap() + 5;
        (0..many).for_each(|time| events.push(event(time)));
        let page = events.since(Some(2), usize::MAX);
        assert_eq!((page.events.len(), page.missed, page.next), (KEPT, 3, many));
        let page = events.since(Some(many - 4), 1);
        assert_eq!((times(&page), page.missed), (vec![many - 1], 3));
        // A number of another daemon's life.
        assert_eq!(events.since(Some(u64::MAX), usize::MAX).events.len(), KEPT);
    }
}
