//! `portcullis sta`

use std::time::Duration;

use super::Context;
use super::args::Sta;
use super::output::Outcome;
use super::status::age;
use super::table::{Paint, Table};
use crate::ctl::protocol::{Command, StaRow};
use crate::exit::Exit;

pub(super) fn run(context: &Context, command: Sta) -> Outcome {
    match command {
        Sta::List => {
            let rows: Vec<StaRow> = context.call(&Command::StaList {})?;
            context.output.value_or_table(&rows, &table(&rows))?;
            Ok(Exit::Ok)
        }
        Sta::Test { name } => {
            let row: StaRow = context.call(&Command::StaTest { name })?;
            context.output.value_or_table(&row, &table(std::slice::from_ref(&row)))?;
            Ok(if row.state == "up" { Exit::Ok } else { Exit::Negative })
        }
    }
}

fn table(rows: &[StaRow]) -> Table {
    let mut table = Table::new()
        .column("NAME")
        .column("STATE")
        .column("AUTHORITY")
        .wide("URL")
        .number("LATENCY")
        .number("CHECKED")
        .number("REQUESTS")
        .number("FAILURES")
        .wide("LAST ERROR");
    for row in rows {
        let paint = match row.state.as_str() {
            "up" => Paint::Good,
            "down" => Paint::Bad,
            _ => Paint::Doubtful,
        };
        let dash = || "-".to_owned();
        let ago = |ms| format!("{} ago", age(Duration::from_millis(ms)));
        let cells = [
            row.name.clone(),
            row.state.clone(),
            row.authority_id.clone().unwrap_or_else(dash),
            row.url.clone(),
            row.latency_ms.map_or_else(dash, |ms| format!("{ms:.1} ms")),
            row.last_check_age_ms.map_or_else(dash, ago),
            row.requests.to_string(),
            row.failures.to_string(),
            row.last_error.clone().unwrap_or_else(dash),
        ];
        table.row(cells, &[(1, paint)]);
    }
    table
}
