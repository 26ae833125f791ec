//! The chunks of one send, at one place in memory until the kernel has taken their bytes.

use std::fmt;
use std::io::{self, IoSlice};
use std::mem;
use std::os::fd::AsFd;
use std::ptr::{self, NonNull};

use io_uring::types::Fixed;
use io_uring::{opcode, squeue};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags};

use crate::buffer::Chunk;
use crate::event::SEND_CHUNKS;

/// Everything is taken or the send fails; a peer that is gone is an error, not a signal.
const FLAGS: i32 = libc::MSG_WAITALL | libc::MSG_NOSIGNAL;

/// More bytes are part of a stream: trying would meet a full socket, and several chunks by one operation cost less.
const SMALL_MAX: usize = 4096;

/// Used again for the next send. The contents stay where they are when the parcel moves: the kernel has pointers to the
/// header and the pieces. It only reads, so shared references are fine meanwhile; unique ones are made when it is done.
pub(crate) struct Parcel(NonNull<Contents>);

struct Contents {
    header: libc::msghdr,
    pieces: [libc::iovec; SEND_CHUNKS],
    chunks: [Option<Chunk>; SEND_CHUNKS],
    /// The pieces from here to `count` are still to be sent.
    first: usize,
    count: usize,
}

const EMPTY: libc::iovec = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };

impl Parcel {
    pub(crate) fn new() -> Self {
        // SAFETY: a header is integers and pointers, for which zero is a value.
        let header = unsafe { mem::zeroed() };
        let chunks = [const { None }; SEND_CHUNKS];
        let contents = Contents { header, pieces: [EMPTY; SEND_CHUNKS], chunks, first: 0, count: 0 };
        Self(NonNull::from(Box::leak(Box::new(contents))))
    }

    fn contents(&self) -> &Contents {
        // SAFETY: the pointer comes from a box that lives as long as this parcel; the kernel only reads.
        unsafe { self.0.as_ref() }
    }

    /// Only between sends.
    fn contents_mut(&mut self) -> &mut Contents {
        // SAFETY: as in `contents`; the parcel is borrowed uniquely, and its callers are here: `fill`, before the kernel
        // gets the pointers, and `advance` and `clear`, after the completion.
        unsafe { self.0.as_mut() }
    }

    /// Puts chunks in, into a parcel that has none; empty ones are left out. Fails when there are too many.
    pub(crate) fn fill(&mut self, chunks: impl IntoIterator<Item = Chunk>) -> io::Result<()> {
        let contents = self.contents_mut();
        for chunk in chunks.into_iter().filter(|chunk| !chunk.is_empty()) {
            let place = contents.chunks.get_mut(contents.count).zip(contents.pieces.get_mut(contents.count));
            let Some((place, piece)) = place else {
                let text = format!("more than {SEND_CHUNKS} chunks in one send");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
            };
            let bytes = place.insert(chunk).bytes();
            *piece = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
            contents.count = contents.count.saturating_add(1);
        }
        Ok(())
    }

    /// Whether it is a message rather than part of a stream.
    pub(crate) fn is_small(&self) -> bool {
        let pieces = self.contents().pieces.iter().take(self.contents().count);
        pieces.fold(0_usize, |sum, piece| sum.saturating_add(piece.iov_len)) <= SMALL_MAX
    }

    pub(crate) fn is_done(&self) -> bool {
        self.contents().first >= self.contents().count
    }

    /// Sends by itself what the kernel takes without waiting; the rest is left. No operation is in flight. What is `last`
    /// waits in the kernel for the end of the stream, and goes out with it.
    pub(crate) fn send_at_once(&mut self, socket: impl AsFd, last: bool) -> io::Result<()> {
        let contents = self.contents();
        let mut flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        flags.set(SendFlags::MORE, last);
        let sent = if let [Some(chunk), None, ..] = &contents.chunks {
            rustix::net::send(socket, chunk.bytes(), flags)
        } else {
            let mut slices = [IoSlice::new(&[]); SEND_CHUNKS];
            for (slice, chunk) in slices.iter_mut().zip(contents.chunks.iter().flatten()) {
                *slice = IoSlice::new(chunk.bytes());
            }
            let slices = slices.get(..contents.count).unwrap_or_default();
            rustix::net::sendmsg(socket, slices, &mut SendAncillaryBuffer::default(), flags)
        };
        match sent {
            Ok(bytes) => self.advance(bytes),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// The operation that sends what is left. It points into this parcel, which has to stay until the completion.
    pub(crate) fn entry(&mut self, place: u32) -> squeue::Entry {
        let (first, count) = (self.contents().first, self.contents().count);
        let left = self.contents().pieces.get(first..count).unwrap_or_default();
        if let [piece] = left {
            let length = u32::try_from(piece.iov_len).unwrap_or(u32::MAX);
            return opcode::Send::new(Fixed(place), piece.iov_base.cast(), length).flags(FLAGS).build();
        }
        let left = left.len();
        let contents = self.0.as_ptr();
        // SAFETY: a field of the contents, which are alive.
        let pieces = unsafe { &raw mut (*contents).pieces }.cast::<libc::iovec>();
        // SAFETY: as above.
        let header = unsafe { &raw mut (*contents).header };
        // SAFETY: the header is alive and nothing borrows it. `first` is at most the number of pieces, so the pointer is
        // to one of them or to their end, and `left` of them follow.
        unsafe { (*header).msg_iov = pieces.wrapping_add(first) };
        // SAFETY: as above.
        unsafe { (*header).msg_iovlen = left };
        let flags = u32::try_from(FLAGS).unwrap_or_default();
        opcode::SendMsg::new(Fixed(place), header).flags(flags).build()
    }

    /// The kernel has taken `bytes` more; the operation is complete.
    pub(crate) fn advance(&mut self, mut bytes: usize) {
        let contents = self.contents_mut();
        while contents.first < contents.count
            && let Some(piece) = contents.pieces.get_mut(contents.first)
        {
            if bytes < piece.iov_len {
                piece.iov_base = piece.iov_base.wrapping_byte_add(bytes);
                piece.iov_len = piece.iov_len.saturating_sub(bytes);
                return;
            }
            bytes = bytes.saturating_sub(piece.iov_len);
            contents.first = contents.first.saturating_add(1);
        }
    }

    /// Lets go of the chunks; no operation is in flight.
    pub(crate) fn clear(&mut self) {
        let contents = self.contents_mut();
        contents.chunks.iter_mut().take(contents.count).for_each(|chunk| drop(chunk.take()));
        (contents.first, contents.count) = (0, 0);
    }
}

impl Drop for Parcel {
    fn drop(&mut self) {
        // SAFETY: the pointer comes from a box, which nobody else frees; the table drops a parcel after the completion of
        // its operation only, and leaks it when there is none.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

impl fmt::Debug for Parcel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let contents = self.contents();
        f.debug_struct("Parcel").field("chunks", &contents.count).field("sent", &contents.first).finish()
    }
}
