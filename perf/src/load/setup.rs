//! Session set-up: a new TCP connection, a TLS handshake, the way in, one small echo through the back end, and an
//! orderly end; as fast as a fixed number of sessions in flight allows, or at a rate as a storm of logons.
//!
//! A session counts when the contender has closed it after its echo, so that its whole cost lies before its count.
//! Towards the gateway the way in is a bare SOCKS5 request with a ticket of its own; towards a plain TLS relay there
//! is none.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::epoll::EpollFlags;
use portcullis_proto::socks5;
use rustls::ClientConfig;
use serde::Serialize;

use super::connection::{Connection, Received};
use super::{PATIENCE, Poller, Slice, Target, Timing, Window};
use crate::backend;
use crate::contender::Door;

/// Enough to keep a contender busy between two turns of its loop, few enough for every limit on one source.
const IN_FLIGHT: usize = 16;
/// Most sessions of a storm in flight: what is due beyond is missed, and reported.
const STORM_MAX: usize = 256;
const ECHO_BYTES: usize = 32;
const BUFFER_BYTES: usize = 32 * 1_024;

/// As many sessions as it goes, with full handshakes of TLS 1.3 or resumed ones of TLS 1.2.
pub(crate) fn run(target: &Target<'_>, door: &mut Door, resumed: bool, timing: Timing) -> Result<Slice> {
    door.prepare(timing.whole())?;
    let clients = target.clients;
    let config = if resumed { &clients.resuming } else { &clients.cheap };
    if resumed {
        // The first handshake brings what the others resume with.
        Logons::new(door, config, 1)?.one()?;
    }
    let mut logons = Logons::new(door, config, IN_FLIGHT)?;
    let mut window = Window::open(*target, timing);
    loop {
        while logons.begin()? {}
        logons.turn()?;
        if let Some(slice) = window.turn(|| Ok(logons.done), 0)? {
            let expected = if resumed { logons.done } else { 0 };
            let (found, all) = (logons.resumed, logons.done);
            ensure!(found == expected, "{found} of {all} handshakes were resumed, not {expected}");
            return Ok(slice);
        }
        if logons.is_over() {
            let early = window.close(logons.done, 0)?;
            return early.context("all tickets were used before the measurement began");
        }
    }
}

/// What a storm came to.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Storm {
    pub(crate) seconds: f64,
    /// Sessions that were due.
    pub(crate) due: u64,
    /// Sessions that went through.
    pub(crate) done: u64,
    /// Sessions that were due while too many were in flight, or that found no ticket left.
    pub(crate) missed: u64,
}

/// Sets sessions up at a rate until it is told to stop. The door has been prepared.
pub(crate) fn storm(
    door: &mut Door,
    config: &Arc<ClientConfig>,
    per_second: u32,
    stop: &AtomicBool,
) -> Result<Storm> {
    let mut logons = Logons::new(door, config, STORM_MAX)?;
    let (begin, gap) = (Instant::now(), Duration::from_secs(1) / per_second);
    let (mut next, mut storm) = (begin, Storm::default());
    while !stop.load(Ordering::Relaxed) {
        while next <= Instant::now() {
            next += gap;
            storm.due += 1;
            storm.missed += u64::from(!logons.begin()?);
        }
        logons.turn_until(next)?;
    }
    Ok(Storm { seconds: begin.elapsed().as_secs_f64(), done: logons.done, ..storm })
}

/// How long one session takes from its first packet to its end.
pub(crate) fn once(door: &mut Door, config: &Arc<ClientConfig>) -> Result<Duration> {
    let begin = Instant::now();
    Logons::new(door, config, 1)?.one()?;
    Ok(begin.elapsed())
}

/// Sessions in flight.
struct Logons<'a> {
    door: &'a mut Door,
    config: &'a Arc<ClientConfig>,
    poller: Poller,
    slots: Vec<Option<Session>>,
    free: Vec<usize>,
    done: u64,
    resumed: u64,
    buffer: Vec<u8>,
    /// The door has no ticket left.
    out: bool,
}

impl<'a> Logons<'a> {
    fn new(door: &'a mut Door, config: &'a Arc<ClientConfig>, in_flight: usize) -> Result<Self> {
        Ok(Self {
            door,
            config,
            poller: Poller::new()?,
            slots: (0..in_flight).map(|_| None).collect(),
            free: (0..in_flight).rev().collect(),
            done: 0,
            resumed: 0,
            buffer: vec![0; BUFFER_BYTES],
            out: false,
        })
    }

    /// Starts a session; false when too many are in flight or the door has no ticket left.
    fn begin(&mut self) -> Result<bool> {
        let Some(&index) = self.free.last() else { return Ok(false) };
        let Some((address, request)) = self.door.enter() else {
            self.out = true;
            return Ok(false);
        };
        let mut connection = Connection::start(address, self.config)?;
        connection.flush()?;
        self.poller.add(index, &connection, EpollFlags::EPOLLIN)?;
        let session = Session { connection, stage: Stage::Handshake, request, answer: Vec::new() };
        if let Some(slot) = self.slots.get_mut(index) {
            *slot = Some(session);
        }
        self.free.pop();
        Ok(true)
    }

    /// Takes what has come; waits a short while at most.
    fn turn(&mut self) -> Result<()> {
        self.turn_until(Instant::now() + TICK)
    }

    /// The same, and not much beyond a time.
    fn turn_until(&mut self, time: Instant) -> Result<()> {
        for (index, _) in self.poller.wait_until(time)? {
            let Some(slot) = self.slots.get_mut(index) else { continue };
            let Some(session) = slot else { continue };
            if session.step(&mut self.buffer)? {
                self.done += 1;
                self.resumed += u64::from(session.connection.is_resumed());
                *slot = None;
                self.free.push(index);
            }
        }
        Ok(())
    }

    /// One session from its beginning to its end.
    fn one(&mut self) -> Result<()> {
        ensure!(self.begin()?, "there is no ticket");
        let deadline = Instant::now() + PATIENCE;
        while self.done == 0 {
            ensure!(Instant::now() < deadline, "a session did not end");
            self.turn()?;
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.out && self.free.len() == self.slots.len()
    }
}

/// The longest that a turn waits.
const TICK: Duration = Duration::from_millis(10);

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
