//! `portcullis capture`: headers of packets, as a file of pcap on standard output, or kept by the daemon under a name.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::args::{Capture, CaptureCommand};
use super::output::{Failure, Outcome};
use super::sessions::bytes;
use super::table::{Paint, Table};
use super::{Context, terminal};
use crate::ctl::client::Client;
use crate::ctl::protocol::{CaptureOrder, CapturePart, CaptureRow, Command};
use crate::exit::Exit;

/// How often who only waits asks.
const ASK_EVERY: Duration = Duration::from_millis(300);

pub(super) fn run(context: &Context, capture: &Capture) -> Outcome {
    match &capture.command {
        None => start(context, capture),
        Some(CaptureCommand::List) => list(context),
        Some(CaptureCommand::Stop { name }) => {
            one(context, &Command::CaptureStop { name: name.clone() }, "ends")
        }
        Some(CaptureCommand::Delete { name }) => {
            one(context, &Command::CaptureDelete { name: name.clone() }, "is removed")
        }
        Some(CaptureCommand::Get { name }) => get(context, name),
    }
}

fn start(context: &Context, capture: &Capture) -> Outcome {
    let order = CaptureOrder {
        interface: capture.interface.clone(),
        filter: (!capture.filter.is_empty()).then(|| capture.filter.join(" ")),
        packets: capture.count,
        seconds: capture.seconds,
    };
    let mut client = context.client()?;
    let mut stop = terminal::Stop::listen()?;
    let row: CaptureRow = client.call(&Command::CaptureStart(order))?;
    let streams = !context.output.terminal && !context.output.json;
    if !streams && !context.output.json {
        let name = &row.name;
        context.output.note(format!("headers of packets are captured as {name}; Ctrl-C ends it"));
    }
    let done = match follow(context, &mut client, &mut stop, &row.name, streams) {
        Ok(done) => done,
        Err(failure) => {
            // Nobody reads any more: it need not go on.
            drop(client.call::<CaptureRow>(&Command::CaptureStop { name: Some(row.name) }));
            return Err(failure);
        }
    };
    finish(context, &done, streams)
}

fn finish(context: &Context, done: &CaptureRow, streams: bool) -> Outcome {
    let exit = if done.state == "failed" { Exit::Internal } else { Exit::Ok };
    let lost = if done.lost > 0 { format!(", {} lost", done.lost) } else { String::new() };
    let (name, packets, reason) = (&done.name, done.packets, &done.reason);
    let text =
        format!("{packets} packets{lost}, without what they carry; ended because {reason}; kept as {name}");
    if streams {
        context.output.note(text);
    } else {
        let fetch = format!("{text}\n`ssh … capture get {name} > {name}.pcap` fetches it");
        context.output.value_or_text(done, &fetch)?;
    }
    Ok(exit)
}

/// Goes with a capture to its end; on the way, what comes is written out or only counted.
fn follow(
    context: &Context,
    client: &mut Client,
    stop: &mut terminal::Stop,
    name: &str,
    streams: bool,
) -> Result<CaptureRow, Failure> {
    let mut offset = 0;
    let mut told = false;
    loop {
        if stop.within(if streams { Duration::ZERO } else { ASK_EVERY }) && !told {
            client.call::<CaptureRow>(&Command::CaptureStop { name: Some(name.to_owned()) })?;
            told = true;
        }
        let part: CapturePart = client.call(&Command::CaptureRead { name: name.to_owned(), offset })?;
        if streams {
            context.output.bytes(&decoded(&part)?)?;
        }
        offset = part.next;
        if part.end {
            return Ok(part.capture);
        }
    }
}

fn get(context: &Context, name: &str) -> Outcome {
    if context.output.terminal {
        let text = format!("a capture is no text: `ssh … capture get {name} > {name}.pcap`, or tcpdump -r -");
        return Err(Failure::new(Exit::Usage, text));
    }
    let mut client = context.client()?;
    let mut offset = 0;
    loop {
        let part: CapturePart = client.call(&Command::CaptureRead { name: name.to_owned(), offset })?;
        context.output.bytes(&decoded(&part)?)?;
        offset = part.next;
        if part.end {
            return Ok(Exit::Ok);
        }
    }
}

fn decoded(part: &CapturePart) -> Result<Vec<u8>, Failure> {
    let damaged = |error| Failure::new(Exit::Data, format!("the daemon's answer is damaged: {error}"));
    STANDARD.decode(&part.data).map_err(damaged)
}

fn one(context: &Context, command: &Command, what: &str) -> Outcome {
    let row: CaptureRow = context.call(command)?;
    context.output.value_or_text(&row, &format!("{} {what}", row.name))?;
    Ok(Exit::Ok)
}

fn list(context: &Context) -> Outcome {
    let rows: Vec<CaptureRow> = context.call(&Command::CaptureList {})?;
    let mut table = Table::new()
        .column("NAME")
        .column("STATE")
        .number("PACKETS")
        .number("LOST")
        .number("BYTES")
        .wide("WHAT");
    for row in &rows {
        let paint = match row.state.as_str() {
            "running" => Paint::Good,
            "failed" => Paint::Bad,
            _ => Paint::Plain,
        };
        let what = [row.interface.as_deref(), row.filter.as_deref(), Some(row.reason.as_str())];
        let what: Vec<&str> = what.into_iter().flatten().filter(|text| !text.is_empty()).collect();
        let cells = [
            row.name.clone(),
            row.state.clone(),
            row.packets.to_string(),
            row.lost.to_string(),
            bytes(row.bytes),
            what.join(", "),
        ];
        table.row(cells, &[(1, paint)]);
    }
    context.output.value_or_table(&rows, &table)?;
    Ok(Exit::Ok)
}
