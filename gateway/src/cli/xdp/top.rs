//! `portcullis xdp top`: what comes in and what is dropped, now.
//!
//! On a terminal it takes the screen and refreshes it; elsewhere, or with `--once`, it shows one interval after
//! another as text, and with `--json` as one JSON object each.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use super::traffic::flow_table;
use crate::cli::args::Top;
use crate::cli::output::{Failure, Outcome};
use crate::cli::table::{Paint, Table};
use crate::cli::watch::{Screen, per_second};
use crate::cli::{Context, terminal};
use crate::ctl::client::Client;
use crate::ctl::protocol::{Command, FlowFilter, FlowOrder, XdpEventPage, XdpFlow, XdpFlowPage, XdpStatus};
use crate::exit::Exit;

/// Shortest time between two looks.
const INTERVAL_MIN: Duration = Duration::from_millis(100);
/// Flows that are compared between two looks: those with the latest packets.
const FLOWS_COMPARED: usize = 2_000;
/// Rows of each part.
const ROWS: usize = 10;

/// What was seen, and when.
struct Look {
    at: Instant,
    status: XdpStatus,
    flows: Vec<XdpFlow>,
    events: XdpEventPage,
}

/// What happened between two looks.
#[derive(Debug, Serialize)]
struct Shown {
    time: String,
    seconds: f64,
    causes: Vec<CauseRate>,
    flows: Vec<FlowRate>,
    /// From the sample of drop events.
    dropped_sources: Vec<Source>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct CauseRate {
    verdict: String,
    reason: String,
    packets_per_second: u64,
    packets: u64,
}

#[derive(Debug, Serialize)]
struct FlowRate {
    packets_per_second: u64,
    bytes_per_second: u64,
    #[serde(flatten)]
    flow: XdpFlow,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Source {
    source: String,
    reason: String,
    packets_per_second: u64,
}

pub(super) fn run(context: &Context, order: &Top) -> Outcome {
    let runtime = terminal::runtime()?;
    let socket = context.socket();
    // The first look comes before the screen is taken: a failure is to be read.
    let first = look(&socket, None)?;
    let interval = order.interval.max(INTERVAL_MIN);
    let outcome = runtime.block_on(watch(context, socket, interval, order.once, first));
    runtime.shutdown_background();
    outcome
}

fn look(socket: &Path, after: Option<u64>) -> Result<Look, Failure> {
    let mut client = Client::connect(socket)?;
    let filter =
        FlowFilter { order: FlowOrder::Recent, limit: Some(FLOWS_COMPARED), ..FlowFilter::default() };
    let flows: XdpFlowPage = client.call(&Command::XdpFlows(filter))?;
    // The first look only learns where the events are.
    let limit = if after.is_none() { Some(0) } else { None };
    Ok(Look {
        at: Instant::now(),
        status: client.call(&Command::XdpStatus {})?,
        flows: flows.flows,
        events: client.call(&Command::XdpEvents { after, limit })?,
    })
}

async fn watch(
    context: &Context,
    socket: PathBuf,
    interval: Duration,
    once: bool,
    mut before: Look,
) -> Outcome {
    let handler = |kind| signal(kind).map_err(|error| Failure::new(Exit::Internal, error.to_string()));
    let (mut interrupt, mut terminate) =
        (handler(SignalKind::interrupt())?, handler(SignalKind::terminate())?);
    let on_screen = context.output.terminal && !context.output.json && !once;
    let screen = on_screen.then(Screen::take).transpose()?;
    loop {
        let (socket, after) = (socket.clone(), before.events.next);
        let next = async {
            tokio::time::sleep(interval).await;
            // Asking blocks; Ctrl-C must work meanwhile.
            tokio::task::spawn_blocking(move || look(&socket, Some(after))).await
        };
        tokio::select! {
            seen = next => {
                let now = seen.map_err(|error| Failure::new(Exit::Internal, error.to_string()))??;
                show(context, screen.is_some(), &between(&before, &now))?;
                before = now;
            }
            _ = interrupt.recv() => return Ok(Exit::Ok),
            _ = terminate.recv() => return Ok(Exit::Ok),
        }
        if once {
            return Ok(Exit::Ok);
        }
    }
}

fn between(before: &Look, now: &Look) -> Shown {
    let time = now.at.saturating_duration_since(before.at);
    Shown {
        time: crate::log::rfc3339(std::time::SystemTime::now()),
        seconds: time.as_secs_f64(),
        causes: first(causes(&before.status, &now.status, time)),
        flows: first(flows(&before.flows, &now.flows, time)),
        dropped_sources: first(sources(&now.events, time)),
    }
}

fn first<T>(mut rows: Vec<T>) -> Vec<T> {
    rows.truncate(ROWS);
    rows
}

/// The most frequent first; of all interfaces together.
fn causes(before: &XdpStatus, now: &XdpStatus, time: Duration) -> Vec<CauseRate> {
    let mut sums: HashMap<(&str, &str), (u64, u64)> = HashMap::new();
    for count in &before.packets {
        let sum = sums.entry((&count.verdict, &count.reason)).or_default();
        sum.0 = sum.0.saturating_add(count.packets);
    }
    for count in &now.packets {
        let sum = sums.entry((&count.verdict, &count.reason)).or_default();
        sum.1 = sum.1.saturating_add(count.packets);
    }
    let rate = |((verdict, reason), (before, packets)): ((&str, &str), (u64, u64))| CauseRate {
        verdict: verdict.to_owned(),
        reason: reason.to_owned(),
        packets_per_second: per_second(packets.saturating_sub(before), time),
        packets,
    };
    let mut rates: Vec<CauseRate> = sums.into_iter().map(rate).collect();
    rates.sort_by_key(|rate| {
        (std::cmp::Reverse((rate.packets_per_second, rate.packets)), rate.reason.clone())
    });
    rates
}

/// The busiest first. One that is new began at nothing.
fn flows(before: &[XdpFlow], now: &[XdpFlow], time: Duration) -> Vec<FlowRate> {
    let earlier: HashMap<(&str, &str), &XdpFlow> =
        before.iter().map(|flow| ((flow.session.as_str(), flow.half.as_str()), flow)).collect();
    let rate = |flow: &XdpFlow, count: fn(&XdpFlow) -> u64| {
        let began = earlier.get(&(flow.session.as_str(), flow.half.as_str())).map_or(0, |flow| count(flow));
        per_second(count(flow).saturating_sub(began), time)
    };
    let mut rates: Vec<FlowRate> = now
        .iter()
        .map(|flow| FlowRate {
            packets_per_second: rate(flow, |flow| flow.packets),
            bytes_per_second: rate(flow, |flow| flow.bytes),
            flow: flow.clone(),
        })
        .collect();
    rates.sort_by_key(|rate| std::cmp::Reverse((rate.bytes_per_second, rate.packets_per_second)));
    rates
}

/// Who sends what is dropped, the most first.
fn sources(events: &XdpEventPage, time: Duration) -> Vec<Source> {
    let mut sums: HashMap<(&str, &str), u64> = HashMap::new();
    for event in &events.events {
        let sum = sums.entry((event.source.as_deref().unwrap_or("-"), &event.reason)).or_default();
        *sum = sum.saturating_add(event.stands_for);
    }
    let source = |((source, reason), packets): ((&str, &str), u64)| Source {
        source: source.to_owned(),
        reason: reason.to_owned(),
        packets_per_second: per_second(packets, time),
    };
    let mut sources: Vec<Source> = sums.into_iter().map(source).collect();
    sources.sort_by_key(|source| (std::cmp::Reverse(source.packets_per_second), source.source.clone()));
    sources
}

fn show(context: &Context, screen: bool, shown: &Shown) -> Result<(), Failure> {
    let output = &context.output;
    if output.json {
        // One line per look, also on a terminal: this is for programs.
        let line = serde_json::to_string(shown);
        return output.text(&line.map_err(|error| Failure::new(Exit::Internal, error.to_string()))?);
    }
    let text = text(shown, output.width(), output.colour);
    if !screen {
        return output.text(&text);
    }
    // What does not fit is of the least.
    let lines: Vec<&str> = text.lines().take(output.height()).collect();
    Screen::draw(&lines.join("\n"))?;
    Ok(())
}

fn text(shown: &Shown, width: usize, colour: bool) -> String {
    let sum = |verdict: &str| -> u64 {
        let of = shown.causes.iter().filter(|rate| rate.verdict == verdict);
        of.map(|rate| rate.packets_per_second).sum()
    };
    let title = format!("{}  {} packets/s pass, {} are dropped", shown.time, sum("pass"), sum("drop"));
    let mut causes = Table::new().column("VERDICT").column("REASON").number("PACKETS/s").number("PACKETS");
    for rate in &shown.causes {
        let paint = if rate.verdict == "drop" { Paint::Doubtful } else { Paint::Plain };
        let (now, ever) = (rate.packets_per_second.to_string(), rate.packets.to_string());
        causes.row([rate.verdict.clone(), rate.reason.clone(), now, ever], &[(0, paint)]);
    }
    let rates = |rate: &FlowRate| XdpFlow {
        packets: rate.packets_per_second,
        bytes: rate.bytes_per_second,
        ..rate.flow.clone()
    };
    let flows: Vec<XdpFlow> = shown.flows.iter().map(rates).collect();
    let mut sources = Table::new().wide("DROPPED FROM").column("REASON").number("PACKETS/s");
    for source in &shown.dropped_sources {
        let rate = source.packets_per_second.to_string();
        sources.row([source.source.clone(), source.reason.clone(), rate], &[]);
    }
    [
        Paint::Title.paint(&title, colour) + "\n",
        causes.render(width, colour),
        Paint::Faint.paint("flows, with packets and bytes per second", colour),
        flow_table(&flows).render(width, colour),
        sources.render(width, colour),
    ]
    .join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctl::protocol::XdpEvent;

    fn flow(session: &str, bytes: u64) -> XdpFlow {
        XdpFlow {
            session: session.into(),
            half: "farm".into(),
            peer: "192.0.2.1:1".into(),
            local: "192.0.2.2:2".into(),
            owner: None,
            listed: true,
            packets: bytes / 1000,
            bytes,
            quiet_ms: 0,
        }
    }

    #[test]
    fn the_busiest_flow_comes_first() {
        let before = [flow("a", 1_000_000), flow("b", 0)];
        let now = [flow("a", 1_001_000), flow("b", 50_000), flow("c", 8_000)];
        let rates = flows(&before, &now, Duration::from_secs(2));
        let order: Vec<_> =
            rates.iter().map(|rate| (rate.flow.session.as_str(), rate.bytes_per_second)).collect();
        assert_eq!(order, [("b", 25_000), ("c", 4_000), ("a", 500)]);
    }

    #[test]
    fn a_sampled_drop_counts_for_those_it_stands_for() {
        let event = |source: &str, stands_for| XdpEvent {
            number: 0,
            time: String::new(),
            interface: "edge".into(),
            reason: "no_rule".into(),
            source: Some(source.into()),
            destination: None,
            protocol: None,
            source_port: None,
            destination_port: None,
            length: 60,
            stands_for,
        };
        let seen = [("192.0.2.1", 1), ("192.0.2.9", 64), ("192.0.2.9", 64), ("192.0.2.1", 1)];
        let events = seen.map(|(source, stands_for)| event(source, stands_for)).into();
        let page = XdpEventPage { events, next: 4, missed: 0 };
        let found = sources(&page, Duration::from_secs(1));
        let found: Vec<_> =
            found.iter().map(|source| (source.source.as_str(), source.packets_per_second)).collect();
        assert_eq!(found, [("192.0.2.9", 128), ("192.0.2.1", 2)]);
    }
}
