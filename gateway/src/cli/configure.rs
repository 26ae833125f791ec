//! `portcullis configure`: the candidate, its commit, and what has been in force.

use std::fmt::Write as _;
use std::io::Read as _;
use std::time::Duration;

use serde_json::json;

use super::Context;
use super::args::{Commit, Configure};
use super::output::{Failure, Outcome};
use super::table::{Paint, Table};
use crate::config::FILE_MAX_BYTES;
use crate::ctl::claim;
use crate::ctl::protocol::{
    Candidate, Command, CommitOrder, Committed, Compared, ConfigText, Confirmed, HistoryRow, Validated,
    WhichText,
};
use crate::exit::Exit;

/// How long a commit waits to be confirmed unless somebody says it.
const TRIAL_DEFAULT: Duration = Duration::from_mins(10);
/// Characters of a text that go in one request: with every one escaped it fits.
const PIECE_CHARS: usize = 8 * 1024;

pub(super) fn run(context: &Context, command: Configure) -> Outcome {
    match command {
        Configure::Show { path } => text(context, WhichText { candidate: true, back: None, path }),
        Configure::Export { back } => text(context, WhichText { candidate: false, back, path: None }),
        Configure::Set { path, value } => {
            changed(context, &Command::ConfigSet { path, value: value.join(" ") }, "")
        }
        Configure::Delete { path } => changed(context, &Command::ConfigDelete { path }, ""),
        Configure::Compare { back } => compare(context, back),
        Configure::Validate => validate(context),
        Configure::Commit(commit) => self::commit(context, &commit),
        Configure::Confirm => confirm(context),
        Configure::Rollback { back } => {
            let said = "the candidate is that configuration now: `compare` shows the difference, `commit` puts it in force";
            changed(context, &Command::ConfigRollback { back }, said)
        }
        Configure::Update => {
            changed(context, &Command::ConfigUpdate {}, "the changes are made on top of what is in force")
        }
        Configure::Discard => changed(context, &Command::ConfigDiscard {}, "the changes are forgotten"),
        Configure::History => history(context),
        Configure::Import => import(context),
        Configure::Save { name: Some(name) } => {
            changed(context, &Command::ConfigSave { name }, "the candidate is kept")
        }
        Configure::Save { name: None } => saved(context),
        Configure::Load { name } => {
            changed(context, &Command::ConfigRestore { name }, "the candidate is that one now")
        }
    }
}

fn text(context: &Context, which: WhichText) -> Outcome {
    let answer: ConfigText = context.call(&Command::ConfigText(which))?;
    context.output.value_or_text(&answer, &answer.text)?;
    Ok(Exit::Ok)
}

/// Nothing is said where nothing needs to be, as in an editor.
fn changed(context: &Context, command: &Command, said: &str) -> Outcome {
    let answer: Candidate = context.call(command)?;
    told(context, &answer, said)
}

fn told(context: &Context, answer: &Candidate, said: &str) -> Outcome {
    if context.output.json {
        context.output.json(answer)?;
    } else if !said.is_empty() {
        context.output.text(said)?;
    }
    if answer.stale {
        context.output.warn("others have committed since this candidate began; `update` takes that in");
    }
    Ok(Exit::Ok)
}

fn compare(context: &Context, back: Option<usize>) -> Outcome {
    let answer: Compared = context.call(&Command::ConfigCompare { back })?;
    let mut shown = coloured(&answer.diff, context.output.colour);
    if answer.diff.is_empty() {
        shown.push_str("nothing differs from the configuration in force\n");
    }
    context.output.value_or_text(&answer, &shown)?;
    if answer.stale {
        context.output.warn("others have committed since this candidate began; `update` takes that in");
    }
    Ok(Exit::Ok)
}

/// A difference with its lines in colours.
pub(super) fn coloured(diff: &str, colour: bool) -> String {
    let mut shown = String::new();
    for line in diff.lines() {
        let paint = match line.as_bytes().first() {
            Some(b'+') => Paint::Good,
            Some(b'-') => Paint::Bad,
            Some(b'@') => Paint::Faint,
            _ => Paint::Plain,
        };
        // The text is the operator's own, but a comment in it may hold anything.
        let line: String = line.chars().filter(|c| !c.is_control() || *c == '\t').collect();
        writeln!(shown, "{}", paint.paint(&line, colour)).ok();
    }
    shown
}

fn validate(context: &Context) -> Outcome {
    let answer: Validated = context.call(&Command::ConfigValidate {})?;
    let exit = if answer.ok { Exit::Ok } else { Exit::Config };
    let mut text = String::new();
    for problem in &answer.problems {
        writeln!(text, "{}", Paint::Bad.paint(problem, context.output.colour)).ok();
    }
    for finding in &answer.findings {
        let paint = match finding.severity.as_str() {
            "error" => Paint::Bad,
            "warning" => Paint::Doubtful,
            _ => Paint::Faint,
        };
        let severity = paint.paint(&finding.severity, context.output.colour);
        writeln!(text, "{severity}: {}: {}\n  {}", finding.subject, finding.message, finding.remedy).ok();
    }
    if answer.ok {
        text.push_str(&planned("a commit changes at once", &answer.live));
        text.push_str(&planned("waits for a restart of portcullisd", &answer.restart));
    }
    text.push_str(if answer.ok {
        "the candidate can be committed\n"
    } else {
        "the candidate cannot be committed\n"
    });
    context.output.value_or_text(&answer, &text)?;
    Ok(exit)
}

pub(super) fn planned(title: &str, items: &[String]) -> String {
    match items {
        [] => String::new(),
        items => format!("{title}: {}\n", items.join(", ")),
    }
}

fn commit(context: &Context, commit: &Commit) -> Outcome {
    let time = commit.on_trial.as_ref().map(|_| commit.time.unwrap_or(TRIAL_DEFAULT));
    let order =
        CommitOrder { confirm_seconds: time.map(|time| time.as_secs()), comment: commit.comment.clone() };
    let done: Committed = context.call(&Command::ConfigCommit(order))?;
    let mut text = format!("commit {} is in force\n", done.number);
    text.push_str(&planned("changed", &done.live));
    text.push_str(&planned("needs a restart of portcullisd", &done.restart));
    if let Some(seconds) = done.confirm_within_seconds {
        writeln!(text, "It is taken back in {seconds} seconds unless it is confirmed: `configure confirm`")
            .ok();
    }
    context.output.value_or_text(&done, &text)?;
    Ok(Exit::Ok)
}

fn confirm(context: &Context) -> Outcome {
    let done: Confirmed = context.call(&Command::ReloadConfirm {})?;
    context.output.value_or_text(&done, "what was on trial stays in force")?;
    Ok(Exit::Ok)
}

fn history(context: &Context) -> Outcome {
    let rows: Vec<HistoryRow> = context.call(&Command::ConfigHistory {})?;
    let mut table = Table::new()
        .number("BACK")
        .number("COMMIT")
        .column("AT")
        .column("WHAT")
        .wide("WHO")
        .wide("FROM")
        .wide("COMMENT");
    for row in &rows {
        let cells = [
            row.back.to_string(),
            row.number.to_string(),
            row.at.clone(),
            row.action.clone(),
            row.who.clone(),
            row.claimed_from.as_deref().map_or_else(|| "-".to_owned(), claim::shown),
            row.comment.clone(),
        ];
        table.row(cells, &[(0, Paint::Title)]);
    }
    context.output.value_or_table(&rows, &table)?;
    Ok(Exit::Ok)
}

fn import(context: &Context) -> Outcome {
    let mut text = String::new();
    let most = FILE_MAX_BYTES.saturating_add(1);
    let read = std::io::stdin().lock().take(most).read_to_string(&mut text);
    read.map_err(|error| Failure::new(Exit::Data, format!("cannot read standard input: {error}")))?;
    let mut client = context.client()?;
    let characters: Vec<char> = text.chars().collect();
    let mut pieces = characters.chunks(PIECE_CHARS).peekable();
    let mut answer: Candidate = Candidate { changes: 0, stale: false };
    while let Some(piece) = pieces.next() {
        let more = pieces.peek().is_some();
        answer = client.call(&Command::ConfigLoad { text: piece.iter().collect(), more })?;
    }
    let said = "the candidate is that text now: `validate` judges it, `commit` puts it in force";
    told(context, &answer, said)
}

fn saved(context: &Context) -> Outcome {
    let names: Vec<String> = context.call(&Command::ConfigSaved {})?;
    let mut table = Table::new().column("NAME");
    for name in &names {
        table.row([name.clone()], &[]);
    }
    context.output.value_or_table(&json!(names), &table)?;
    Ok(Exit::Ok)
}
