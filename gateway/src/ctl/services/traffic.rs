//! Answers about flows and dropped packets, one by one.

use portcullis_ebpf_common::Protocol;
use portcullis_ebpf_common::event::Event;

use super::kernel::no_kernel;
use super::sessions::session_id;
use super::{Outcome, Services, prefix};
use crate::ctl::protocol::{
    Failure, FlowFilter, FlowOrder, XdpEvent, XdpEventPage, XdpFlow, XdpFlowPage, XdpFlowUse, XdpMap,
};
use crate::log::rfc3339;
use crate::xdp::events::{KEPT, wall_time};
use crate::xdp::{Filtered, FlowRow, FlowUse, Flows, Half, MapUse};

/// Most flows of one answer.
const FLOWS_PER_ANSWER: usize = 10_000;

impl Services {
    pub(super) async fn flows(&self, filter: &FlowFilter) -> Outcome<XdpFlowPage> {
        let session = filter.session.as_deref().map(session_id).transpose()?;
        let peer = filter.peer.as_deref().map(prefix).transpose()?;
        let half = filter.half.as_deref().map(half).transpose()?;
        let flows = self.kernel.flows();
        let usage = flows.usage().ok_or_else(no_kernel)?;
        let mut rows = read(flows).await;
        rows.retain(|row| {
            session.is_none_or(|session| row.session == session)
                && peer.is_none_or(|peer| peer.contains(&row.peer.ip()))
                && half.is_none_or(|half| row.half == half)
        });
        let matched = rows.len();
        match filter.order {
            FlowOrder::Session => {}
            FlowOrder::Bytes => rows.sort_by_key(|row| std::cmp::Reverse(row.bytes)),
            FlowOrder::Recent => rows.sort_by_key(|row| row.quiet),
        }
        rows.truncate(filter.limit.unwrap_or(FLOWS_PER_ANSWER).min(FLOWS_PER_ANSWER));
        let flows = rows.into_iter().map(flow).collect();
        Ok(XdpFlowPage { usage: flow_use(usage), matched, flows })
    }

    pub(super) fn drop_events(&self, after: Option<u64>, limit: Option<usize>) -> Outcome<XdpEventPage> {
        let events = self.kernel.events().ok_or_else(no_kernel)?;
        let page = events.since(after, limit.unwrap_or(KEPT));
        let interfaces = self.kernel.interfaces();
        let numbers = page.first..page.next;
        let events = numbers.zip(&page.events).map(|(number, seen)| event(number, seen, &interfaces));
        Ok(XdpEventPage { events: events.collect(), next: page.next, missed: page.missed })
    }
}

/// Looks every flow up, beside the control plane's other tasks.
async fn read(flows: Flows) -> Vec<FlowRow> {
    tokio::task::spawn_blocking(move || flows.rows()).await.unwrap_or_default()
}

fn half(text: &str) -> Outcome<Half> {
    let known = Half::ALL.into_iter().find(|half| half.as_str() == text);
    known.ok_or_else(|| Failure::bad_request(format!("{text}: a half is `edge` or `farm`")))
}

fn flow(row: FlowRow) -> XdpFlow {
    XdpFlow {
        session: row.session.to_string(),
        half: row.half.as_str().to_owned(),
        peer: row.peer.to_string(),
        local: row.local.to_string(),
        owner: row.owner,
        listed: row.listed,
        packets: row.packets,
        bytes: row.bytes,
        quiet_ms: u64::try_from(row.quiet.as_millis()).unwrap_or(u64::MAX),
    }
}

pub(super) fn flow_use(usage: FlowUse) -> XdpFlowUse {
    let FlowUse { listed, most, unlisted, unlisted_total } = usage;
    XdpFlowUse { listed, most, unlisted, unlisted_total }
}

pub(super) fn map_use(map: MapUse) -> XdpMap {
    XdpMap { name: map.name.to_lowercase(), entries: map.entries, most: map.most }
}

fn event(number: u64, event: &Event, interfaces: &[Filtered]) -> XdpEvent {
    let interface = interfaces.iter().find(|interface| interface.slot() == event.slot());
    let (source, destination) = event.addresses().unzip();
    let cause = event.cause();
    let port = |port: u16| Some(port).filter(|port| *port != 0);
    let (source_port, destination_port) = event.ports();
    XdpEvent {
        number,
        time: rfc3339(wall_time(event)),
        interface: interface.map_or_else(|| "-".to_owned(), |interface| interface.name.clone()),
        reason: cause.map_or("unknown", |cause| cause.label()).to_owned(),
        source: source.map(|ip| ip.to_string()),
        destination: destination.map(|ip| ip.to_string()),
        protocol: event.protocol().map(protocol),
        source_port: port(source_port),
        destination_port: port(destination_port),
        length: event.length(),
        stands_for: event.weight(),
    }
}

fn protocol(number: u8) -> String {
    let known = Protocol::ALL.into_iter().find(|known| known.number() == number);
    match (known, number) {
        (Some(known), _) => known.as_str().to_owned(),
        (None, 1) => "icmp".to_owned(),
        (None, 58) => "icmpv6".to_owned(),
        _ => number.to_string(),
    }
}
