//! A frame that is read with its bounds checked. The kernel has its own implementation, by a helper.

/// Bytes of one frame, beginning with the Ethernet header.
pub trait Frame {
    /// Length of the whole frame.
    fn length(&self) -> u32;

    /// Whether it is at least that long.
    fn reaches(&self, end: u32) -> bool {
        end <= self.length()
    }

    /// `N` bytes from `at`, or `None` when they are not all there.
    fn read<const N: usize>(&self, at: u32) -> Option<[u8; N]>;
}

/// A frame whose bytes can be written.
pub trait FrameMut: Frame {
    /// Writes `N` bytes at `at`, or nothing when they are not all there.
    fn write<const N: usize>(&mut self, at: u32, bytes: [u8; N]) -> Option<()>;
}

impl FrameMut for [u8] {
    fn write<const N: usize>(&mut self, at: u32, bytes: [u8; N]) -> Option<()> {
        let at = usize::try_from(at).ok()?;
        *self.get_mut(at..)?.first_chunk_mut()? = bytes;
        Some(())
    }
}

impl Frame for [u8] {
    fn length(&self) -> u32 {
        u32::try_from(self.len()).unwrap_or(u32::MAX)
    }

    fn read<const N: usize>(&self, at: u32) -> Option<[u8; N]> {
        let at = usize::try_from(at).ok()?;
        self.get(at..)?.first_chunk().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_past_the_end_gives_nothing() {
        let frame: &[u8] = &[1, 2, 3];
        assert_eq!(frame.length(), 3);
        assert_eq!(frame.read::<2>(1), Some([2, 3]));
        assert_eq!(frame.read::<2>(2), None);
        assert_eq!(frame.read::<1>(u32::MAX), None);
    }
}
