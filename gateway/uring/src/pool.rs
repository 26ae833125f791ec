//! Buffers of one form in one mapping, lent and given back without allocation.
//!
//! The mapping is filled with zeros by the kernel and costs no memory where nobody wrote. A buffer is always in
//! exactly one of three hands: free (its number is in the list), in a [`Chunk`] (by its [`Place`]), or with the kernel
//! (between [`Pool::lend`] and [`Pool::take_back`]). Only in the second a Rust reference to its bytes can exist.

use std::cell::RefCell;
use std::io;
use std::ptr::NonNull;
use std::rc::Rc;
use std::slice;

use rustix::mm::{MapFlags, ProtFlags};

use crate::buffer::{Chunk, Geometry};

/// Numbers of buffers are 16 bits for the kernel, and its rings hold half of them.
const COUNT_MAX: u16 = 1 << 15;
/// A cache line: buffers begin at one.
const LINE: usize = 64;

/// A pool of buffers of one form.
///
/// ```
/// let pool = portcullis_uring::Pool::new(2, 32, 1024, 32).unwrap();
/// let mut chunk = pool.take().unwrap();
/// let room = pool.geometry().data_room();
/// chunk.whole_mut()[room.start..room.start + 5].copy_from_slice(b"hello");
/// chunk.set_range(room.start..room.start + 5);
/// assert_eq!((chunk.bytes(), pool.free()), (b"hello".as_slice(), 1));
/// ```
#[derive(Clone, Debug)]
pub struct Pool {
    shared: Rc<Shared>,
}

impl Pool {
    /// Maps `count` buffers, each with room for `data` bytes between two rooms.
    pub fn new(count: u16, front_room: usize, data: usize, back_room: usize) -> io::Result<Self> {
        let geometry = Geometry { front: front_room, data, back: back_room };
        let shared = Shared::map(count, geometry)?;
        Ok(Self { shared: Rc::new(shared) })
    }

    /// An empty chunk, its range at the beginning of the data room; none when all buffers are lent.
    #[must_use]
    pub fn take(&self) -> Option<Chunk> {
        let number = self.shared.free.borrow_mut().pop()?;
        let place = Place { pool: Rc::clone(&self.shared), number };
        let front = self.geometry().front;
        Some(Chunk::pooled(place, front..front))
    }

    /// How many buffers nobody has.
    #[must_use]
    pub fn free(&self) -> usize {
        self.shared.free.borrow().len()
    }

    #[must_use]
    pub fn geometry(&self) -> Geometry {
        self.shared.geometry
    }

    /// Takes a free buffer out for the kernel: its number and where its data room begins.
    pub(crate) fn lend(&self) -> Option<(u16, NonNull<u8>)> {
        let number = self.shared.free.borrow_mut().pop()?;
        // SAFETY: the front room is inside the buffer, and the buffer inside the mapping.
        Some((number, unsafe { self.shared.start(number).add(self.shared.geometry.front) }))
    }

    /// The buffer that was lent, with `length` bytes in its data room.
    ///
    /// # Safety
    ///
    /// `lend` gave out this number, it was not taken back since, and the kernel writes to the buffer no more.
    pub(crate) unsafe fn take_back(&self, number: u16, length: usize) -> Chunk {
        let front = self.shared.geometry.front;
        let end = front.saturating_add(length.min(self.shared.geometry.data));
        Chunk::pooled(Place { pool: Rc::clone(&self.shared), number }, front..end)
    }
}

/// One buffer in the hand of a chunk. The number is not in the free list, and no other place has it.
pub(crate) struct Place {
    pool: Rc<Shared>,
    number: u16,
}

impl Place {
    pub(crate) fn bytes(&self) -> &[u8] {
        let start = self.pool.start(self.number);
        // SAFETY: `start` is the beginning of `whole` mapped bytes, zeroed by the kernel, so initialised; they stay
        // mapped while `self.pool` is held. This place is the only one with its number, the kernel does not have the
        // buffer, and the reference borrows this place, so nothing writes there while it lives.
        unsafe { slice::from_raw_parts(start.as_ptr(), self.pool.geometry.whole()) }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        let start = self.pool.start(self.number);
        // SAFETY: as in `bytes`; the exclusive borrow of the only place of this number makes the reference unique.
        unsafe { slice::from_raw_parts_mut(start.as_ptr(), self.pool.geometry.whole()) }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.pool.free.borrow_mut().push(self.number);
    }
}

/// The mapping and the list of what is free in it.
#[derive(Debug)]
struct Shared {
    base: NonNull<u8>,
    mapped: usize,
    stride: usize,
    geometry: Geometry,
    /// Last in, first out: what was used last is still in the caches.
    free: RefCell<Vec<u16>>,
}

impl Shared {
    fn map(count: u16, geometry: Geometry) -> io::Result<Self> {
        let stride = stride(geometry.whole());
        let mapped = stride.and_then(|stride| stride.checked_mul(usize::from(count)));
        let (Some(stride), Some(mapped)) = (stride, mapped) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "buffers larger than memory"));
        };
        if count == 0 || count > COUNT_MAX || geometry.data == 0 || isize::try_from(mapped).is_err() {
            let text = format!("a pool has 1 to {COUNT_MAX} buffers that are not empty");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let (access, kind) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::NORESERVE);
        // SAFETY: a new anonymous mapping at a place that the kernel chooses replaces nothing.
        let base = unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), mapped, access, kind) }?;
        let base =
            NonNull::new(base.cast::<u8>()).ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        let free = RefCell::new((0..count).rev().collect());
        Ok(Self { base, mapped, stride, geometry, free })
    }

    fn start(&self, number: u16) -> NonNull<u8> {
        let offset = usize::from(number).saturating_mul(self.stride);
        // SAFETY: numbers come from the free list and are below the count, so the offset is inside the mapping, whose
        // length fits an isize.
        unsafe { self.base.add(offset) }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and of this length; every place and every pool holds this value, so none is left,
        // and a ring that lent buffers to the kernel keeps its pool until the kernel has given them up.
        let unmapped = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.mapped) };
        debug_assert!(unmapped.is_ok(), "the mapping was ours");
    }
}

/// From one buffer to the next: an odd number of cache lines, so that equal parts of buffers fall into all sets of the
/// caches, not always into the same.
fn stride(whole: usize) -> Option<usize> {
    let lines = whole.div_ceil(LINE);
    lines.checked_add(usize::from(lines.is_multiple_of(2)))?.checked_mul(LINE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_do_not_overlap_and_come_back_when_dropped() {
        let pool = Pool::new(3, 8, 100, 8).unwrap();
        let mut chunks: Vec<Chunk> = std::iter::from_fn(|| pool.take()).collect();
        assert_eq!((chunks.len(), pool.free()), (3, 0));
        for (value, chunk) in (1_u8..).zip(&mut chunks) {
            assert!(chunk.is_empty() && chunk.whole_mut().iter().all(|byte| *byte == 0));
            chunk.whole_mut().fill(value);
        }
        for (value, chunk) in (1_u8..).zip(&mut chunks) {
            assert!(chunk.whole_mut().iter().all(|byte| *byte == value));
            assert_eq!(chunk.whole_mut().len(), 116);
        }
        drop(chunks);
        assert_eq!(pool.free(), 3);
    }

    #[test]
    fn a_chunk_outlives_its_pool() {
        let pool = Pool::new(1, 0, 10, 0).unwrap();
        let mut chunk = pool.take().unwrap();
        drop(pool);
        chunk.whole_mut().fill(7);
        chunk.set_range(0..10);
        assert_eq!(chunk.bytes(), [7; 10]);
    }

    #[test]
    fn a_pool_without_buffers_or_larger_than_memory_is_refused() {
        assert!(Pool::new(0, 0, 10, 0).is_err());
        assert!(Pool::new(1, 0, 0, 0).is_err());
        assert!(Pool::new(40_000, 0, 10, 0).is_err());
        assert!(Pool::new(2, usize::MAX, usize::MAX, 1).is_err());
        assert!(Pool::new(2, 0, usize::MAX / 2, 0).is_err());
    }
}
