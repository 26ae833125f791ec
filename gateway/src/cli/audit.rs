//! `portcullis audit`: who changed what.

use super::Context;
use super::args::Audit;
use super::output::Outcome;
use super::table::{Paint, Table};
use crate::audit::Record;
use crate::ctl::claim;
use crate::ctl::protocol::Command;
use crate::exit::Exit;

pub(super) fn run(context: &Context, audit: &Audit) -> Outcome {
    let records: Vec<Record> = context.call(&Command::AuditList { limit: Some(audit.limit) })?;
    let mut table = Table::new()
        .column("AT")
        .wide("WHO")
        .column("ROLE")
        .wide("FROM (CLAIMED)")
        .column("OUTCOME")
        .wide("WHAT")
        .wide("DETAIL");
    for record in &records {
        let paint = match record.outcome.as_str() {
            "done" => Paint::Good,
            "denied" => Paint::Bad,
            _ => Paint::Doubtful,
        };
        let from = record.origin.claimed_from.as_deref().map_or_else(|| "-".to_owned(), claim::shown);
        let cells = [
            record.at.clone(),
            record.origin.who.clone(),
            record.role.clone().unwrap_or_else(|| "-".to_owned()),
            from,
            record.outcome.clone(),
            what(record),
            record.detail.clone(),
        ];
        table.row(cells, &[(4, paint)]);
    }
    context.output.value_or_table(&records, &table)?;
    Ok(Exit::Ok)
}

/// `ban-add prefix=192.0.2.7 seconds=60` reads better than JSON.
fn what(record: &Record) -> String {
    let Some(members) = record.what.as_object() else {
        return record.what.as_str().map_or_else(|| record.what.to_string(), str::to_owned);
    };
    let command = members.get("cmd").and_then(|cmd| cmd.as_str()).unwrap_or_default();
    let rest = members.iter().filter(|(key, _)| *key != "cmd");
    let plain = |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    rest.fold(command.to_owned(), |text, (key, value)| format!("{text} {key}={}", plain(value)))
}
