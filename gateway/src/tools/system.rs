//! The machine as the kernel shows it to everybody (proc(5), sysfs(5)).

use std::fs;

use rustix::fs::statvfs;
use serde::Serialize;

use crate::version::assigned;

/// UEFI 2.10 §3.3: a variable's attributes, then 1 where only what is signed is started.
const SECURE_BOOT: &str = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
/// What is worth telling apart: the system, and what is written.
const PLACES: [&str; 2] = ["/", "/var"];

#[derive(Debug, Serialize)]
pub(crate) struct System {
    pub(crate) host: String,
    pub(crate) product: String,
    pub(crate) image_version: Option<String>,
    pub(crate) kernel: String,
    pub(crate) uptime_seconds: u64,
    pub(crate) load: String,
    pub(crate) processors: usize,
    pub(crate) memory_total_mib: u64,
    pub(crate) memory_used_mib: u64,
    /// Of the kernel: `none`, `integrity`, `confidentiality`; absent where there is none.
    pub(crate) lockdown: Option<String>,
    /// Absent without UEFI.
    pub(crate) secure_boot: Option<bool>,
    pub(crate) mounts: Vec<Mount>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Mount {
    pub(crate) place: String,
    pub(crate) device: String,
    pub(crate) kind: String,
    pub(crate) options: String,
    pub(crate) size_mib: u64,
    pub(crate) free_mib: u64,
}

pub(crate) fn look() -> System {
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
}
