//! `portcullis sessions watch`: a table that keeps itself up to date.
//!
//! On a terminal it takes the alternate screen and gives it back at the end; elsewhere it prints one line per look,
//! and with `--json` one JSON object per look.

use std::collections::HashMap;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};

use super::args::Filter;
use super::output::{Failure, Outcome};
use super::sessions::{all, bytes, state_paint};
use super::status::age;
use super::table::{Paint, Table};
use super::{Context, terminal};
use crate::ctl::client::Client;
use crate::ctl::protocol::SessionRow;
use crate::exit::Exit;

/// Shortest time between two looks.
const INTERVAL_MIN: Duration = Duration::from_millis(100);
/// Lines around the table: the title, the column titles, what was left out.
const LINES_AROUND: usize = 4;

pub(super) fn run(context: &Context, filter: &Filter, interval: Duration, count: Option<u64>) -> Outcome {
    let runtime = terminal::runtime()?;
    let socket = context.socket();
    // The first look comes before the screen is taken: a failure is to be read.
    let first = look(&socket, filter)?;
    let outcome = runtime.block_on(watch(context, socket, filter, interval.max(INTERVAL_MIN), count, first));
    runtime.shutdown_background();
    outcome
}

/// What was seen, and when.
struct Look {
    at: Instant,
    rows: Vec<SessionRow>,
}

fn look(socket: &Path, filter: &Filter) -> Result<Look, Failure> {
    let rows = all(&mut Client::connect(socket)?, filter)?;
    Ok(Look { at: Instant::now(), rows })
}

async fn watch(
    context: &Context,
    socket: PathBuf,
    filter: &Filter,
    interval: Duration,
    count: Option<u64>,
    mut now: Look,
) -> Outcome {
    let handler = |kind| signal(kind).map_err(|error| Failure::new(Exit::Internal, error.to_string()));
    let (mut interrupt, mut terminate) =
        (handler(SignalKind::interrupt())?, handler(SignalKind::terminate())?);
    let screen = (context.output.terminal && !context.output.json).then(Screen::take).transpose()?;
    let mut before: Option<Look> = None;
    let mut left = count.unwrap_or(u64::MAX);
    loop {
        show(context, screen.is_some(), before.as_ref(), &now)?;
        left -= 1;
        if left == 0 {
            return Ok(Exit::Ok);
        }
        let (socket, filter) = (socket.clone(), filter.clone());
        let next = async {
            tokio::time::sleep(interval).await;
            // Asking blocks; Ctrl-C must work meanwhile.
            tokio::task::spawn_blocking(move || look(&socket, &filter)).await
        };
        tokio::select! {
            seen = next => {
                let seen = seen.map_err(|error| Failure::new(Exit::Internal, error.to_string()))?;
                before = Some(std::mem::replace(&mut now, seen?));
            }
            _ = interrupt.recv() => return Ok(Exit::Ok),
            _ = terminate.recv() => return Ok(Exit::Ok),
        }
    }
}

fn show(context: &Context, screen: bool, before: Option<&Look>, now: &Look) -> Result<(), Failure> {
    let output = &context.output;
    let time = crate::log::rfc3339(std::time::SystemTime::now());
    let total = |count: fn(&SessionRow) -> u64| now.rows.iter().map(count).sum::<u64>();
    let (up, down) = (total(|row| row.bytes_up), total(|row| row.bytes_down));
    if output.json {
        // One line per look, also on a terminal: this is for programs.
        let line = serde_json::json!({"time": time, "sessions": now.rows}).to_string();
        return output.text(&line);
    }
    let established = now.rows.iter().filter(|row| row.state == "established").count();
    let title = format!(
        "{time}  {} sessions, {established} established, {} up, {} down",
        now.rows.len(),
        bytes(up),
        bytes(down)
    );
    if !screen {
        return output.text(&title);
    }
    let rows = output.height().saturating_sub(LINES_AROUND).max(1);
    let mut text = Paint::Title.paint(&title, output.colour);
    text.push_str("\n\n");
    text.push_str(&table(before, now, rows).render(output.width(), output.colour));
    if now.rows.len() > rows {
        text.push_str(&format!("… and {} more", now.rows.len() - rows));
    }
    Screen::draw(&text)?;
    Ok(())
}

/// The busiest sessions first.
fn table(before: Option<&Look>, now: &Look, most: usize) -> Table {
    let seconds = before.map_or(Duration::ZERO, |before| now.at.saturating_duration_since(before.at));
    let earlier: HashMap<&str, &SessionRow> =
        before.iter().flat_map(|before| &before.rows).map(|row| (row.id.as_str(), row)).collect();
    let rate = |row: &SessionRow, count: fn(&SessionRow) -> u64| {
        let moved =
            earlier.get(row.id.as_str()).map_or(0, |earlier| count(row).saturating_sub(count(earlier)));
        per_second(moved, seconds)
    };
    let mut rows: Vec<_> = now
        .rows
        .iter()
        .map(|row| (rate(row, |row| row.bytes_up), rate(row, |row| row.bytes_down), row))
        .collect();
    rows.sort_by_key(|(up, down, _)| std::cmp::Reverse(up + down));
    let mut table = Table::new()
        .column("ID")
        .wide("USER")
        .wide("APPLICATION")
        .wide("SOURCE")
        .wide("TARGET")
        .column("STATE")
        .number("AGE")
        .number("UP/s")
        .number("DOWN/s")
        .number("UP")
        .number("DOWN");
    for (up, down, row) in rows.into_iter().take(most) {
        let dash = || "-".to_owned();
        let cells = [
            row.id.clone(),
            row.user.clone().unwrap_or_else(dash),
            row.application.clone().unwrap_or_else(dash),
            row.source.clone(),
            row.target.clone(),
            row.state.clone(),
            age(Duration::from_millis(row.duration_ms)),
            bytes(up),
            bytes(down),
            bytes(row.bytes_up),
            bytes(row.bytes_down),
        ];
        table.row(cells, &[(5, state_paint(row))]);
    }
    table
}

pub(super) fn per_second(moved: u64, time: Duration) -> u64 {
    let milliseconds = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    moved.saturating_mul(1000).checked_div(milliseconds).unwrap_or(0)
}

/// The alternate screen; given back on drop.
pub(super) struct Screen;

impl Screen {
    pub(super) fn take() -> io::Result<Self> {
        let mut out = io::stdout().lock();
        out.write_all(b"\x1b[?1049h\x1b[?25l")?;
        out.flush()?;
        Ok(Self)
    }

    /// Overwrites line by line, which does not flicker as clearing would.
    pub(super) fn draw(text: &str) -> io::Result<()> {
        let mut frame = String::from("\x1b[H");
        for (index, line) in text.lines().enumerate() {
            frame.push_str(if index == 0 { "" } else { "\r\n" });
            frame.push_str(line);
            frame.push_str("\x1b[K");
        }
        frame.push_str("\x1b[J");
        let mut out = io::stdout().lock();
        out.write_all(frame.as_bytes())?;
        out.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let mut out = io::stdout().lock();
        // A terminal that is gone needs no restoring.
        drop(out.write_all(b"\x1b[?25h\x1b[?1049l").and_then(|()| out.flush()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_without_time_is_nothing() {
        assert_eq!(per_second(10, Duration::ZERO), 0);
        assert_eq!(per_second(3000, Duration::from_millis(1500)), 2000);
    }
}
