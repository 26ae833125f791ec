//! Bulk bytes through a contender's TLS relay, one direction at a time.
//!
//! Down, the client reads records and counts the plaintext in them by their headers: decrypting here would make the
//! load the limit. (The probe before the first measurement decrypts and compares.) Up, the back end counts.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::epoll::EpollFlags;

use super::connection::{Clients, Connection, Received};
use super::{Poller, Slice, Window};
use crate::backend::{self, Backend};
use crate::contender::Contender;

const CONNECTIONS: usize = 8;
const READ_BYTES: usize = 256 * 1_024;
/// What is encrypted at a time: four full records.
const WRITE_BYTES: usize = 64 * 1_024;

pub(crate) fn down(
    contender: &Contender,
    clients: &Clients,
    warm_up: Duration,
    length: Duration,
) -> Result<Slice> {
    let (mut connections, mut poller) = open(contender, clients, backend::SOURCE, EpollFlags::EPOLLIN)?;
    let mut records: Vec<Records> = connections.iter().map(|_| Records::default()).collect();
    let mut buffer = vec![0; READ_BYTES];
    let mut window = Window::open(contender.meter(), warm_up, length);
    loop {
        for (index, _) in poller.wait()? {
            let (Some(connection), Some(records)) = (connections.get_mut(index), records.get_mut(index))
            else {
                continue;
            };
            match connection.receive_records(&mut buffer)? {
                Received::Bytes(count) => records.take(buffer.get(..count).unwrap_or_default())?,
                Received::End => bail!("{} ended a download", contender.label),
            }
        }
        let bytes = records.iter().map(|records| records.plaintext).sum();
        if let Some(slice) = window.turn(bytes, 0)? {
            return Ok(slice);
        }
    }
}

pub(crate) fn up(
    contender: &Contender,
    clients: &Clients,
    backend: &Backend,
    warm_up: Duration,
    length: Duration,
) -> Result<Slice> {
    let interest = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT;
    let (mut connections, mut poller) = open(contender, clients, backend::SINK, interest)?;
    let block = vec![b'u'; WRITE_BYTES];
    let mut buffer = vec![0; WRITE_BYTES];
    let mut window = Window::open(contender.meter(), warm_up, length);
    loop {
        for (index, ready) in poller.wait()? {
            let Some(connection) = connections.get_mut(index) else { continue };
            if ready.contains(EpollFlags::EPOLLIN) && connection.receive(&mut buffer)? == Received::End {
                bail!("{} ended an upload", contender.label);
            }
            if ready.contains(EpollFlags::EPOLLOUT) && connection.flush()? {
                connection.queue(&block)?;
                connection.flush()?;
            }
        }
        if let Some(slice) = window.turn(backend.sunk(), 0)? {
            return Ok(slice);
        }
    }
}

fn open(
    contender: &Contender,
    clients: &Clients,
    work: u8,
    interest: EpollFlags,
) -> Result<(Vec<Connection>, Poller)> {
    let poller = Poller::new()?;
    let mut connections = Vec::with_capacity(CONNECTIONS);
    for index in 0..CONNECTIONS {
        let mut connection = Connection::establish(contender.relay, &clients.cheap)?;
        poller.add(index, &connection, interest)?;
        connection.send(&[work])?;
        connections.push(connection);
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
