//! Writing frames (RFC 6455 §5.2) and masking payloads (§5.3).

use alloc::vec::Vec;

/// Longest payload of a control frame, RFC 6455 §5.5.
pub const CONTROL_MAX_BYTES: usize = 125;
const FIN: u8 = 0x80;
const MASKED: u8 = 0x80;
/// Payload lengths up to this fit the second byte.
const LENGTH_7: usize = 125;
const LENGTH_16: u8 = 126;
const LENGTH_64: u8 = 127;

/// The opcodes that are written here; messages are never fragmented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opcode {
    Binary,
    Close,
    Ping,
    Pong,
}

impl Opcode {
    const fn code(self) -> u8 {
        match self {
            Self::Binary => 0x2,
            Self::Close => 0x8,
            Self::Ping => 0x9,
            Self::Pong => 0xA,
        }
    }
}

/// The header of one frame, at most 14 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    bytes: [u8; Self::MAX_BYTES],
    length: u8,
}

impl FrameHeader {
    pub const MAX_BYTES: usize = 14;

    fn push(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if let Some(slot) = self.bytes.get_mut(usize::from(self.length)) {
                *slot = byte;
                self.length = self.length.saturating_add(1);
            }
        }
    }
}

impl AsRef<[u8]> for FrameHeader {
    fn as_ref(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.length)).unwrap_or(&self.bytes)
    }
}

/// The header of a whole message of `payload_len` bytes. With a mask (a client must use one, a server must not)
/// the caller masks the payload with the same key.
#[must_use]
pub fn frame_header(opcode: Opcode, payload_len: usize, mask: Option<[u8; 4]>) -> FrameHeader {
    let mut header = FrameHeader { bytes: [0; FrameHeader::MAX_BYTES], length: 0 };
    let masked = if mask.is_some() { MASKED } else { 0 };
    header.push(&[FIN | opcode.code()]);
    match (u8::try_from(payload_len), u16::try_from(payload_len)) {
        (Ok(length), _) if payload_len <= LENGTH_7 => header.push(&[masked | length]),
        (_, Ok(length)) => {
            header.push(&[masked | LENGTH_16]);
            header.push(&length.to_be_bytes());
        }
        (_, Err(_)) => {
            let length = u64::try_from(payload_len).unwrap_or(u64::MAX);
            header.push(&[masked | LENGTH_64]);
            header.push(&length.to_be_bytes());
        }
    }
    if let Some(key) = mask {
        header.push(&key);
    }
    header
}

/// Masks or unmasks part of a payload (the two are the same); `offset` is the part's place in the payload.
pub fn mask(payload: &mut [u8], key: [u8; 4], offset: usize) {
    let mut turned = key;
    turned.rotate_left(offset & 3);
    // The key is repeated to 16 bytes, so that the compiler can use wide registers for the whole part.
    let mut wide = [0_u8; 16];
    for (to, from) in wide.iter_mut().zip(turned.iter().cycle()) {
        *to = *from;
    }
    let mut chunks = payload.chunks_exact_mut(wide.len());
    for chunk in &mut chunks {
        for (byte, key) in chunk.iter_mut().zip(wide) {
            *byte ^= key;
        }
    }
    for (byte, key) in chunks.into_remainder().iter_mut().zip(wide) {
        *byte ^= key;
    }
}

/// A whole control frame; a payload of more than 125 bytes is cut.
#[must_use]
pub fn control_frame(opcode: Opcode, payload: &[u8], key: Option<[u8; 4]>) -> Vec<u8> {
    let payload = payload.get(..CONTROL_MAX_BYTES).unwrap_or(payload);
    let mut payload = Vec::from(payload);
    let header = frame_header(opcode, payload.len(), key);
    if let Some(key) = key {
        mask(&mut payload, key, 0);
    }
    let mut frame = Vec::from(header.as_ref());
    frame.append(&mut payload);
    frame
}

/// A server's close frame.
#[must_use]
pub fn close_frame(code: u16) -> Vec<u8> {
    control_frame(Opcode::Close, &code.to_be_bytes(), None)
}

/// A server's answer to a ping, with the ping's payload.
#[must_use]
pub fn pong(payload: &[u8]) -> Vec<u8> {
    control_frame(Opcode::Pong, payload, None)
}
