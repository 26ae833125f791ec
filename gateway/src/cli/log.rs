//! `portcullis logs show`: the newest lines of the log, and those that come.

use std::time::{Duration, SystemTime};

use super::args::LogLines;
use super::output::{Failure, Outcome};
use super::table::Paint;
use super::{Context, terminal};
use crate::ctl::protocol::{Command, LogLine, LogPage, LogQuery};
use crate::exit::Exit;

/// How often who follows asks.
const FOLLOW_EVERY: Duration = Duration::from_secs(1);

pub(super) fn show(context: &Context, wanted: &LogLines) -> Outcome {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let mut query = LogQuery {
        after: None,
        since_unix: wanted.since.map(|since| now.saturating_sub(since).as_secs()),
        lines: Some(wanted.lines),
        unit: wanted.unit.clone(),
        all: wanted.all,
        level: wanted.level.map(|level| level.as_str().to_owned()),
    };
    let mut client = context.client()?;
    let mut page: LogPage = client.call(&Command::LogRead(query.clone()))?;
    if !wanted.follow {
        if context.output.json {
            context.output.json(&page)?;
        } else {
            print(context, &page.lines)?;
        }
        return Ok(Exit::Ok);
    }
    let mut stop = terminal::Stop::listen()?;
    query.lines = None;
    // Where nothing has been there yet, what comes from now on.
    query.since_unix = Some(now.as_secs());
    loop {
        print(context, &page.lines)?;
        if page.next.is_some() {
            (query.after, query.since_unix) = (page.next, None);
            query.lines = Some(crate::ctl::protocol::LOG_LINES_MAX);
        }
        if stop.within(FOLLOW_EVERY) {
            return Ok(Exit::Ok);
        }
        page = client.call(&Command::LogRead(query.clone()))?;
    }
}

/// For programs that follow: one object for each line.
fn print(context: &Context, lines: &[LogLine]) -> Result<(), Failure> {
    let mut text = String::new();
    for line in lines {
        if context.output.json {
            text.push_str(&serde_json::to_string(line).unwrap_or_default());
        } else {
            text.push_str(&told(line, context.output.colour));
        }
        text.push('\n');
    }
    if text.is_empty() { Ok(()) } else { context.output.text(&text) }
}

/// Messages come from anybody: nothing of them may move the cursor.
fn told(line: &LogLine, colour: bool) -> String {
    let paint = match line.level.as_str() {
        "error" => Paint::Bad,
        "warn" => Paint::Doubtful,
        "debug" | "trace" => Paint::Faint,
        _ => Paint::Plain,
    };
    let clean = |text: &str| text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>();
    let unit = if line.unit.is_empty() { String::new() } else { format!("{}: ", clean(&line.unit)) };
    let level = paint.paint(&format!("{:<5}", line.level), colour);
    format!("{} {level} {unit}{}", clean(&line.at), clean(&line.message)).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_cannot_move_the_cursor() {
        let line = LogLine {
            at: "2026-01-01T00:00:00.000Z".into(),
            level: "warn".into(),
            unit: "a.service".into(),
            message: "x\u{1b}[2J\ny".into(),
        };
        assert_eq!(told(&line, false), "2026-01-01T00:00:00.000Z warn  a.service: x [2J y");
    }
}
