//! `portcullis resolve`, `ping` and `trace`. The daemon asks, with its own resolver and under its own policy of what may
//! leave; here is what shows answers as they come.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::args::{Method, Ping, Trace, Way};
use super::output::{Failure, Outcome};
use super::{Context, terminal};
use crate::ctl::protocol::{
    Command, Family, Hop, PingOrder, Pinged, Probe, Resolved, TraceMethod, TraceOrder, Traced,
};
use crate::exit::Exit;

pub(super) fn resolve(context: &Context, name: &str) -> Outcome {
    let found: Resolved = context.call(&Command::Resolve { name: name.to_owned() })?;
    let lines: Vec<String> = found.addresses.iter().map(ToString::to_string).collect();
    context.output.value_or_text(&found, &lines.join("\n"))?;
    Ok(Exit::Ok)
}

#[derive(Serialize)]
struct Summary {
    host: String,
    address: IpAddr,
    sent: usize,
    answered: usize,
    min_ms: Option<f64>,
    average_ms: Option<f64>,
    max_ms: Option<f64>,
    echoes: Vec<Probe>,
}

pub(super) fn ping(context: &Context, ping: &Ping) -> Outcome {
    let mut order = PingOrder {
        host: ping.host.clone(),
        family: family(&ping.way),
        source: ping.way.source,
        count: 1,
        size: ping.size,
        timeout_ms: milliseconds(ping.timeout),
        interval_ms: milliseconds(ping.interval),
    };
    let mut client = context.client()?;
    let mut stop = terminal::Stop::listen()?;
    let mut address = None;
    let mut echoes = Vec::new();
    while echoes.len() < usize::try_from(ping.count).unwrap_or(usize::MAX) {
        let asked = Instant::now();
        let pinged: Pinged = client.call(&Command::Ping(order.clone()))?;
        if address.is_none() {
            address = Some(pinged.address);
            // One address for all, whatever the name stands for next time.
            order.host = pinged.address.to_string();
            if !context.output.json {
                context.output.text(&format!("{} bytes to {} ({})", ping.size, ping.host, pinged.address))?;
            }
        }
        for echo in pinged.echoes {
            if !context.output.json {
                context.output.text(&format!("{:>4}  {}", echoes.len() + 1, told(&echo)))?;
            }
            echoes.push(echo);
        }
        let left = ping.interval.saturating_sub(asked.elapsed());
        if echoes.len() < usize::try_from(ping.count).unwrap_or(usize::MAX) && stop.within(left) {
            break;
        }
    }
    let Some(address) = address else { return Ok(Exit::Negative) };
    summarise(context, Summary::new(&ping.host, address, echoes))
}

impl Summary {
    fn new(host: &str, address: IpAddr, echoes: Vec<Probe>) -> Self {
        let answers = || echoes.iter().filter(|echo| echo.outcome == "answer");
        let times = || answers().filter_map(|echo| echo.rtt_ms);
        let answered = answers().count();
        let sum: f64 = times().sum();
        let rounded = |time: f64| (time * 1000.0).round() / 1000.0;
        Self {
            host: host.to_owned(),
            address,
            sent: echoes.len(),
            answered,
            min_ms: times().reduce(f64::min),
            average_ms: u32::try_from(answered).ok().filter(|n| *n > 0).map(|n| rounded(sum / f64::from(n))),
            max_ms: times().reduce(f64::max),
            echoes,
        }
    }
}

fn summarise(context: &Context, summary: Summary) -> Outcome {
    let mut text = format!("{} sent, {} answered", summary.sent, summary.answered);
    if let (Some(min), Some(average), Some(max)) = (summary.min_ms, summary.average_ms, summary.max_ms) {
        text.push_str(&format!("; {min:.3} / {average:.3} / {max:.3} ms (least, mean, most)"));
    }
    context.output.value_or_text(&summary, &text)?;
    Ok(if summary.answered > 0 { Exit::Ok } else { Exit::Negative })
}

fn told(echo: &Probe) -> String {
    let from = echo.from.map_or_else(|| "somebody".to_owned(), |from| from.to_string());
    match (echo.outcome.as_str(), echo.rtt_ms) {
        ("answer", Some(time)) => format!("answer from {from} in {time:.3} ms"),
        ("exceeded", _) => format!("{from} says: too many hops"),
        ("unreachable", _) => format!("{from} says: {}", echo.detail),
        _ => "no answer".to_owned(),
    }
}

pub(super) fn trace(context: &Context, trace: &Trace) -> Outcome {
    let mut order = TraceOrder {
        host: trace.host.clone(),
        family: family(&trace.way),
        source: trace.way.source,
        first: 1,
        last: 1,
        probes: trace.probes,
        timeout_ms: milliseconds(trace.timeout),
        method: trace.method.map(|method| match method {
            Method::Icmp => TraceMethod::Icmp,
            Method::Udp => TraceMethod::Udp,
        }),
    };
    let mut client = context.client()?;
    let mut stop = terminal::Stop::listen()?;
    let mut whole: Option<Traced> = None;
    for hop in 1..=trace.hops {
        // Hop by hop, so that each is seen as it comes.
        (order.first, order.last) = (hop, hop);
        let traced: Traced = client.call(&Command::Trace(order.clone()))?;
        if !context.output.json {
            if whole.is_none() {
                let (to, how) = (traced.address, traced.method.as_str());
                context.output.text(&format!("the way to {} ({to}) by {how}", trace.host))?;
            }
            for hop in &traced.hops {
                context.output.text(&line(hop))?;
            }
        }
        (order.host, order.method) = (traced.address.to_string(), Some(traced.method));
        let ended = traced.ended;
        match &mut whole {
            None => whole = Some(traced),
            Some(whole) => {
                (whole.ended, whole.reached) = (traced.ended, traced.reached);
                whole.hops.extend(traced.hops);
            }
        }
        if ended || stop.within(Duration::ZERO) {
            break;
        }
    }
    let Some(whole) = whole else { return Err(Failure::new(Exit::Usage, "`--hops` is from 1 to 30")) };
    if context.output.json {
        context.output.json(&whole)?;
    } else if !whole.reached {
        context.output.text("the host itself has not answered")?;
    }
    Ok(if whole.reached { Exit::Ok } else { Exit::Negative })
}

/// `3  192.0.2.1  1.234 ms  1.301 ms  *`
fn line(hop: &Hop) -> String {
    let mut text = format!("{:>3}", hop.hop);
    let mut last = None;
    for probe in &hop.probes {
        if probe.from != last
            && let Some(from) = probe.from
        {
            text.push_str(&format!("  {from}"));
            last = probe.from;
        }
        match probe.rtt_ms {
            Some(time) => text.push_str(&format!("  {time:.3} ms")),
            None => text.push_str("  *"),
        }
        if probe.outcome == "unreachable" {
            text.push_str(&format!(" ({})", probe.detail));
        }
    }
    text
}

fn family(way: &Way) -> Option<Family> {
    match (way.ipv4, way.ipv6) {
        (true, _) => Some(Family::Ipv4),
        (_, true) => Some(Family::Ipv6),
        _ => None,
    }
}

/// What does not fit is refused by the daemon, which knows the bounds.
fn milliseconds(time: Duration) -> u16 {
    u16::try_from(time.as_millis()).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(outcome: &str, from: Option<&str>, rtt_ms: Option<f64>) -> Probe {
        let from = from.map(|from| from.parse().unwrap());
        Probe { outcome: outcome.into(), from, detail: "prohibited".into(), rtt_ms }
    }

    #[test]
    fn a_hop_is_a_line_with_each_address_once() {
        let probes = vec![
            probe("exceeded", Some("192.0.2.1"), Some(1.0)),
            probe("exceeded", Some("192.0.2.1"), Some(2.5)),
            probe("silence", None, None),
        ];
        assert_eq!(line(&Hop { hop: 3, probes }), "  3  192.0.2.1  1.000 ms  2.500 ms  *");
    }

    #[test]
    fn statistics_count_answers_only() {
        let echoes = vec![
            probe("answer", Some("192.0.2.1"), Some(1.0)),
            probe("unreachable", Some("192.0.2.9"), Some(9.0)),
            probe("answer", Some("192.0.2.1"), Some(2.0)),
        ];
        let summary = Summary::new("x", "192.0.2.1".parse().unwrap(), echoes);
        assert_eq!((summary.sent, summary.answered, summary.average_ms), (3, 2, Some(1.5)));
        assert!(told(&summary.echoes[1]).contains("192.0.2.9 says: prohibited"));
    }
}
