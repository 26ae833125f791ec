//! The frame as the kernel hands it over, and the clock.
//!
//! Bytes are read through a pointer into the frame's first buffer, where headers lie but for the oddest frames; what
//! is not there is copied out by `bpf_xdp_load_bytes`, which checks the bounds itself and reaches every buffer of a
//! frame that lies in several. The call costs more than the read: see `cargo xtask perf xdp --only program`.

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::{bpf_ktime_get_ns, generated::bpf_xdp_get_buff_len, generated::bpf_xdp_load_bytes};
use aya_ebpf::programs::XdpContext;
use portcullis_ebpf_common::Frame;

/// Headers with eight extension headers of the longest kind stay below.
const OFFSET_MAX: u32 = 0x7fff;

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

    /// The interface's index in network order, the key of its map.
    #[inline(always)]
    pub(crate) fn interface(&self) -> [u8; 4] {
        (self.xdp.ingress_ifindex() as u32).to_be_bytes()
    }
}

impl Context<'_> {
    /// Bytes of the first buffer.
    #[inline(always)]
    fn read_linear<const N: usize>(&self, at: u32) -> Option<[u8; N]> {
        let (start, end) = (self.xdp.data(), self.xdp.data_end());
        // No header lies further away; the verifier wants an offset that fits 16 bits.
        if at > OFFSET_MAX {
            return None;
        }
        let from = start + at as usize;
        // One byte is asked for as two: the compiler would turn `from + 1 > end` into `from >= end`, of which the
        // verifier learns nothing.
        if from + N.max(2) > end {
            return None;
        }
        // SAFETY: the kernel gave both ends of the buffer, which is not moved while the program runs, and the N bytes
        // from `from` lie between them; an array of bytes has no alignment. The verifier proves the same again.
        Some(unsafe { *(from as *const [u8; N]) })
    }
}

impl Frame for Context<'_> {
    #[inline(always)]
    fn length(&self) -> u32 {
        // SAFETY: the context is the one the kernel called the program with, and lives as long as the program runs.
        let length = unsafe { bpf_xdp_get_buff_len(self.raw()) };
        length as u32
    }

    #[inline(always)]
    fn read<const N: usize>(&self, at: u32) -> Option<[u8; N]> {
        if let Some(bytes) = self.read_linear(at) {
            return Some(bytes);
        }
        let mut bytes = [0; N];
        // SAFETY: the context is the kernel's own; the helper writes at most N bytes to an array of N bytes on our
        // stack, and returns an error instead of reading past the frame.
        let read = unsafe { bpf_xdp_load_bytes(self.raw(), at, bytes.as_mut_ptr().cast(), N as u32) };
        (read == 0).then_some(bytes)
    }
}

/// Nanoseconds of the monotonic clock.
#[inline(always)]
pub(crate) fn now() -> u64 {
    // SAFETY: the helper takes nothing and returns a number.
    unsafe { bpf_ktime_get_ns() }
}
