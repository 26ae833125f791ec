//! `portcullis settings-job`: what the system runs when the daemon asks for it, and at each boot before the network comes
//! up. It runs as root (`appliance-settings.service`), and writes nothing but what [`super::files`] has.
//!
//! Interfaces that have not changed keep their addresses and sessions: networkd is told to read its files again, and
//! compares. Devices that are gone or of another kind are removed first, which networkd does not do by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{OpenOptionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;

use nix::fcntl::OFlag;

use super::{REQUEST, REQUESTS, STATUS, Status, files, networkd, servers};
use crate::config::{self, InterfaceName, NetworkKind, Settings, TimeZone};
use crate::log::rfc3339;

/// What of the network outlives a factory reset that keeps it.
const KEPT: &str = "/var/lib/appliance/network/network.toml";
const HOST_NAME: &str = "/proc/sys/kernel/hostname";
/// `/etc/localtime` of the image leads here.
const LOCAL_TIME: &str = "/run/portcullis-settings/localtime";
const ZONES: &str = "/usr/share/zoneinfo";
const ZONE_DEFAULT: &str = "UTC";

/// Where everything lies, and what is run.
#[derive(Clone, Debug)]
pub struct Places {
    /// Stands before every path.
    pub root: PathBuf,
    /// Runs a program with arguments, and says what it complained of.
    pub run: fn(&str, &[&str]) -> Result<(), String>,
}

impl Default for Places {
    fn default() -> Self {
        Self { root: "/".into(), run }
    }
}

impl Places {
    fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }
}

/// Applies the settings of the configuration. Whether that went well is told in the status, too.
///
/// # Errors
/// When the status cannot be written.
pub fn run_job(places: &Places) -> io::Result<bool> {
    // Before it is done: what comes in between is a request of its own.
    fs::remove_file(places.at(REQUESTS).join(REQUEST)).ok();
    let last = fs::read_to_string(places.at(STATUS)).ok();
    let last = last.and_then(|text| serde_json::from_str::<Status>(&text).ok());
    // Whatever ends this job in between: then they do not count as applied.
    let begun = Status { at: rfc3339(SystemTime::now()), under_way: true, ..Status::default() };
    put(&places.at(STATUS), &serde_json::to_string(&begun)?)?;
    let (done, told) = match apply(places, last.as_ref()) {
        Ok(told) => (true, told),
        Err(error) => (false, vec![error]),
    };
    let news = told.join(", ");
    match (done, told.is_empty()) {
        (true, true) => {}
        (true, false) => tracing::info!("settings of the machine are applied: {news}"),
        (false, _) => tracing::error!("settings of the machine are not applied: {news}"),
    }
    let status = Status { at: rfc3339(SystemTime::now()), done, told, under_way: false };
    put(&places.at(STATUS), &serde_json::to_string(&status)?)?;
    Ok(done)
}

fn apply(places: &Places, last: Option<&Status>) -> Result<Vec<String>, String> {
    let path = places.at(config::PATH_DEFAULT);
    let text = match read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(format!("{} cannot be read: {error}", path.display())),
    };
    let settings = config::parse_settings(&text, &path).map_err(|error| error.to_string())?;
    let failed = |error: io::Error| format!("cannot be written: {error}");
    let before = standing(places).map_err(failed)?;
    let wanted = files(&settings);
    let changed = differences(&before, &wanted);
    for path in &changed {
        match wanted.get(path) {
            Some(text) => put(&places.at(path), text),
            None => fs::remove_file(places.at(path)),
        }
        .map_err(|error| format!("{} cannot be written: {error}", path.display()))?;
    }
    keep(places, &text, &settings).map_err(failed)?;
    let mut told: Vec<String> =
        changed.iter().filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect();
    let network = settings.network.as_ref();
    if let Some(name) = network.and_then(|network| network.host_name.as_ref()) {
        told.extend(call(places, name.as_str()).map_err(|error| format!("the host name: {error}"))?);
    }
    let zone = network.and_then(|network| network.time_zone.as_ref());
    told.extend(set_zone(places, zone).map_err(|error| format!("the time zone: {error}"))?);
    // Whoever could not be told the last time is told now, even if nothing has changed since.
    let news = if last.is_none_or(|last| last.done) { changed } else { wanted.keys().cloned().collect() };
    tell(places, &news, &unmade(&before, &wanted, &settings))?;
    Ok(told)
}

/// Lets those who use the files read them again, where they run: at a boot they start after this.
fn tell(places: &Places, changed: &BTreeSet<PathBuf>, unmade: &[InterfaceName]) -> Result<(), String> {
    let runs = |unit: &str| (places.run)("systemctl", &["is-active", "--quiet", unit]).is_ok();
    if changed.iter().any(|path| path.starts_with(networkd::DIRECTORY)) && runs("systemd-networkd.service") {
        for name in unmade {
            // It may be gone with what it stood on.
            (places.run)("networkctl", &["delete", name.as_str()]).ok();
        }
        (places.run)("networkctl", &["reload"])?;
    }
    if changed.contains(Path::new(servers::RESOLVED)) && runs("systemd-resolved.service") {
        (places.run)("systemctl", &["reload-or-restart", "systemd-resolved.service"])?;
    }
    if changed.contains(Path::new(servers::CHRONY)) && runs("chrony.service") {
        (places.run)("chronyc", &["reload", "sources"])?;
    }
    Ok(())
}

/// The configuration, which belongs to somebody else: no link is followed, and nothing but a file is read.
fn read(path: &Path) -> io::Result<String> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    let mut text = String::new();
    let most = config::FILE_MAX_BYTES;
    file.take(most.saturating_add(1)).read_to_string(&mut text)?;
    if u64::try_from(text.len()).is_ok_and(|length| length <= most) {
        return Ok(text);
    }
    Err(io::Error::other(format!("it is longer than {most} bytes")))
}

/// What this job has written before, by path.
fn standing(places: &Places) -> io::Result<BTreeMap<PathBuf, String>> {
    let directory = Path::new(networkd::DIRECTORY);
    let mut paths: Vec<PathBuf> = vec![servers::RESOLVED.into(), servers::CHRONY.into()];
    match fs::read_dir(places.at(directory)) {
        Ok(entries) => {
            for entry in entries {
                let name = entry?.file_name();
                let ours = name.to_str().is_some_and(|name| name.starts_with(networkd::PREFIX));
                paths.extend(ours.then(|| directory.join(name)));
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let read = |path: PathBuf| fs::read_to_string(places.at(&path)).ok().map(|text| (path, text));
    let mut standing: BTreeMap<PathBuf, String> = paths.into_iter().filter_map(read).collect();
    let masked = directory.join(networkd::MASKED);
    // One that says something is somebody else's.
    if fs::metadata(places.at(&masked)).is_ok_and(|meta| meta.is_file() && meta.len() == 0) {
        standing.insert(masked, String::new());
    }
    Ok(standing)
}

fn differences(before: &BTreeMap<PathBuf, String>, wanted: &BTreeMap<PathBuf, String>) -> BTreeSet<PathBuf> {
    let paths = before.keys().chain(wanted.keys());
    paths.filter(|path| before.get(*path) != wanted.get(*path)).cloned().collect()
}

/// Devices that must go before networkd makes them anew, or for good: changed ones, and those that stand on them.
fn unmade(
    before: &BTreeMap<PathBuf, String>,
    wanted: &BTreeMap<PathBuf, String>,
    settings: &Settings,
) -> Vec<InterfaceName> {
    let changed = before.iter().filter(|(path, text)| wanted.get(*path) != Some(*text));
    let device = |path: &Path| networkd::device_of(path.file_name()?.to_str()?);
    let mut unmade: Vec<InterfaceName> = changed.filter_map(|(path, _)| device(path)).collect();
    for interface in settings.network.iter().flat_map(|network| &network.interfaces) {
        if let NetworkKind::Vlan { parent, .. } = &interface.kind
            && unmade.contains(parent)
            && !unmade.contains(&interface.name)
        {
            unmade.insert(0, interface.name.clone());
        }
    }
    unmade
}

/// Writes down the network for a factory reset that keeps it.
fn keep(places: &Places, text: &str, settings: &Settings) -> io::Result<()> {
    let path = places.at(KEPT);
    let document: Result<toml_edit::DocumentMut, _> = text.parse();
    let kept = document.ok().filter(|_| settings.network.is_some()).and_then(|mut document| {
        document.retain(|key, _| key == "network");
        Some(document.to_string()).filter(|text| !text.trim().is_empty())
    });
    match kept {
        Some(kept) if fs::read_to_string(&path).is_ok_and(|old| old == kept) => Ok(()),
        Some(kept) => put(&path, &kept),
        None if path.exists() => fs::remove_file(&path),
        None => Ok(()),
    }
}

/// Gives the machine its name.
fn call(places: &Places, name: &str) -> io::Result<Option<String>> {
    let path = places.at(HOST_NAME);
    if fs::read_to_string(&path)?.trim_end() == name {
        return Ok(None);
    }
    fs::write(&path, name)?;
    Ok(Some(format!("the machine is called {name}")))
}

fn set_zone(places: &Places, zone: Option<&TimeZone>) -> io::Result<Option<String>> {
    let link = places.at(LOCAL_TIME);
    let zone = zone.map_or(ZONE_DEFAULT, TimeZone::as_str);
    let file = Path::new(ZONES).join(zone);
    if !places.at(&file).is_file() {
        return Err(io::Error::other(format!("there is no {}", file.display())));
    }
    if fs::read_link(&link).is_ok_and(|old| old == file) {
        return Ok(None);
    }
    if let Some(directory) = link.parent() {
        fs::create_dir_all(directory)?;
    }
    let staged = link.with_extension("new");
    fs::remove_file(&staged).ok();
    symlink(&file, &staged)?;
    fs::rename(&staged, &link)?;
    Ok(Some(format!("the time zone is {zone}")))
}

/// A file that is whole whenever somebody reads it, and that everybody may read.
fn put(path: &Path, text: &str) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let mut staged = path.as_os_str().to_owned();
    staged.push(".new");
    fs::write(&staged, text)?;
    fs::rename(&staged, path)
}

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(Path::new("/usr/bin").join(program))
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{program} cannot be started: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program} {} ended with {}: {}", arguments.join(" "), output.status, complaint.trim()))
}

#[cfg(test)]
mod tests;
