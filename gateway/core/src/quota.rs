//! Counts what is in use, in all and by key, and refuses past the limit.
//!
//! The table is bounded by the total: a key is kept only while something of it is in use.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};

/// Which limit was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    Total,
    Key,
}

/// Uses in all and by key.
#[derive(Debug)]
pub struct Quota<K> {
    total: usize,
    by_key: HashMap<K, usize>,
}

impl<K> Default for Quota<K> {
    fn default() -> Self {
        Self { total: 0, by_key: HashMap::new() }
    }
}

impl<K: Clone + Eq + Hash> Quota<K> {
    /// Takes one use.
    ///
    /// # Errors
    /// Which limit it would exceed; nothing is taken then.
    pub fn take(&mut self, key: &K, most: usize, most_by_key: usize) -> Result<(), Over> {
        if self.total >= most {
            return Err(Over::Total);
        }
        let of_key = self.by_key.get(key).copied().unwrap_or(0);
        if of_key >= most_by_key {
            return Err(Over::Key);
        }
        self.total = self.total.saturating_add(1);
        self.by_key.insert(key.clone(), of_key.saturating_add(1));
        Ok(())
    }

    /// Gives one use back.
    pub fn release(&mut self, key: &K) {
        let Some(of_key) = self.by_key.get_mut(key) else { return };
        self.total = self.total.saturating_sub(1);
        *of_key = of_key.saturating_sub(1);
        if *of_key == 0 {
            self.by_key.remove(key);
        }
    }

    #[must_use]
    pub fn total(&self) -> usize {
        self.total
    }
}

/// The key under which a source is counted: an IPv4 address, or an IPv6 /64, which is one subscriber (RFC 6177).
#[must_use]
pub fn source_key(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_reached_and_one_past_it_is_refused() {
        let mut quota = Quota::default();
        assert_eq!(quota.take(&"a", 3, 2), Ok(()));
        assert_eq!(quota.take(&"a", 3, 2), Ok(()));
        assert_eq!(quota.take(&"a", 3, 2), Err(Over::Key));
        assert_eq!(quota.take(&"b", 3, 2), Ok(()));
        assert_eq!(quota.take(&"c", 3, 2), Err(Over::Total));
    }

    #[test]
    fn released_uses_leave_nothing_behind() {
        let mut quota = Quota::default();
        quota.take(&"a", 1, 1).unwrap();
        quota.release(&"a");
        quota.release(&"a");
        assert_eq!(quota.total(), 0);
        assert!(quota.by_key.is_empty());
    }

    #[test]
    fn ipv6_sources_count_by_their_prefix_and_mapped_ones_as_ipv4() {
        let key = |text: &str| source_key(text.parse().unwrap());
        assert_eq!(key("2001:db8::1"), key("2001:db8::ffff"));
        assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
        assert_eq!(key("::ffff:192.0.2.1"), key("192.0.2.1"));
    }
}
