//! What the two ends of a support shell tell each other: a kind, a length, bytes.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

/// Most bytes in one frame.
pub(crate) const FRAME_MAX_BYTES: usize = 16 * 1024;
const HELLO: u8 = b'h';
const DATA: u8 = b'd';
const SIZE: u8 = b's';
const END: u8 = b'e';

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    /// The first one of the administrator's side.
    Hello(Hello),
    /// Typed, or shown.
    Data(Vec<u8>),
    /// The terminal has another size now: rows and columns.
    Size(u16, u16),
    /// The last one of the other side: why, where it is not because the shell was left.
    End(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Hello {
    /// The name of the grant.
    pub(crate) ticket: String,
    /// As in the environment.
    pub(crate) terminal: String,
    pub(crate) rows: u16,
    pub(crate) columns: u16,
}

pub(crate) fn write_frame(to: &mut impl Write, frame: &Frame) -> io::Result<()> {
    let size;
    let hello;
    let (kind, bytes) = match frame {
        Frame::Hello(words) => {
            hello = serde_json::to_vec(words).map_err(io::Error::other)?;
            (HELLO, hello.as_slice())
        }
        Frame::Data(bytes) => (DATA, bytes.as_slice()),
        Frame::Size(rows, columns) => {
            size = [rows.to_be_bytes(), columns.to_be_bytes()].concat();
            (SIZE, size.as_slice())
        }
        Frame::End(why) => (END, why.as_bytes()),
    };
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    let mut whole = vec![kind];
    whole.extend(length.to_be_bytes());
    whole.extend(bytes);
    to.write_all(&whole)?;
    to.flush()
}

/// The next frame; `None` at the end, in the middle of one too.
pub(crate) fn read_frame(from: &mut impl Read) -> io::Result<Option<Frame>> {
    let mut head = [0; 3];
    if let Err(error) = from.read_exact(&mut head) {
        return if error.kind() == io::ErrorKind::UnexpectedEof { Ok(None) } else { Err(error) };
    }
    let [kind, high, low] = head;
    let length = usize::from(u16::from_be_bytes([high, low]));
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "not a frame of a support shell");
    if length > FRAME_MAX_BYTES {
        return Err(malformed());
    }
    let mut bytes = vec![0; length];
    if let Err(error) = from.read_exact(&mut bytes) {
        return if error.kind() == io::ErrorKind::UnexpectedEof { Ok(None) } else { Err(error) };
    }
    Ok(Some(match (kind, bytes.as_slice()) {
        (HELLO, words) => Frame::Hello(serde_json::from_slice(words).map_err(|_| malformed())?),
        (DATA, _) => Frame::Data(bytes),
        (SIZE, &[a, b, c, d]) => Frame::Size(u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])),
        (END, why) => Frame::End(String::from_utf8_lossy(why).into_owned()),
        _ => return Err(malformed()),
    }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_frame() -> impl Strategy<Value = Frame> {
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..300).prop_map(Frame::Data),
            any::<(u16, u16)>().prop_map(|(rows, columns)| Frame::Size(rows, columns)),
            ".{0,50}".prop_map(Frame::End),
            (".{0,40}", ".{0,20}", any::<(u16, u16)>()).prop_map(|(ticket, terminal, (rows, columns))| {
                Frame::Hello(Hello { ticket, terminal, rows, columns })
            }),
        ]
    }

    proptest! {
        #[test]
        fn frames_come_out_as_they_went_in(frames in prop::collection::vec(any_frame(), 0..10)) {
            let mut bytes = Vec::new();
            for frame in &frames {
                write_frame(&mut bytes, frame).unwrap();
            }
            let mut reader = bytes.as_slice();
            for frame in frames {
                prop_assert_eq!(read_frame(&mut reader).unwrap(), Some(frame));
            }
            prop_assert_eq!(read_frame(&mut reader).unwrap(), None);
        }

        #[test]
        fn anything_else_is_an_error_or_an_end(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let mut reader = bytes.as_slice();
            while let Ok(Some(_)) = read_frame(&mut reader) {}
        }
    }
}
