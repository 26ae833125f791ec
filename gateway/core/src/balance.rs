//! Which server a new flow goes to: the table of Maglev hashing.
//!
//! Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer" (NSDI 2016), §3.4: each server has
//! a permutation of the slots, derived from its identity alone; servers take turns in claiming the next free slot of
//! theirs. So shares are even, and when a server comes or goes nearly all slots of the others stay where they are.
//! Weights are turns: a server of half the weight claims half as often.
//!
//! [`health`] says which servers are usable. Nothing here knows of sockets, packets or time.

pub mod health;

/// Stands in every slot while no server is usable.
pub const NONE: u16 = u16::MAX;

/// A server as the table sees it.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// What the server is known by; its slots follow from it, not from its place in the list.
    pub identity: &'a [u8],
    /// Its share; 0: it takes no new flows.
    pub weight: u16,
}

/// A server on its way through its permutation.
struct Turn {
    index: u16,
    weight: u32,
    credit: u32,
    next: usize,
    skip: usize,
}

/// The index of a candidate for each slot. `slots` must be prime, and should be a hundred times as many as there
/// are candidates. The same candidates give the same table, on any machine.
#[must_use]
pub fn table(slots: usize, candidates: &[Candidate<'_>]) -> Vec<u16> {
    let mut table = vec![NONE; slots];
    let mut turns: Vec<Turn> = candidates
        .iter()
        .zip(0..NONE)
        .filter(|(candidate, _)| candidate.weight > 0)
        .map(|(candidate, index)| Turn::new(candidate, index, slots))
        .collect();
    // Turns are taken in an order that does not depend on the list either.
    turns.sort_by_key(|turn| (turn.next, turn.skip));
    let Some(scale) = turns.iter().map(|turn| turn.weight).max() else { return table };
    for turn in &mut turns {
        // Everybody has a turn in the first round, so that even the lightest has a slot.
        turn.credit = scale.saturating_sub(turn.weight);
    }
    let mut free = slots;
    while free > 0 {
        for turn in &mut turns {
            turn.credit = turn.credit.saturating_add(turn.weight);
            if turn.credit < scale {
                continue;
            }
            turn.credit = turn.credit.saturating_sub(scale);
            if free > 0 {
                turn.claim(&mut table);
                free = free.saturating_sub(1);
            }
        }
    }
    table
}

/// The servers that a flow of this slot may go to, the best first: the slot's own, then those of the slots behind
/// it, which are the ones that most of its flows would go to without it.
#[must_use]
pub fn in_order(table: &[u16], slot: usize, most: usize) -> Vec<u16> {
    let mut found = Vec::new();
    let (before, behind) = table.split_at_checked(slot).unwrap_or((table, &[]));
    for server in behind.iter().chain(before).filter(|server| **server != NONE) {
        if found.len() >= most {
            break;
        }
        if !found.contains(server) {
            found.push(*server);
        }
    }
    found
}

impl Turn {
    fn new(candidate: &Candidate<'_>, index: u16, slots: usize) -> Self {
        let below = |hash: u64, most: usize| {
            let most = u64::try_from(most).unwrap_or(u64::MAX);
            hash.checked_rem(most).and_then(|rest| usize::try_from(rest).ok()).unwrap_or(0)
        };
        let next = below(hash(candidate.identity, 0x4f66_6673_6574), slots);
        let skip = below(hash(candidate.identity, 0x536b_6970), slots.saturating_sub(1)).saturating_add(1);
        Self { index, weight: candidate.weight.into(), credit: 0, next, skip }
    }

    /// Takes the next free slot; there must be one.
    fn claim(&mut self, table: &mut [u16]) {
        for _ in 0..table.len() {
            let at = self.next;
            self.next = self.next.saturating_add(self.skip).checked_rem(table.len()).unwrap_or(0);
            if let Some(slot) = table.get_mut(at).filter(|slot| **slot == NONE) {
                *slot = self.index;
                return;
            }
        }
    }
}

/// FNV-1a with the finish of SplitMix64: as good for a few bytes as is needed, and the same everywhere.
fn hash(bytes: &[u8], seed: u64) -> u64 {
    let fold = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325 ^ seed, fold);
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests;
