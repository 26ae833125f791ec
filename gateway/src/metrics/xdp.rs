//! What the kernel side counts.

use portcullis_ebpf_common::Cause;

use super::names::{self, Family};
use super::text::Writer;

/// As the kernel side says it, now.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Packets by interface and cause.
    pub packets: Vec<(String, Cause, u64)>,
    /// The same of what leaves, and of what the daemon's own sockets contact.
    pub packets_out: Vec<(String, Cause, u64)>,
    pub interfaces: Vec<Interface>,
    /// Name, entries (where they can be counted) and size of each table.
    pub maps: Vec<(&'static str, Option<usize>, u32)>,
    /// Flows that found no place. `None`, as below: there is no kernel side.
    pub flows_unlisted: Option<u64>,
    /// Drop events in the ring, and those that found it full.
    pub events: Option<(u64, u64)>,
    /// Whether there is pressure, and whether cookies are sent.
    pub flood: Option<(bool, bool)>,
    /// Whether packets are steered.
    pub steering: Option<bool>,
}

/// One that is to be filtered.
#[derive(Clone, Debug)]
pub struct Interface {
    pub name: String,
    pub mode: &'static str,
    pub attached: bool,
    /// How often the filter had to be put back.
    pub repairs: u64,
}

pub(super) fn render(facts: &Facts, writer: &mut Writer) {
    let labelled = |(interface, cause, packets): &(String, Cause, u64)| {
        let labels = [interface.as_str(), cause.verdict().label(), cause.label()];
        (labels.map(str::to_owned).to_vec(), *packets)
    };
    writer.family(names::XDP_PACKETS, facts.packets.iter().map(labelled));
    writer.family(names::XDP_PACKETS_OUT, facts.packets_out.iter().map(labelled));
    let attached = facts.interfaces.iter().map(|interface| {
        (vec![interface.name.clone(), interface.mode.to_owned()], u8::from(interface.attached))
    });
    writer.family(names::XDP_ATTACHED, attached);
    let repairs = facts.interfaces.iter().map(|interface| (vec![interface.name.clone()], interface.repairs));
    writer.family(names::XDP_REPAIRS, repairs);
    let label = |name: &str| vec![name.to_lowercase()];
    let entries = facts.maps.iter().filter_map(|(name, entries, _)| Some((label(name), (*entries)?)));
    writer.family(names::XDP_MAP_ENTRIES, entries);
    writer.family(names::XDP_MAP_MAX, facts.maps.iter().map(|(name, _, most)| (label(name), *most)));
    let single = |family: Family, number: Option<u64>, writer: &mut Writer| writer.single(family, number);
    single(names::XDP_FLOWS_UNLISTED, facts.flows_unlisted, writer);
    single(names::XDP_EVENTS, facts.events.map(|(kept, _)| kept), writer);
    single(names::XDP_EVENTS_LOST, facts.events.map(|(_, lost)| lost), writer);
    let (pressure, cookies) = facts.flood.unzip();
    single(names::XDP_PRESSURE, pressure.map(u64::from), writer);
    single(names::XDP_COOKIES, cookies.map(u64::from), writer);
    single(names::XDP_STEERING, facts.steering.map(u64::from), writer);
}
