//! `portcullis ports`: the rules as the configuration has them, which one decides, and how they differ from what is
//! in force. The daemon need not run but for the last; where it does, its bans count too.

use std::net::IpAddr;

use ipnet::IpNet;
use portcullis_ebpf_common::tables::Role;
use portcullis_ebpf_common::{Cause, Verdict};
use serde_json::{Value, json};

use super::Context;
use super::args::{self, Ports};
use super::output::{Failure, Outcome};
use super::table::{Paint, Table as Shown};
use crate::config::{self, Config, XdpConfig};
use crate::ctl::protocol::{Command, XdpRules};
use crate::exit::Exit;
use crate::xdp::policy::{RuleRow, rule_rows};
use crate::xdp::rules::{Probe, Table};
use crate::xdp::{self as kernel, egress, protocols};

pub(super) fn run(context: &Context, command: Ports) -> Outcome {
    let config = config::load(&context.config_path())
        .map_err(|error| Failure::new(Exit::Config, error.to_string()))?;
    let Some(xdp) = &config.xdp else {
        let message = format!("{} has no [xdp]: nothing is filtered", config.path.display());
        return Err(Failure::new(Exit::Negative, message));
    };
    match command {
        Ports::Show => show(context, &config, xdp),
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

fn show(context: &Context, config: &Config, xdp: &XdpConfig) -> Outcome {
    let rules = of_file(config, xdp);
    if context.output.json {
        context.output.json(&rules)?;
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
    text += match xdp.egress_closed {
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

/// Where a packet meets the rules.
enum Way {
    In(Role),
    Out,
    /// It comes by an interface that is not filtered.
    Unfiltered(String),
    /// It comes by a VLAN without a role beside those that have one, or without a tag where only VLANs have roles.
    Mute(Cause),
}

fn test(context: &Context, config: &Config, xdp: &XdpConfig, typed: &args::Probe) -> Outcome {
    let (source, destination) = (typed.source.to_canonical(), typed.destination.to_canonical());
    if source.is_ipv4() != destination.is_ipv4() {
        return Err(Failure::new(Exit::Usage, "one address is IPv4 and the other IPv6"));
    }
    if protocols::has_ports(typed.protocol) == (typed.port == 0) {
        let message = "tcp and udp need a port, and other protocols have none";
        return Err(Failure::new(Exit::Usage, message));
    }
    let way = way(xdp, typed, source, destination)?;
    let (cause, rule) = match &way {
        Way::Unfiltered(interface) => {
            let text = format!("pass: {interface} is not filtered");
            let value = json!({ "verdict": "pass", "direction": "in", "interface": interface, "rule": null });
            context.output.value_or_text(&value, &text)?;
            return Ok(Exit::Ok);
        }
        Way::Mute(cause) => (*cause, None),
        Way::Out => {
            let rows = egress::rows(config, xdp);
            let (cause, row) =
                egress::test(&rows, xdp.egress_closed, destination, typed.protocol, typed.port);
            (cause, row.and_then(|row| rows.get(row)).map(RuleRow::from))
        }
        Way::In(role) => {
            let bans = super::bans::all(context, Some(source.to_string())).ok();
            if bans.is_none() {
                context.output.note("the daemon tells no bans; only the rules were tried");
            }
            let banned = bans.is_some_and(|bans| !bans.is_empty());
            let (protocol, port, bogons) = (typed.protocol, typed.port, xdp.bogons);
            let table = Table::new(config, xdp);
            let (cause, row) = table.test(&Probe { role: *role, source, protocol, port, banned, bogons });
            (cause, row.map(RuleRow::from))
        }
    };
    explain(context, &way, cause, rule.as_ref())
}

fn explain(context: &Context, way: &Way, cause: Cause, rule: Option<&RuleRow>) -> Outcome {
    let verdict = cause.verdict();
    let (direction, role) = match way {
        Way::In(role) => ("in", Some(role.as_str())),
        Way::Mute(_) => ("in", None),
        Way::Out | Way::Unfiltered(_) => ("out", None),
    };
    let by = rule.map_or_else(
        || cause.about().to_owned(),
        |row| {
            let about = format!("{} {} {}", row.protocol, ports(row), addresses(row));
            format!("{} ({about}: {})", row.origin, action(row))
        },
    );
    let value = json!({
        "verdict": verdict.label(),
        "direction": direction,
        "role": role,
        "reason": cause.label(),
        "about": cause.about(),
        "rule": rule,
    });
    let place = role.map_or_else(|| direction.to_owned(), |role| format!("in by {role}"));
    context.output.value_or_text(&value, &format!("{} {place}: {by}", verdict.label()))?;
    Ok(if verdict == Verdict::Pass { Exit::Ok } else { Exit::Negative })
}

/// By whose addresses they are: ours as the source means out; ours as the destination, or a neighbour's as the
/// source, means in by that interface.
fn way(xdp: &XdpConfig, typed: &args::Probe, source: IpAddr, destination: IpAddr) -> Result<Way, Failure> {
    if let Some(role) = typed.role {
        return Ok(Way::In(match role {
            args::Role::Edge => Role::Edge,
            args::Role::Farm => Role::Farm,
            args::Role::Mgmt => Role::Mgmt,
        }));
    }
    let own = config::own_networks();
    if own.iter().any(|(_, network)| network.addr() == source) {
        return Ok(Way::Out);
    }
    let of = |holds: &dyn Fn(&IpNet) -> bool| own.iter().find(|(_, network)| holds(network));
    let found =
        of(&|network| network.addr() == destination).or_else(|| of(&|network| network.contains(&source)));
    let Some((name, _)) = found else {
        let message = "neither address is this machine's, and neither belongs to a network of it; say the role of the \
                       interface, such as `--role edge`";
        return Err(Failure::new(Exit::Usage, message));
    };
    let filtered = xdp.interfaces.iter().find(|interface| interface.name == *name);
    Ok(filtered.map_or_else(|| without_entry(xdp, name), |interface| Way::In(interface.role)))
}

fn without_entry(xdp: &XdpConfig, name: &str) -> Way {
    let mute = kernel::mute(&xdp.interfaces).into_iter().find(|mute| mute.name == name);
    mute.map_or_else(|| Way::Unfiltered(name.to_owned()), |mute| Way::Mute(mute.cause()))
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
