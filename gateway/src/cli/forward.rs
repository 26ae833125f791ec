//! `portcullis forward`

use std::time::Duration;

use super::Context;
use super::args::{Forward, Server};
use super::output::{Failure, Outcome};
use super::sessions::bytes;
use super::status::age;
use super::table::{Paint, Table};
use crate::ctl::protocol::{
    Command, ForwardFlowFilter, ForwardFlowPage, ForwardServer, ForwardStatus, ServerRef,
};
use crate::exit::Exit;

pub(super) fn run(context: &Context, command: Forward) -> Outcome {
    match command {
        Forward::Status { listener } => status(context, listener.as_deref()),
        Forward::Flows { listener, server, limit } => {
            flows(context, ForwardFlowFilter { listener, server, limit: Some(limit) })
        }
        Forward::Drain(server) => drain(context, server, true),
        Forward::Undrain(server) => drain(context, server, false),
    }
}

fn status(context: &Context, listener: Option<&str>) -> Outcome {
    let mut rows: Vec<ForwardStatus> = context.call(&Command::ForwardStatus {})?;
    if let Some(listener) = listener {
        rows.retain(|row| row.listener == listener);
        if rows.is_empty() {
            let message = format!("there is no listener of the kind forward named `{listener}`");
            return Err(Failure::new(Exit::Negative, message));
        }
    }
    let output = &context.output;
    if output.json {
        output.json(&rows)?;
        return Ok(Exit::Ok);
    }
    let (width, colour) = (output.width(), output.colour);
    let mut listeners = Table::new()
        .column("LISTENER")
        .wide("ADDRESSES")
        .column("CHECK")
        .column("DATA PATH")
        .column("RUNS IN")
        .wide("BECAUSE");
    for row in &rows {
        let cells = [
            row.listener.clone(),
            row.listen.join(" "),
            row.check.clone(),
            row.data_path.clone(),
            row.path.clone(),
            row.path_reason.clone().unwrap_or_else(|| "-".to_owned()),
        ];
        listeners.row(cells, &[]);
    }
    output.text(&format!("{}\n{}", listeners.render(width, colour), servers(&rows).render(width, colour)))?;
    Ok(Exit::Ok)
}

fn flows(context: &Context, filter: ForwardFlowFilter) -> Outcome {
    let page: ForwardFlowPage = context.call(&Command::ForwardFlows(filter))?;
    let mut table = Table::new()
        .column("LISTENER")
        .column("SERVER")
        .wide("CLIENT")
        .wide("SOURCE")
        .column("STATE")
        .number("UP")
        .number("DOWN")
        .number("AGE")
        .number("IDLE");
    for flow in &page.flows {
        let ago = |ms| age(Duration::from_millis(ms));
        let cells = [
            flow.listener.clone().unwrap_or_else(|| "-".to_owned()),
            flow.server.clone(),
            flow.client.clone(),
            flow.source.clone(),
            flow.state.clone(),
            bytes(flow.bytes_up),
            bytes(flow.bytes_down),
            ago(flow.age_ms),
            ago(flow.idle_ms),
        ];
        table.row(cells, &[]);
    }
    context.output.value_or_table(&page, &table)?;
    let left = page.matched.saturating_sub(page.flows.len());
    if left > 0 && !context.output.json {
        context.output.note(format!("{left} more flows; --limit shows more, --listener and --server choose"));
    }
    Ok(Exit::Ok)
}

fn servers(rows: &[ForwardStatus]) -> Table {
    let mut table = Table::new()
        .column("LISTENER")
        .column("SERVER")
        .column("ADDRESS")
        .column("STATE")
        .number("WEIGHT")
        .number("SHARE")
        .number("FLOWS")
        .number("LATENCY")
        .number("CHECKED")
        .number("FAILURES")
        .wide("LAST ERROR");
    for (listener, server) in rows.iter().flat_map(|row| row.servers.iter().map(|it| (&row.listener, it))) {
        let dash = || "-".to_owned();
        let ago = |ms| format!("{} ago", age(Duration::from_millis(ms)));
        let (state, paint) = state(server);
        let cells = [
            listener.clone(),
            server.name.clone(),
            server.address.clone(),
            state,
            server.weight.to_string(),
            format!("{:.1} %", server.share),
            server.flows.to_string(),
            server.latency_ms.map_or_else(dash, |ms| format!("{ms:.1} ms")),
            server.last_check_age_ms.map_or_else(dash, ago),
            server.failures.to_string(),
            server.last_error.clone().unwrap_or_else(dash),
        ];
        table.row(cells, &[(3, paint)]);
    }
    table
}

/// Health and drain in one word or two.
fn state(server: &ForwardServer) -> (String, Paint) {
    let paint = match server.state.as_str() {
        "up" => Paint::Good,
        "down" => Paint::Bad,
        _ => Paint::Doubtful,
    };
    if server.drained || server.weight == 0 {
        let paint = if server.state == "down" { paint } else { Paint::Doubtful };
        return (format!("{}, drained", server.state), paint);
    }
    (server.state.clone(), paint)
}

fn drain(context: &Context, Server { server, listener }: Server, drained: bool) -> Outcome {
    let which = ServerRef { server, listener };
    let command = if drained { Command::ForwardDrain(which) } else { Command::ForwardUndrain(which) };
    let done: Vec<ServerRef> = context.call(&command)?;
    let what = if drained { "takes no new flows until the daemon ends" } else { "takes new flows again" };
    let lines: Vec<String> = done
        .iter()
        .map(|row| format!("{} of {} {what}", row.server, row.listener.as_deref().unwrap_or("-")))
        .collect();
    context.output.value_or_text(&done, &lines.join("\n"))?;
    Ok(Exit::Ok)
}
