//! Server to client: put WebSocket framing on, put TLS on, pass on. The only writer of the client's socket.

use std::net::Shutdown;
use std::sync::atomic::Ordering;

use portcullis_core::session::EndReason;
use portcullis_proto::websocket::{Opcode, frame_header};

use super::session::{CHUNK_BYTES, Live, is_reset};

/// RFC 6455 §7.4.1: normal closure.
pub(super) const CLOSE_NORMAL: u16 = 1000;

/// Runs until the server has said that it is done, or the session ends otherwise.
pub(super) async fn run(live: &Live) {
    if let Err(reason) = pump(live).await {
        live.abort(reason);
    }
    live.server_done.notify_one();
}

async fn pump(live: &Live) -> Result<(), EndReason> {
    let mut out = Vec::new();
    let read = live.server.read(Vec::with_capacity(CHUNK_BYTES));
    tokio::pin!(read);
    loop {
        // The read stays in flight while other things are written: dropping it would lose bytes.
        let arrived = tokio::select! {
            biased;
            arrived = &mut read => Some(arrived),
            () = live.for_client.notified() => None,
        };
        let Some((count, mut buffer)) = arrived else {
            live.collect_for_client(&mut out).map_err(|_| EndReason::ClientViolation)?;
            out = write(live, out).await?;
            continue;
        };
        match count {
            Ok(0) => return finish(live, out).await,
            Ok(_) => {
                live.touch();
                wrap(live, &buffer, &mut out).map_err(|_| EndReason::ClientViolation)?;
                let bytes = u64::try_from(buffer.len()).unwrap_or(u64::MAX);
                out = write(live, out).await?;
                live.counters.bytes_down.fetch_add(bytes, Ordering::Relaxed);
            }
            Err(error) if is_reset(&error) => return Err(EndReason::ServerReset),
            Err(_) => return Err(EndReason::ServerClosed),
        }
        buffer.clear();
        read.set(live.server.read(buffer));
    }
}

fn wrap(live: &Live, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), rustls::Error> {
    if live.websocket.is_some() {
        live.encrypt(frame_header(Opcode::Binary, bytes.len(), None).as_ref(), out)?;
    }
    live.encrypt(bytes, out)
}

/// The server is done: say so in each layer, then serve what the client's direction still has for the client.
async fn finish(live: &Live, mut out: Vec<u8>) -> Result<(), EndReason> {
    live.note_end(EndReason::ServerClosed);
    if let Some(state) = &live.websocket {
        let mut state = state.borrow_mut();
        let echoed = state.closed_by_client.unwrap_or(CLOSE_NORMAL);
        state.close.get_or_insert(echoed);
    }
    live.collect_for_client(&mut out).map_err(|_| EndReason::ClientViolation)?;
    if let Some(tls) = &live.tls {
        tls.borrow_mut().close_notify();
    }
    live.collect_for_client(&mut out).map_err(|_| EndReason::ClientViolation)?;
    write(live, out).await?;
    live.client.shutdown(Shutdown::Write).ok();
    live.shorten_idle();
    Ok(())
}

async fn write(live: &Live, mut out: Vec<u8>) -> Result<Vec<u8>, EndReason> {
    if !out.is_empty() {
        let (written, buffer) = live.client.write_all(out).await;
        written.map_err(|_| EndReason::ClientReset)?;
        live.touch();
        out = buffer;
        out.clear();
    }
    Ok(out)
}
