//! `portcullis ports`: the rules as the configuration has them, and which one decides. The daemon need not run; where
//! it does, its bans count too.

use serde_json::{Value, json};

use super::Context;
use super::args::{self, Ports};
use super::output::{Failure, Outcome};
use super::table::{Paint, Table as Shown};
use crate::config::{self, Config, XdpConfig};
use crate::exit::Exit;
use crate::xdp::presets::{Passage, PortRow};
use crate::xdp::rules::{Probe, Row, Table};
use portcullis_ebpf_common::Protocol;
use portcullis_ebpf_common::Verdict;
use portcullis_ebpf_common::tables::{Action, Role};

pub(super) fn run(context: &Context, command: Ports) -> Outcome {
    let config = config::load(&context.config_path())
        .map_err(|error| Failure::new(Exit::Config, error.to_string()))?;
    let Some(xdp) = &config.xdp else {
        let message = format!("{} has no [xdp]: nothing is filtered", config.path.display());
        return Err(Failure::new(Exit::Negative, message));
    };
    match command {
        Ports::Show => show(context, &config, xdp),
        Ports::Test(probe) => test(context, &Table::new(&config, xdp), &probe),
    }
}

fn show(context: &Context, config: &Config, xdp: &XdpConfig) -> Outcome {
    let table = Table::new(config, xdp);
    let out: Vec<&PortRow> = xdp
        .preset
        .into_iter()
        .flat_map(|preset| preset.rows())
        .filter(|row| row.passage == Passage::Out)
        .collect();
    if context.output.json {
        let rules: Vec<Value> = table.rows().iter().map(rule).collect();
        let begun: Vec<Value> = out.iter().map(|row| begun(row)).collect();
        context.output.json(&json!({ "rules": rules, "begun_by_the_gateway": begun }))?;
        return Ok(Exit::Ok);
    }
    let mut rules =
        Shown::new().column("ROLE").column("PROTOCOL").column("PORTS").column("ACTION").wide("FROM");
    for row in table.rows() {
        let paint = if row.action == Action::Accept { Paint::Good } else { Paint::Bad };
        let cells = [
            row.role.as_str().to_owned(),
            row.protocol.as_str().to_owned(),
            ports(row),
            row.action.as_str().to_owned(),
            row.origin.clone(),
        ];
        rules.row(cells, &[(3, paint)]);
    }
    let (width, colour) = (context.output.width(), context.output.colour);
    let mut text = rules.render(width, colour);
    text += "\nThe first line that fits decides. Replies to this machine's own connections pass; the rest is dropped.\n";
    if !out.is_empty() {
        let mut begun = Shown::new().column("PORTS").column("PROTOCOLS").wide("TO").wide("FOR");
        for row in out {
            let cells =
                [listed(row.ports), protocols(row), row.destination.to_owned(), row.description.to_owned()];
            begun.row(cells, &[]);
        }
        text += "\nBegun by the gateway, as the preset lists it (not enforced):\n";
        text += &begun.render(width, colour);
    }
    context.output.text(&text)?;
    Ok(Exit::Ok)
}

fn test(context: &Context, table: &Table, typed: &args::Probe) -> Outcome {
    let bans = super::bans::all(context, Some(typed.source.to_canonical().to_string())).ok();
    let banned = bans.as_ref().is_some_and(|bans| !bans.is_empty());
    let role = match typed.role {
        args::Role::Edge => Role::Edge,
        args::Role::Farm => Role::Farm,
        args::Role::Mgmt => Role::Mgmt,
    };
    let protocol = match typed.protocol {
        args::Protocol::Tcp => Protocol::Tcp,
        args::Protocol::Udp => Protocol::Udp,
    };
    let probe = Probe { role, source: typed.source, protocol, port: typed.port, banned };
    let (cause, row) = table.test(&probe);
    if bans.is_none() {
        context.output.note("the daemon tells no bans; only the rules were tried");
    }
    let verdict = cause.verdict();
    let by = row.map_or_else(
        || cause.about().to_owned(),
        |row| format!("{} ({} {} {})", row.origin, row.role.as_str(), row.protocol.as_str(), ports(row)),
    );
    let value = json!({
        "verdict": verdict.label(),
        "reason": cause.label(),
        "about": cause.about(),
        "rule": row.map(rule),
    });
    context.output.value_or_text(&value, &format!("{}: {by}", verdict.label()))?;
    Ok(if verdict == Verdict::Pass { Exit::Ok } else { Exit::Negative })
}

fn rule(row: &Row) -> Value {
    json!({
        "role": row.role.as_str(),
        "protocol": row.protocol.as_str(),
        "ports": ports(row),
        "action": row.action.as_str(),
        "from": row.origin,
    })
}

fn begun(row: &PortRow) -> Value {
    json!({
        "ports": row.ports,
        "protocols": row.protocols.iter().map(|protocol| protocol.as_str()).collect::<Vec<_>>(),
        "to": row.destination,
        "for": row.description,
    })
}

fn ports(row: &Row) -> String {
    match (row.ports.start(), row.ports.end()) {
        (first, last) if first == last => first.to_string(),
        (first, last) => format!("{first}-{last}"),
    }
}

fn listed(ports: &[u16]) -> String {
    ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

fn protocols(row: &PortRow) -> String {
    row.protocols.iter().map(|protocol| protocol.as_str()).collect::<Vec<_>>().join(" ")
}
