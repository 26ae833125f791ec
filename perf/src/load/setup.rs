//! Session set-up: a new TCP connection, a full TLS 1.3 handshake, the way in, one small echo through the back end,
//! and an orderly end; as fast as a fixed number of sessions in flight allows.
//!
//! A session counts when the contender has closed it after its echo, so that its whole cost lies before its count.
//! Towards the gateway the way in is a bare SOCKS5 request with a ticket of its own; towards a plain TLS relay there
//! is none.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::epoll::EpollFlags;
use portcullis_proto::socks5;
use rustls::ClientConfig;

use super::connection::{Clients, Connection, Received};
use super::{Poller, Slice, Window};
use crate::backend;
use crate::contender::{Contender, Door};

/// Enough to keep a contender busy between two turns of its loop, few enough for every limit on one source.
const IN_FLIGHT: usize = 16;
const ECHO_BYTES: usize = 32;
const BUFFER_BYTES: usize = 32 * 1_024;

pub(crate) fn run(
    contender: &mut Contender,
    clients: &Clients,
    warm_up: Duration,
    length: Duration,
) -> Result<Slice> {
    contender.door.prepare(warm_up + length)?;
    let (door, meter) = contender.door_and_meter();
    let mut poller = Poller::new()?;
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut sessions: Vec<Option<Session>> = (0..IN_FLIGHT).map(|_| None).collect();
    for (index, slot) in sessions.iter_mut().enumerate() {
        *slot = begin(index, door, &clients.cheap, &poller)?;
    }
    let (mut done, mut window) = (0, Window::open(meter, warm_up, length));
    loop {
        for (index, _) in poller.wait()? {
            let Some(slot) = sessions.get_mut(index) else { continue };
            let Some(session) = slot else { continue };
            if session.step(&mut buffer)? {
                done += 1;
                *slot = begin(index, door, &clients.cheap, &poller)?;
            }
        }
        if let Some(slice) = window.turn(done, 0)? {
            return Ok(slice);
        }
        if sessions.iter().all(Option::is_none) {
            let early = window.close(done, 0)?;
            return early.context("all tickets were used before the measurement began");
        }
    }
}

/// Starts a session, or none when the door has no ticket left for it.
fn begin(
    index: usize,
    door: &mut Door,
    config: &Arc<ClientConfig>,
    poller: &Poller,
) -> Result<Option<Session>> {
    let Some((address, request)) = door.enter() else { return Ok(None) };
    let mut connection = Connection::start(address, config)?;
    connection.flush()?;
    poller.add(index, &connection, EpollFlags::EPOLLIN)?;
    Ok(Some(Session { connection, stage: Stage::Handshake, request, answer: Vec::new() }))
}

enum Stage {
    Handshake,
    /// The way in has been asked for.
    Reply,
    Echo,
    Closing,
}

struct Session {
    connection: Connection,
    stage: Stage,
    request: Option<Vec<u8>>,
    answer: Vec<u8>,
}

impl Session {
    /// Does what the socket allows; true when the session is over, well.
    fn step(&mut self, buffer: &mut [u8]) -> Result<bool> {
        match self.connection.receive(buffer)? {
            Received::End if matches!(self.stage, Stage::Closing) => return Ok(true),
            Received::End => bail!("a session was closed before its echo"),
            Received::Bytes(count) => {
                self.answer.extend_from_slice(buffer.get(..count).unwrap_or_default());
            }
        }
        self.connection.flush()?;
        match self.stage {
            Stage::Handshake if !self.connection.is_handshaking() => match self.request.take() {
                Some(request) => {
                    self.connection.send(&request)?;
                    self.stage = Stage::Reply;
                }
                None => self.ask_echo()?,
            },
            Stage::Reply => {
                if let Some(length) = socks5::reply_len(&self.answer)? {
                    let code = socks5::parse_reply(self.answer.get(..length).unwrap_or_default())?;
                    let granted = code == socks5::Reply::Succeeded.code();
                    ensure!(granted, "a session with a ticket was refused: SOCKS5 reply {code}");
                    self.answer.drain(..length);
                    self.ask_echo()?;
                }
            }
            Stage::Echo if self.answer.len() >= ECHO_BYTES => {
                ensure!(self.answer == [b'e'; ECHO_BYTES], "an echo came back changed");
                self.connection.finish()?;
                self.stage = Stage::Closing;
            }
            _ => {}
        }
        Ok(false)
    }

    fn ask_echo(&mut self) -> Result<()> {
        let mut message = [b'e'; 1 + ECHO_BYTES];
        message[0] = backend::ECHO;
        self.connection.send(&message)?;
        self.stage = Stage::Echo;
        Ok(())
    }
}
