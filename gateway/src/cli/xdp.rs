//! `portcullis xdp`

use std::path::PathBuf;

use serde_json::json;

use super::Context;
use super::args::Xdp;
use super::output::{Failure, Outcome};
use super::table::{Paint, Table};
use crate::config;
use crate::config::PINS_DEFAULT;
use crate::ctl::protocol::{Command, XdpCount, XdpStatus};
use crate::exit::Exit;
use crate::xdp::{XdpError, loader};

mod top;
mod traffic;

pub(super) fn run(context: &Context, command: Xdp) -> Outcome {
    match command {
        Xdp::Status => status(context),
        Xdp::Drops(drops) if drops.events || drops.follow => traffic::events(context, &drops),
        Xdp::Drops(_) => drops(context),
        Xdp::Flows(flows) => traffic::flows(context, &flows),
        Xdp::Top(order) => top::run(context, &order),
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
    let mut interfaces = Table::new()
        .column("INTERFACE")
        .column("ROLE")
        .column("MODE")
        .wide("STATE")
        .number("REPAIRS")
        .column("VLAN");
    for row in &status.interfaces {
        let (state, paint) = match (row.attached, row.condition.as_str()) {
            (true, "attached" | "") => ("attached".to_owned(), Paint::Good),
            (true, other) => (other.to_owned(), Paint::Doubtful),
            // It has not been looked at since.
            (false, "attached" | "") => ("DETACHED".to_owned(), Paint::Bad),
            (false, other) => (other.to_uppercase(), Paint::Bad),
        };
        let vlan = row.vlan_of.as_ref().map_or_else(
            || "-".to_owned(),
            |trunk| {
                let numbers: Vec<String> = row.vlan.iter().rev().map(u16::to_string).collect();
                format!("{} of {trunk}", numbers.join(" in "))
            },
        );
        let repairs = row.repairs.to_string();
        let cells = [row.name.clone(), row.role.clone(), row.mode.clone(), state, repairs, vlan];
        interfaces.row(cells, &[(3, paint)]);
    }
    let (width, colour) = (context.output.width(), context.output.colour);
    let mut head = format!("{}: {} ports in rules, {} bans\n", status.state, status.rules, status.bans);
    if !status.interfaces.is_empty() {
        let judged = status.egress_condition.as_ref().map_or_else(String::new, |condition| {
            format!(", {condition} ({} times put back)", status.egress_repairs)
        });
        head += &format!("bogons at the edge: {}; egress: {}{judged}\n", status.bogons, status.egress);
    }
    if let Some(seconds) = status.reverts_in_seconds {
        head += &format!(
            "NOT CONFIRMED: the policy before comes back in {seconds} seconds unless `portcullis reload confirm`\n"
        );
    }
    head += &defence(&status);
    let packets = counts(&status.packets).render(width, colour);
    let maps = tables(&status).render(width, colour);
    let interfaces = interfaces.render(width, colour);
    context.output.text(&[head, interfaces, maps, packets].join("\n"))?;
    Ok(Exit::Ok)
}

/// How full each table of the kernel side is.
fn tables(status: &XdpStatus) -> Table {
    let mut table = Table::new().column("TABLE").number("USED").number("SIZE").wide("REMARK");
    for map in &status.maps {
        let used = map.entries.map_or_else(|| "-".to_owned(), |entries| entries.to_string());
        let remark = match (map.name.as_str(), &status.flows, &status.events) {
            ("flows", Some(flows), _) if flows.unlisted_total > 0 => {
                format!("{} without a place, {} since the start", flows.unlisted, flows.unlisted_total)
            }
            ("events", _, Some(events)) => format!("{} shown, {} lost", events.kept, events.lost),
            _ => String::new(),
        };
        table.row([map.name.clone(), used, map.most.to_string(), remark], &[(3, Paint::Doubtful)]);
    }
    table
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
    let mut table = Table::new()
        .column("INTERFACE")
        .column("DIRECTION")
        .column("VERDICT")
        .column("REASON")
        .number("PACKETS")
        .wide("MEANING");
    for row in rows {
        let paint = if row.verdict == "drop" { Paint::Doubtful } else { Paint::Plain };
        let cells = [
            row.interface.clone(),
            row.direction.clone(),
            row.verdict.clone(),
            row.reason.clone(),
            row.packets.to_string(),
            row.about.clone(),
        ];
        table.row(cells, &[(2, paint)]);
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
