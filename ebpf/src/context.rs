//! The frame as the kernel hands it over, and the clock.
//!
//! Headers are read where they lie, in the frame's first buffer, which holds as much of a frame as a driver has of it
//! in one piece: at least its headers. Words are loaded by hand: the compiler would take them byte by byte, because
//! it knows nothing of their alignment, which this processor does not need.

use core::arch::asm;

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::{
    bpf_ktime_get_ns,
    generated::{bpf_jiffies64, bpf_ktime_get_coarse_ns, bpf_xdp_get_buff_len},
};
use aya_ebpf::programs::XdpContext;
use portcullis_ebpf_common::{Frame, FrameMut};

/// No header that is read begins behind that; the verifier wants a bound that is small.
const HEADERS_MAX: usize = 0x7ff;

pub(crate) struct Context<'a> {
    xdp: &'a XdpContext,
}

impl<'a> Context<'a> {
    #[inline(always)]
    pub(crate) fn new(xdp: &'a XdpContext) -> Self {
        Self { xdp }
    }

    #[inline(always)]
    pub(crate) fn raw(&self) -> *mut xdp_md {
        self.xdp.ctx
    }

    /// The interface's index.
    #[inline(always)]
    pub(crate) fn interface(&self) -> u32 {
        self.xdp.ingress_ifindex() as u32
    }
}

impl Context<'_> {
    /// Where `N` bytes lie that are all there.
    #[inline(always)]
    fn place<const N: usize>(&self, at: u32) -> Option<usize> {
        place::<N>(at, || self.xdp.data(), || self.xdp.data_end())
    }
}

/// The same number, of which the compiler knows nothing any more: it must not turn a bound of it into one of another
/// sum, because the verifier knows the bound of one register only.
#[inline(always)]
fn opaque(mut number: usize) -> usize {
    // SAFETY: no instruction.
    unsafe { asm!("/* {0} */", inout(reg) number, options(pure, nomem, nostack, preserves_flags)) };
    number
}

impl FrameMut for Context<'_> {
    #[inline(always)]
    fn write<const N: usize>(&mut self, at: u32, bytes: [u8; N]) -> Option<()> {
        let start = self.place::<N>(at)?;
        let mut done = 0;
        while done + 4 <= N {
            let word = [bytes[done], bytes[done + 1], bytes[done + 2], bytes[done + 3]];
            store_u32(start + done, u32::from_ne_bytes(word));
            done += 4;
        }
        if done + 2 <= N {
            store_u16(start + done, u16::from_ne_bytes([bytes[done], bytes[done + 1]]));
            done += 2;
        }
        if done < N {
            store_u8(start + done, bytes[done]);
        }
        Some(())
    }
}

impl Frame for Context<'_> {
    #[inline(always)]
    fn length(&self) -> u32 {
        // SAFETY: the context is the one the kernel called the program with, and lives as long as the program runs.
        let length = unsafe { bpf_xdp_get_buff_len(self.raw()) };
        length as u32
    }

    /// Most frames lie in one piece: then nobody need be asked.
    #[inline(always)]
    fn reaches(&self, end: u32) -> bool {
        end as usize <= self.xdp.data_end() - self.xdp.data() || end <= self.length()
    }

    #[inline(always)]
    fn read<const N: usize>(&self, at: u32) -> Option<[u8; N]> {
        Some(load(self.place::<N>(at)?))
    }
}

/// Reads from memory between the two, which are asked for each time: the verifier forgets what it knew of them.
#[inline(always)]
pub(crate) fn read<const N: usize>(
    at: u32,
    data: impl Fn() -> usize,
    data_end: impl Fn() -> usize,
) -> Option<[u8; N]> {
    Some(load(place::<N>(at, data, data_end)?))
}

/// Where `N` bytes lie that are all there.
#[inline(always)]
fn place<const N: usize>(at: u32, data: impl Fn() -> usize, data_end: impl Fn() -> usize) -> Option<usize> {
    let at = opaque(at as usize);
    if at > HEADERS_MAX {
        return None;
    }
    let start = opaque(data() + at);
    (start + N <= data_end()).then_some(start)
}

/// The bytes at a place that has been compared with the packet's end.
#[inline(always)]
fn load<const N: usize>(start: usize) -> [u8; N] {
    let mut bytes = [0; N];
    let mut done = 0;
    while done + 4 <= N {
        let [a, b, c, d] = load_u32(start + done).to_ne_bytes();
        [bytes[done], bytes[done + 1], bytes[done + 2], bytes[done + 3]] = [a, b, c, d];
        done += 4;
    }
    if done + 2 <= N {
        let [a, b] = load_u16(start + done).to_ne_bytes();
        [bytes[done], bytes[done + 1]] = [a, b];
        done += 2;
    }
    if done < N {
        bytes[done] = load_u8(start + done);
    }
    bytes
}

macro_rules! load {
    ($name:ident, $type:ty, $code:literal) => {
        /// Loads from a place in the frame that has been compared with the frame's end; the verifier refuses others.
        #[inline(always)]
        fn $name(at: usize) -> $type {
            let value: u64;
            // SAFETY: one load from memory that the verifier has found to lie in the frame.
            unsafe {
                asm!($code, value = out(reg) value, at = in(reg) at, options(pure, readonly, nostack, preserves_flags));
            }
            value as $type
        }
    };
}

load!(load_u8, u8, "{value} = *(u8 *)({at} + 0)");
load!(load_u16, u16, "{value} = *(u16 *)({at} + 0)");
load!(load_u32, u32, "{value} = *(u32 *)({at} + 0)");

macro_rules! store {
    ($name:ident, $type:ty, $code:literal) => {
        /// Stores to a place in the frame that has been compared with the frame's end; the verifier refuses others.
        #[inline(always)]
        fn $name(at: usize, value: $type) {
            let value = u64::from(value);
            // SAFETY: one store to memory that the verifier has found to lie in the frame.
            unsafe { asm!($code, value = in(reg) value, at = in(reg) at, options(nostack, preserves_flags)) };
        }
    };
}

store!(store_u8, u8, "*(u8 *)({at} + 0) = {value}");
store!(store_u16, u16, "*(u16 *)({at} + 0) = {value}");
store!(store_u32, u32, "*(u32 *)({at} + 0) = {value}");

/// Nanoseconds of the monotonic clock at the last tick, some milliseconds ago at most: it costs next to nothing, where
/// the exact time costs as much as all rules together.
#[inline(always)]
pub(crate) fn now() -> u64 {
    // SAFETY: the helper takes nothing and returns a number.
    unsafe { bpf_ktime_get_coarse_ns() }
}

/// The number of the kernel's tick, which the verifier makes one load of; the clock above goes on with it.
#[inline(always)]
pub(crate) fn tick() -> u64 {
    // SAFETY: as above.
    unsafe { bpf_jiffies64() }
}

/// The same clock, exactly.
#[inline(always)]
pub(crate) fn exact_now() -> u64 {
    // SAFETY: as above.
    unsafe { bpf_ktime_get_ns() }
}
