//! Which server of a `forward` listener a flow goes to: a hash of the flow, and the slot of its service's table.
//!
//! Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer" (NSDI 2016), §3.4. Who fills the
//! table is `portcullis-core`; the kernel and user space only look into it, both by what stands here, so that they
//! choose the same server for the same flow.

use crate::packet::{Addresses, Ports};

/// Slots of one table: a prime, about a hundred and more for each of [`SERVERS_MAX`] servers, so that shares are
/// right within a percent (§3.4 and §5.3 there).
pub const SLOTS: u32 = 16_381;
/// Servers of one service.
pub const SERVERS_MAX: u16 = 128;
/// Stands in every slot of a table while no server is usable.
pub const NO_SERVER: u16 = u16::MAX;

const FIRST: u32 = 0xcc9e_2d51;
const SECOND: u32 = 0x1b87_3593;

/// A hash of both ends of a flow, as the client's packets name them: MurmurHash3 (x86, 32 bits) over source and
/// destination address and both ports, in network order. It has no secret: a client that wants one certain server
/// may find a port that leads there, which gains it nothing.
#[must_use]
#[inline(always)]
pub const fn flow_hash(addresses: &Addresses, ports: Ports) -> u32 {
    let ([s0, s1], [d0, d1]) = (ports.source.to_be_bytes(), ports.destination.to_be_bytes());
    let Addresses { source, destination, .. } = addresses;
    let (hash, length) = if addresses.is_v6() {
        (mix_four(mix_four(0, source), destination), 36)
    } else {
        (mix(mix(0, u32::from_be(source[0])), u32::from_be(destination[0])), 12)
    };
    finish(mix(hash, u32::from_be_bytes([s0, s1, d0, d1])) ^ length)
}

/// The slot of a flow.
#[must_use]
#[inline(always)]
pub const fn slot(hash: u32) -> u32 {
    hash % SLOTS
}

/// Words hold bytes in network order, whatever the machine's own is.
#[inline(always)]
const fn mix_four(hash: u32, words: &[u32; 4]) -> u32 {
    let [a, b, c, d] = *words;
    let hash = mix(mix(hash, u32::from_be(a)), u32::from_be(b));
    mix(mix(hash, u32::from_be(c)), u32::from_be(d))
}

#[inline(always)]
const fn mix(hash: u32, word: u32) -> u32 {
    let word = word.wrapping_mul(FIRST).rotate_left(15).wrapping_mul(SECOND);
    (hash ^ word).rotate_left(13).wrapping_mul(5).wrapping_add(0xe654_6b64)
}

#[inline(always)]
const fn finish(hash: u32) -> u32 {
    let hash = (hash ^ (hash >> 16)).wrapping_mul(0x85eb_ca6b);
    let hash = (hash ^ (hash >> 13)).wrapping_mul(0xc2b2_ae35);
    hash ^ (hash >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(last: u8) -> Addresses {
        Addresses::v4([192, 0, 2, last], [198, 51, 100, 1])
    }

    fn hash(addresses: &Addresses, source: u16, destination: u16) -> u32 {
        flow_hash(addresses, Ports { source, destination })
    }

    #[test]
    fn the_hash_is_pinned_because_flows_must_find_their_server_after_an_upgrade() {
        let v6 = Addresses::v6([0x20; 16], [0xfd; 16]);
        let hashes = [hash(&v4(1), 50_000, 443), hash(&v4(2), 50_000, 443), hash(&v6, 1, 2)];
        assert_eq!(hashes, [2_723_951_719, 845_328_632, 611_319_717]);
    }

    #[test]
    fn the_hash_is_murmur3_over_words_that_it_reads_as_numbers() {
        // MurmurHash3_x86_32 of three words with seed 0, from its reference form: one zero word, length 4.
        assert_eq!(finish(mix(0, 0) ^ 4), 0x2362_f9de);
        // "test" with seed 0 as the little-endian word that the reference reads.
        assert_eq!(finish(mix(0, u32::from_le_bytes(*b"test")) ^ 4), 0xba6b_d213);
    }

    #[test]
    fn ports_of_one_client_spread_over_all_slots_evenly() {
        let mut parts = [0_u32; 16];
        for port in 1024..=u16::MAX {
            let part = usize::try_from(slot(hash(&v4(7), port, 443)) / 1024).unwrap();
            parts[part] += 1;
        }
        // 64,512 ports over 16 parts: 4,032 each, and the standard deviation of an even spread is 61.
        assert!(parts.iter().all(|part| (3_700..=4_400).contains(part)), "{parts:?}");
    }

    #[test]
    fn the_number_of_slots_is_prime() {
        assert!((2..=127).all(|divisor| !SLOTS.is_multiple_of(divisor)) && SLOTS < 128 * 128);
    }
}
