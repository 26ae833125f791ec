//! `portcullis support bundle`, `health` and `users`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use super::Context;
use super::args::{Filter, Health as HealthArguments};
use super::output::{Failure, Outcome};
use super::sessions::{all, bytes};
use super::table::{Paint, Table};
use crate::ctl::protocol::{CheckState, Command, Health, SessionRow, SupportBundle};
use crate::exit::Exit;

/// How often it is asked whether all is well, where somebody waits for it.
const LOOK: Duration = Duration::from_secs(1);

pub(super) fn bundle(context: &Context) -> Outcome {
    if context.output.terminal && !context.output.json {
        let text = "a support bundle is no text: `ssh … support bundle > support.tar.gz`";
        return Err(Failure::new(Exit::Usage, text));
    }
    let bundle: SupportBundle = context.call(&Command::SupportBundle {})?;
    if context.output.json {
        context.output.json(&bundle)?;
        return Ok(Exit::Ok);
    }
    let data = STANDARD.decode(&bundle.data);
    let data =
        data.map_err(|error| Failure::new(Exit::Data, format!("the daemon's answer is damaged: {error}")))?;
    context.output.bytes(&data)?;
    for missing in &bundle.missing {
        context.output.warn(format!("not in it: {missing}"));
    }
    context.output.note(format!(
        "{} files, {} bytes, SHA-256 {}",
        bundle.files.len(),
        data.len(),
        bundle.sha256
    ));
    Ok(Exit::Ok)
}

/// Whether all is well that somebody asked about.
fn is_well(health: &Health, own: bool) -> bool {
    let bad = health.checks.iter().any(|check| check.state == CheckState::Bad);
    if own { health.own } else { health.ready && !bad }
}

pub(super) fn health(context: &Context, arguments: &HealthArguments) -> Outcome {
    let begun = Instant::now();
    let health: Health = loop {
        let asked = context.call::<Health>(&Command::Health {});
        let well = asked.as_ref().is_ok_and(|health| is_well(health, arguments.own));
        if well || arguments.wait.is_none_or(|wait| begun.elapsed() >= wait) {
            break asked?;
        }
        std::thread::sleep(LOOK);
    };
    let exit = if is_well(&health, arguments.own) { Exit::Ok } else { Exit::Negative };
    if context.output.json {
        context.output.json(&health)?;
        return Ok(exit);
    }
    let mut table = Table::new().column("").column("").wide("").wide("");
    let ready = if health.ready { ("yes", Paint::Good) } else { ("no", Paint::Bad) };
    let cells = ["takes new clients".to_owned(), ready.0.to_owned(), health.reason.clone(), String::new()];
    table.row(cells, &[(0, Paint::Title), (1, ready.1)]);
    for check in &health.checks {
        let (word, paint) = match check.state {
            CheckState::Good => ("good", Paint::Good),
            CheckState::Doubtful => ("doubtful", Paint::Doubtful),
            CheckState::Bad => ("bad", Paint::Bad),
        };
        let cells = [check.name.clone(), word.to_owned(), check.detail.clone(), check.remedy.clone()];
        table.row(cells, &[(0, Paint::Title), (1, paint)]);
    }
    context.output.text(&table.render(context.output.width(), context.output.colour))?;
    Ok(exit)
}

/// Somebody with sessions.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct User {
    /// None where the tickets of these sessions do not tell.
    user: Option<String>,
    sessions: usize,
    sources: Vec<String>,
    applications: Vec<String>,
    /// Of the first of them that still lives.
    since: String,
    bytes_up: u64,
    bytes_down: u64,
}

pub(super) fn users(context: &Context) -> Outcome {
    let users = by_user(&all(&mut context.client()?, &Filter::default())?);
    let mut table = Table::new()
        .wide("USER")
        .number("SESSIONS")
        .wide("FROM")
        .wide("APPLICATIONS")
        .column("SINCE")
        .number("UP")
        .number("DOWN");
    for user in &users {
        let cells = [
            user.user.clone().unwrap_or_else(|| "(not told)".to_owned()),
            user.sessions.to_string(),
            user.sources.join(" "),
            user.applications.join(", "),
            user.since.clone(),
            bytes(user.bytes_up),
            bytes(user.bytes_down),
        ];
        table.row(cells, &[]);
    }
    context.output.value_or_table(&users, &table)?;
    Ok(Exit::Ok)
}

/// Names count without regard to case, as everywhere.
fn by_user(rows: &[SessionRow]) -> Vec<User> {
    let mut users: BTreeMap<Option<String>, User> = BTreeMap::new();
    for row in rows {
        let key = row.user.as_ref().map(|user| user.to_lowercase());
        let user = users.entry(key).or_insert_with(|| User {
            user: row.user.clone(),
            since: row.started.clone(),
            ..User::default()
        });
        user.sessions += 1;
        user.bytes_up = user.bytes_up.saturating_add(row.bytes_up);
        user.bytes_down = user.bytes_down.saturating_add(row.bytes_down);
        if row.started < user.since {
            user.since.clone_from(&row.started);
        }
        let source = row.source.rsplit_once(':').map_or(row.source.as_str(), |(address, _)| address);
        let source = source.trim_matches(['[', ']']).to_owned();
        for (list, value) in
            [(&mut user.sources, Some(source)), (&mut user.applications, row.application.clone())]
        {
            if let Some(value) = value
                && !list.contains(&value)
            {
                list.push(value);
            }
        }
    }
    users.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_of_one_user_are_one_row_whatever_the_case() {
        let row = |user: Option<&str>, source: &str, started: &str| SessionRow {
            id: "1".into(),
            state: "established".into(),
            listener: "edge".into(),
            protocol: "cgp".into(),
            source: source.into(),
            user: user.map(str::to_owned),
            application: Some("Notepad".into()),
            target: "a:1".into(),
            started: started.into(),
            duration_ms: 1,
            bytes_up: 10,
            bytes_down: 20,
            reason: None,
        };
        let users = by_user(&[
            row(Some("Ann"), "192.0.2.1:5", "2026-01-02"),
            row(Some("ann"), "[2001:db8::1]:5", "2026-01-01"),
            row(None, "192.0.2.1:6", "2026-01-03"),
        ]);
        assert_eq!(users.len(), 2);
        let ann = users.iter().find(|user| user.user.is_some()).unwrap();
        assert_eq!((ann.sessions, ann.bytes_down, ann.since.as_str()), (2, 40, "2026-01-01"));
        assert_eq!(ann.sources, ["192.0.2.1", "2001:db8::1"]);
        assert_eq!(ann.applications, ["Notepad"]);
    }
}
