//! What the kernel says of this process. A number that cannot be read is left out.

use std::fs;

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};

/// Open file descriptors. The size of the directory says it since Linux 6.2; before, they are counted one by one, without the
/// one that reads the directory.
pub(super) fn open_descriptors() -> Option<u64> {
    let told = fs::metadata("/proc/self/fd").ok()?.len();
    if told > 0 {
        return Some(told);
    }
    let count = fs::read_dir("/proc/self/fd").ok()?.count();
    u64::try_from(count.saturating_sub(1)).ok()
}

/// How many may be open.
pub(super) fn max_descriptors() -> Option<u64> {
    getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(soft, _)| soft)
}

/// Memory in RAM, in bytes.
pub(super) fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

/// Processor time of user and kernel mode, in microseconds.
pub(super) fn cpu_microseconds() -> Option<u64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok()?;
    let parts = [usage.user_time(), usage.system_time()];
    let total: i64 = parts.iter().map(|time| time.tv_sec() * 1_000_000 + time.tv_usec()).sum();
    u64::try_from(total).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_every_number() {
        assert!(open_descriptors().unwrap() >= 3);
        assert!(max_descriptors().unwrap() > open_descriptors().unwrap());
        assert!(resident_bytes().unwrap() > 1024 * 1024);
        assert!(cpu_microseconds().is_some());
    }
}
