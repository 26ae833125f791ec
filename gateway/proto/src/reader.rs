//! A cursor over one frame that names what it reads.
//!
//! Every read is checked and says which field was too short, so that a parser is a list of fields. It does not
//! know how long the frame is: that is the business of the `…_len` functions.

use crate::Malformed;

/// What is left of one frame.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    #[must_use]
    pub fn new(frame: &'a [u8]) -> Self {
        Self { rest: frame }
    }

    /// # Errors
    /// `Truncated` at the end of the frame.
    pub fn u8(&mut self, what: &'static str) -> Result<u8, Malformed> {
        let (&byte, rest) = self.rest.split_first().ok_or(Malformed::Truncated { what })?;
        self.rest = rest;
        Ok(byte)
    }

    /// Reads two bytes in network order.
    ///
    /// # Errors
    /// `Truncated` at the end of the frame.
    pub fn u16(&mut self, what: &'static str) -> Result<u16, Malformed> {
        self.array(what).map(u16::from_be_bytes)
    }

    /// # Errors
    /// `Truncated` when fewer than `N` bytes are left.
    pub fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], Malformed> {
        let (&bytes, rest) = self.rest.split_first_chunk().ok_or(Malformed::Truncated { what })?;
        self.rest = rest;
        Ok(bytes)
    }

    /// # Errors
    /// `Truncated` when fewer than `n` bytes are left.
    pub fn take(&mut self, n: usize, what: &'static str) -> Result<&'a [u8], Malformed> {
        let (bytes, rest) = self.rest.split_at_checked(n).ok_or(Malformed::Truncated { what })?;
        self.rest = rest;
        Ok(bytes)
    }

    /// What has not been read yet.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Ends the frame.
    ///
    /// # Errors
    /// `Trailing` when bytes are left.
    pub fn finish(self, what: &'static str) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(Malformed::Trailing { what }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_in_order_and_the_end_is_checked() {
        let mut reader = Reader::new(&[1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(reader.u8("a"), Ok(1));
        assert_eq!(reader.u16("b"), Ok(0x0203));
        assert_eq!(reader.array("c"), Ok([4]));
        assert_eq!(reader.take(2, "d"), Ok(&[5, 6][..]));
        assert_eq!(reader.clone().finish("frame"), Err(Malformed::Trailing { what: "frame" }));
        assert_eq!(reader.rest(), [7]);
        assert_eq!(reader.u8("e"), Ok(7));
        assert_eq!(reader.finish("frame"), Ok(()));
    }

    #[test]
    fn a_short_field_is_named_and_consumes_nothing() {
        let mut reader = Reader::new(&[1]);
        assert_eq!(reader.u16("port"), Err(Malformed::Truncated { what: "port" }));
        assert_eq!(reader.take(2, "name"), Err(Malformed::Truncated { what: "name" }));
        assert_eq!(reader.array::<4>("address"), Err(Malformed::Truncated { what: "address" }));
        assert_eq!(reader.u8("first"), Ok(1));
        assert_eq!(reader.u8("second"), Err(Malformed::Truncated { what: "second" }));
    }
}
