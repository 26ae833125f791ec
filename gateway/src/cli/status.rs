//! `portcullis status`

use std::time::Duration;

use super::Context;
use super::output::Outcome;
use super::table::{Paint, Table};
use crate::ctl::protocol::{Command, Drained, Status, Use};
use crate::exit::Exit;

pub(super) fn drain(context: &Context, drained: bool) -> Outcome {
    let done: Drained = context.call(&Command::GatewayDrain { drained })?;
    let sessions = done.sessions;
    let text = if drained {
        format!(
            "nothing new is let in until the daemon ends; {sessions} sessions live on. What is forwarded in the kernel is not \
             held up: drain its servers"
        )
    } else {
        "new sessions are taken again".to_owned()
    };
    context.output.value_or_text(&done, &text)?;
    Ok(Exit::Ok)
}

pub(super) fn run(context: &Context) -> Outcome {
    let status: Status = context.call(&Command::Status {})?;
    let output = &context.output;
    if output.json {
        output.json(&status)?;
        return Ok(Exit::Ok);
    }
    let mut facts = Table::new().column("").wide("");
    for (name, value, paint) in facts_of(&status) {
        facts.row([name.to_owned(), value], &[(0, Paint::Title), (1, paint)]);
    }
    let mut listeners = Table::new()
        .column("LISTENER")
        .column("KIND")
        .wide("ADDRESSES")
        .column("TLS")
        .column("SERVER TLS")
        .number("CONNECTIONS")
        .number("SESSIONS");
    for listener in &status.listeners {
        let tls = if listener.tls { "yes" } else { "no" };
        let (connections, sessions) = (listener.connections.to_string(), listener.sessions.to_string());
        let cells = [
            listener.name.clone(),
            listener
                .path
                .as_ref()
                .map_or_else(|| listener.kind.clone(), |path| format!("{} ({path})", listener.kind)),
            listener.listen.join(" "),
            tls.into(),
            listener.server_tls.clone().unwrap_or_else(|| "no".into()),
            connections,
            sessions,
        ];
        let is_blind = listener.server_tls.as_deref() == Some("unverified");
        listeners.row(cells, if is_blind { &[(4, Paint::Bad)] } else { &[] });
    }
    let (width, colour) = (output.width(), output.colour);
    output.text(&format!("{}\n{}", facts.render(width, colour), listeners.render(width, colour)))?;
    Ok(Exit::Ok)
}

fn facts_of(status: &Status) -> Vec<(&'static str, String, Paint)> {
    let plain = |name, value| (name, value, Paint::Plain);
    let state = if status.state == "ready" { Paint::Good } else { Paint::Doubtful };
    let stas = match status.stas {
        stas if stas.total == 0 => Paint::Plain,
        stas if stas.up == stas.total => Paint::Good,
        stas if stas.up == 0 => Paint::Bad,
        _ => Paint::Doubtful,
    };
    let mut facts = vec![
        ("state", status.state.clone(), state),
        plain("version", status.version.clone()),
        plain("process", format!("{} with {} relay workers", status.pid, status.workers)),
        plain("up", format!("{} since {}", age(Duration::from_secs(status.uptime_seconds)), status.started)),
        plain("sessions", share(status.sessions)),
        plain("connections", share(status.connections)),
        plain("handshakes", share(status.handshakes)),
        ("authorities", format!("{} of {} up", status.stas.up, status.stas.total), stas),
    ];
    if let Some(authority) = &status.authority {
        facts.push(plain("own authority", format!("{}, {} tickets", authority.id, share(authority.tickets))));
    }
    facts.push(plain("configuration", status.config.path.clone()));
    if let Some(reload) = &status.config.last_reload {
        let (text, paint) = match (reload.ok, reload.restart.is_empty()) {
            (false, _) => (format!("failed at {}: {}", reload.at, reload.error), Paint::Bad),
            (true, true) => (format!("at {}", reload.at), Paint::Good),
            (true, false) => (
                format!("at {}; a restart is needed for {}", reload.at, reload.restart.join(", ")),
                Paint::Doubtful,
            ),
        };
        facts.push(("last reload", text, paint));
    }
    let lost = match status.log_lines_lost {
        0 => (status.log_level.clone(), Paint::Plain),
        lost => (format!("{}, {lost} lines lost", status.log_level), Paint::Doubtful),
    };
    facts.push(("log level", lost.0, lost.1));
    if let Some(state) = &status.high_availability {
        facts.push(("high availability", state.clone(), super::high_availability::paint(state)));
    }
    facts.push(plain("eBPF", status.ebpf.clone()));
    facts.push(plain("relay engine", status.relay_engine.clone()));
    facts
}

fn share(of: Use) -> String {
    format!("{} of {}", of.current, of.limit)
}

/// `3d 4h`, `5m 6s`: the two largest units.
pub(super) fn age(age: Duration) -> String {
    let seconds = age.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, _, _) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_show_their_two_largest_units() {
        for (seconds, text) in [(0, "0s"), (61, "1m 1s"), (7260, "2h 1m"), (90_000, "1d 1h")] {
            assert_eq!(age(Duration::from_secs(seconds)), text);
        }
    }
}
