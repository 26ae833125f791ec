//! `portcullis xdp flows` and `portcullis xdp drops --events`: one by one.

use std::time::Duration;

use crate::cli::Context;
use crate::cli::args::{self, Drops};
use crate::cli::output::{Failure, Outcome};
use crate::cli::sessions::bytes;
use crate::cli::status::age;
use crate::cli::table::{Paint, Table};
use crate::ctl::client::Client;
use crate::ctl::protocol::{Command, FlowFilter, FlowOrder, XdpEvent, XdpEventPage, XdpFlow, XdpFlowPage};
use crate::exit::Exit;

/// How often who follows asks.
const FOLLOW_EVERY: Duration = Duration::from_millis(250);

pub(super) fn flows(context: &Context, order: &args::Flows) -> Outcome {
    let filter = FlowFilter {
        session: order.session.clone(),
        peer: order.peer.clone(),
        half: order.half.map(|half| match half {
            args::Half::Edge => "edge".to_owned(),
            args::Half::Farm => "farm".to_owned(),
        }),
        order: match order.order {
            args::Order::Session => FlowOrder::Session,
            args::Order::Bytes => FlowOrder::Bytes,
            args::Order::Recent => FlowOrder::Recent,
        },
        limit: Some(order.limit),
    };
    let page: XdpFlowPage = context.call(&Command::XdpFlows(filter))?;
    context.output.value_or_table(&page, &flow_table(&page.flows))?;
    if !context.output.json {
        let left = page.matched.saturating_sub(page.flows.len());
        if left > 0 {
            context
                .output
                .note(format!("{left} more flows; --limit shows more, --session and --peer choose"));
        }
        if page.usage.unlisted > 0 {
            let (most, unlisted) = (page.usage.most, page.usage.unlisted);
            context.output.note(format!(
                "the table is full: {unlisted} flows go on uncounted; raise `flows` in [xdp] above {most}"
            ));
        }
    }
    Ok(Exit::Ok)
}

pub(super) fn flow_table(flows: &[XdpFlow]) -> Table {
    let mut table = Table::new()
        .column("SESSION")
        .column("HALF")
        .wide("PEER")
        .wide("LOCAL")
        .number("PACKETS")
        .number("BYTES")
        .number("LAST SEEN")
        .number("CPU");
    for flow in flows {
        let dash = || "-".to_owned();
        let cells = [
            flow.session.clone(),
            flow.half.clone(),
            flow.peer.clone(),
            flow.local.clone(),
            if flow.listed { flow.packets.to_string() } else { dash() },
            if flow.listed { bytes(flow.bytes) } else { dash() },
            age(Duration::from_millis(flow.quiet_ms)),
            flow.owner.map_or_else(dash, |owner| owner.to_string()),
        ];
        table.row(cells, &[(4, if flow.listed { Paint::Plain } else { Paint::Doubtful })]);
    }
    table
}

pub(super) fn events(context: &Context, order: &Drops) -> Outcome {
    let mut client = Client::connect(&context.socket())?;
    let mut page: XdpEventPage =
        client.call(&Command::XdpEvents { after: None, limit: Some(order.limit) })?;
    if !order.follow {
        context.output.value_or_table(&page.events, &event_table(&page.events))?;
        return Ok(Exit::Ok);
    }
    loop {
        print(context, &page)?;
        // An interruption ends the process, as that of `tail -f`: there is nothing to put in order.
        std::thread::sleep(FOLLOW_EVERY);
        page = client.call(&Command::XdpEvents { after: Some(page.next), limit: None })?;
    }
}

/// One line for each event.
fn print(context: &Context, page: &XdpEventPage) -> Result<(), Failure> {
    if page.missed > 0 {
        context.output.note(format!("{} events were too fast for this output", page.missed));
    }
    for event in &page.events {
        let line = if context.output.json {
            serde_json::to_string(event).map_err(|error| Failure::new(Exit::Internal, error.to_string()))?
        } else {
            line(event)
        };
        context.output.text(&line)?;
    }
    Ok(())
}

fn line(event: &XdpEvent) -> String {
    let XdpEvent { time, interface, reason, length, .. } = event;
    let protocol = event.protocol.as_deref().unwrap_or("-");
    let (source, destination) = ends(event);
    let times = if event.stands_for > 1 { format!(" ×{}", event.stands_for) } else { String::new() };
    format!("{time} {interface} {reason} {protocol} {source} → {destination} {length} bytes{times}")
}

/// Address and port of both ends.
fn ends(event: &XdpEvent) -> (String, String) {
    let end = |address: &Option<String>, port: Option<u16>| match (address, port) {
        (None, _) => "-".to_owned(),
        (Some(address), None) => address.clone(),
        (Some(address), Some(port)) if address.contains(':') => format!("[{address}]:{port}"),
        (Some(address), Some(port)) => format!("{address}:{port}"),
    };
    (end(&event.source, event.source_port), end(&event.destination, event.destination_port))
}

fn event_table(events: &[XdpEvent]) -> Table {
    let mut table = Table::new()
        .column("TIME")
        .column("INTERFACE")
        .column("REASON")
        .column("PROTOCOL")
        .wide("FROM")
        .wide("TO")
        .number("LENGTH")
        .number("STANDS FOR");
    for event in events {
        let (source, destination) = ends(event);
        let cells = [
            event.time.clone(),
            event.interface.clone(),
            event.reason.clone(),
            event.protocol.clone().unwrap_or_else(|| "-".to_owned()),
            source,
            destination,
            event.length.to_string(),
            event.stands_for.to_string(),
        ];
        table.row(cells, &[(2, Paint::Doubtful)]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line() {
        let event = XdpEvent {
            number: 1,
            time: "2026-01-01T00:00:00.000Z".into(),
            interface: "edge".into(),
            reason: "no_rule".into(),
            source: Some("2001:db8::1".into()),
            destination: Some("192.0.2.1".into()),
            protocol: Some("tcp".into()),
            source_port: Some(50_000),
            destination_port: None,
            length: 74,
            stands_for: 8,
        };
        let expected =
            "2026-01-01T00:00:00.000Z edge no_rule tcp [2001:db8::1]:50000 → 192.0.2.1 74 bytes ×8";
        assert_eq!(line(&event), expected);
        let other = XdpEvent { source: None, destination: None, protocol: None, stands_for: 1, ..event };
        assert_eq!(line(&other), "2026-01-01T00:00:00.000Z edge no_rule - - → - 74 bytes");
    }
}
