//! The bans in force: the one list, of which the kernel's table is a copy.
//!
//! At most `most` of them. When there is no room, the ban that the gateway gave by itself and that ends first makes
//! room; one that an operator made never does. Of several bans that hold for an address the narrowest is shown, and
//! one that has ended hides none.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Instant, SystemTime};

use ipnet::IpNet;

use super::Offence;

/// Where a ban comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// An operator made it, and perhaps said why.
    Hand { note: Option<String> },
    /// The gateway gave it.
    Automatic { offence: Offence, offences: u32, repeats: u32 },
    /// It was in the kernel's table at the start, and nothing else is known of it.
    Found,
}

impl Origin {
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Hand { .. } => "hand",
            Self::Automatic { .. } => "automatic",
            Self::Found => "found",
        }
    }

    #[must_use]
    pub fn is_automatic(&self) -> bool {
        matches!(self, Self::Automatic { .. })
    }
}

/// One ban.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ban {
    pub prefix: IpNet,
    pub origin: Origin,
    /// For showing and for keeping; [`Self::end`] decides.
    pub since: SystemTime,
    pub until: SystemTime,
    pub end: Instant,
    /// Whether the kernel side drops its packets.
    pub in_kernel: bool,
}

/// The list has no room, and nothing in it that may make room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the list of bans is full")]
pub struct Full;

/// Bans by prefix.
#[derive(Debug)]
pub struct BanList {
    most: usize,
    bans: BTreeMap<IpNet, Ban>,
    by_end: BTreeSet<(Instant, IpNet)>,
    /// Those that may make room, in that order.
    evictable: BTreeSet<(Instant, IpNet)>,
    /// How many bans of each family (`true`: IPv4) and length there are: only these are looked for.
    lengths: BTreeMap<(bool, u8), usize>,
}

impl BanList {
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self {
            most,
            bans: BTreeMap::new(),
            by_end: BTreeSet::new(),
            evictable: BTreeSet::new(),
            lengths: BTreeMap::new(),
        }
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.bans.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bans.is_empty()
    }

    /// All of them by prefix, and those too that have just ended.
    pub fn iter(&self) -> impl Iterator<Item = &Ban> {
        self.bans.values()
    }

    /// Those behind a prefix, in the order of [`Self::iter`].
    pub fn iter_after(&self, prefix: IpNet) -> impl Iterator<Item = &Ban> {
        use std::ops::Bound::{Excluded, Unbounded};
        self.bans.range((Excluded(prefix), Unbounded)).map(|(_, ban)| ban)
    }

    #[must_use]
    pub fn get(&self, prefix: IpNet) -> Option<&Ban> {
        self.bans.get(&prefix)
    }

    /// Adds a ban in the place of one of the same prefix; returns the one that had to make room.
    ///
    /// # Errors
    /// [`Full`]
    pub fn insert(&mut self, ban: Ban) -> Result<Option<Ban>, Full> {
        self.remove(ban.prefix);
        let mut evicted = None;
        if self.bans.len() >= self.most {
            let (_, first) = self.evictable.first().copied().ok_or(Full)?;
            evicted = self.remove(first);
        }
        let key = (ban.end, ban.prefix);
        self.by_end.insert(key);
        if ban.origin.is_automatic() {
            self.evictable.insert(key);
        }
        let count = self.lengths.entry(shape(ban.prefix)).or_default();
        *count = count.saturating_add(1);
        self.bans.insert(ban.prefix, ban);
        Ok(evicted)
    }

    /// Notes whether the kernel side drops its packets.
    pub fn set_in_kernel(&mut self, prefix: IpNet, in_kernel: bool) {
        if let Some(ban) = self.bans.get_mut(&prefix) {
            ban.in_kernel = in_kernel;
        }
    }

    pub fn remove(&mut self, prefix: IpNet) -> Option<Ban> {
        let ban = self.bans.remove(&prefix)?;
        self.by_end.remove(&(ban.end, prefix));
        self.evictable.remove(&(ban.end, prefix));
        if let Some(count) = self.lengths.get_mut(&shape(prefix)) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.lengths.remove(&shape(prefix));
            }
        }
        Some(ban)
    }

    /// Removes those for which `wanted` says so.
    pub fn remove_where(&mut self, wanted: impl Fn(&Ban) -> bool) -> Vec<Ban> {
        let prefixes: Vec<IpNet> =
            self.bans.values().filter(|ban| wanted(ban)).map(|ban| ban.prefix).collect();
        prefixes.into_iter().filter_map(|prefix| self.remove(prefix)).collect()
    }

    /// The narrowest ban in force for an address.
    #[must_use]
    pub fn find(&self, address: IpAddr, now: Instant) -> Option<&Ban> {
        let address = address.to_canonical();
        let of_family = self.lengths.keys().rev().filter(|(v4, _)| *v4 == address.is_ipv4());
        of_family
            .filter_map(|(_, length)| self.bans.get(&IpNet::new(address, *length).ok()?.trunc()))
            .find(|ban| ban.end > now)
    }

    /// Removes those that have ended.
    pub fn expire(&mut self, now: Instant) -> Vec<Ban> {
        let mut ended = Vec::new();
        while let Some((end, prefix)) = self.by_end.first().copied() {
            if end > now {
                break;
            }
            match self.remove(prefix) {
                Some(ban) => ended.push(ban),
                None => drop(self.by_end.pop_first()),
            }
        }
        ended
    }

    /// When [`Self::expire`] has something to do.
    #[must_use]
    pub fn next_end(&self) -> Option<Instant> {
        self.by_end.first().map(|(end, _)| *end)
    }
}

fn shape(prefix: IpNet) -> (bool, u8) {
    (matches!(prefix, IpNet::V4(_)), prefix.prefix_len())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[expect(clippy::disallowed_methods, reason = "a test needs some first instant")]
    fn start() -> Instant {
        Instant::now()
    }

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn hand(prefix: &str, end: Instant) -> Ban {
        Ban {
            prefix: net(prefix),
            origin: Origin::Hand { note: None },
            since: SystemTime::UNIX_EPOCH,
            until: SystemTime::UNIX_EPOCH,
            end,
            in_kernel: false,
        }
    }

    fn automatic(prefix: &str, end: Instant) -> Ban {
        let origin = Origin::Automatic { offence: Offence::BadTicket, offences: 20, repeats: 0 };
        Ban { origin, ..hand(prefix, end) }
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_narrowest_ban_in_force_is_found_and_one_that_has_ended_hides_none() {
        let now = start();
        let mut list = BanList::new(10);
        list.insert(hand("192.0.2.0/24", now + seconds(100))).unwrap();
        list.insert(automatic("192.0.2.7/32", now + seconds(10))).unwrap();
        list.insert(hand("2001:db8::/32", now + seconds(100))).unwrap();
        let found = |address: &str, at| list.find(address.parse().unwrap(), at).map(|ban| ban.prefix);
        assert_eq!(found("192.0.2.7", now), Some(net("192.0.2.7/32")));
        assert_eq!(found("::ffff:192.0.2.7", now), Some(net("192.0.2.7/32")));
        assert_eq!(found("192.0.2.7", now + seconds(10)), Some(net("192.0.2.0/24")));
        assert_eq!(found("192.0.2.7", now + seconds(100)), None);
        assert_eq!(found("192.0.2.8", now), Some(net("192.0.2.0/24")));
        assert_eq!(found("192.0.3.8", now), None);
        assert_eq!(found("2001:db8:5::1", now), Some(net("2001:db8::/32")));
        assert_eq!(found("2001:db9::1", now), None);
    }

    #[test]
    fn ended_bans_go_in_their_order_and_leave_nothing_behind() {
        let now = start();
        let mut list = BanList::new(10);
        list.insert(automatic("192.0.2.1/32", now + seconds(2))).unwrap();
        list.insert(hand("192.0.2.2/32", now + seconds(1))).unwrap();
        assert_eq!(list.next_end(), Some(now + seconds(1)));
        assert!(list.expire(now).is_empty());
        let ended = |bans: Vec<Ban>| bans.into_iter().map(|ban| ban.prefix).collect::<Vec<_>>();
        assert_eq!(ended(list.expire(now + seconds(2))), [net("192.0.2.2/32"), net("192.0.2.1/32")]);
        assert!(list.is_empty() && list.by_end.is_empty() && list.evictable.is_empty());
        assert!(list.lengths.is_empty());
        assert_eq!(list.next_end(), None);
    }

    #[test]
    fn in_a_full_list_the_automatic_ban_that_ends_first_makes_room_and_hand_made_ones_never_do() {
        let now = start();
        let mut list = BanList::new(3);
        list.insert(hand("192.0.2.1/32", now + seconds(1))).unwrap();
        list.insert(automatic("192.0.2.2/32", now + seconds(9))).unwrap();
        list.insert(automatic("192.0.2.3/32", now + seconds(5))).unwrap();
        let evicted = list.insert(hand("192.0.2.4/32", now + seconds(7))).unwrap();
        assert_eq!(evicted.map(|ban| ban.prefix), Some(net("192.0.2.3/32")));
        let evicted = list.insert(hand("192.0.2.5/32", now + seconds(7))).unwrap();
        assert_eq!(evicted.map(|ban| ban.prefix), Some(net("192.0.2.2/32")));
        assert_eq!(list.insert(automatic("192.0.2.6/32", now + seconds(7))), Err(Full));
        assert_eq!(list.len(), 3);
        // The same prefix needs no room.
        assert_eq!(list.insert(hand("192.0.2.5/32", now + seconds(70))), Ok(None));
    }

    #[test]
    fn bans_are_removed_by_what_they_are() {
        let now = start();
        let mut list = BanList::new(10);
        list.insert(hand("192.0.2.1/32", now + seconds(1))).unwrap();
        list.insert(automatic("192.0.2.2/32", now + seconds(9))).unwrap();
        assert_eq!(list.remove_where(|ban| ban.origin.is_automatic()).len(), 1);
        assert_eq!(list.iter().map(|ban| ban.prefix).collect::<Vec<_>>(), [net("192.0.2.1/32")]);
        assert!(list.remove(net("192.0.2.2/32")).is_none());
    }
}
