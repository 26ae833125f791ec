//! Whether a socket of this machine asked for a packet: the kernel's own socket lookup.
//!
//! Every socket that is found is released on every way out; the verifier refuses a program that keeps one.

use core::mem::size_of;

use aya_ebpf::bindings::{
    bpf_sock, bpf_sock_tuple, bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 as TupleV4,
    bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 as TupleV6,
};
use aya_ebpf::helpers::generated::{bpf_sk_lookup_udp, bpf_sk_release, bpf_skc_lookup_tcp};
use portcullis_ebpf_common::{Addresses, Family, Ports};

use crate::context::Context;

/// In the namespace of the interface.
const CURRENT_NETNS: u64 = u64::MAX;
/// `TCP_LISTEN` of the kernel's tcp_states.h, which is part of its interface to programs.
const LISTEN: u32 = 10;

/// A connection in any state, one that is being opened or closed included; a listening socket is none.
#[inline(never)]
pub(crate) fn is_tcp_connection(context: &Context<'_>, addresses: &Addresses, ports: Ports) -> bool {
    let (mut tuple, length) = tuple(addresses, ports);
    // SAFETY: the context is the kernel's own, and `length` is the size of the member of the tuple that was filled.
    let socket = unsafe {
        bpf_skc_lookup_tcp(
            context.raw().cast(),
            (&raw mut tuple).cast::<bpf_sock_tuple>(),
            length,
            CURRENT_NETNS,
            0,
        )
    };
    if socket.is_null() {
        return false;
    }
    // SAFETY: the socket is not null and we hold a reference to it; its state may be read by any program.
    let state = unsafe { (*socket).state };
    release(socket);
    state != LISTEN
}

/// A socket with a peer, or one on a port from which this machine's clients speak.
#[inline(never)]
pub(crate) fn is_udp_client(
    context: &Context<'_>,
    addresses: &Addresses,
    ports: Ports,
    client_port: bool,
) -> bool {
    let (mut tuple, length) = tuple(addresses, ports);
    // SAFETY: as for TCP above.
    let socket = unsafe {
        bpf_sk_lookup_udp(
            context.raw().cast(),
            (&raw mut tuple).cast::<bpf_sock_tuple>(),
            length,
            CURRENT_NETNS,
            0,
        )
    };
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

/// The packet's addresses and ports as a `bpf_sock_tuple`, and how many bytes of it count.
#[inline(always)]
fn tuple(addresses: &Addresses, ports: Ports) -> ([u32; 9], u32) {
    let ([s0, s1], [d0, d1]) = (ports.source.to_be_bytes(), ports.destination.to_be_bytes());
    let ports = u32::from_ne_bytes([s0, s1, d0, d1]);
    let ([a0, a1, a2, a3], [b0, b1, b2, b3]) = (addresses.source, addresses.destination);
    match addresses.family {
        Family::V4 => ([a0, b0, ports, 0, 0, 0, 0, 0, 0], size_of::<TupleV4>() as u32),
        Family::V6 => ([a0, a1, a2, a3, b0, b1, b2, b3, ports], size_of::<TupleV6>() as u32),
    }
}
