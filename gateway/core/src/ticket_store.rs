//! The tickets that our own authority has issued and not yet seen used.
//!
//! Tickets live in memory only: after a restart every earlier ticket is refused as unknown, which is clear and
//! safe. A ticket that is not refreshable serves once.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::time::{Duration, Instant};

use portcullis_proto::host_port::HostPort;
use portcullis_proto::ticket::TicketSecret;

/// Life of a ticket unless said otherwise (PROTOCOL §3).
pub const LIFE_DEFAULT: Duration = Duration::from_secs(100);
/// Longest life that may be asked for: a ticket is a bearer secret.
pub const LIFE_MAX: Duration = Duration::from_hours(24);

/// How long an expired ticket is still told from an unknown one, for whoever reads the log; it serves no more.
const EXPIRED_KEPT: Duration = Duration::from_mins(1);

/// What a ticket stands for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TicketData {
    /// Where SOCKS and ICA clients go.
    pub ica: Option<HostPort>,
    /// Where CGP (session reliability) clients go.
    pub cgp: Option<HostPort>,
    pub user: Option<String>,
    pub domain: Option<String>,
    pub application: Option<String>,
}

/// Why a ticket was not issued or not redeemed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum TicketRefusal {
    #[error("unknown or already used ticket")]
    Unknown,
    #[error("expired ticket")]
    Expired,
    #[error("too many live tickets")]
    Full,
}

impl TicketRefusal {
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Expired => "expired",
            Self::Full => "full",
        }
    }
}

#[derive(Debug)]
struct Entry {
    secret: TicketSecret,
    data: TicketData,
    expires: Instant,
    serial: u64,
    refreshable: bool,
}

/// The first half of a secret finds the entry; the whole is compared in constant time. Guessing an index that
/// exists takes 2^64 tries and tells nothing of the other half.
type Index = [u8; 16];

/// Live tickets, at most `most` of them.
#[derive(Debug)]
pub struct TicketStore {
    entries: HashMap<Index, Entry>,
    by_expiry: BTreeMap<(Instant, u64), Index>,
    most: usize,
    next_serial: u64,
}

impl TicketStore {
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { entries: HashMap::new(), by_expiry: BTreeMap::new(), most, next_serial: 0 }
    }

    /// Keeps a ticket made of `random` bytes, which must come from the system's randomness.
    ///
    /// # Errors
    /// [`TicketRefusal::Full`] when `most` tickets are live.
    pub fn issue(
        &mut self,
        now: Instant,
        random: [u8; 16],
        data: TicketData,
        refreshable: bool,
        life: Duration,
    ) -> Result<TicketSecret, TicketRefusal> {
        self.expire(now.checked_sub(EXPIRED_KEPT).unwrap_or(now));
        if self.entries.len() >= self.most {
            self.expire(now);
        }
        let secret = TicketSecret::from_random(random);
        let index = Self::index(&secret);
        if self.entries.len() >= self.most || self.entries.contains_key(&index) {
            return Err(TicketRefusal::Full);
        }
        let serial = self.next_serial;
        self.next_serial = serial.wrapping_add(1);
        let expires = now.checked_add(life.min(LIFE_MAX)).unwrap_or(now);
        self.by_expiry.insert((expires, serial), index);
        self.entries.insert(index, Entry { secret: secret.clone(), data, expires, serial, refreshable });
        Ok(secret)
    }

    /// Redeems a ticket; one that is not refreshable is used up.
    ///
    /// # Errors
    /// [`TicketRefusal::Unknown`] or [`TicketRefusal::Expired`].
    pub fn redeem(&mut self, now: Instant, secret: &TicketSecret) -> Result<TicketData, TicketRefusal> {
        let index = Self::index(secret);
        let entry = self.entries.get(&index).filter(|entry| entry.secret == *secret);
        let entry = entry.ok_or(TicketRefusal::Unknown)?;
        let expired = entry.expires <= now;
        if entry.refreshable && !expired {
            return Ok(entry.data.clone());
        }
        let key = (entry.expires, entry.serial);
        self.by_expiry.remove(&key);
        match self.entries.remove(&index) {
            Some(entry) if !expired => Ok(entry.data),
            _ => Err(TicketRefusal::Expired),
        }
    }

    /// Takes tickets back: they are unknown from now on. Says how many could still have served.
    pub fn revoke(&mut self, now: Instant, chosen: impl Fn(&TicketData) -> bool) -> usize {
        self.expire(now);
        let before = self.entries.len();
        self.entries.retain(|_, entry| !chosen(&entry.data));
        let Self { entries, by_expiry, .. } = self;
        by_expiry.retain(|_, index| entries.contains_key(index));
        before.saturating_sub(self.entries.len())
    }

    /// Forgets what has expired by then.
    fn expire(&mut self, now: Instant) {
        while let Some((&(expires, serial), &index)) = self.by_expiry.first_key_value() {
            if expires > now {
                return;
            }
            self.by_expiry.remove(&(expires, serial));
            self.entries.remove(&index);
        }
    }

    /// Tickets that can still be redeemed.
    #[must_use]
    pub fn live(&self, now: Instant) -> usize {
        self.by_expiry.range((Bound::Excluded((now, u64::MAX)), Bound::Unbounded)).count()
    }

    fn index(secret: &TicketSecret) -> Index {
        let mut index = [0; 16];
        for (to, from) in index.iter_mut().zip(secret.expose().bytes()) {
            *to = from;
        }
        index
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Duration = LIFE_DEFAULT;

    // The one place of this crate where a clock is read: a test needs some first instant.
    #[expect(clippy::disallowed_methods, reason = "a test needs some first instant")]
    fn start() -> Instant {
        Instant::now()
    }

    fn data() -> TicketData {
        TicketData { ica: Some(HostPort::parse("10.0.0.9:1494").unwrap()), ..TicketData::default() }
    }

    #[test]
    fn a_ticket_serves_once() {
        let (mut store, now) = (TicketStore::new(9), start());
        let secret = store.issue(now, [7; 16], data(), false, LIFE).unwrap();
        assert_eq!(store.redeem(now, &secret), Ok(data()));
        assert_eq!(store.redeem(now, &secret), Err(TicketRefusal::Unknown));
        assert!(store.entries.is_empty() && store.by_expiry.is_empty());
    }

    #[test]
    fn a_refreshable_ticket_serves_until_it_expires() {
        let (mut store, now) = (TicketStore::new(9), start());
        let secret = store.issue(now, [7; 16], data(), true, LIFE).unwrap();
        assert_eq!(store.redeem(now, &secret), Ok(data()));
        assert_eq!(store.redeem(now + LIFE - Duration::from_millis(1), &secret), Ok(data()));
        assert_eq!(store.redeem(now + LIFE, &secret), Err(TicketRefusal::Expired));
        assert!(store.entries.is_empty());
    }

    #[test]
    fn a_ticket_that_differs_in_its_last_character_is_unknown() {
        let (mut store, now) = (TicketStore::new(9), start());
        store.issue(now, [0; 16], data(), false, LIFE).unwrap();
        let forged = TicketSecret::parse("00000000000000000000000000000001").unwrap();
        assert_eq!(store.redeem(now, &forged), Err(TicketRefusal::Unknown));
        assert_eq!(store.live(now), 1);
    }

    #[test]
    fn a_full_store_refuses_until_a_ticket_expires() {
        let (mut store, now) = (TicketStore::new(1), start());
        store.issue(now, [1; 16], data(), false, LIFE).unwrap();
        assert_eq!(store.issue(now, [2; 16], data(), false, LIFE), Err(TicketRefusal::Full));
        assert!(store.issue(now + LIFE, [2; 16], data(), false, LIFE).is_ok());
    }

    #[test]
    fn an_expired_ticket_is_told_from_an_unknown_one_for_a_while() {
        let (mut store, now) = (TicketStore::new(9), start());
        let secret = store.issue(now, [1; 16], data(), false, LIFE).unwrap();
        store.issue(now + LIFE, [2; 16], data(), false, LIFE).unwrap();
        assert_eq!(store.live(now + LIFE), 1);
        assert_eq!(store.redeem(now + LIFE, &secret), Err(TicketRefusal::Expired));
    }

    #[test]
    fn revoked_tickets_are_unknown_and_others_stay() {
        let (mut store, now) = (TicketStore::new(9), start());
        let of = |user: &str| TicketData { user: Some(user.to_owned()), ..data() };
        let expired = store.issue(now, [1; 16], of("ann"), true, Duration::from_secs(1)).unwrap();
        let later = now + Duration::from_secs(2);
        let ann = store.issue(later, [2; 16], of("ann"), true, LIFE).unwrap();
        let bob = store.issue(later, [3; 16], of("bob"), true, LIFE).unwrap();
        assert_eq!(store.revoke(later, |data| data.user.as_deref() == Some("ann")), 1);
        for gone in [expired, ann] {
            assert_eq!(store.redeem(later, &gone), Err(TicketRefusal::Unknown));
        }
        assert_eq!(store.redeem(later, &bob), Ok(of("bob")));
        assert_eq!((store.live(later), store.by_expiry.len()), (1, 1));
    }

    #[test]
    fn no_ticket_lives_longer_than_a_day() {
        let (mut store, now) = (TicketStore::new(1), start());
        let secret = store.issue(now, [1; 16], data(), true, LIFE_MAX * 2).unwrap();
        assert_eq!(store.redeem(now + LIFE_MAX, &secret), Err(TicketRefusal::Expired));
    }
}
