//! By what a forwarded frame leaves: the interface that takes it, and the VLAN tags (802.1Q, 802.1ad) that it gets.
//!
//! The kernel's routes name a VLAN device, which takes no frames of the program: they go to the interface below, with
//! the tags that the device would have put on. User space knows which these are and writes them into a table.

use crate::frame::FrameMut;
use crate::packet::Family;

/// The header of Ethernet without tags.
pub const ETHERNET: u32 = 14;
/// One tag.
pub const TAG: u32 = 4;
/// Devices of the routing table that frames can leave by, VLANs included; there are 4,094 of them on one interface.
pub const LINKS_MAX: u32 = 4_096;
/// A value as user space writes it.
pub const LINK_WORDS: usize = 3;

/// A VLAN tag as it stands in a frame: the protocol and the number of the VLAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag([u8; 4]);

impl Tag {
    /// `protocol` is 0x8100 or 0x88a8. Priority is 0, as the kernel has it unless somebody maps priorities.
    #[must_use]
    #[inline(always)]
    pub const fn new(protocol: u16, vlan: u16) -> Self {
        let ([p0, p1], [v0, v1]) = (protocol.to_be_bytes(), vlan.to_be_bytes());
        Self([p0, p1, v0 & 0x0f, v1])
    }

    /// As it stands in a frame.
    #[must_use]
    #[inline(always)]
    pub const fn to_word(self) -> u32 {
        u32::from_ne_bytes(self.0)
    }
}

/// Value of the table, whose key is the index of the device that a route names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Link {
    /// The index of the interface that takes the frame.
    pub interface: u32,
    /// How many tags, two at most.
    pub tags: u32,
    /// The outer one and the inner one, as they stand in the frame.
    pub outer: u32,
    pub inner: u32,
    /// The longest IP packet that fits, tags considered.
    pub most: u32,
    /// Keeps the size one of whole words.
    pub spare: u32,
}

impl Link {
    /// `tags` from the outside in; `None` for more than two.
    #[must_use]
    pub fn new(interface: u32, tags: &[Tag], most: u32) -> Option<Self> {
        let word = |tag: Option<&Tag>| tag.map_or(0, |tag| tag.to_word());
        let (outer, inner) = (word(tags.first()), word(tags.get(1)));
        let tags = u32::try_from(tags.len()).ok().filter(|count| *count <= 2)?;
        Some(Self { interface, tags, outer, inner, most, spare: 0 })
    }

    /// The length of the link's header.
    #[must_use]
    #[inline(always)]
    pub const fn header(&self) -> u32 {
        // The bound is for the verifier.
        ETHERNET + TAG * (self.tags & 3)
    }

    /// Writes the link's header: `addresses` are those of the receiver and of the sender, in this order.
    #[inline(always)]
    pub fn write<F: FrameMut + ?Sized>(
        &self,
        frame: &mut F,
        addresses: [u8; 12],
        family: Family,
    ) -> Option<()> {
        frame.write(0, addresses)?;
        let kind = match family {
            Family::V4 => [0x08, 0x00],
            Family::V6 => [0x86, 0xdd],
        };
        match self.tags {
            0 => frame.write(12, kind),
            1 => {
                frame.write(12, self.outer.to_ne_bytes())?;
                frame.write(16, kind)
            }
            _ => {
                frame.write(12, self.outer.to_ne_bytes())?;
                frame.write(16, self.inner.to_ne_bytes())?;
                frame.write(20, kind)
            }
        }
    }

    #[must_use]
    pub fn to_words(self) -> [u64; LINK_WORDS] {
        let pair = |first: u32, second: u32| {
            let ([a, b, c, d], [e, f, g, h]) = (first.to_ne_bytes(), second.to_ne_bytes());
            u64::from_ne_bytes([a, b, c, d, e, f, g, h])
        };
        [pair(self.interface, self.tags), pair(self.outer, self.inner), pair(self.most, 0)]
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use core::mem::{align_of, size_of};

    use super::*;

    const ADDRESSES: [u8; 12] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];

    #[test]
    fn a_value_is_whole_words_without_gaps() {
        assert_eq!((size_of::<Link>(), align_of::<Link>()), (LINK_WORDS * 8, 4));
        let link = Link::new(7, &[Tag::new(0x8100, 9)], 1500).unwrap();
        let [first, _, third] = link.to_words();
        assert_eq!(first.to_ne_bytes()[..4], 7_u32.to_ne_bytes());
        assert_eq!(first.to_ne_bytes()[4..], 1_u32.to_ne_bytes());
        assert_eq!(third.to_ne_bytes()[..4], 1500_u32.to_ne_bytes());
    }

    #[test]
    fn a_header_has_the_tags_from_the_outside_in_and_then_the_family() {
        let (service, customer) = (Tag::new(0x88a8, 0x0fff), Tag::new(0x8100, 20));
        for (tags, expected) in [
            (&[][..], &[][..]),
            (&[customer][..], &[0x81, 0, 0, 20][..]),
            (&[service, customer][..], &[0x88, 0xa8, 0x0f, 0xff, 0x81, 0, 0, 20][..]),
        ] {
            for (family, kind) in [(Family::V4, [0x08, 0x00]), (Family::V6, [0x86, 0xdd])] {
                let link = Link::new(7, tags, 1500).unwrap();
                let length = usize::try_from(link.header()).unwrap();
                let mut frame = std::vec![0xee; length + 2];
                link.write(frame.as_mut_slice(), ADDRESSES, family).unwrap();
                assert_eq!(frame, [&ADDRESSES[..], expected, &kind, &[0xee, 0xee]].concat());
                assert!(link.write(&mut frame[..length - 1], ADDRESSES, family).is_none());
            }
        }
    }

    #[test]
    fn there_are_no_more_tags_than_two_and_a_tag_has_no_more_bits_than_it_may() {
        let tag = Tag::new(0x8100, 0xffff);
        assert_eq!(tag.0, [0x81, 0, 0x0f, 0xff]);
        assert_eq!(Link::new(7, &[tag; 3], 1500), None);
    }
}
