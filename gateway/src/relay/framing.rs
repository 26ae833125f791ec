//! The WebSocket framing of one client (RFC 6455): taken off where the bytes lie, and what is to be answered.

use portcullis_proto::websocket::{Decoder, Event, FrameHeader, Opcode, close_frame, frame_header, pong};
use portcullis_uring::Chunk;

/// RFC 6455 §7.4.1: normal closure.
const CLOSE_NORMAL: u16 = 1000;

/// The client broke the framing; the close frame that says so waits.
#[derive(Debug)]
pub(super) struct Broken;

/// One client's framing, and control frames that wait for the client.
#[derive(Debug)]
pub(super) struct Framing {
    decoder: Decoder,
    /// §5.5.3: only the latest ping needs its answer, so one slot is enough.
    pong: Option<Vec<u8>>,
    close: Option<u16>,
    /// The code of the client's close frame, to be echoed once the server is done.
    closed_by_client: Option<u16>,
    close_sent: bool,
}

impl Framing {
    pub(super) fn new(decoder: Decoder) -> Self {
        Self { decoder, pong: None, close: None, closed_by_client: None, close_sent: false }
    }

    /// Takes the framing off: what is left in the chunk are payloads, moved together. `true`: the client has closed.
    pub(super) fn unwrap(&mut self, chunk: &mut Chunk) -> Result<bool, Broken> {
        let start = chunk.range().start;
        let bytes = chunk.bytes_mut();
        // Where the payloads begin and end; the first is left where it is.
        let mut kept: Option<(usize, usize)> = None;
        let (mut at, mut closed) = (0_usize, false);
        while let Some(rest) = bytes.get_mut(at..) {
            let (used, event) = self.decoder.decode(rest).map_err(|violation| {
                self.close = Some(violation.close_code());
                Broken
            })?;
            match event {
                Some(Event::Data(range)) => {
                    let (from, to) = (at.saturating_add(range.start), at.saturating_add(range.end));
                    let (first, end) = *kept.get_or_insert((from, from));
                    if end != from {
                        bytes.copy_within(from..to, end);
                    }
                    kept = Some((first, end.saturating_add(range.len())));
                }
                Some(Event::Ping(payload)) => self.pong = Some(payload),
                Some(Event::Close(code)) => {
                    self.closed_by_client = code;
                    closed = true;
                }
                Some(Event::Pong) => {}
                None => break,
            }
            at = at.saturating_add(used);
            if closed {
                break;
            }
        }
        let (first, end) = kept.unwrap_or_default();
        chunk.set_range(start.saturating_add(first)..start.saturating_add(end));
        Ok(closed)
    }

    /// What goes in front of a message of that length.
    pub(super) fn header(payload: usize) -> FrameHeader {
        frame_header(Opcode::Binary, payload, None)
    }

    pub(super) fn has_answers(&self) -> bool {
        self.pong.is_some() || (self.close.is_some() && !self.close_sent)
    }

    /// The control frames that wait, in their order.
    pub(super) fn take_answers(&mut self, out: &mut Vec<u8>) {
        if let Some(payload) = self.pong.take() {
            out.extend(pong(&payload));
        }
        if let Some(code) = self.close.take()
            && !self.close_sent
        {
            out.extend(close_frame(code));
            self.close_sent = true;
        }
    }

    /// The server is done: a close frame is to be sent, if none was.
    pub(super) fn close(&mut self) {
        let echoed = self.closed_by_client.unwrap_or(CLOSE_NORMAL);
        self.close.get_or_insert(echoed);
    }
}
