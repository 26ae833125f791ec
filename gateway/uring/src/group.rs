//! Buffers that the kernel takes by itself when bytes arrive (`IORING_REGISTER_PBUF_RING`).

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use rustix::mm::{MapFlags, ProtFlags};

use crate::buffer::{Chunk, Class};
use crate::pool::Pool;

/// The kernel takes buffers in the order in which it got them, so all that it has pass through the caches in turn. It
/// has few, and what was used last is given first, as long as these are enough.
const LENT_MIN: usize = 48;
/// So many receives must find no buffer in one turn for the kernel to get more than before.
const SHORTAGES_TO_GROW: u32 = 3;
/// After so many turns without shortage it may get fewer.
const TURNS_TO_SHRINK: u32 = 1024;

/// One offer in the ring of buffers, as the kernel defines it (`struct io_uring_buf`).
#[repr(C)]
struct Offer {
    address: u64,
    length: u32,
    number: u16,
    /// Of the first offer only: where the next one goes (`struct io_uring_buf_ring`).
    tail: u16,
}

const _: () = assert!(size_of::<Offer>() == 16);

/// The buffers of one class and the ring by which the kernel gets them.
#[derive(Debug)]
pub(crate) struct Group {
    offers: NonNull<Offer>,
    mapped: usize,
    mask: u16,
    tail: u16,
    pool: Pool,
    /// By number: the kernel has it.
    lent: Box<[bool]>,
    lent_count: usize,
    /// So many the kernel shall have.
    target: usize,
    /// The fewest it had since the last review of the target, and the turns since then.
    low: usize,
    turns: u32,
    /// Receives that found no buffer in this turn.
    shortages: u32,
}

impl Group {
    /// Maps the ring and the buffers; the kernel knows neither yet.
    pub(crate) fn new(class: Class, count: u16) -> io::Result<Self> {
        let geometry = class.geometry();
        let pool = Pool::new(count, geometry.front, geometry.data, geometry.back)?;
        let entries = count.next_power_of_two();
        let mapped = size_of::<Offer>().saturating_mul(usize::from(entries));
        let (access, kind) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: a new anonymous mapping at a place that the kernel chooses replaces nothing.
        let offers = unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), mapped, access, kind) }?;
        let offers =
            NonNull::new(offers.cast()).ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        let lent = vec![false; usize::from(count)].into_boxed_slice();
        Ok(Self {
            offers,
            mapped,
            mask: entries.wrapping_sub(1),
            tail: 0,
            pool,
            lent,
            lent_count: 0,
            target: LENT_MIN,
            low: usize::MAX,
            turns: 0,
            shortages: 0,
        })
    }

    /// Tells the kernel of the ring, and lends it the first buffers.
    ///
    /// # Safety
    ///
    /// The group must outlive every operation of this ring that receives into it.
    pub(crate) unsafe fn register(&mut self, ring: &IoUring, id: u16) -> io::Result<()> {
        let address = u64::try_from(self.offers.as_ptr().addr()).map_err(io::Error::other)?;
        let entries = self.mask.wrapping_add(1);
        // SAFETY: the mapping has room for so many offers, begins at a page and is kept as long as this group, which
        // the caller keeps as long as the kernel can take buffers out of it.
        unsafe { ring.submitter().register_buf_ring_with_flags(address, entries, id, 0) }?;
        self.give_back();
        Ok(())
    }

    /// Lends the kernel what is free, up to what it shall have. Once in each turn.
    pub(crate) fn give_back(&mut self) {
        self.review();
        self.lend();
    }

    /// Lends up to the target; says whether that was anything.
    fn lend(&mut self) -> bool {
        let before = self.tail;
        while self.lent_count < self.target
            && let Some((number, data)) = self.pool.lend()
        {
            self.offer(number, data);
            if let Some(lent) = self.lent.get_mut(usize::from(number)) {
                *lent = true;
            }
            self.lent_count = self.lent_count.saturating_add(1);
        }
        if before != self.tail {
            // SAFETY: the first offer is inside the mapping.
            let tail = unsafe { &raw mut (*self.offers.as_ptr()).tail };
            // SAFETY: the field is aligned and mapped; only this thread writes it, the kernel reads it. Release: the
            // kernel sees the offers before it sees the tail behind them.
            unsafe { AtomicU16::from_ptr(tail) }.store(self.tail, Ordering::Release);
        }
        before != self.tail
    }

    /// The kernel had no buffer; lends it more and says whether it has any now. Without one a receive that begins again
    /// would find none within the same turn, again and again.
    pub(crate) fn is_more_after_shortage(&mut self) -> bool {
        self.shortages = self.shortages.saturating_add(1);
        // One peer that sends without end takes whatever there is: that calls for no more.
        if self.shortages >= SHORTAGES_TO_GROW && self.pool.free() > 0 {
            self.target = self.target.saturating_mul(2).min(self.lent.len().max(LENT_MIN));
        }
        // Those that it had already may have been lent after the receive came away empty, or are taken by arrivals whose
        // completions come next: then the count falls before that receive can fail once more.
        self.lend() || self.lent_count > 0
    }

    /// Lets the target sink when the kernel had plenty for long.
    fn review(&mut self) {
        self.shortages = 0;
        self.low = self.low.min(self.lent_count);
        self.turns = self.turns.saturating_add(1);
        if self.turns >= TURNS_TO_SHRINK {
            if self.low > self.target / 2 {
                self.target = (self.target / 4 * 3).max(LENT_MIN);
            }
            (self.low, self.turns) = (usize::MAX, 0);
        }
    }

    /// Writes one offer behind the last. Not more are written than there are places: each buffer is offered once.
    fn offer(&mut self, number: u16, data: NonNull<u8>) {
        let index = usize::from(self.tail & self.mask);
        // SAFETY: the index is below the number of offers in the mapping.
        let offer = unsafe { self.offers.add(index) }.as_ptr();
        let length = u32::try_from(self.pool.geometry().data).unwrap_or(u32::MAX);
        let address = u64::try_from(data.as_ptr().expose_provenance()).unwrap_or_default();
        // SAFETY: the place is mapped, aligned, and beyond the tail, so the kernel does not look at it yet. The field
        // `tail` of the first offer is not touched, and no reference to the place exists.
        unsafe { (*offer).address = address };
        // SAFETY: as above.
        unsafe { (*offer).length = length };
        // SAFETY: as above.
        unsafe { (*offer).number = number };
        self.tail = self.tail.wrapping_add(1);
    }

    /// The buffer that a completion names, with `length` bytes in it. None for a number that the kernel does not have.
    pub(crate) fn take_back(&mut self, number: u16, length: usize) -> Option<Chunk> {
        let lent = self.lent.get_mut(usize::from(number))?;
        if !std::mem::take(lent) {
            return None;
        }
        self.lent_count = self.lent_count.saturating_sub(1);
        // SAFETY: the buffer was lent and was not taken back since; the completion that names it says that the kernel
        // is done with it.
        Some(unsafe { self.pool.take_back(number, length) })
    }

    /// Buffers that no chunk holds.
    pub(crate) fn available(&self) -> usize {
        self.lent_count.saturating_add(self.pool.free())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and of this length, and nothing borrows from it. The kernel holds the pages by
        // itself while the ring is registered.
        let unmapped = unsafe { rustix::mm::munmap(self.offers.as_ptr().cast(), self.mapped) };
        debug_assert!(unmapped.is_ok(), "the mapping was ours");
    }
}
