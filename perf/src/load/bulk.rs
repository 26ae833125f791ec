//! Bulk bytes through a contender, one direction at a time.
//!
//! Down, the client reads records and counts the plaintext in them by their headers: decrypting here would make the
//! load the limit. (The probe before the first measurement decrypts and compares.) Plain bytes it only counts, without
//! copying them. Up, the back end counts.

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::epoll::EpollFlags;

use super::connection::{Connection, Entry, Received};
use super::{Poller, Slice, Target, Timing, Window};
use crate::backend;

const CONNECTIONS: usize = 8;
const READ_BYTES: usize = 256 * 1_024;
/// What is encrypted at a time: four full records.
const WRITE_BYTES: usize = 64 * 1_024;
/// What is written at a time without TLS.
const PLAIN_WRITE_BYTES: usize = 256 * 1_024;

/// From the back end to the clients.
pub(crate) fn down(target: &Target<'_>, timing: Timing) -> Result<Slice> {
    let (mut connections, mut poller) = open(target, backend::SOURCE, EpollFlags::EPOLLIN)?;
    let mut records: Vec<Records> = connections.iter().map(|_| Records::default()).collect();
    let (mut buffer, mut plain) = (vec![0; READ_BYTES], 0);
    let is_tls = matches!(target.entry, Entry::Tls(_));
    let mut window = Window::open(*target, timing);
    loop {
        for (index, _) in poller.wait()? {
            let (Some(connection), Some(records)) = (connections.get_mut(index), records.get_mut(index))
            else {
                continue;
            };
            let received = match is_tls {
                true => connection.receive_raw(&mut buffer)?,
                false => connection.discard(&mut buffer)?,
            };
            match received {
                Received::Bytes(count) if is_tls => {
                    records.take(buffer.get(..count).unwrap_or_default())?;
                }
                Received::Bytes(count) => plain += u64::try_from(count)?,
                Received::End => bail!("{} ended a download", target.label),
            }
        }
        let bytes = plain + records.iter().map(|records| records.plaintext).sum::<u64>();
        if let Some(slice) = window.turn(|| Ok(bytes), 0)? {
            return Ok(slice);
        }
    }
}

/// From the clients to the back end.
pub(crate) fn up(target: &Target<'_>, timing: Timing) -> Result<Slice> {
    let interest = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT;
    let (mut connections, mut poller) = open(target, backend::SINK, interest)?;
    let is_tls = matches!(target.entry, Entry::Tls(_));
    let block = vec![b'u'; if is_tls { WRITE_BYTES } else { PLAIN_WRITE_BYTES }];
    let mut buffer = vec![0; WRITE_BYTES];
    let mut window = Window::open(*target, timing);
    loop {
        for (index, ready) in poller.wait()? {
            let Some(connection) = connections.get_mut(index) else { continue };
            if ready.contains(EpollFlags::EPOLLIN) && connection.receive(&mut buffer)? == Received::End {
                bail!("{} ended an upload", target.label);
            }
            if !ready.contains(EpollFlags::EPOLLOUT) {
                continue;
            }
            if !is_tls {
                // Where in the block a write stopped does not matter: nobody looks.
                connection.write(&block)?;
            } else if connection.flush()? {
                connection.queue(&block)?;
                connection.flush()?;
            }
        }
        if let Some(slice) = window.turn(|| target.backend.sunk(), 0)? {
            return Ok(slice);
        }
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
