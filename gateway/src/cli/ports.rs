//! `portcullis ports`: the rules as the configuration has them, which one decides, and how they differ from what is
//! in force. The daemon need not run but for the last; where it does, its bans count too. Who may not read the file, as
//! operators of the appliance, is told of what is in force.

use std::fs::File;
use std::io::ErrorKind;

use portcullis_ebpf_common::tables::Role;
use serde_json::{Value, json};

use super::Context;
use super::args::{self, Ports};
use super::output::{Failure, Outcome};
use super::table::{Paint, Table as Shown};
use crate::config::{self, Config, XdpConfig};
use crate::ctl::protocol::{Command, XdpRules};
use crate::exit::Exit;
use crate::xdp::judge::{Judgement, Packet, judge};
use crate::xdp::policy::{RuleRow, rule_rows};

pub(super) fn run(context: &Context, command: Ports) -> Outcome {
    let path = context.config_path();
    // Operators may not read the file, and need not: the daemon has what is in force.
    if let Err(error) = File::open(&path)
        && (error.kind() == ErrorKind::PermissionDenied || context.global.config.is_none())
    {
        return match command {
            Ports::Show => show(context, &context.call(&Command::XdpRules {})?),
            Ports::Test(probe) => tell(context, &context.call(&Command::XdpTest(packet(&probe)))?),
            Ports::Diff => {
                let failure = Failure::file("read", &path, &error);
                let message =
                    format!("{}; `configure compare 1` tells what the last commit changed", failure.message);
                Err(Failure::new(failure.exit, message))
            }
        };
    }
    let config = config::load(&path).map_err(|error| Failure::new(Exit::Config, error.to_string()))?;
    let Some(xdp) = &config.xdp else {
        let message = format!("{} has no [xdp]: nothing is filtered", config.path.display());
        return Err(Failure::new(Exit::Negative, message));
    };
    match command {
        Ports::Show => show(context, &of_file(&config, xdp)),
        Ports::Test(probe) => test(context, &config, xdp, &probe),
        Ports::Diff => diff(context, &config, xdp),
    }
}

fn of_file(config: &Config, xdp: &XdpConfig) -> XdpRules {
    XdpRules {
        bogons: xdp.bogons.as_str().to_owned(),
        egress: if xdp.egress_closed { "closed" } else { "open" }.to_owned(),
        rules: rule_rows(config, xdp),
    }
}

fn show(context: &Context, rules: &XdpRules) -> Outcome {
    if context.output.json {
        context.output.json(rules)?;
        return Ok(Exit::Ok);
    }
    let (width, colour) = (context.output.width(), context.output.colour);
    let (coming, leaving): (Vec<&RuleRow>, Vec<&RuleRow>) =
        rules.rules.iter().partition(|row| row.direction == "in");
    let mut table = Shown::new()
        .column("ROLE")
        .column("PROTOCOL")
        .column("PORTS")
        .column("FROM")
        .column("ACTION")
        .wide("ORIGIN");
    for row in coming {
        let cells = [
            row.role.clone(),
            row.protocol.clone(),
            ports(row),
            addresses(row),
            action(row),
            row.origin.clone(),
        ];
        table.row(cells, &[(4, paint(row))]);
    }
    let mut text = table.render(width, colour);
    text += "\nThe first line that fits decides. Replies to this machine's own connections pass; the rest is dropped.\n";
    text += &format!("Sources that cannot be right at the edge: {}.\n", rules.bogons);
    let mut table =
        Shown::new().column("PROTOCOL").column("PORTS").column("TO").column("ACTION").wide("ORIGIN");
    for row in leaving {
        let cells = [row.protocol.clone(), ports(row), addresses(row), action(row), row.origin.clone()];
        table.row(cells, &[(3, paint(row))]);
    }
    text += "\nWhat this machine itself begins:\n";
    text += &table.render(width, colour);
    text += match rules.egress == "closed" {
        true => "\nThe first line that fits decides. The rest does not leave.\n",
        false => "\nThe first line that fits decides. The rest leaves too (egress_policy is open).\n",
    };
    context.output.text(&text)?;
    Ok(Exit::Ok)
}

fn paint(row: &RuleRow) -> Paint {
    match row.action.as_str() {
        "accept" => Paint::Good,
        "limit" => Paint::Doubtful,
        _ => Paint::Bad,
    }
}

fn action(row: &RuleRow) -> String {
    row.rate.map_or_else(|| row.action.clone(), |rate| format!("{} {rate}/s", row.action))
}

fn ports(row: &RuleRow) -> String {
    if row.ports.is_empty() { "-".to_owned() } else { row.ports.clone() }
}

fn addresses(row: &RuleRow) -> String {
    if row.prefixes.is_empty() { "any".to_owned() } else { row.prefixes.join(" ") }
}

fn packet(typed: &args::Probe) -> Packet {
    Packet {
        source: typed.source,
        destination: typed.destination,
        protocol: typed.protocol,
        port: typed.port,
        role: typed.role.map(|role| {
            match role {
                args::Role::Edge => Role::Edge,
                args::Role::Farm => Role::Farm,
                args::Role::Mgmt => Role::Mgmt,
            }
            .as_str()
            .to_owned()
        }),
    }
}

fn test(context: &Context, config: &Config, xdp: &XdpConfig, typed: &args::Probe) -> Outcome {
    let bans = super::bans::all(context, Some(typed.source.to_canonical().to_string())).ok();
    if bans.is_none() {
        context.output.note("the daemon tells no bans; only the rules were tried");
    }
    let banned = bans.is_some_and(|bans| !bans.is_empty());
    let judged = judge(config, xdp, &packet(typed), banned);
    tell(context, &judged.map_err(|why| Failure::new(Exit::Usage, why))?)
}

fn tell(context: &Context, judged: &Judgement) -> Outcome {
    let exit = if judged.passes() { Exit::Ok } else { Exit::Negative };
    let place = match &judged.role {
        Some(role) => format!("in by {role}"),
        None => judged.direction.clone(),
    };
    let by = judged.rule.as_ref().map_or_else(
        || judged.about.clone(),
        |row| {
            let about = format!("{} {} {}", row.protocol, ports(row), addresses(row));
            format!("{} ({about}: {})", row.origin, action(row))
        },
    );
    let text = match &judged.unfiltered {
        Some(interface) => format!("{}: {interface} is not filtered", judged.verdict),
        None => format!("{} {place}: {by}", judged.verdict),
    };
    context.output.value_or_text(judged, &text)?;
    Ok(exit)
}

fn diff(context: &Context, config: &Config, xdp: &XdpConfig) -> Outcome {
    let running: XdpRules = context.call(&Command::XdpRules {})?;
    let file = of_file(config, xdp);
    let without = |rows: &[RuleRow], others: &[RuleRow]| -> Vec<RuleRow> {
        rows.iter().filter(|row| !others.contains(row)).cloned().collect()
    };
    let (removed, added) = (without(&running.rules, &file.rules), without(&file.rules, &running.rules));
    // A row that stands in the same place of the file with other contents has changed.
    let same_place = |a: &RuleRow, b: &RuleRow| a.origin == b.origin && a.direction == b.direction;
    let pairs = |row: &RuleRow| {
        let mut olds = removed.iter().filter(|old| same_place(old, row));
        let mut news = added.iter().filter(|new| same_place(new, row));
        match (olds.next(), olds.next(), news.next(), news.next()) {
            (Some(old), None, Some(new), None) => Some((old.clone(), new.clone())),
            _ => None,
        }
    };
    let changed: Vec<(RuleRow, RuleRow)> = added.iter().filter_map(pairs).collect();
    let alone = |rows: &[RuleRow]| -> Vec<RuleRow> {
        rows.iter().filter(|row| pairs(row).is_none()).cloned().collect()
    };
    let (removed, added) = (alone(&removed), alone(&added));
    let settings: Vec<Value> =
        [("bogons", &running.bogons, &file.bogons), ("egress_policy", &running.egress, &file.egress)]
            .into_iter()
            .filter(|(_, running, file)| running != file)
            .map(|(key, running, file)| json!({ "key": key, "running": running, "file": file }))
            .collect();
    let moved = removed.is_empty() && added.is_empty() && changed.is_empty() && running.rules != file.rules;
    let equal = running == file;
    let mut text = String::new();
    for setting in &settings {
        let of = |name: &str| setting.get(name).and_then(Value::as_str).unwrap_or_default();
        text += &format!("~ {}: {} → {}\n", of("key"), of("running"), of("file"));
    }
    removed.iter().for_each(|row| text += &format!("- {}\n", line(row)));
    added.iter().for_each(|row| text += &format!("+ {}\n", line(row)));
    changed.iter().for_each(|(old, new)| text += &format!("~ {}\n  → {}\n", line(old), line(new)));
    if moved {
        text += "the same rows in another order\n";
    }
    if equal {
        text += "the policy in force is that of the file\n";
    }
    let changed: Vec<Value> =
        changed.iter().map(|(running, file)| json!({ "running": running, "file": file })).collect();
    let value = json!({
        "equal": equal,
        "settings": settings,
        "removed": removed,
        "added": added,
        "changed": changed,
        "order": moved,
    });
    context.output.value_or_text(&value, text.trim_end())?;
    Ok(if equal { Exit::Ok } else { Exit::Negative })
}

fn line(row: &RuleRow) -> String {
    let role = if row.role.is_empty() { "" } else { " " };
    let place = format!("{}{role}{}", row.direction, row.role);
    format!("{place} {} {} {}: {} [{}]", row.protocol, ports(row), addresses(row), action(row), row.origin)
}
