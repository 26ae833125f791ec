//! What the XDP program and user space share: types of map keys and values, the packet walk, and the verdict.
//!
//! The verdict is a pure function of a frame and of tables behind a trait: the program in the kernel, the tests on
//! the host and `portcullis ports test` call the same one. There is no map, no clock and no system call in here.
#![no_std]
#![forbid(unsafe_code)]

mod bogon;
mod bucket;
mod cause;
mod checksum;
mod egress;
pub mod event;
mod flow;
pub mod forward;
mod frame;
mod interface;
pub mod link;
pub mod maglev;
pub mod nat;
mod packet;
pub mod rules;
mod synack;
pub mod tables;
mod transport;
mod verdict;
pub mod vlan;
mod walk;

pub use bogon::is_bogon;
pub use bucket::Rate;
pub use cause::{Cause, Verdict};
pub use checksum::Sum;
pub use egress::{Outgoing, dial, egress_keys, leave};
pub use flow::{Flow, FlowKey};
pub use frame::{Frame, FrameMut};
pub use packet::{Addresses, Family, Kind, Layout, Packet, Payload, Ports, Protocol, Quoted, TcpFlags};
pub use rules::{Bogons, Policy};
pub use synack::{Header, Opening, SynAck};
pub use verdict::{Decision, Effect, Hit, Lookup, judge, verdict};
pub use walk::{Gate, Seen, walk, walk_past};
