//! Client to server: take TLS off, take WebSocket framing off, pass on.

use std::net::Shutdown;
use std::sync::atomic::Ordering;

use portcullis_core::command::{Framing, Relay as Beginning};
use portcullis_core::session::EndReason;
use portcullis_proto::websocket::{Decoder, Event};

use super::session::{CHUNK_BYTES, Live};

/// How one step of this direction ended.
enum Step {
    GoOn,
    /// The client will send no more.
    End,
}

/// Runs until the client has said that it is done, or the session ends otherwise.
pub(super) async fn run(live: &Live, beginning: Beginning) {
    let Beginning { framing, forward, undecoded } = beginning;
    let mut unframe = match framing {
        Framing::Direct => None,
        Framing::WebSocket(decoder) => Some(Unframer { decoder, pending: undecoded }),
    };
    match pump(live, &mut unframe, forward).await {
        Ok(()) if live.websocket.is_some() => live.close_after_server().await,
        Ok(()) => live.part(EndReason::ClientClosed, Shutdown::Write),
        // The server's end makes the other direction finish, which tells the client why in TLS's and WebSocket's
        // own words.
        Err(EndReason::ClientViolation) => live.part(EndReason::ClientViolation, Shutdown::Both),
        Err(reason) => live.abort(reason),
    }
}

async fn pump(live: &Live, unframe: &mut Option<Unframer>, first: Vec<u8>) -> Result<(), EndReason> {
    let mut plaintext = first;
    let mut network = Vec::new();
    // Bytes may wait in the TLS connection since the handshake, and in the framing since the request.
    let mut step = decrypt(live, unframe, &[], &mut plaintext)?;
    loop {
        if !plaintext.is_empty() {
            live.touch();
            let count = u64::try_from(plaintext.len()).unwrap_or(u64::MAX);
            let (written, buffer) = live.server.write_all(plaintext).await;
            written.map_err(|_| EndReason::ServerReset)?;
            live.counters.bytes_up.fetch_add(count, Ordering::Relaxed);
            plaintext = buffer;
            plaintext.clear();
        }
        if matches!(step, Step::End) {
            return Ok(());
        }
        network.clear();
        network.reserve(CHUNK_BYTES);
        let (read, buffer) = live.client.read(network).await;
        network = buffer;
        match read {
            Ok(0) => return Ok(()),
            Ok(_) => {
                live.touch();
                step = decrypt(live, unframe, &network, &mut plaintext)?;
            }
            Err(_) => return Err(EndReason::ClientReset),
        }
    }
}

/// Turns bytes of the network into bytes for the server.
fn decrypt(
    live: &Live,
    unframe: &mut Option<Unframer>,
    network: &[u8],
    plaintext: &mut Vec<u8>,
) -> Result<Step, EndReason> {
    plaintext.reserve(network.len());
    let Some(unframer) = unframe else {
        return take_tls_off(live, network, plaintext);
    };
    let mut framed = Vec::with_capacity(network.len());
    let step = take_tls_off(live, network, &mut framed)?;
    match unframer.take(live, &framed, plaintext)? {
        Step::End => Ok(Step::End),
        Step::GoOn => Ok(step),
    }
}

fn take_tls_off(live: &Live, network: &[u8], plaintext: &mut Vec<u8>) -> Result<Step, EndReason> {
    let Some(tls) = &live.tls else {
        plaintext.extend_from_slice(network);
        return Ok(Step::GoOn);
    };
    let mut tls = tls.borrow_mut();
    let fed = tls.feed(network);
    tls.read_plaintext(plaintext);
    if tls.wants_write() {
        // An alert, or the answer to a key update.
        live.for_client.notify_one();
    }
    fed.map_err(|_| EndReason::ClientViolation)?;
    Ok(if tls.peer_closed() { Step::End } else { Step::GoOn })
}

/// Takes WebSocket framing off (RFC 6455 §5) and leaves the answers to control frames with the session.
struct Unframer {
    decoder: Decoder,
    /// Bytes that are not yet a whole frame head or control frame.
    pending: Vec<u8>,
}

impl Unframer {
    fn take(&mut self, live: &Live, bytes: &[u8], plaintext: &mut Vec<u8>) -> Result<Step, EndReason> {
        self.pending.extend_from_slice(bytes);
        let mut consumed = 0;
        let mut step = Step::GoOn;
        loop {
            let rest = self.pending.get_mut(consumed..).unwrap_or_default();
            let (used, event) = match self.decoder.decode(rest) {
                Ok(decoded) => decoded,
                Err(violation) => {
                    answer(live, |state| state.close = Some(violation.close_code()));
                    return Err(EndReason::ClientViolation);
                }
            };
            let more = event.is_some();
            match event {
                Some(Event::Data(range)) => {
                    plaintext.extend_from_slice(rest.get(range).unwrap_or_default());
                }
                Some(Event::Ping(payload)) => answer(live, |state| state.pong = Some(payload)),
                Some(Event::Close(code)) => {
                    if let Some(state) = &live.websocket {
                        state.borrow_mut().closed_by_client = code;
                    }
                    step = Step::End;
                }
                Some(Event::Pong) | None => {}
            }
            consumed = consumed.saturating_add(used);
            if !more || matches!(step, Step::End) {
                break;
            }
        }
        self.pending.drain(..consumed.min(self.pending.len()));
        Ok(step)
    }
}

fn answer(live: &Live, note: impl FnOnce(&mut super::session::WebSocketState)) {
    if let Some(state) = &live.websocket {
        note(&mut state.borrow_mut());
        live.for_client.notify_one();
    }
}
