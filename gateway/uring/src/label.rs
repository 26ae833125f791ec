//! What an operation is called between here and the kernel: 64 bits that come back with its completion.

/// The kind of an operation; its number is in the label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Receive,
    Send,
    PollRead,
    PollWrite,
    Cancel,
    Wake,
}

impl Kind {
    const ALL: [Self; 6] =
        [Self::Receive, Self::Send, Self::PollRead, Self::PollWrite, Self::Cancel, Self::Wake];

    const fn number(self) -> u64 {
        match self {
            Self::Receive => 0,
            Self::Send => 1,
            Self::PollRead => 2,
            Self::PollWrite => 3,
            Self::Cancel => 4,
            Self::Wake => 5,
        }
    }
}

/// Kind in the top byte, then 24 bits of a serial number, then the place in the table.
///
/// No two operations that are in flight have the same label: a place counts its operations, and 2^24 of them cannot
/// happen between a cancellation and the next call into the kernel, which carries it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Label {
    pub(crate) kind: Kind,
    pub(crate) serial: u32,
    pub(crate) place: u32,
}

impl Label {
    pub(crate) const SERIAL_MASK: u32 = (1 << 24) - 1;

    pub(crate) const fn new(kind: Kind, serial: u32, place: u32) -> Self {
        Self { kind, serial: serial & Self::SERIAL_MASK, place }
    }

    /// For operations without a place in the table.
    pub(crate) const fn alone(kind: Kind) -> Self {
        Self::new(kind, 0, 0)
    }

    pub(crate) fn encode(self) -> u64 {
        (self.kind.number() << 56) | (u64::from(self.serial) << 32) | u64::from(self.place)
    }

    pub(crate) fn decode(bits: u64) -> Option<Self> {
        let kind = Kind::ALL.into_iter().find(|kind| kind.number() == bits >> 56)?;
        let serial = u32::try_from((bits >> 32) & u64::from(Self::SERIAL_MASK)).ok()?;
        let place = u32::try_from(bits & u64::from(u32::MAX)).ok()?;
        Some(Self { kind, serial, place })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_comes_back_as_it_went() {
        for kind in Kind::ALL {
            for (serial, place) in [(0, 0), (Label::SERIAL_MASK, u32::MAX), (77, 65_535)] {
                let label = Label::new(kind, serial, place);
                assert_eq!(Label::decode(label.encode()), Some(label));
            }
        }
        assert_eq!(Label::decode(u64::MAX), None);
        assert_eq!(Label::new(Kind::Send, u32::MAX, 0).serial, Label::SERIAL_MASK);
    }
}
