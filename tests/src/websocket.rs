//! WebSocket frames as a client of RFC 6455 sends and reads them, down to the single bit.

use anyhow::{Context as _, Result, ensure};

use crate::client::Client;
use crate::speak::{Answer, Speak as _, base64};

pub const CONTINUATION: u8 = 0;
pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;
/// RFC 6455 §5.2: the first bit of a frame.
pub const FIN: u8 = 0x80;

/// One frame from the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub fin: bool,
    pub opcode: u8,
    pub payload: Vec<u8>,
}

impl Frame {
    /// RFC 6455 §5.5.1: the code of a close frame.
    #[must_use]
    pub fn close_code(&self) -> Option<u16> {
        let code = self.payload.first_chunk::<2>()?;
        (self.opcode == CLOSE).then(|| u16::from_be_bytes(*code))
    }
}

/// A masked frame whose first byte is given whole, so that reserved bits and missing FIN can be sent too.
#[must_use]
pub fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x5a, 0x01, 0xff, 0x80];
    let mut frame = head(first, payload.len(), 0x80);
    frame.extend_from_slice(&mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// A frame without a mask, which a server must refuse (RFC 6455 §5.1).
#[must_use]
pub fn unmasked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = head(first, payload.len(), 0);
    frame.extend_from_slice(payload);
    frame
}

fn head(first: u8, length: usize, mask_bit: u8) -> Vec<u8> {
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short), _) if short < 126 => vec![first, mask_bit | short],
        (_, Ok(medium)) => [&[first, mask_bit | 126][..], &medium.to_be_bytes()].concat(),
        _ => {
            let long = u64::try_from(length).unwrap_or(u64::MAX);
            [&[first, mask_bit | 127][..], &long.to_be_bytes()].concat()
        }
    }
}

/// A client that speaks WebSocket.
pub trait WebSocket {
    /// Asks for the upgrade with the example key of RFC 6455 §1.3 and checks the accept value there.
    ///
    /// # Errors
    /// When the gateway does not answer 101 with the right accept value.
    fn upgrade(&mut self, headers: &str) -> Result<Answer>;
    /// Sends one whole binary message.
    ///
    /// # Errors
    /// When the connection is gone.
    fn send_binary(&mut self, payload: &[u8]) -> Result<()>;
    /// Reads one frame.
    ///
    /// # Errors
    /// When the stream ends first, or the frame is masked.
    fn frame(&mut self) -> Result<Frame>;
    /// Reads binary payload, over frame borders, until `count` bytes are there.
    ///
    /// # Errors
    /// When any other frame comes, or more bytes than asked for.
    fn read_binary(&mut self, count: usize) -> Result<Vec<u8>>;
}

/// RFC 6455 §1.3: the key of the example, and what a server must answer to it.
pub const EXAMPLE_KEY: &[u8] = b"the sample nonce";
pub const EXAMPLE_ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

impl WebSocket for Client {
    fn upgrade(&mut self, headers: &str) -> Result<Answer> {
        let key = base64(EXAMPLE_KEY);
        let request = format!(
            "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n{headers}\r\n"
        );
        self.send(request.as_bytes())?;
        let answer = self.http_answer()?;
        ensure!(answer.status == 101, "the upgrade was answered {}", answer.head);
        let accept = answer.header("Sec-WebSocket-Accept");
        ensure!(accept == Some(EXAMPLE_ACCEPT), "the accept value is {accept:?}");
        Ok(answer)
    }

    fn send_binary(&mut self, payload: &[u8]) -> Result<()> {
        self.send(&masked(FIN | BINARY, payload))
    }

    fn frame(&mut self) -> Result<Frame> {
        let start = self.read(2).context("start of a frame")?;
        let [first, second] = start[..] else { unreachable!("two bytes were asked for") };
        ensure!(second & 0x80 == 0, "the gateway masked a frame (RFC 6455 §5.1)");
        let length = match second {
            126 => u64::from(u16::from_be_bytes(self.read(2)?.try_into().unwrap_or_default())),
            127 => u64::from_be_bytes(self.read(8)?.try_into().unwrap_or_default()),
            short => u64::from(short),
        };
        let payload = self.read(usize::try_from(length)?)?;
        Ok(Frame { fin: first & FIN != 0, opcode: first & 0x0f, payload })
    }

    fn read_binary(&mut self, count: usize) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        while all.len() < count {
            let frame = self.frame()?;
            ensure!(matches!(frame.opcode, BINARY | CONTINUATION), "got {frame:?} instead of data");
            all.extend_from_slice(&frame.payload);
        }
        ensure!(all.len() == count, "got {} bytes instead of {count}", all.len());
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // RFC 6455 §5.7: "A single-frame masked text message", with our mask instead of the document's.
    #[test]
    fn frames_have_the_lengths_of_the_document() {
        assert_eq!(masked(FIN | TEXT, b"H"), [0x81, 0x81, 0x5a, 0x01, 0xff, 0x80, b'H' ^ 0x5a]);
        assert_eq!(unmasked(FIN | TEXT, b"Hello"), b"\x81\x05Hello");
        assert_eq!(unmasked(FIN | BINARY, &[0; 256])[..4], [0x82, 0x7e, 0x01, 0x00]);
        assert_eq!(unmasked(FIN | BINARY, &[0; 65_536])[..10], [0x82, 0x7f, 0, 0, 0, 0, 0, 1, 0, 0]);
    }
}
