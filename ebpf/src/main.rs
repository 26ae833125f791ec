//! The XDP program: a thin shell around the verdict of `portcullis-ebpf-common`.
//!
//! It gives the verdict its frame, its maps and its socket lookup, counts the cause, and returns the action. It
//! decides nothing itself. All unsafe code of the kernel side is in this crate.
#![no_std]
#![no_main]

mod context;
mod maps;
mod sockets;

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use portcullis_ebpf_common::tables::{Action, Interface, NO_SLOT, Role};
use portcullis_ebpf_common::{Addresses, Cause, Lookup, Packet, Payload, Protocol, Verdict, verdict};

use context::Context;

/// `frags`: jumbo frames and those that a driver joined arrive in several buffers.
#[xdp(frags)]
pub(crate) fn portcullis(context: XdpContext) -> u32 {
    let context = Context::new(&context);
    let (slot, cause) = match maps::interface(context.interface()) {
        Some(interface) => (interface.slot(), verdict(&context, &Tables { context: &context, interface })),
        // The daemon fills the map before it attaches; whoever took the entry away must not cut the machine off.
        None => (NO_SLOT, Cause::NoRole),
    };
    maps::count(slot, cause);
    match cause.verdict() {
        Verdict::Pass => XDP_PASS,
        Verdict::Drop => XDP_DROP,
    }
}

struct Tables<'a> {
    context: &'a Context<'a>,
    interface: Interface,
}

impl Lookup for Tables<'_> {
    #[inline(always)]
    fn is_management(&self) -> bool {
        self.interface.role() == Role::Mgmt.to_byte()
    }

    #[inline(always)]
    fn is_banned(&self, addresses: &Addresses) -> bool {
        let ban = match addresses {
            Addresses::V4 { source, .. } => maps::ban_v4(*source),
            Addresses::V6 { source, .. } => maps::ban_v6(*source),
        };
        ban.is_some_and(|ban| ban.ends() > context::now())
    }

    #[inline(always)]
    fn rule(&self, protocol: Protocol, port: u16) -> Option<Action> {
        maps::rule(self.interface.role(), protocol.number(), port)
    }

    #[inline(always)]
    fn is_ours(&self, packet: &Packet) -> bool {
        let Payload::Ports { protocol, source, destination } = packet.payload else { return false };
        match protocol {
            Protocol::Tcp => sockets::is_tcp_connection(self.context, &packet.addresses, source, destination),
            Protocol::Udp => {
                let client_port = self.interface.is_client_port(destination);
                sockets::is_udp_client(self.context, &packet.addresses, source, destination, client_port)
            }
        }
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Nothing here panics: the verifier refuses a program from which this loop could be reached.
    loop {}
}

// The repository's licences, as the kernel asks for them. No helper that is used here asks for the GPL.
// The section holds one zero-terminated string, which is what the loader reads from it.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 18] = *b"Apache-2.0 OR MIT\0";
