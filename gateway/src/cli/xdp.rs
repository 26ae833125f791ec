//! `portcullis xdp`

use std::path::PathBuf;

use serde_json::json;

use super::Context;
use super::args::Xdp;
use super::output::{Failure, Outcome};
use super::table::{Paint, Table};
use crate::config;
use crate::ctl::protocol::{Command, XdpCount, XdpStatus};
use crate::exit::Exit;
use crate::xdp::{PINS_DEFAULT, XdpError, loader};

pub(super) fn run(context: &Context, command: Xdp) -> Outcome {
    match command {
        Xdp::Status => status(context),
        Xdp::Drops => drops(context),
        Xdp::Detach { pins } => detach(context, pins),
        Xdp::Bans(command) => super::bans::run(context, command),
    }
}

fn status(context: &Context) -> Outcome {
    let status: XdpStatus = context.call(&Command::XdpStatus {})?;
    if context.output.json {
        context.output.json(&status)?;
        return Ok(Exit::Ok);
    }
    let mut interfaces = Table::new().column("INTERFACE").column("ROLE").column("MODE").column("STATE");
    for row in &status.interfaces {
        let (state, paint) = if row.attached { ("attached", Paint::Good) } else { ("DETACHED", Paint::Bad) };
        interfaces.row([row.name.clone(), row.role.clone(), row.mode.clone(), state.into()], &[(3, paint)]);
    }
    let (width, colour) = (context.output.width(), context.output.colour);
    let head = format!("{}: {} ports in rules, {} bans\n", status.state, status.rules, status.bans);
    let head = head + &defence(&status);
    let packets = counts(&status.packets).render(width, colour);
    context.output.text(&(head + "\n" + &interfaces.render(width, colour) + "\n" + &packets))?;
    Ok(Exit::Ok)
}

/// What there is to say about floods and steering.
fn defence(status: &XdpStatus) -> String {
    let flood = status.flood.as_ref().map_or_else(String::new, |flood| {
        let cookies = if flood.cookies { "cookies on" } else { "cookies off" };
        match &flood.pressure_since {
            Some(since) => format!("under pressure since {since}, {cookies}\n"),
            None => format!("no pressure, {cookies}\n"),
        }
    });
    let steering = status.steering.as_ref().map_or_else(String::new, |steering| {
        format!("steering {}: {}\n", if steering.on { "on" } else { "off" }, steering.reason)
    });
    flood + &steering
}

fn drops(context: &Context) -> Outcome {
    let status: XdpStatus = context.call(&Command::XdpStatus {})?;
    let mut drops: Vec<XdpCount> =
        status.packets.into_iter().filter(|count| count.verdict == "drop" && count.packets > 0).collect();
    drops.sort_by_key(|count| std::cmp::Reverse(count.packets));
    context.output.value_or_table(&drops, &counts(&drops))?;
    Ok(Exit::Ok)
}

fn counts(rows: &[XdpCount]) -> Table {
    let mut table =
        Table::new().column("INTERFACE").column("VERDICT").column("REASON").number("PACKETS").wide("MEANING");
    for row in rows {
        let paint = if row.verdict == "drop" { Paint::Doubtful } else { Paint::Plain };
        let cells = [
            row.interface.clone(),
            row.verdict.clone(),
            row.reason.clone(),
            row.packets.to_string(),
            row.about.clone(),
        ];
        table.row(cells, &[(1, paint)]);
    }
    table
}

/// Works without the daemon and without a configuration that can be read: it is the way out.
fn detach(context: &Context, pins: Option<PathBuf>) -> Outcome {
    let configured = || config::load(&context.config_path()).ok()?.xdp.map(|xdp| xdp.pins);
    let pins = pins.or_else(configured).unwrap_or_else(|| PINS_DEFAULT.into());
    let detached = loader::detach(&pins).map_err(|error| {
        let exit = match &error {
            XdpError::Pin { reason, .. } if reason.kind() == std::io::ErrorKind::PermissionDenied => {
                Exit::Permission
            }
            _ => Exit::Internal,
        };
        Failure::new(exit, format!("{error}; run this as root"))
    })?;
    let text = if detached.is_empty() {
        format!("nothing is attached by {}", pins.display())
    } else {
        format!("detached from {}", detached.join(", "))
    };
    context.output.value_or_text(&json!({ "detached": detached }), &text)?;
    Ok(Exit::Ok)
}
