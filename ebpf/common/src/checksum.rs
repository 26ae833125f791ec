//! The Internet checksum, RFC 1071: of what is built, and its change where words are replaced (RFC 1624).
//!
//! Bytes are in network order throughout; so are the words of addresses, whose sum does not depend on the order of
//! bytes as long as all have the same (RFC 1071 §1.2 B).

use crate::packet::Addresses;

/// A sum of 16-bit words in network order that is folded at the end. There is room for 65,536 of them and more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum(u32);

impl Sum {
    /// The sum of nothing.
    pub const ZERO: Self = Self(0);

    /// Begins with a checksum that stands in a header, to change it by [`Sum::replace`] (RFC 1624 §3).
    #[must_use]
    #[inline(always)]
    pub fn of_checksum(checksum: [u8; 2]) -> Self {
        Self(u32::from(!u16::from_be_bytes(checksum)))
    }

    #[must_use]
    #[inline(always)]
    pub fn word(self, word: u16) -> Self {
        Self(self.0 + u32::from(word))
    }

    #[must_use]
    #[inline(always)]
    pub fn double_word(self, word: u32) -> Self {
        let [a, b, c, d] = word.to_be_bytes();
        self.word(u16::from_be_bytes([a, b])).word(u16::from_be_bytes([c, d]))
    }

    /// The words of an address as [`Addresses`] keeps them, in network order.
    #[must_use]
    #[inline(always)]
    pub fn address(self, words: &[u32; 4]) -> Self {
        // The words that IPv4 does not have are 0 and add nothing.
        let [a, b, c, d] = *words;
        self.double_word(u32::from_be(a))
            .double_word(u32::from_be(b))
            .double_word(u32::from_be(c))
            .double_word(u32::from_be(d))
    }

    /// The pseudo header of TCP and UDP, RFC 9293 §3.1 and RFC 8200 §8.1: both versions of IP add the same.
    #[must_use]
    #[inline(always)]
    pub fn pseudo(self, addresses: &Addresses, protocol: u8, length: u16) -> Self {
        self.address(&addresses.source).address(&addresses.destination).word(u16::from(protocol)).word(length)
    }

    /// Even numbers of bytes; of the last of an odd number nothing would be added.
    #[must_use]
    #[inline(always)]
    pub fn bytes<const N: usize>(self, bytes: &[u8; N]) -> Self {
        let mut sum = self;
        let mut at = 0;
        while at + 2 <= N {
            sum = sum.word(u16::from_be_bytes([bytes[at], bytes[at + 1]]));
            at += 2;
        }
        sum
    }

    /// One word gives way to another.
    #[must_use]
    #[inline(always)]
    pub fn replace(self, old: u16, new: u16) -> Self {
        self.word(!old).word(new)
    }

    /// One address gives way to another of the same family.
    #[must_use]
    #[inline(always)]
    pub fn replace_address(self, old: &[u32; 4], new: &[u32; 4]) -> Self {
        let [a, b, c, d] = *old;
        self.address(&[!a, !b, !c, !d]).address(new)
    }

    /// The checksum as it stands in a header.
    #[must_use]
    #[inline(always)]
    pub fn finish(self) -> [u8; 2] {
        // The first fold leaves at most 0x1fffe, the second at most 0xffff.
        let once = (self.0 & 0xffff) + (self.0 >> 16);
        let twice = (once & 0xffff) + (once >> 16);
        let [_, _, high, low] = (!twice).to_be_bytes();
        [high, low]
    }

    /// The same for UDP, where 0 says that there is none, RFC 768.
    #[must_use]
    #[inline(always)]
    pub fn finish_udp(self) -> [u8; 2] {
        match self.finish() {
            [0, 0] => [0xff, 0xff],
            checksum => checksum,
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    /// RFC 1071 §4.1 in plain arithmetic: the remainder by 65,535 of all words.
    fn plain(bytes: &[u8]) -> u16 {
        let sum: u64 = bytes.chunks(2).map(|pair| u64::from(pair[0]) * 256 + u64::from(pair[1])).sum();
        match u16::try_from(sum % 65_535).unwrap() {
            // One's complement has two zeroes; that of a sum is 0 only where every word is.
            0 if sum != 0 => 0,
            remainder => !remainder,
        }
    }

    fn octets(words: &[u32; 4]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    #[test]
    fn the_example_of_rfc_1071_comes_out() {
        let sum = Sum::ZERO.bytes(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum.finish(), (!0xddf2_u16).to_be_bytes());
        assert_eq!(Sum::ZERO.bytes(&[0xff, 0xff]).finish_udp(), [0xff, 0xff]);
    }

    proptest! {
        #[test]
        fn it_is_that_of_the_plain_way(bytes in any::<[u8; 32]>(), tail in any::<[u8; 28]>()) {
            let all = [&bytes[..], &tail[..]].concat();
            prop_assert_eq!(Sum::ZERO.bytes(&bytes).bytes(&tail).finish(), plain(&all).to_be_bytes());
        }

        #[test]
        fn a_pseudo_header_is_its_bytes(
            source in any::<[u8; 16]>(), destination in any::<[u8; 16]>(), protocol: u8, length: u16,
        ) {
            let addresses = Addresses::v6(source, destination);
            let [l0, l1] = length.to_be_bytes();
            let bytes = [&source[..], &destination[..], &[0, 0, l0, l1, 0, 0, 0, protocol]].concat();
            let sum = Sum::ZERO.pseudo(&addresses, protocol, length);
            prop_assert_eq!(sum.finish(), plain(&bytes).to_be_bytes());
        }

        /// What a rewritten header says is right for the new words, whatever the rest of the packet is.
        #[test]
        fn a_changed_checksum_is_that_of_the_changed_packet(
            old in any::<[u32; 4]>(), new in any::<[u32; 4]>(), ports in any::<(u16, u16)>(), rest in any::<[u8; 20]>(),
        ) {
            let packet = |address: &[u32; 4], port: u16| {
                [&octets(address)[..], &port.to_be_bytes(), &rest].concat()
            };
            let before = plain(&packet(&old, ports.0));
            let sum = Sum::of_checksum(before.to_be_bytes())
                .replace_address(&old, &new)
                .replace(ports.0, ports.1);
            let after = plain(&packet(&new, ports.1));
            // All words 0 is no packet; there the two zeroes differ.
            prop_assume!(packet(&new, ports.1).iter().any(|byte| *byte != 0));
            prop_assume!(packet(&old, ports.0).iter().any(|byte| *byte != 0));
            prop_assert_eq!(sum.finish(), after.to_be_bytes());
        }
    }
}
