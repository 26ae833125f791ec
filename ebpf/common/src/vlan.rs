//! Whose a frame is at an interface that carries VLANs (802.1Q, 802.1ad) with roles of their own: that of the VLAN by its
//! tags, or the interface's own where it has none. What belongs to nobody ends here with its cause.
//!
//! User space knows which device has which tags and writes them into a table; a tag that is not in it leads nowhere.

use crate::cause::Cause;
use crate::frame::Frame;
use crate::link::Tag;
use crate::tables::Interface;
use crate::walk::is_tag;

/// A key as user space writes it.
pub const VLAN_WORDS: usize = 3;
/// VLANs with roles, on all interfaces together and again at each port of a bond.
pub const VLANS_MAX: u32 = 128;

/// The tags of a frame from the outside in, as they stand in it, without priorities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tags {
    outer: u32,
    inner: u32,
}

impl Tags {
    pub const NONE: Self = Self { outer: 0, inner: 0 };

    /// `tags` from the outside in; `None` for none, and for more than two.
    #[must_use]
    pub fn new(tags: &[Tag]) -> Option<Self> {
        match *tags {
            [outer] => Some(Self { outer: outer.to_word(), inner: 0 }),
            [outer, inner] => Some(Self { outer: outer.to_word(), inner: inner.to_word() }),
            _ => None,
        }
    }

    /// Those in a frame. A first one with number 0 says nothing but a priority; whoever hides another behind it gets
    /// tags that no VLAN has.
    ///
    /// # Errors
    /// When the frame ends before its type.
    #[inline(always)]
    pub fn of<F: Frame + ?Sized>(frame: &F) -> Result<Self, Cause> {
        let Some(outer) = tag_at(frame, 12)? else { return Ok(Self::NONE) };
        let inner = tag_at(frame, 16)?.unwrap_or(0);
        if inner == 0 && number(outer) == 0 { Ok(Self::NONE) } else { Ok(Self { outer, inner }) }
    }

    /// Those of a frame whose first one lies beside it.
    ///
    /// # Errors
    /// As above.
    #[inline(always)]
    pub fn behind<F: Frame + ?Sized>(outer: Tag, frame: &F) -> Result<Self, Cause> {
        let inner = tag_at(frame, 12)?.unwrap_or(0);
        Ok(Self { outer: outer.to_word(), inner })
    }

    #[must_use]
    #[inline(always)]
    pub const fn is_none(self) -> bool {
        self.outer == 0
    }

    /// The numbers of the VLANs from the outside in.
    pub fn numbers(self) -> impl Iterator<Item = u16> {
        [self.outer, self.inner].into_iter().filter(|word| *word != 0).map(number)
    }
}

/// The tag at a place where the type of a frame stands.
#[inline(always)]
fn tag_at<F: Frame + ?Sized>(frame: &F, at: u32) -> Result<Option<u32>, Cause> {
    if !is_tag(frame.read::<2>(at).ok_or(Cause::Truncated)?) {
        return Ok(None);
    }
    let [p0, p1, v0, v1] = frame.read::<4>(at).ok_or(Cause::Truncated)?;
    Ok(Some(u32::from_ne_bytes([p0, p1, v0 & 0x0f, v1])))
}

#[inline(always)]
const fn number(word: u32) -> u16 {
    let [_, _, v0, v1] = word.to_ne_bytes();
    u16::from_be_bytes([v0, v1])
}

/// Key of the table of VLANs: the index of the interface that carries it, and its tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(transparent)]
pub struct VlanKey([u32; VLAN_WORDS]);

impl VlanKey {
    #[must_use]
    #[inline(always)]
    pub const fn new(interface: u32, tags: Tags) -> Self {
        Self([interface, tags.outer, tags.inner])
    }

    #[must_use]
    pub const fn to_words(self) -> [u32; VLAN_WORDS] {
        self.0
    }
}

/// Whose a frame is that came by `trunk`.
///
/// # Errors
/// Why it is nobody's: it has tags that `find` does not know, or none where only VLANs have roles. The link's own control
/// has no tags and passes.
#[inline(always)]
pub fn enter<F: Frame + ?Sized>(
    frame: &F,
    trunk: Interface,
    find: impl FnOnce(Tags) -> Option<Interface>,
) -> Result<Interface, Cause> {
    let tags = Tags::of(frame)?;
    if !tags.is_none() {
        return find(tags).ok_or(Cause::VlanUnknown);
    }
    if trunk.role() != 0 {
        return Ok(trunk);
    }
    let ethertype = frame.read::<2>(12).ok_or(Cause::Truncated)?;
    Err(if crate::walk::is_link_control(ethertype) { Cause::LinkControl } else { Cause::Untagged })
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec::Vec;

    use super::*;
    use crate::tables::Role;

    const PORTS: (u16, u16) = (32_768, 60_999);
    const VLAN: Interface = Interface::new(4, Role::Farm, PORTS);
    const BARE: Interface = Interface::new(1, Role::Mgmt, PORTS).carrying();
    const MUTE: Interface = Interface::carrier(1, PORTS);

    fn frame(behind: &[u8]) -> Vec<u8> {
        [&[2; 12][..], behind, &[0; 46]].concat()
    }

    fn seen(behind: &[u8], trunk: Interface) -> Result<Interface, Cause> {
        let single = Tags::new(&[Tag::new(0x8100, 10)]).unwrap();
        let double = Tags::new(&[Tag::new(0x88a8, 300), Tag::new(0x8100, 30)]).unwrap();
        enter(&frame(behind)[..], trunk, |tags| (tags == single || tags == double).then_some(VLAN))
    }

    #[test]
    fn a_frame_is_its_vlan_s_by_all_of_its_tags_whatever_their_priorities() {
        for trunk in [BARE, MUTE] {
            for (behind, expected) in [
                (&[0x81, 0, 0, 10, 8, 0][..], Ok(VLAN)),
                (&[0x81, 0, 0xf0, 10, 8, 0], Ok(VLAN)),
                (&[0x88, 0xa8, 1, 44, 0x81, 0, 0, 30, 8, 0], Ok(VLAN)),
                (&[0x88, 0xa8, 0x21, 44, 0x81, 0, 0xe0, 30, 8, 0], Ok(VLAN)),
                // Another number, another protocol, one tag more, one less, and in another order.
                (&[0x81, 0, 0, 11, 8, 0], Err(Cause::VlanUnknown)),
                (&[0x81, 0, 1, 10, 8, 0], Err(Cause::VlanUnknown)),
                (&[0x88, 0xa8, 0, 10, 8, 0], Err(Cause::VlanUnknown)),
                (&[0x91, 0, 0, 10, 8, 0], Err(Cause::VlanUnknown)),
                (&[0x81, 0, 0, 10, 0x81, 0, 0, 10, 8, 0], Err(Cause::VlanUnknown)),
                (&[0x81, 0, 0, 10, 0x81, 0, 0, 0, 8, 0], Err(Cause::VlanUnknown)),
                (&[0x88, 0xa8, 1, 44, 8, 0], Err(Cause::VlanUnknown)),
                (&[0x81, 0, 0, 30, 0x88, 0xa8, 1, 44, 8, 0], Err(Cause::VlanUnknown)),
                // Behind a tag of number 0 the kernel would look on.
                (&[0x81, 0, 0, 0, 0x81, 0, 0, 10, 8, 0], Err(Cause::VlanUnknown)),
            ] {
                assert_eq!(seen(behind, trunk), expected, "{behind:?}");
            }
        }
    }

    #[test]
    fn a_frame_without_a_number_is_the_interface_s_own_where_that_has_a_role() {
        for (behind, mute) in [
            (&[8, 0][..], Cause::Untagged),
            (&[8, 6], Cause::Untagged),
            (&[0x81, 0, 0, 0, 8, 0], Cause::Untagged),
            (&[0x81, 0, 0xe0, 0, 8, 0], Cause::Untagged),
            (&[0x88, 0xcc], Cause::LinkControl),
            (&[0x88, 0x09], Cause::LinkControl),
        ] {
            assert_eq!(seen(behind, BARE), Ok(BARE), "{behind:?}");
            assert_eq!(seen(behind, MUTE), Err(mute), "{behind:?}");
        }
    }

    #[test]
    fn a_frame_that_ends_in_its_tags_is_too_short() {
        for whole in
            [&frame(&[8, 0])[..13], &frame(&[0x81, 0, 0, 10])[..15], &frame(&[0x81, 0, 0, 10, 8])[..17]]
        {
            assert_eq!(enter(whole, BARE, |_| Some(VLAN)), Err(Cause::Truncated), "{whole:?}");
        }
    }

    #[test]
    fn a_tag_beside_the_frame_is_the_outer_one() {
        let outer = Tag::new(0x88a8, 300);
        let single = Tags::behind(outer, &frame(&[8, 0])[..]).unwrap();
        let double = Tags::behind(outer, &frame(&[0x81, 0, 0x40, 30, 8, 0])[..]).unwrap();
        assert_eq!(Some(single), Tags::new(&[outer]));
        assert_eq!(Some(double), Tags::new(&[outer, Tag::new(0x8100, 30)]));
        assert_eq!(double.numbers().collect::<Vec<_>>(), [300, 30]);
        assert_eq!(Tags::NONE.numbers().count(), 0);
        assert_eq!((Tags::new(&[]), Tags::new(&[outer; 3])), (None, None));
    }
}
