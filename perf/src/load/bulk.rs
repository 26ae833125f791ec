//! Bulk bytes through a contender, one direction at a time.
//!
//! Down, the client reads records and counts the plaintext in them by their headers: decrypting here would make the
//! load the limit. (The probe before the first measurement decrypts and compares.) Up, the back end counts.
//!
//! Plain bytes go at a rate, the same for all, and the client only counts what it receives, without copying it: a
//! contender that never touches the bytes is faster than any load generator that makes them.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::epoll::EpollFlags;

use super::connection::{Connection, Received};
use super::{Poller, Slice, Target, Timing, Window};
use crate::backend;

const CONNECTIONS: usize = 8;
const READ_BYTES: usize = 256 * 1_024;
/// What is encrypted at a time: four full records.
const WRITE_BYTES: usize = 64 * 1_024;
/// What is written at a time without TLS.
const PLAIN_WRITE_BYTES: usize = 256 * 1_024;
/// Half of what HAProxy copies on one core, a third of what the load can make.
const PLAIN_BYTES_PER_SECOND: f64 = 1.2e9;
/// What may be caught up after the load was held up: 10 ms.
const BURST_BYTES: f64 = PLAIN_BYTES_PER_SECOND / 100.0;

/// From the back end to the clients through TLS, as fast as it goes.
pub(crate) fn down(target: &Target<'_>, timing: Timing) -> Result<Slice> {
    let (mut connections, mut poller) = open(target, backend::SOURCE, EpollFlags::EPOLLIN)?;
    let mut records: Vec<Records> = connections.iter().map(|_| Records::default()).collect();
    let mut buffer = vec![0; READ_BYTES];
    let mut window = Window::open(*target, timing);
    loop {
        for (index, _) in poller.wait()? {
            let (Some(connection), Some(records)) = (connections.get_mut(index), records.get_mut(index))
            else {
                continue;
            };
            match connection.receive_raw(&mut buffer)? {
                Received::Bytes(count) => records.take(buffer.get(..count).unwrap_or_default())?,
                Received::End => bail!("{} ended a download", target.label),
            }
        }
        let bytes = records.iter().map(|records| records.plaintext).sum();
        if let Some(slice) = window.turn(|| Ok(bytes), 0)? {
            return Ok(slice);
        }
    }
}

/// From the clients to the back end through TLS, as fast as it goes.
pub(crate) fn up(target: &Target<'_>, timing: Timing) -> Result<Slice> {
    let interest = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT;
    let (mut connections, mut poller) = open(target, backend::SINK, interest)?;
    let block = vec![b'u'; WRITE_BYTES];
    let mut buffer = vec![0; WRITE_BYTES];
    let mut window = Window::open(*target, timing);
    loop {
        for (index, ready) in poller.wait()? {
            let Some(connection) = connections.get_mut(index) else { continue };
            if ready.contains(EpollFlags::EPOLLIN) && connection.receive(&mut buffer)? == Received::End {
                bail!("{} ended an upload", target.label);
            }
            if ready.contains(EpollFlags::EPOLLOUT) && connection.flush()? {
                connection.queue(&block)?;
                connection.flush()?;
            }
        }
        if let Some(slice) = window.turn(|| target.backend.sunk(), 0)? {
            return Ok(slice);
        }
    }
}

/// From the back end to the clients without TLS, at the rate: the clients read no faster.
pub(crate) fn plain_down(target: &Target<'_>, timing: Timing) -> Result<Slice> {
    let (mut connections, _poller) = open(target, backend::SOURCE, EpollFlags::EPOLLIN)?;
    let (mut scratch, mut bytes) = (vec![0; PLAIN_WRITE_BYTES], 0);
    let mut window = Window::open(*target, timing);
    let mut pace = Pace::new();
    loop {
        for connection in &mut connections {
            if !pace.allows() {
                break;
            }
            match connection.discard(&mut scratch)? {
                Received::Bytes(count) => {
                    pace.took(count)?;
                    bytes += u64::try_from(count)?;
                }
                Received::End => bail!("{} ended a download", target.label),
            }
        }
        // Each has its turn to be first.
        connections.rotate_left(1);
        pace.wait();
        if let Some(slice) = window.turn(|| Ok(bytes), 0)? {
            return Ok(slice);
        }
    }
}

/// From the clients to the back end without TLS, at the rate.
pub(crate) fn plain_up(target: &Target<'_>, timing: Timing) -> Result<Slice> {
    let (mut connections, _poller) = open(target, backend::SINK, EpollFlags::EPOLLIN)?;
    let block = vec![b'u'; PLAIN_WRITE_BYTES];
    let mut window = Window::open(*target, timing);
    let mut pace = Pace::new();
    loop {
        for connection in &mut connections {
            if !pace.allows() {
                break;
            }
            // Where in the block a write stopped does not matter: nobody looks.
            pace.took(connection.write(&block)?.unwrap_or(0))?;
        }
        connections.rotate_left(1);
        pace.wait();
        if let Some(slice) = window.turn(|| target.backend.sunk(), 0)? {
            return Ok(slice);
        }
    }
}

/// Keeps to the rate of plain bytes.
struct Pace {
    last: Instant,
    credit: f64,
}

impl Pace {
    fn new() -> Self {
        Self { last: Instant::now(), credit: 0.0 }
    }

    fn allows(&mut self) -> bool {
        let now = Instant::now();
        let earned = (now - self.last).as_secs_f64() * PLAIN_BYTES_PER_SECOND;
        self.credit = (self.credit + earned).min(BURST_BYTES);
        self.last = now;
        self.credit > 0.0
    }

    fn took(&mut self, bytes: usize) -> Result<()> {
        self.credit -= f64::from(u32::try_from(bytes)?);
        Ok(())
    }

    /// Lets some time pass, so that the back end has its share of this CPU and the contender something to move.
    fn wait(&mut self) {
        std::thread::sleep(Duration::from_micros(200));
    }
}

fn open(target: &Target<'_>, work: u8, interest: EpollFlags) -> Result<(Vec<Connection>, Poller)> {
    let poller = Poller::new()?;
    let mut connections = Connection::open_many(target.entry, target.clients, CONNECTIONS)?;
    for (index, connection) in connections.iter_mut().enumerate() {
        poller.add(index, connection, interest)?;
        connection.send(&[work])?;
    }
    Ok((connections, poller))
}

/// RFC 8446 §5.1: type, version, length.
const HEADER_BYTES: usize = 5;
const APPLICATION_DATA: u8 = 23;
/// RFC 8446 §5.2: the inner content type and the tag of AES-GCM.
const OVERHEAD_BYTES: usize = 1 + 16;
/// RFC 8446 §5.2: no record may be longer.
const RECORD_MAX_BYTES: usize = 16_384 + 256;

/// Counts the plaintext in a stream of TLS 1.3 records without their keys.
#[derive(Debug, Default)]
struct Records {
    header: Vec<u8>,
    left: usize,
    plaintext: u64,
}

impl Records {
    fn take(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let wanted = if self.left > 0 { self.left } else { HEADER_BYTES - self.header.len() };
            let (now, later) = bytes.split_at(wanted.min(bytes.len()));
            bytes = later;
            if self.left > 0 {
                self.left -= now.len();
                continue;
            }
            self.header.extend_from_slice(now);
            if let &[kind, _, _, high, low] = self.header.as_slice() {
                let length = usize::from(u16::from_be_bytes([high, low]));
                ensure!(kind == APPLICATION_DATA, "a record of type {kind} amid the data of a download");
                ensure!(length <= RECORD_MAX_BYTES, "a record of {length} bytes in a download");
                let plaintext = length.checked_sub(OVERHEAD_BYTES).context("a record without a tag")?;
                self.plaintext += u64::try_from(plaintext)?;
                self.left = length;
                self.header.clear();
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(plaintext: usize) -> Vec<u8> {
        let length = u16::try_from(plaintext + OVERHEAD_BYTES).unwrap().to_be_bytes();
        [&[APPLICATION_DATA, 3, 3], length.as_slice(), &vec![0xAB; plaintext + OVERHEAD_BYTES]].concat()
    }

    #[test]
    fn plaintext_is_counted_however_the_stream_is_cut() {
        let stream = [record(1), record(16_384), record(0), record(300)].concat();
        for step in [1, 4, 5, 6, 21, 1_000, stream.len()] {
            let mut records = Records::default();
            stream.chunks(step).try_for_each(|piece| records.take(piece)).unwrap();
            assert_eq!((records.plaintext, records.left), (16_685, 0), "cut into pieces of {step}");
        }
    }

    #[test]
    fn anything_but_application_data_is_refused() {
        assert!(Records::default().take(&[21, 3, 3, 0, 26]).is_err());
        assert!(Records::default().take(&[APPLICATION_DATA, 3, 3, 0xFF, 0xFF]).is_err());
        assert!(Records::default().take(&[APPLICATION_DATA, 3, 3, 0, 16]).is_err());
    }
}
