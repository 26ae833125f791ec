//! `portcullis update`, and the job that the system runs for updates.

use std::io::{self, IsTerminal as _, Read as _};
use std::time::{Duration, Instant};

use super::Context;
use super::args::{Install, Update};
use super::machine;
use super::output::{Failure, Outcome};
use super::table::{Paint, Table};
use crate::ctl::protocol::{
    Command, MachineAction, UpdateAsked, UpdateJob, UpdateOrder, UpdateSource, UpdateState, UpdateStatus,
};
use crate::exit::Exit;
use crate::update::{self, Authorities, Places, SlotState, Url, Version, job, upload};

/// How often it is asked how it goes.
const LOOK: Duration = Duration::from_secs(1);
/// The system may be busy with something else before it takes an order.
const TAKEN_WAIT: Duration = Duration::from_secs(120);

pub(super) fn run(context: &Context, command: Update) -> Outcome {
    match command {
        Update::Status => {
            let status: UpdateStatus = context.call(&Command::UpdateStatus {})?;
            context.output.value_or_table(&status, &table(&status))?;
            Ok(Exit::Ok)
        }
        Update::List { url, authority } => {
            let directory = |url| by_https(url, authority);
            let source = url.as_deref().map_or(Ok(UpdateSource::Known), directory)?;
            let job = order(context, UpdateOrder::List { source })?;
            context.output.value_or_text(&job, &job.versions.join("\n"))?;
            Ok(Exit::Ok)
        }
        Update::Install(install) => {
            let order = what(context, &install)?;
            finish(context, order, install.reboot)
        }
        Update::Rollback { reboot } => finish(context, UpdateOrder::Rollback {}, reboot),
    }
}

fn finish(context: &Context, what: UpdateOrder, reboot: bool) -> Outcome {
    let job = order(context, what)?;
    context.output.value_or_text(&job, &job.told)?;
    if reboot { machine::order(context, MachineAction::Reboot) } else { Ok(Exit::Ok) }
}

/// What an `install` means; a file on standard input is taken in first.
fn what(context: &Context, install: &Install) -> Result<UpdateOrder, Failure> {
    let usage = |why: String| Failure::new(Exit::Usage, why);
    let parse = |text: &str| Version::parse(text).map_err(|why| usage(format!("`{text}` is {why}")));
    let named = install.version.as_deref().map(parse).transpose()?;
    let (source, version) = match install.what.as_deref() {
        None => (UpdateSource::Known, named),
        Some(what) if install.authority && !what.contains("//") => {
            return Err(usage(
                "an authority goes with the directory that it vouches for, https://host/path".to_owned(),
            ));
        }
        Some("-") => {
            // Who may not is told before the file is on its way.
            let _: UpdateStatus = context.call(&Command::UpdateStatus {})?;
            receive(context)?;
            (UpdateSource::Upload, named)
        }
        Some(url) if url.contains("//") => (by_https(url, install.authority)?, named),
        Some(version) if named.is_none() => (UpdateSource::Known, Some(parse(version)?)),
        Some(_) => return Err(usage("two versions are named: leave one out".to_owned())),
    };
    Ok(UpdateOrder::Install { source, version })
}

fn by_https(url: &str, authority: bool) -> Result<UpdateSource, Failure> {
    let url = Url::parse(url).map_err(|why| Failure::new(Exit::Usage, format!("`{url}` is {why}")))?;
    if !authority {
        return Ok(UpdateSource::Url(url));
    }
    let mut text = String::new();
    let mut input = io::stdin().lock();
    if input.is_terminal() {
        let text =
            "an authority comes on standard input: `ssh admin@gateway update list URL --authority < FILE`";
        return Err(Failure::new(Exit::Usage, text));
    }
    // One byte more than is taken: what is too long is told so.
    let read = input.by_ref().take(update::AUTHORITIES_MAX_BYTES + 1).read_to_string(&mut text);
    read.map_err(|error| Failure::new(Exit::Data, format!("cannot read the authority: {error}")))?;
    let authorities = Authorities::parse(&text).map_err(|why| Failure::new(Exit::Data, why))?;
    Ok(UpdateSource::Private { url, authorities })
}

fn receive(context: &Context) -> Result<(), Failure> {
    let mut input = io::stdin().lock();
    if input.is_terminal() {
        let text = "there is no file on a terminal: `ssh admin@gateway update install - < FILE`";
        return Err(Failure::new(Exit::Usage, text));
    }
    let received = upload::receive(&Places::default(), &mut input);
    match received {
        Ok(length) => {
            context.output.note(format!("{} MiB are here", length >> 20));
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let text = "this machine does not update itself this way: only the appliance does";
            Err(Failure::new(Exit::Unavailable, text))
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err(Failure::new(Exit::Permission, "this needs the role administrator"))
        }
        Err(error) => Err(Failure::new(Exit::Data, format!("the update was not taken: {error}"))),
    }
}

/// Gives an order and follows it to its end.
fn order(context: &Context, order: UpdateOrder) -> Result<UpdateJob, Failure> {
    let asked: UpdateAsked = context.call(&Command::Update(order))?;
    let begun = Instant::now();
    let mut told = String::new();
    loop {
        let status: UpdateStatus = context.call(&Command::UpdateStatus {})?;
        match status.job.filter(|job| job.id == asked.id) {
            Some(job) if job.state == UpdateState::Running => {
                let percent = job.percent.map(|percent| format!(", {percent}%")).unwrap_or_default();
                let now = format!("{}{percent}", job.told);
                if now != told && !context.output.json {
                    context.output.note(&now);
                }
                told = now;
            }
            Some(job) if job.state == UpdateState::Done => return Ok(job),
            Some(job) => return Err(Failure::new(Exit::Negative, job.told)),
            None if begun.elapsed() > TAKEN_WAIT => {
                let text = "the system has not begun with it: is appliance-update.path there?";
                return Err(Failure::new(Exit::Unavailable, text));
            }
            None => {}
        }
        std::thread::sleep(LOOK);
    }
}

fn table(status: &UpdateStatus) -> Table {
    let mut table = Table::new().column("VERSION").column("STATE").wide("");
    for slot in &status.slots {
        let runs = if slot.version == status.running { "runs" } else { "" };
        let next = if slot.version == status.next { "starts next" } else { "" };
        let tries = slot.tries_left.map(|left| format!("{left} tries left")).unwrap_or_default();
        let told: Vec<&str> = [runs, next, &tries].into_iter().filter(|text| !text.is_empty()).collect();
        let paint = match slot.state {
            SlotState::Good => Paint::Good,
            SlotState::Failed => Paint::Bad,
            SlotState::OnTrial | SlotState::SetAside => Paint::Doubtful,
        };
        table.row([slot.version.clone(), slot.state.as_str().to_owned(), told.join(", ")], &[(1, paint)]);
    }
    if let Some(source) = &status.source {
        table.row(["source".to_owned(), String::new(), source.clone()], &[]);
    }
    if let Some(job) = &status.job {
        let told = format!("{} at {}: {}", job.action, job.started, job.told);
        table.row(["last order".to_owned(), job.state.as_str().to_owned(), told], &[]);
    }
    table
}

/// The job itself, as root.
pub(super) fn job(prepare: bool, ended: bool) -> Outcome {
    let _log = crate::log::init_early().map_err(|error| Failure::new(Exit::Internal, error.to_string()))?;
    let places = Places::default();
    let done = match (prepare, ended) {
        (true, _) => update::prepare(&places),
        (false, true) => job::ended(&places),
        (false, false) => job::run(&places),
    };
    done.map_err(|error| Failure::new(Exit::Internal, format!("the status cannot be written: {error}")))?;
    Ok(Exit::Ok)
}
