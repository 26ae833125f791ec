//! `portcullis bans`

use std::time::Duration;

use super::Context;
use super::args::Bans;
use super::output::{Failure, Outcome};
use super::status::age;
use super::table::Table;
use crate::ctl::protocol::{BANS_PER_ANSWER, BanFilter, BanOrder, BanRow, Cleared, Command};
use crate::exit::Exit;

pub(super) fn run(context: &Context, command: Bans) -> Outcome {
    match command {
        Bans::List { source } => {
            let rows = all(context, source)?;
            context.output.value_or_table(&rows, &table(&rows))?;
        }
        Bans::Add { prefix, time, note } => {
            let order = BanOrder { prefix, seconds: time.as_secs(), note };
            let row: BanRow = context.call(&Command::BanAdd(order))?;
            context.output.value_or_table(&row, &table(std::slice::from_ref(&row)))?;
        }
        Bans::Remove { prefix } => {
            let lifted: BanRow = context.call(&Command::BanRemove { prefix })?;
            let text = format!("{} is not banned any more", lifted.prefix);
            context.output.value_or_text(&lifted, &text)?;
        }
        Bans::Clear { automatic } => {
            let done: Cleared = context.call(&Command::BansClear { automatic })?;
            context.output.value_or_text(&done, &format!("{} bans lifted", done.cleared))?;
        }
    }
    Ok(Exit::Ok)
}

/// Every ban that holds for some of `source`, page by page.
pub(super) fn all(context: &Context, source: Option<String>) -> Result<Vec<BanRow>, Failure> {
    let mut client = context.client()?;
    let mut filter = BanFilter { source, after: None };
    let mut rows: Vec<BanRow> = Vec::new();
    loop {
        let page: Vec<BanRow> = client.call(&Command::BansList(filter.clone()))?;
        let whole = page.len() < BANS_PER_ANSWER;
        rows.extend(page);
        if whole {
            return Ok(rows);
        }
        filter.after = rows.last().map(|row| row.prefix.clone());
    }
}

fn table(rows: &[BanRow]) -> Table {
    let mut table = Table::new()
        .column("PREFIX")
        .column("BY")
        .wide("FOR")
        .number("OFFENCES")
        .column("SINCE")
        .column("UNTIL")
        .number("LEFT")
        .column("HOLDS AT");
    for row in rows {
        let why = row.kind.clone().or_else(|| row.note.clone());
        let cells = [
            row.prefix.clone(),
            row.origin.clone(),
            why.unwrap_or_else(|| "-".into()),
            row.offences.map_or_else(|| "-".into(), |offences| offences.to_string()),
            row.since.clone(),
            row.until.clone(),
            age(Duration::from_secs(row.seconds_left)),
            if row.in_kernel { "interfaces" } else { "listeners" }.to_owned(),
        ];
        table.row(cells, &[]);
    }
    table
}
