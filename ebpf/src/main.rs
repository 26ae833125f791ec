//! The XDP program: a thin shell around the verdict of `portcullis-ebpf-common`.
//!
//! It gives the verdict its frame, its maps and its socket lookup, counts the cause, and returns the action. It
//! decides nothing itself. All unsafe code of the kernel side is in this crate.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod context;
mod cookies;
mod egress;
mod events;
mod flood;
mod flows;
mod forward;
mod limits;
mod maps;
mod rules;
mod sockets;
mod steer;

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_REDIRECT};
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use portcullis_ebpf_common::rules::{RuleKey, RuleValue};
use portcullis_ebpf_common::tables::{Action, Interface, NO_SLOT, Role, Setting};
use portcullis_ebpf_common::vlan::enter;
use portcullis_ebpf_common::{
    Addresses, Cause, Decision, Effect, Family, FlowKey, Gate, Hit, Kind, Lookup, Packet, Ports, Protocol,
    Seen, Verdict, is_bogon, judge, walk_past,
};

use context::Context;

/// `frags`: jumbo frames and those that a driver joined arrive in several buffers.
#[xdp(frags)]
pub(crate) fn portcullis(context: XdpContext) -> u32 {
    let mut context = Context::new(&context);
    let Some(found) = maps::interface(context.interface()) else {
        // The daemon fills the map before it attaches; whoever took the entry away must not cut the machine off.
        maps::count(NO_SLOT, Cause::NoRole);
        return XDP_PASS;
    };
    // Tags are asked for only where VLANs have roles. What belongs to nobody is counted at the interface.
    let (interface, nobody) = if found.carries_vlans() { of_vlan(&context, found) } else { (found, None) };
    let tables = Tables { context: &context, interface };
    let refused = if nobody.is_none() { read(&tables) } else { nobody };
    // Always there; the verifier wants to see what happens if not.
    let (cause, action) = match (refused, maps::packet()) {
        (Some(cause), _) if cause.verdict() == Verdict::Drop => (cause, XDP_DROP),
        (Some(cause), _) => (cause, XDP_PASS),
        (None, None) => return XDP_PASS,
        (None, Some(packet)) => {
            let decision = judged(packet, &tables);
            act(&mut context, packet, decision)
        }
    };
    maps::count(interface.slot(), cause);
    // A frame that was turned into an answer is no more what was dropped.
    if action == XDP_DROP {
        events::show(&context, interface.slot(), cause);
    }
    action
}

/// Whose a frame is by its tags.
#[inline(always)]
fn of_vlan(context: &Context<'_>, trunk: Interface) -> (Interface, Option<Cause>) {
    match enter(context, trunk, |tags| maps::vlan(context.interface(), tags)) {
        Ok(interface) => (interface, None),
        Err(cause) => (trunk, Some(cause)),
    }
}

/// Does what was decided; what cannot be done is counted as what is done instead.
#[inline(always)]
fn act(context: &mut Context<'_>, packet: &Packet, decision: Decision) -> (Cause, u32) {
    match decision.effect {
        Effect::Pass => (decision.cause, XDP_PASS),
        Effect::Drop => (decision.cause, XDP_DROP),
        Effect::Forward | Effect::ForwardError => forward::send(context, packet),
        Effect::Steer => match steer::to(decision.processor) {
            XDP_REDIRECT => (decision.cause, XDP_REDIRECT),
            action => (Cause::Flow, action),
        },
        Effect::Answer => match cookies::answer(context, packet) {
            XDP_DROP => (Cause::SynTotal, XDP_DROP),
            action => (decision.cause, action),
        },
    }
}

// The two halves of the verdict are functions of their own: a program and what it calls have 512 bytes of stack
// together, and these two need theirs one after the other.

/// Walks through the frame and puts its packet in its place, unless that need not be looked at any more.
#[inline(never)]
fn read(tables: &Tables<'_>) -> Option<Cause> {
    let packet = match walk_past(tables.context, tables).and_then(Seen::packet) {
        Ok(packet) => packet,
        Err(cause) => return Some(cause),
    };
    if let Some(place) = maps::packet() {
        *place = packet;
    }
    None
}

#[inline(never)]
fn judged(packet: &Packet, tables: &Tables<'_>) -> Decision {
    judge(packet, tables)
}

struct Tables<'a> {
    context: &'a Context<'a>,
    interface: Interface,
}

impl Tables<'_> {
    #[inline(always)]
    fn is_socket(&self, tcp: bool, addresses: &Addresses, ports: Ports) -> bool {
        if tcp {
            return sockets::is_tcp_connection(self.context, addresses, ports);
        }
        let client_port = self.interface.is_client_port(ports.destination);
        sockets::is_udp_client(self.context, addresses, ports, client_port)
    }
}

impl Gate for Tables<'_> {
    #[inline(always)]
    fn turns_away(&self, protocol: Protocol, port: u16) -> bool {
        let is_client = protocol == Protocol::Udp && self.interface.may_be_client_port(port);
        !is_client && rules::is_closed(self.interface.role(), protocol, port)
    }
}

impl Lookup for Tables<'_> {
    #[inline(always)]
    fn is_management(&self) -> bool {
        self.interface.role() == Role::Mgmt.to_byte()
    }

    #[inline(always)]
    fn flow(&self, packet: &Packet) -> Option<Hit> {
        let hit = flows::hit(packet)?;
        Some(if self.interface.is_steered() { hit } else { Hit { steer: None } })
    }

    #[inline(always)]
    fn forwarded(&self, packet: &Packet) -> Option<Cause> {
        if maps::setting(Setting::Forward) == 0 { None } else { forward::belongs(packet) }
    }

    #[inline(always)]
    fn forward(&self, packet: &Packet) -> Option<Cause> {
        if maps::setting(Setting::Forward) == 0 { None } else { forward::begin(packet) }
    }

    #[inline(always)]
    fn forwards(&self, error: &Packet) -> bool {
        maps::setting(Setting::Forward) != 0 && forward::is_about(&error.key)
    }

    #[inline(always)]
    fn is_banned(&self, addresses: &Addresses) -> bool {
        if maps::setting(Setting::Bans) == 0 {
            return false;
        }
        let ban = match addresses.family {
            Family::V4 => maps::ban_v4(addresses.source[0]),
            Family::V6 => maps::ban_v6(addresses.source),
        };
        ban.is_some_and(|ban| ban.ends() > context::now())
    }

    #[inline(always)]
    fn refuses(&self, addresses: &Addresses) -> bool {
        self.interface.role() == Role::Edge.to_byte() && is_bogon(addresses, rules::policy())
    }

    #[inline(always)]
    fn rule(&self, addresses: &Addresses, protocol: u8, port: u16) -> Option<Action> {
        let key = RuleKey::new(self.interface.role(), protocol, port);
        rules::find(key, addresses.family, &addresses.source).map(RuleValue::action)
    }

    #[inline(always)]
    fn may_be_client_port(&self, port: u16) -> bool {
        self.interface.may_be_client_port(port)
    }

    #[inline(always)]
    fn is_within_limit(&self, packet: &Packet) -> bool {
        let key = RuleKey::new(self.interface.role(), packet.protocol, packet.ports.destination);
        let addresses = &packet.addresses;
        // The policy may have changed since the rule was found; then nothing limits.
        rules::find(key, addresses.family, &addresses.source)
            .filter(|rule| rule.action() == Action::Limit)
            .is_none_or(|rule| limits::take(rule, rules::policy().is_second(), addresses))
    }

    #[inline(always)]
    fn echo(&self) -> Cause {
        if self.is_management() { Cause::Icmp } else { flood::echo() }
    }

    #[inline(always)]
    fn open(&self, packet: &Packet) -> Cause {
        // A flood elsewhere must not keep administrators out.
        if self.is_management() {
            return Cause::RuleAccepts;
        }
        let forwarded = maps::setting(Setting::Forward) != 0 && forward::serves(packet);
        flood::opens(packet, forwarded)
    }

    #[inline(always)]
    fn continues(&self, packet: &Packet) -> Cause {
        if self.is_ours(packet) {
            Cause::RuleAccepts
        } else if cookies::is_valid(self.context, packet) {
            // Whoever made it: the kernel answers with cookies by itself when a listener's queue is full.
            Cause::Cookie
        } else if maps::setting(Setting::Cookies) == 0 {
            Cause::NoFlow
        } else {
            Cause::CookieRefused
        }
    }

    #[inline(always)]
    fn is_ours(&self, packet: &Packet) -> bool {
        self.is_socket(packet.kind == Kind::Tcp, &packet.addresses, packet.ports)
    }

    #[inline(always)]
    fn is_live(&self, error: &Packet) -> bool {
        let quoted = &error.quoted;
        if flows::is_live(&error.key) {
            return true;
        }
        let (addresses, ports) = (quoted.addresses.reversed(), quoted.ports.reversed());
        self.is_socket(quoted.protocol == Protocol::Tcp, &addresses, ports)
    }

    #[inline(always)]
    fn remember(&self, fragments: &FlowKey) {
        flows::remember(fragments);
    }

    #[inline(always)]
    fn remembers(&self, fragments: &FlowKey) -> bool {
        flows::remembers(fragments)
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Nothing here panics: the verifier refuses a program from which this loop could be reached.
    loop {}
}

// The kernel's own spelling: this crate is offered under the GPL as well, which some helpers ask for.
// The section holds one zero-terminated string, which is what the loader reads from it.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
