//! `portcullis update-job`: what the system runs when the daemon asks for an update, and at each boot. It runs as root,
//! with what it needs (`appliance-update.service`), and does nothing but what a request can say.

use std::fs;
use std::io;
use std::path::Path;
use std::time::SystemTime;

use super::authorities::Known;
use super::run::From;
use super::{
    Job, JobState, Order, Places, Request, Slot, SlotState, Source, Status, Version, authorities, read_json,
    run, slots, upload, write_json,
};
use crate::log::rfc3339;
use crate::version;

/// Everybody may know.
const STATUS_MODE: u32 = 0o644;
const KEPT_MODE: u32 = 0o600;
const LAST: &str = "last.json";
const UNREADABLE: &str = "the request cannot be read";

/// Does what was asked for; without a request it only says what there is.
///
/// # Errors
/// When the status cannot be written: what came of a request is told there.
pub fn run(places: &Places) -> io::Result<()> {
    let mut status = look(places);
    if !places.request.try_exists()? {
        if read_json::<Status>(&places.status()).is_err() {
            upload::forget_all(places);
        }
        return write_json(&places.status(), &status, STATUS_MODE);
    }
    let request: io::Result<Request> = read_json(&places.request);
    // Before it is done: what ends the machine is not asked for again.
    fs::remove_file(&places.request)?;
    let (id, action) = match &request {
        Ok(request) => (request.id.clone(), request.order.name().to_owned()),
        Err(_) => (String::new(), "none".to_owned()),
    };
    let started = rfc3339(SystemTime::now());
    let (state, told) = (JobState::Running, "begins".to_owned());
    let mut job = Job { id, action, state, told, percent: None, started, versions: Vec::new() };
    status.job = Some(job.clone());
    write_json(&places.status(), &status, STATUS_MODE)?;
    let outcome = request.map_err(|_| io::Error::other(UNREADABLE)).and_then(|request| {
        let mut tell = |step: &str, percent: Option<u8>| {
            if job.told != step || job.percent != percent {
                (job.told, job.percent) = (step.to_owned(), percent);
                status.job = Some(job.clone());
                // The outcome counts; a step that nobody sees is no harm.
                write_json(&places.status(), &status, STATUS_MODE).ok();
            }
        };
        perform(places, &request.order, &mut tell)
    });
    upload::forget(places);
    job.percent = None;
    match outcome {
        Ok((told, versions)) => (job.state, job.told, job.versions) = (JobState::Done, told, versions),
        Err(error) => (job.state, job.told) = (JobState::Failed, error.to_string()),
    }
    end(places, job)
}

/// Whatever has ended the job: one that is not done has failed.
///
/// # Errors
/// When the status cannot be written.
pub fn ended(places: &Places) -> io::Result<()> {
    let Ok(Status { job: Some(mut job), .. }) = read_json::<Status>(&places.status()) else { return Ok(()) };
    if job.state != JobState::Running {
        return Ok(());
    }
    job.state = JobState::Failed;
    job.told = format!("it was ended while {}; the version that runs is untouched", job.told);
    upload::forget(places);
    end(places, job)
}

fn end(places: &Places, job: Job) -> io::Result<()> {
    if job.state == JobState::Failed {
        tracing::error!(action = job.action, why = job.told, "an update failed");
    } else {
        tracing::warn!(action = job.action, told = job.told, "an update is done");
    }
    // Kept for the next start: where it cannot be kept, it is told until then.
    write_json(&places.kept.join(LAST), &job, KEPT_MODE).ok();
    let status = Status { job: Some(job), ..look(places) };
    write_json(&places.status(), &status, STATUS_MODE)
}

fn look(places: &Places) -> Status {
    let slots = slots::read(&places.kernels).unwrap_or_default();
    Status {
        running: running(places),
        next: slots::next(&slots).map(|slot| slot.version.clone()).unwrap_or_default(),
        slots,
        source: Known::read(places).map(|known| known.url.into()),
        job: read_json(&places.kept.join(LAST)).ok(),
    }
}

/// `IMAGE_VERSION` of os-release(5).
fn running(places: &Places) -> String {
    let text = fs::read_to_string(&places.os_release).unwrap_or_default();
    version::assigned(&text, "IMAGE_VERSION").unwrap_or_default()
}

/// `VARIANT_ID` of os-release(5): which kernel the image has, and so which updates are for it.
fn kernel(places: &Places) -> io::Result<String> {
    let text = fs::read_to_string(&places.os_release).unwrap_or_default();
    let kernel = version::assigned(&text, "VARIANT_ID");
    kernel.ok_or_else(|| io::Error::other("the image does not tell its kernel (VARIANT_ID in os-release)"))
}

type Told = (String, Vec<String>);

fn perform(places: &Places, order: &Order, tell: &mut impl FnMut(&str, Option<u8>)) -> io::Result<Told> {
    match order {
        Order::List { source } => {
            tell("looking for updates", None);
            let from = place_of(places, source)?;
            let versions = run::list(places, &from)?;
            remember(places, source)?;
            Ok((format!("{} versions", versions.len()), versions))
        }
        Order::Install { source, version } => install(places, source, version.as_ref(), tell),
        Order::Rollback {} => rollback(places),
    }
}

fn install(
    places: &Places,
    source: &Source,
    version: Option<&Version>,
    tell: &mut impl FnMut(&str, Option<u8>),
) -> io::Result<Told> {
    let before = slots::read(&places.kernels)?;
    let running = running(places);
    if before.iter().any(|slot| slot.version == running && slot.state == SlotState::OnTrial) {
        return Err(io::Error::other(format!(
            "version {running} is on trial, and the one before would be lost: wait until it is good"
        )));
    }
    tell("taking the update apart", None);
    let from = place_of(places, source)?;
    run::install(places, &from, version, tell)?;
    remember(places, source)?;
    let after = slots::read(&places.kernels)?;
    let is_new = |slot: &&Slot| !before.iter().any(|old| old.version == slot.version);
    let told = match (after.iter().find(is_new), version) {
        (Some(new), _) => {
            // A version that somebody installs is to start, even when it is the older one.
            slots::choose(&places.kernels, &new.version, &running)?;
            format!("version {} is installed and starts with the next `reboot`", new.version)
        }
        (None, Some(version)) => format!("version {version} is installed already"),
        (None, None) => format!("there is no newer version for the kernel `{}`", from.kernel),
    };
    Ok((told, Vec::new()))
}

fn rollback(places: &Places) -> io::Result<Told> {
    let slots = slots::read(&places.kernels)?;
    let running = running(places);
    let next = slots::next(&slots).map(|slot| slot.version.as_str()).unwrap_or_default();
    let Some(other) = slots.iter().find(|slot| slot.version != next) else {
        return Err(io::Error::other("there is no other version: nothing was updated yet"));
    };
    slots::choose(&places.kernels, &other.version, &running)?;
    let told = if other.version == running {
        format!("version {} stays", other.version)
    } else {
        format!("version {} starts with the next `reboot`", other.version)
    };
    Ok((told, Vec::new()))
}

/// Where systemd-sysupdate finds the update, and what of it is for this machine.
fn place_of(places: &Places, source: &Source) -> io::Result<From> {
    let kernel = kernel(places)?;
    if matches!(source, Source::Upload) {
        let place = upload::unpack(places)?;
        for_kernel(&place, &kernel)?;
        return Ok(From { place: format!("file://{}", place.display()), kernel });
    }
    let Some(known) = Known::of(places, source) else {
        return Err(io::Error::other("no source of updates is known yet: name it, https://host/path"));
    };
    authorities::check(places, &known)?;
    Ok(From { place: known.url.into(), kernel })
}

/// An update that is handed over is for one kernel; the other one may lack the drivers that this machine needs.
fn for_kernel(place: &Path, kernel: &str) -> io::Result<()> {
    let mut others = Vec::new();
    for entry in fs::read_dir(place)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        // `portcullis-KERNEL_VERSION.efi`
        let rest = name.strip_suffix(".efi").and_then(|stem| stem.strip_prefix("portcullis-"));
        match rest.and_then(|rest| rest.split_once('_')) {
            Some((found, _)) if found == kernel => return Ok(()),
            Some((found, _)) => others.push(found.to_owned()),
            None => {}
        }
    }
    Err(io::Error::other(match others.first() {
        Some(other) => {
            format!(
                "this update is for the kernel `{other}`, and this machine has `{kernel}`: take the update for that"
            )
        }
        None => "it is no update: it has no kernel image".to_owned(),
    }))
}

/// A directory that has served once is where versions are looked for.
fn remember(places: &Places, source: &Source) -> io::Result<()> {
    match source {
        Source::Upload | Source::Known => Ok(()),
        Source::Url(_) | Source::Private { .. } => match Known::of(places, source) {
            Some(known) => write_json(&places.source(), &known, KEPT_MODE),
            None => Ok(()),
        },
    }
}

#[cfg(test)]
mod tests;
