//! `portcullis system`: the machine as the kernel shows it to everybody (proc(5), sysfs(5)). The daemon is not asked, so
//! that it works when that is down.

use std::fs;
use std::time::Duration;

use rustix::fs::statvfs;
use serde::Serialize;

use super::Context;
use super::output::Outcome;
use super::status::age;
use super::table::{Paint, Table};
use crate::exit::Exit;
use crate::version::assigned;

/// UEFI 2.10 §3.3: a variable's attributes, then 1 where only what is signed is started.
const SECURE_BOOT: &str = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
/// What is worth telling apart: the system, and what is written.
const PLACES: [&str; 2] = ["/", "/var"];

#[derive(Debug, Serialize)]
pub(super) struct System {
    host: String,
    product: String,
    image_version: Option<String>,
    kernel: String,
    uptime_seconds: u64,
    load: String,
    processors: usize,
    memory_total_mib: u64,
    memory_used_mib: u64,
    /// Of the kernel: `none`, `integrity`, `confidentiality`; absent where there is none.
    lockdown: Option<String>,
    /// Absent without UEFI.
    secure_boot: Option<bool>,
    mounts: Vec<Mount>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Mount {
    place: String,
    device: String,
    kind: String,
    options: String,
    size_mib: u64,
    free_mib: u64,
}

pub(super) fn run(context: &Context) -> Outcome {
    let system = look();
    if context.output.json {
        context.output.json(&system)?;
        return Ok(Exit::Ok);
    }
    let mut table = Table::new().column("").wide("");
    for (name, value) in facts(&system) {
        table.row([name.to_owned(), value], &[(0, Paint::Title)]);
    }
    context.output.text(&table.render(context.output.width(), context.output.colour))?;
    Ok(Exit::Ok)
}

pub(super) fn look() -> System {
    let release = read("/etc/os-release");
    let memory = read("/proc/meminfo");
    let (total, available) = (memory_mib(&memory, "MemTotal:"), memory_mib(&memory, "MemAvailable:"));
    let uptime = read("/proc/uptime");
    let load = read("/proc/loadavg");
    System {
        host: read("/proc/sys/kernel/hostname").trim().to_owned(),
        product: assigned(&release, "PRETTY_NAME").unwrap_or_else(|| "Linux".to_owned()),
        image_version: assigned(&release, "IMAGE_VERSION"),
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        uptime_seconds: uptime.split(['.', ' ']).next().and_then(|text| text.parse().ok()).unwrap_or(0),
        load: load.split(' ').take(3).collect::<Vec<_>>().join(" "),
        processors: std::thread::available_parallelism().map_or(0, usize::from),
        memory_total_mib: total,
        memory_used_mib: total.saturating_sub(available),
        lockdown: chosen(&read("/sys/kernel/security/lockdown")),
        secure_boot: fs::read(SECURE_BOOT).ok().map(|variable| variable.get(4) == Some(&1)),
        mounts: mounts(&read("/proc/self/mounts")),
    }
}

fn facts(system: &System) -> Vec<(&'static str, String)> {
    let version = system.image_version.as_deref().unwrap_or_default();
    let on = |on: bool| if on { "enabled" } else { "disabled" };
    let mut facts = vec![
        ("host", system.host.clone()),
        ("system", format!("{} {version}", system.product).trim_end().to_owned()),
        ("kernel", system.kernel.clone()),
        ("up", age(Duration::from_secs(system.uptime_seconds))),
        ("load", format!("{} on {} processors", system.load, system.processors)),
        ("memory", format!("{} of {} MiB in use", system.memory_used_mib, system.memory_total_mib)),
        ("lockdown", system.lockdown.clone().unwrap_or_else(|| "unknown".to_owned())),
        ("Secure Boot", system.secure_boot.map_or("no UEFI", on).to_owned()),
    ];
    for mount in &system.mounts {
        let Mount { device, kind, options, size_mib, free_mib, .. } = mount;
        let name = if mount.place == "/" { "system files" } else { "state" };
        facts.push((name, format!("{free_mib} of {size_mib} MiB free, {kind} on {device} ({options})")));
    }
    facts
}

/// What cannot be read is empty: these are facts for people, and some machines lack some.
fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn memory_mib(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let kib: Option<u64> = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    kib.unwrap_or(0) / 1024
}

/// The one in brackets: `none [integrity] confidentiality`.
fn chosen(text: &str) -> Option<String> {
    Some(text.split_once('[')?.1.split_once(']')?.0.to_owned())
}

fn mounts(text: &str) -> Vec<Mount> {
    let mount = |line: &str| {
        let mut words = line.split(' ').map(str::to_owned);
        let (device, place) = (words.next()?, words.next()?);
        if !PLACES.contains(&place.as_str()) {
            return None;
        }
        let (kind, options) = (words.next()?, words.next()?);
        let space = statvfs(&place).ok();
        let mib = |blocks: u64, size: u64| blocks.saturating_mul(size) >> 20;
        let size_mib = space.as_ref().map_or(0, |space| mib(space.f_blocks, space.f_frsize));
        let free_mib = space.as_ref().map_or(0, |space| mib(space.f_bavail, space.f_frsize));
        Some(Mount { place, device, kind, options, size_mib, free_mib })
    };
    text.lines().filter_map(mount).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_shows_is_read() {
        assert_eq!(chosen("none [integrity] confidentiality\n").as_deref(), Some("integrity"));
        assert_eq!(chosen(""), None);
        assert_eq!(memory_mib("MemTotal:        2048 kB\nMemFree: 1 kB\n", "MemTotal:"), 2);
        assert_eq!(assigned("ID=x\nPRETTY_NAME=\"A b\"\n", "PRETTY_NAME").as_deref(), Some("A b"));
        let mounts = mounts("/dev/mapper/root / erofs ro,x 0 0\nproc /proc proc rw 0 0\nnothing\n");
        assert_eq!(mounts.len(), 1);
        assert_eq!((mounts[0].kind.as_str(), mounts[0].options.as_str()), ("erofs", "ro,x"));
    }

    #[test]
    fn this_machine_has_a_kernel_and_memory() {
        let system = look();
        assert!(!system.kernel.is_empty() && system.memory_total_mib > 0 && system.memory_used_mib > 0);
        assert!(facts(&system).iter().all(|(_, value)| !value.is_empty()));
    }
}
