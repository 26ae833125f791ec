//! Whether a socket of this machine asked for a packet: the kernel's own socket lookup.
//!
//! Every socket that is found is released on every way out; the verifier refuses a program that keeps one.

use core::mem::size_of;

use aya_ebpf::bindings::{
    bpf_sock, bpf_sock_tuple, bpf_sock_tuple__bindgen_ty_1,
    bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 as TupleV4,
    bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 as TupleV6,
};
use aya_ebpf::helpers::generated::{bpf_sk_lookup_udp, bpf_sk_release, bpf_skc_lookup_tcp};
use portcullis_ebpf_common::Addresses;

use crate::context::Context;

/// In the namespace of the interface.
const CURRENT_NETNS: u64 = u64::MAX;
/// `TCP_LISTEN` of the kernel's tcp_states.h, which is part of its interface to programs.
const LISTEN: u32 = 10;

/// A connection in any state, one that is being opened or closed included; a listening socket is none.
#[inline(always)]
pub(crate) fn is_tcp_connection(
    context: &Context<'_>,
    addresses: &Addresses,
    source: u16,
    destination: u16,
) -> bool {
    let (mut tuple, length) = tuple(addresses, source, destination);
    // SAFETY: the context is the kernel's own, and `length` is the size of the member of the tuple that was filled.
    let socket =
        unsafe { bpf_skc_lookup_tcp(context.raw().cast(), &raw mut tuple, length, CURRENT_NETNS, 0) };
    if socket.is_null() {
        return false;
    }
    // SAFETY: the socket is not null and we hold a reference to it; its state may be read by any program.
    let state = unsafe { (*socket).state };
    release(socket);
    state != LISTEN
}

/// A socket with a peer, or one on a port from which this machine's clients speak.
#[inline(always)]
pub(crate) fn is_udp_client(
    context: &Context<'_>,
    addresses: &Addresses,
    source: u16,
    destination: u16,
    client_port: bool,
) -> bool {
    let (mut tuple, length) = tuple(addresses, source, destination);
    // SAFETY: as for TCP above.
    let socket = unsafe { bpf_sk_lookup_udp(context.raw().cast(), &raw mut tuple, length, CURRENT_NETNS, 0) };
    if socket.is_null() {
        return false;
    }
    // SAFETY: the socket is not null and we hold a reference to it; its peer's port may be read by any program.
    let peer = unsafe { (*socket).dst_port };
    release(socket);
    peer != 0 || client_port
}

#[inline(always)]
fn release(socket: *mut bpf_sock) {
    // SAFETY: called once for a socket that a lookup returned, which nobody uses afterwards. It cannot fail for such
    // a socket.
    unsafe { bpf_sk_release(socket.cast()) };
}

/// The packet's addresses and ports in the kernel's words, and how many bytes of them count.
#[inline(always)]
fn tuple(addresses: &Addresses, source: u16, destination: u16) -> (bpf_sock_tuple, u32) {
    let (sport, dport) = (source.to_be(), destination.to_be());
    match addresses {
        Addresses::V4 { source, destination } => {
            let ipv4 = TupleV4 {
                saddr: u32::from_ne_bytes(*source),
                daddr: u32::from_ne_bytes(*destination),
                sport,
                dport,
            };
            let anonymous = bpf_sock_tuple__bindgen_ty_1 { ipv4 };
            (bpf_sock_tuple { __bindgen_anon_1: anonymous }, size_of::<TupleV4>() as u32)
        }
        Addresses::V6 { source, destination } => {
            let ipv6 = TupleV6 { saddr: words(source), daddr: words(destination), sport, dport };
            let anonymous = bpf_sock_tuple__bindgen_ty_1 { ipv6 };
            (bpf_sock_tuple { __bindgen_anon_1: anonymous }, size_of::<TupleV6>() as u32)
        }
    }
}

/// The bytes of an address as the kernel keeps them: words in network order.
#[inline(always)]
fn words(address: &[u8; 16]) -> [u32; 4] {
    let [a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3] = *address;
    [[a0, a1, a2, a3], [b0, b1, b2, b3], [c0, c1, c2, c3], [d0, d1, d2, d3]].map(u32::from_ne_bytes)
}
