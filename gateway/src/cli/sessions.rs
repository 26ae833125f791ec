//! `portcullis sessions`

use std::time::Duration;

use super::args::{Filter, Kill, Sessions};
use super::output::{Failure, Outcome};
use super::status::age;
use super::table::{Paint, Table};
use super::{Context, watch};
use crate::ctl::client::Client;
use crate::ctl::protocol::{Command, KillWhich, Killed, SESSIONS_PER_ANSWER, SessionFilter, SessionRow};
use crate::exit::Exit;

pub(super) fn run(context: &Context, command: Sessions) -> Outcome {
    match command {
        Sessions::List(filter) => list(context, &filter),
        Sessions::Watch { filter, interval, count } => watch::run(context, &filter, interval, count),
        Sessions::Show { id } => show(context, id),
        Sessions::Kill(which) => kill(context, which),
    }
}

fn list(context: &Context, filter: &Filter) -> Outcome {
    let rows = all(&mut context.client()?, filter)?;
    context.output.value_or_table(&rows, &table(&rows))?;
    Ok(Exit::Ok)
}

/// All sessions that pass the filter, page by page.
pub(super) fn all(client: &mut Client, filter: &Filter) -> Result<Vec<SessionRow>, Failure> {
    let mut asked = SessionFilter {
        user: filter.user.clone(),
        source: filter.source.clone(),
        ended: filter.ended,
        after: None,
    };
    let mut rows: Vec<SessionRow> = Vec::new();
    loop {
        let page: Vec<SessionRow> = client.call(&Command::SessionsList(asked.clone()))?;
        let whole = page.len() < SESSIONS_PER_ANSWER;
        rows.extend(page);
        if whole {
            return Ok(rows);
        }
        asked.after = rows.last().map(|row| row.id.clone());
    }
}

fn table(rows: &[SessionRow]) -> Table {
    let mut table = Table::new()
        .column("ID")
        .column("STATE")
        .wide("USER")
        .wide("APPLICATION")
        .wide("SOURCE")
        .wide("TARGET")
        .column("PROTOCOL")
        .number("AGE")
        .number("UP")
        .number("DOWN");
    for row in rows {
        let paint = state_paint(row);
        table.row(
            [
                row.id.clone(),
                row.reason.clone().unwrap_or_else(|| row.state.clone()),
                row.user.clone().unwrap_or_else(|| "-".into()),
                row.application.clone().unwrap_or_else(|| "-".into()),
                row.source.clone(),
                row.target.clone(),
                row.protocol.clone(),
                age(Duration::from_millis(row.duration_ms)),
                bytes(row.bytes_up),
                bytes(row.bytes_down),
            ],
            &[(1, paint)],
        );
    }
    table
}

pub(super) fn state_paint(row: &SessionRow) -> Paint {
    match row.state.as_str() {
        "established" => Paint::Good,
        "connecting" => Paint::Doubtful,
        _ => Paint::Faint,
    }
}

fn show(context: &Context, id: String) -> Outcome {
    let row: SessionRow = context.call(&Command::SessionShow { id })?;
    let mut table = Table::new().column("").wide("");
    let unknown = || "unknown".to_owned();
    let facts = [
        ("id", row.id.clone()),
        ("state", row.state.clone()),
        ("ended because", row.reason.clone().unwrap_or_else(|| "it lives".into())),
        ("user", row.user.clone().unwrap_or_else(unknown)),
        ("application", row.application.clone().unwrap_or_else(unknown)),
        ("source", row.source.clone()),
        ("target", row.target.clone()),
        ("listener", row.listener.clone()),
        ("protocol", row.protocol.clone()),
        ("started", row.started.clone()),
        ("duration", age(Duration::from_millis(row.duration_ms))),
        ("bytes up", row.bytes_up.to_string()),
        ("bytes down", row.bytes_down.to_string()),
    ];
    for (name, value) in facts {
        table.row([name.to_owned(), value], &[(0, Paint::Title)]);
    }
    context.output.value_or_table(&row, &table)?;
    Ok(Exit::Ok)
}

fn kill(context: &Context, which: Kill) -> Outcome {
    let which = KillWhich { id: which.id, user: which.user, all: which.all, revoke: which.revoke };
    let killed: Killed = context.call(&Command::SessionKill(which))?;
    let text = match killed.killed {
        1 => "1 session is told to end".to_owned(),
        n => format!("{n} sessions are told to end"),
    };
    let text = match killed.revoked {
        None => text,
        Some(1) => text + ", and 1 ticket is taken back",
        Some(n) => format!("{text}, and {n} tickets are taken back"),
    };
    context.output.value_or_text(&killed, &text)?;
    Ok(Exit::Ok)
}

/// `999 B`, `1.5 kB`, `23 MB`: powers of a thousand, at most four characters of number.
pub(super) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut tenths = bytes / 100;
    for unit in UNITS {
        if tenths < 100 {
            return format!("{}.{} {unit}", tenths / 10, tenths % 10);
        }
        if tenths < 10_000 {
            return format!("{} {unit}", tenths / 10);
        }
        tenths /= 1000;
    }
    format!("{bytes} B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_counts_stay_short() {
        for (count, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (9_999, "9.9 kB"),
            (10_000, "10 kB"),
            (999_999, "999 kB"),
            (1_500_000, "1.5 MB"),
            (u64::MAX, "18 EB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }
}
